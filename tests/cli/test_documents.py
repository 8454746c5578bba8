"""The pages that list what the program has list all of it, and nothing else."""

import re
from pathlib import Path

import click

from taskrunner.cli import COMMANDS
from taskrunner.errors import ExitCode

DOCS = Path(__file__).parents[2] / "docs"


def options() -> dict[str, click.Option]:
    found: dict[str, click.Option] = {}
    for command in COMMANDS.commands.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                found[parameter.opts[0]] = parameter
    return found


def documented_options() -> dict[str, list[str]]:
    rows = re.findall(
        r"^\| `(--[a-z0-9-]+)[^`]*` \|(.*)\|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_every_option_is_in_the_settings_page_and_no_other() -> None:
    assert sorted(documented_options()) == sorted(options())


def test_every_option_is_told_with_its_variable_and_its_commands() -> None:
    for name, option in options().items():
        commands = [
            command.name
            for command in COMMANDS.commands.values()
            for one in command.params
            if name in one.opts
        ]
        variable, told_commands, *_ = documented_options()[name]
        assert (name, variable) == (name, f"`{option.envvar}`")
        assert (name, told_commands.split(", ")) == (name, commands)


def test_every_option_has_its_own_variable() -> None:
    variables = [option.envvar for option in options().values()]
    assert len(set(variables)) == len(variables)
    assert all(isinstance(variable, str) and variable.startswith("TASKRUNNER_") for variable in variables)


def test_every_exit_code_is_in_the_page_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(code.value, code.name) for code in ExitCode]
