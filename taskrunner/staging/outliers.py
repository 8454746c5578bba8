"""Which requests are so much slower than the others that a new connection is the better bet. Pure.

Among many requests to S3 a few meet a slow machine or a bad path; AWS advises to try the slowest few percent
anew on another connection, small ones after 2 s and then 4 s (S3 User Guide, "Performance guidelines for
Amazon S3"). A download that is cut goes on at the byte where it was, so nothing is lost but a round trip; an
upload's part is sent again from its start, which must pay all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_LEAST_SECONDS = 2.0
_LEAST_SAMPLES = 8
_TIMES_SLOWER = 3.0
_ROUND_TRIP_BYTES = 256 * 1024
"""A request costs about as much as so many bytes more."""
_MOST_CUTS = 2
"""Of one request; what is slow a third time is slow for a reason."""
_CUT_SHARE = 0.05
_FREE_CUTS = 2


@dataclass(slots=True)
class Outliers:
    """What requests have taken lately."""

    _paces: deque[float] = field(default_factory=lambda: deque(maxlen=128))
    """Seconds per byte, the round trip counted as bytes."""
    _finished: int = 0
    _cuts: int = 0

    def finished(self, byte_count: int, seconds: float) -> None:
        """A request ended well. May be called from any thread."""
        self._paces.append(seconds / (byte_count + _ROUND_TRIP_BYTES))
        self._finished += 1

    def cut(self) -> None:
        """One more was given up for a new connection."""
        self._cuts += 1

    def is_slow(self, *, moved: int, again_bytes: int, left: int, seconds: float, cut_before: int) -> bool:
        """Whether to give a request up.

        It has brought `moved` bytes in `seconds` and lacks `left`; a new one would bring `again_bytes`.
        """
        if cut_before >= _MOST_CUTS or seconds < _LEAST_SECONDS * 2**cut_before:
            return False
        if len(self._paces) < _LEAST_SAMPLES or self._cuts >= _FREE_CUTS + self._finished * _CUT_SHARE:
            return False
        paces = sorted(self._paces)
        usual, slow = paces[len(paces) // 2], paces[len(paces) * 95 // 100]
        if seconds < _TIMES_SLOWER * slow * (moved + left + _ROUND_TRIP_BYTES):
            return False
        going_on_seconds = left * seconds / moved if moved else float("inf")
        return going_on_seconds > 2 * usual * (again_bytes + _ROUND_TRIP_BYTES)
