"""How many lanes work at once: as many as bring something, fewer when a server asks for fewer. Pure.

A connection to S3 brings some 90 MB/s at most, a link far more, and nobody says how much; small objects wait
for round trips, not for bytes. So the number of lanes is found by trying: it grows while more lanes bring
more, goes one step back when they don't, and tries again some seconds later, since links change. A server's
503 SlowDown or 429, or its silence, makes it smaller at once (S3 User Guide, "Best practices design patterns:
optimizing Amazon S3 performance").
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_LANES = 8
_GROWTH = 1.5
_GAIN = 1.08
"""A wider flow must bring this much more than the narrower one did."""
_PATIENT_LOOKS = 3
"""So many looks a new width has to show that it pays."""
_HOLD_SECONDS = 5.0
_BACK_OFF = 0.7
_BACK_OFF_SECONDS = 1.0
"""One wave of refusals counts once."""


@dataclass(slots=True)
class Width:
    """The number of lanes that may work now, between 1 and `most`."""

    most: int
    now: int = field(init=False)
    _before: int = field(init=False)
    """The width from which the present one is a trial; the same as `now` where it is none."""
    _best_rate: float = 0.0
    """What the width before the trial brought."""
    _looks: int = 0
    _hold_until: float = 0.0
    _backed_off_at: float = float("-inf")
    _last: tuple[float, float] | None = None
    """Time and amount at the last look."""

    def __post_init__(self) -> None:
        self.now = self._before = min(FIRST_LANES, self.most)

    def look(self, amount: float, at_seconds: float, *, all_busy: bool) -> None:
        """Consider what has been moved in all (`amount`, in whatever unit) until `at_seconds`.

        `all_busy`: whether every lane that may work does; otherwise more of them would not help.
        """
        last, self._last = self._last, (at_seconds, amount)
        if last is None or at_seconds <= last[0] or not all_busy:
            return
        rate = (amount - last[1]) / (at_seconds - last[0])
        if self.now == self._before:
            self._best_rate = rate if self._best_rate == 0 else (self._best_rate + rate) / 2
            if at_seconds >= self._hold_until:
                self._try_more()
        elif rate > self._best_rate * _GAIN:
            self._best_rate = rate
            self._before = self.now
            self._try_more()
        else:
            self._looks += 1
            if self._looks >= _PATIENT_LOOKS:
                self.now = self._before
                self._hold_until = at_seconds + _HOLD_SECONDS

    def throttled(self, at_seconds: float) -> None:
        """A server asked for fewer requests, or fell silent."""
        if at_seconds < self._backed_off_at + _BACK_OFF_SECONDS:
            return
        self.now = self._before = max(1, int(self.now * _BACK_OFF))
        self._best_rate = 0.0
        self._backed_off_at = at_seconds
        self._hold_until = at_seconds + _HOLD_SECONDS

    def _try_more(self) -> None:
        self._looks = 0
        self.now = min(self.most, max(self.now + 1, int(self.now * _GROWTH)))
