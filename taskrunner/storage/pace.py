"""A limit for the bytes that all lanes together move in a second (`--bandwidth`)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_CHUNK_BYTES = 64 * 1024
_LEAST_CHUNK_BYTES = 1024
_CHUNKS_A_SECOND = 20
_SAVED_SECONDS = 0.1


class Pace:
    """A token bucket that lanes share: who has moved bytes waits until they are paid for.

    Time in which nothing moves is saved up for a tenth of a second only, so that no burst follows a pause.
    """

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = monotonic) -> None:
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = clock()
        self.chunk_bytes = max(
            _LEAST_CHUNK_BYTES, min(_MOST_CHUNK_BYTES, bytes_per_second // _CHUNKS_A_SECOND)
        )
        """How much a lane should move at once for the rate to be even."""

    def spend(self, count_bytes: int) -> float:
        """Note that `count_bytes` were moved; the seconds to wait before the next ones. From any thread."""
        now = self._clock()
        with self._lock:
            earliest = max(self._paid_until, now - _SAVED_SECONDS)
            self._paid_until = earliest + count_bytes / self._bytes_per_second
            return max(0.0, self._paid_until - now)


@dataclass(frozen=True, slots=True)
class Meter:
    """One lane's share in a pace."""

    pace: Pace
    pause: Callable[[float], None]
    """Sleeps for so many seconds, or raises where the lane is stopped."""

    def spend(self, count_bytes: int) -> None:
        """Wait until `count_bytes`, just moved, are paid for."""
        if seconds := self.pace.spend(count_bytes):
            self.pause(seconds)
