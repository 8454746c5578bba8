"""How a command speaks: reporters for a task's events, errors on standard error, lines on standard output."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from taskrunner.errors import TransferIOError
from taskrunner.logs import JsonLog, Reporters
from taskrunner.redaction import redact
from taskrunner.shielded import in_daemon_thread

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


def tell_line(line: str) -> None:
    """A line on standard output, at once and whole; blocks where its reader takes nothing.

    What is no UTF-8 in it (a file's name) is told as JSON escapes it. Raises BrokenPipeError where nobody reads,
    TransferIOError where it can't be written.
    """
    if sys.stdout is None:
        raise TransferIOError("can't write to standard output: it was closed")
    rest = f"{line}\n".encode(errors="backslashreplace")
    try:
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TransferIOError(f"can't write to standard output: {error.strerror}") from error


def as_text(log_format: str) -> bool:
    """Whether events are told as text, by --log-format."""
    return log_format == "text" or (log_format == "auto" and sys.stderr.isatty())


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
    task_id: str, logs: LogSettings, *, stream: TextIO, text: bool, copy: Path | None, attempt: int = 0
) -> Iterator[Telling]:
    """Reporters for one task; on leaving, everything reported is written (with a time limit)."""
    log = JsonLog(
        task_id,
        stream=None if text else stream,
        copy=copy,
        attempt=attempt,
        progress_seconds=logs.progress_seconds,
    )
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


async def remove_told(root: Path, reporter: Reporter) -> None:
    """Remove a task's files, telling what can't be removed; when cancelled, leave off."""
    from taskrunner.events import WorkDirNotRemoved  # noqa: PLC0415  # `--help` needs none of it
    from taskrunner.workdir import remove_tree  # noqa: PLC0415

    def tell(path: str, error: OSError) -> None:
        reporter.report(WorkDirNotRemoved(path=path, error=error.strerror or str(error)))

    stopped = threading.Event()
    try:
        await in_daemon_thread(lambda: remove_tree(root, tell, stopped), name="clean-up")
    finally:
        stopped.set()
