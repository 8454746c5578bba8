"""The pages that list what the program has list all of it, and nothing else."""

import re
from pathlib import Path

import click

from taskrunner.cli import COMMANDS
from taskrunner.errors import ExitCode

DOCS = Path(__file__).parents[2] / "docs"


def parameters_of(command: click.Command) -> list[click.Parameter]:
    """A command's own, or those of all commands of a group."""
    if isinstance(command, click.Group):
        return [one for below in command.commands.values() for one in parameters_of(below)]
    return command.params


def options() -> list[tuple[str, click.Option]]:
    """Every option, with the command it belongs to."""
    return [
        (name, parameter)
        for name, command in COMMANDS.commands.items()
        for parameter in parameters_of(command)
        if isinstance(parameter, click.Option)
    ]


def settings() -> dict[str, click.Option]:
    """Those that a variable can set too, by name."""
    return {option.opts[-1]: option for _, option in options() if option.envvar}


def documented_options() -> dict[str, list[str]]:
    rows = re.findall(
        r"^\| `(--[a-z0-9-]+)[^`]*` \|(.*)\|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_every_setting_is_in_the_settings_page_and_no_other() -> None:
    assert sorted(documented_options()) == sorted(settings())


def test_every_setting_is_told_with_its_variable_and_its_commands() -> None:
    for name, option in settings().items():
        commands = dict.fromkeys(command for command, one in options() if name in one.opts)
        variable, told_commands, *_ = documented_options()[name]
        assert (name, variable) == (name, f"`{option.envvar}`")
        assert (name, told_commands.split(", ")) == (name, list(commands))


def test_every_setting_has_its_own_variable() -> None:
    variables = [option.envvar for option in settings().values()]
    assert len(set(variables)) == len(variables)
    assert all(isinstance(variable, str) and variable.startswith("TASKRUNNER_") for variable in variables)


def test_every_option_that_is_no_setting_is_in_the_page_on_moving_files() -> None:
    told = set(re.findall(r"`(--[a-z-]+)[ `]", (DOCS / "storage.md").read_text()))
    others = {option.opts[-1] for _, option in options() if not option.envvar}
    assert others
    assert others <= told


def test_settings_of_one_name_are_one_setting() -> None:
    for _, option in options():
        if option.envvar:
            assert option.envvar == settings()[option.opts[-1]].envvar


def test_every_exit_code_is_in_the_page_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in ExitCode]
