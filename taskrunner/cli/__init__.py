"""The command line: argv and TASKRUNNER_ variables in, an exit code out.

One module a command group; `options` turns what was typed into `Settings`. Nothing here imports AWS, Docker
or HTTP library before a command needs it, so that `--help` answers at once. Whatever goes wrong ends in
`exit_code_of`: a sentence on standard error and a code of the one table in `errors.ExitCode`.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from taskrunner import __version__
from taskrunner.cli.look import PLAN, VALIDATE
from taskrunner.cli.run import RUN
from taskrunner.cli.stage import STAGE_IN, STAGE_OUT
from taskrunner.cli.storage import STORAGE
from taskrunner.cli.telling import tell_error
from taskrunner.errors import ExitCode, TaskrunnerError
from taskrunner.stopping import hold_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS = click.Group(
    name="taskrunner",
    help=(
        "Run one GA4GH TES task as the entrypoint of an AWS Batch container: inputs are downloaded, executors "
        "run as sibling containers, outputs are uploaded, and JSON events in Funnel's format tell it all."
    ),
    commands=[RUN, VALIDATE, PLAN, STAGE_IN, STAGE_OUT, STORAGE],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
click.version_option(__version__, prog_name="taskrunner")(COMMANDS)

_LISTENING = frozenset(("run", "stage-in", "stage-out", "storage"))
"""Commands that wind up what they have begun when a signal comes."""


def main() -> None:
    """The `taskrunner` command."""
    _fill_standard_streams()
    if sys.argv[1:2] and sys.argv[1] in _LISTENING:
        hold_signals()
    # Imports make a hundred thousand objects, none of them garbage: looking through them again and again while
    # starting, and once more at the end, is a fifth of a short run.
    gc.set_threshold(50_000)
    code = exit_code_of(lambda: command(sys.argv[1:]))
    gc.freeze()
    sys.exit(code)


def _fill_standard_streams() -> None:
    """Where a standard stream is closed, the next file opened would take its number, and get what is told."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        null = os.dup(null)
    os.close(null)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as we live


def command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what fails is raised."""
    code = COMMANDS.main(list(arguments), prog_name="taskrunner", standalone_mode=False)
    return code if isinstance(code, int) else ExitCode.COMPLETE


def exit_code_of(action: Callable[[], int]) -> int:
    """The exit code of `action`, with whatever it raises told on standard error."""
    try:
        return action()
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped before anything was done", err=True)
        return ExitCode.RETRY
    except TaskrunnerError as error:
        tell_error(error)
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.IO_ERROR
    except Exception:  # noqa: BLE001  # the last resort: a mistake of ours, told as one
        traceback.print_exc()
        click.echo("Error: a mistake in taskrunner itself; please report it with the lines above", err=True)
        return ExitCode.BUG
