"""How far a phase is: counted by lanes, read by a ticker, told as live events.

Lanes only ever add to the slice they fill (`FileSlice.done`), so nothing is locked: the ticker sums what is
finished and what is in flight, and may be a few kilobytes behind.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskrunner.events import DownloadProgress, Reporter, UploadProgress
    from taskrunner.storage.slices import FileSlice

_TICK_SECONDS = 0.5


@dataclass(slots=True)
class Tally:
    """The counts of one phase."""

    bytes_total: int = 0
    files_total: int = 0
    files_done: int = 0
    bytes_settled: int = 0
    """Bytes of slices that are no longer in flight."""
    in_flight: dict[int, FileSlice] = field(default_factory=dict)

    @asynccontextmanager
    async def watching(self, piece: FileSlice) -> AsyncIterator[FileSlice]:
        """Count `piece` while a lane fills it; only what was really moved stays counted."""
        self.in_flight[id(piece)] = piece
        try:
            yield piece
            self.bytes_settled += piece.done
        finally:
            del self.in_flight[id(piece)]

    @property
    def bytes_done(self) -> int:
        """Bytes moved so far."""
        return self.bytes_settled + sum(piece.done for piece in self.in_flight.values())


@asynccontextmanager
async def told(
    tally: Tally, kind: type[DownloadProgress | UploadProgress], reporter: Reporter
) -> AsyncIterator[None]:
    """Report `tally` twice a second as events of `kind` for as long as the context lasts."""
    ticker = asyncio.create_task(_tick(tally, kind, reporter), name=kind.msg)
    try:
        yield
    finally:
        ticker.cancel()
        await asyncio.wait([ticker])


async def _tick(tally: Tally, kind: type[DownloadProgress | UploadProgress], reporter: Reporter) -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        bytes_done = tally.bytes_done
        reporter.report(
            kind(
                bytes_done=bytes_done,
                bytes_total=tally.bytes_total,
                files_done=tally.files_done,
                files_total=tally.files_total,
                bytes_per_second=int(bytes_done / (time.monotonic() - started)),
            )
        )
