"""Which reporters a run has: JSON lines or a terminal's form on standard error, and the complete copy."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from taskrunner.logs import JsonLog, Reporters
from taskrunner.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskrunner.events import Reporter
    from taskrunner.settings import LogSettings


_PATIENCE_SECONDS = 5.0
"""How long a reader of the events that takes nothing may hold up the end of a run."""


def tell_error(error: object) -> None:
    """A sentence on standard error about what is no event, its secrets masked."""
    click.echo(f"Error: {redact(str(error))}", err=True)


@dataclass(frozen=True, slots=True)
class Telling:
    """Where events go while a task runs."""

    reporter: Reporter
    log: JsonLog
    """Kept in every case, since it knows the warnings and errors for the result document."""

    def copy_complete(self) -> bool:
        """Whether the copy has every event; the log is closed by this."""
        return self.log.close(_PATIENCE_SECONDS)


@contextmanager
def telling(
    task_id: str, logs: LogSettings, *, stream: TextIO, text: bool, copy: Path | None
) -> Iterator[Telling]:
    """Reporters for one task; on leaving, everything reported is written (with a time limit)."""
    log = JsonLog(task_id, stream=None if text else stream, copy=copy, progress_seconds=logs.progress_seconds)
    try:
        if not text:
            yield Telling(log, log)
            return
        from taskrunner.terminal import TerminalLog  # noqa: PLC0415  # rich, only where it is seen

        terminal = TerminalLog(stream)
        try:
            yield Telling(Reporters(log, terminal), log)
        finally:
            terminal.close(_PATIENCE_SECONDS)
    finally:
        log.close(_PATIENCE_SECONDS)
