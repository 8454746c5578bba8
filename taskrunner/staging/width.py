"""How many lanes work at once: as many as bring something, fewer when a server asks for fewer. Pure.

A connection to S3 brings some 90 MB/s at most, a link far more, and nobody says how much; small objects wait
for round trips, not for bytes. So the number of lanes is found by trying: it doubles while more lanes bring
more. Then it goes one step back, and from time to time tries some fewer, which are kept where nothing is lost
by it, or some more, since links change. A server's 503 SlowDown or 429, or its silence, makes it smaller at once
(S3 User Guide, "Best practices design patterns: optimizing Amazon S3 performance").
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_LANES = 4
"""So many work from the beginning; fewer only when a server asks for it."""
_DOUBLE = 2.0
_WIDER = 1.5
_NARROWER = 0.75
_CLEAR_GAIN = 1.3
"""A wider flow that brings this much more at once is not looked at for longer."""
_GAIN = 1.08
"""What a wider flow must bring on average."""
_NO_LOSS = 0.97
"""What a narrower one must bring."""
_LOOKS = 5
"""So many looks a new width is given, of which the first, while it finds its feet, does not count."""
_HOLD_SECONDS = 5.0
_BACK_OFF = 0.7
_BACK_OFF_SECONDS = 1.0
"""One wave of refusals counts once."""


@dataclass(slots=True)
class Width:
    """The number of lanes that may work now, between 1 and `most`."""

    most: int
    now: int = field(init=False)
    _kept: int = field(init=False)
    """The width that is known to pay; the same as `now` where none is on trial."""
    _step: float = _DOUBLE
    """By how much the next trial is wider, or narrower."""
    _rate: float = 0.0
    """What the width that is kept brings."""
    _looks: int = 0
    _trial_from: tuple[float, float] = (0.0, 0.0)
    """Time and amount since which the trial counts."""
    _hold_until: float = 0.0
    _backed_off_at: float = float("-inf")
    _last: tuple[float, float] | None = None
    """Time and amount at the last look."""

    def __post_init__(self) -> None:
        self.now = self._kept = min(FIRST_LANES, self.most)

    def look(self, amount: float, at_seconds: float, *, busy: int) -> None:
        """Consider what has been moved in all (`amount`, in whatever unit) until `at_seconds`.

        `busy`: how many lanes are at work. Where fewer are than may be, more would not help; where more are,
        those of a wider flow have not finished yet, and what they bring says nothing of this one.
        """
        last, self._last = self._last, (at_seconds, amount)
        if last is None or at_seconds <= last[0] or busy != self.now:
            return
        rate = (amount - last[1]) / (at_seconds - last[0])
        if self.now != self._kept:
            self._judge(rate, amount, at_seconds)
            return
        self._rate = rate if self._rate == 0 else (3 * self._rate + rate) / 4
        if at_seconds >= self._hold_until:
            self._try_another()

    def throttled(self, at_seconds: float) -> None:
        """A server asked for fewer requests, or fell silent."""
        if at_seconds < self._backed_off_at + _BACK_OFF_SECONDS:
            return
        self.now = self._kept = max(1, int(self.now * _BACK_OFF))
        self._rate, self._step = 0.0, _WIDER
        self._backed_off_at = at_seconds
        self._hold_until = at_seconds + _HOLD_SECONDS

    def _try_another(self) -> None:
        self._looks = 0
        wanted = int(self._kept * self._step)
        if self._step > 1:
            self.now = min(self.most, max(self._kept + 1, wanted))
        else:
            self.now = max(min(self._kept, FIRST_LANES), wanted)
        if self.now == self._kept:
            self._step = _NARROWER if self._step > 1 else _WIDER

    def _judge(self, rate: float, amount: float, at_seconds: float) -> None:
        """Keep the width on trial, or go back, or look on."""
        wider = self.now > self._kept
        self._looks += 1
        if self._looks == 1:
            self._trial_from = (at_seconds, amount)
        if wider and rate > self._rate * _CLEAR_GAIN:
            self._keep(rate)
        elif self._looks == _LOOKS:
            since_seconds, since_amount = self._trial_from
            average = (amount - since_amount) / (at_seconds - since_seconds)
            if average > self._rate * (_GAIN if wider else _NO_LOSS):
                self._keep(average)
            else:
                self._go_back(at_seconds)

    def _keep(self, rate: float) -> None:
        """What was on trial pays: on in the same direction."""
        self._rate, self._kept = rate, self.now
        self._try_another()

    def _go_back(self, at_seconds: float) -> None:
        """It does not: after a first doubling too many look for fewer at once, else wait."""
        self.now = self._kept
        if self._step != _DOUBLE:
            self._hold_until = at_seconds + _HOLD_SECONDS
        self._step = _NARROWER if self._step > 1 else _WIDER
