"""How far a phase is: counted by lanes, read by a ticker, told as events.

Lanes only add to the slice they fill (`FileSlice.done`); whoever reads sums what is finished and what is in
flight, and may be a few kilobytes behind.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.events import DownloadProgress, DownloadTotals, UploadProgress, UploadTotals
    from taskrunner.storage.slices import FileSlice


@dataclass(slots=True)
class Tally:
    """The counts of one phase."""

    bytes_total: int = 0
    files_total: int = 0
    files_done: int = 0
    bytes_settled: int = 0
    """Bytes of slices that are no longer in flight."""
    bytes_resumed: int = 0
    """Bytes that an earlier attempt had moved already; part of `bytes_settled`."""
    in_flight: dict[int, FileSlice] = field(default_factory=dict)
    started_seconds: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def watching(self, piece: FileSlice) -> Iterator[FileSlice]:
        """Count `piece` while a lane moves it; only what was really moved stays counted."""
        self.in_flight[id(piece)] = piece
        try:
            yield piece
            with self._lock:
                self.bytes_settled += piece.done
        finally:
            del self.in_flight[id(piece)]

    def resumed(self, byte_count: int) -> None:
        """So many bytes were there already. May be called from any thread."""
        with self._lock:
            self.bytes_resumed += byte_count

    def forget(self, byte_count: int, resumed_count: int = 0) -> None:
        """So many bytes that were settled have to be moved again, those among them that were there before, too."""
        with self._lock:
            self.bytes_settled -= byte_count
            self.bytes_resumed -= resumed_count

    @property
    def bytes_done(self) -> int:
        """Bytes moved so far."""
        return self.bytes_settled + sum(piece.done for piece in list(self.in_flight.values()))

    def progress(self, kind: type[DownloadProgress | UploadProgress]) -> DownloadProgress | UploadProgress:
        """How far it is, as an event."""
        return kind(
            bytes_done=self.bytes_done,
            bytes_total=self.bytes_total,
            files_done=self.files_done,
            files_total=self.files_total,
            bytes_per_second=self._rate(),
        )

    def totals(self, kind: type[DownloadTotals | UploadTotals]) -> DownloadTotals | UploadTotals:
        """What it came to, as an event."""
        return kind(
            bytes_done=self.bytes_settled,
            files_done=self.files_done,
            bytes_resumed=self.bytes_resumed,
            seconds=round(time.monotonic() - self.started_seconds, 3),
            bytes_per_second=self._rate(),
        )

    def _rate(self) -> int:
        seconds = max(time.monotonic() - self.started_seconds, 1e-3)
        return max(0, int((self.bytes_done - self.bytes_resumed) / seconds))
