"""What `storage get` and `put` say: progress on a terminal, failures, lines of JSON, and what it came to.

Events are what the transfers tell, as for a task; here they become what a person at a shell or a script wants.
Everything is written by a thread of its own, so that a reader who takes nothing never holds up a transfer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

import click

from taskrunner.cli.telling import tell_error, tell_line
from taskrunner.errors import TransferIOError
from taskrunner.events import (
    DownloadFinished,
    DownloadProgress,
    DownloadTotals,
    Event,
    UploadFailed,
    UploadFinished,
    UploadProgress,
    UploadTotals,
)
from taskrunner.logs import EventThread
from taskrunner.redaction import redact
from taskrunner.shielded import in_daemon_thread
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

_PATIENCE_SECONDS = 5.0


class TransferLog:
    """A reporter, and a context manager that on leaving has written what its readers take in some seconds."""

    def __init__(self, paths: Mapping[str, str], *, as_json: bool, failed: int = 0) -> None:
        """`paths`: the local path that belongs to each URL; `failed`: how many files have failed before."""
        self._paths = paths
        self._as_json = as_json
        self._failed_before = failed
        self._failed: set[str] = set()
        self._broken: BrokenPipeError | TransferIOError | None = None
        self._thread = EventThread("transfer-log", self._handle)
        self._screen = None
        if sys.stderr.isatty():
            from taskrunner.terminal import TerminalLog  # noqa: PLC0415  # rich, only where it is seen

            self._screen = TerminalLog(sys.stderr)

    def report(self, event: Event) -> None:
        """Take one event."""
        if self._screen is not None and isinstance(event, DownloadProgress | UploadProgress | UploadFailed):
            self._screen.report(event)
        self._thread.put(event)

    async def conclude(self, totals: DownloadTotals | UploadTotals) -> None:
        """Tell what it came to, and wait until all is written, however long its reader takes.

        Raises as `tell_line` does, also for what was told before.
        """
        if self._screen is not None:
            await in_daemon_thread(self._close_screen, name="close-terminal")
        self._thread.put(totals)
        await in_daemon_thread(lambda: self._thread.close(TIMEOUT_MAX), name="write-to-the-end")
        if self._broken is not None:
            raise self._broken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_screen()
        self._thread.close(_PATIENCE_SECONDS)

    def _close_screen(self) -> None:
        if self._screen is not None:
            self._screen.close(_PATIENCE_SECONDS)

    def _handle(self, event: Event, _logged_ns: int) -> None:
        if isinstance(event, UploadFailed):
            self._failed.add(event.url)
            if self._screen is None:
                tell_error(event.error)
        elif isinstance(event, DownloadTotals | UploadTotals):
            self._tell_totals(event)
        elif self._as_json and isinstance(event, DownloadFinished | UploadFinished):
            path = self._paths[event.url]
            self._tell(
                {
                    "url": shown_url(event.url),
                    "path": path,
                    "size_bytes": event.size if event.size >= 0 else Path(path).stat().st_size,
                    "etag": event.etag,
                }
            )

    def _tell_totals(self, totals: DownloadTotals | UploadTotals) -> None:
        failed = self._failed_before + len(self._failed)
        if self._as_json:
            counts = {
                "files": totals.files_done,
                "failed": failed,
                "size_bytes": totals.bytes_done,
                "seconds": totals.seconds,
                "bytes_per_second": totals.bytes_per_second,
            }
            self._tell({"totals": counts})
            return
        files = "1 file" if totals.files_done == 1 else f"{totals.files_done} files"
        text = f"{totals.bytes_done:,} bytes, in {totals.seconds:.1f} s ({totals.bytes_per_second:,} bytes/s)"
        verb = "downloaded" if isinstance(totals, DownloadTotals) else "uploaded"
        click.echo(f"{verb} {files}, {text}{f'; {failed} failed' if failed else ''}", err=True)

    def _tell(self, value: object) -> None:
        if self._broken is None:
            try:
                tell_line(json.dumps(value, ensure_ascii=False))
            except (BrokenPipeError, TransferIOError) as error:
                self._broken = error


def shown_url(url: str) -> str:
    """A URL on standard output: another command can read it, but it tells no secret of a web address."""
    return redact(url) if store_kind(url) is StoreKind.HTTP else url
