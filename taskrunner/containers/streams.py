"""What is told of an executor's output while it runs: the end of each stream, now and then.

Funnel's rules: an event carries the whole tail so far (not what is new), both streams share one limiter, an
update interval of 0 means one event per stream at the end, a tail of no bytes means none at all. Two things
are surer than there: the first output is told at once and the last always, before the executor's end. Where
both streams wait for the limiter, the one that has waited longer goes first, so neither starves the other.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Protocol

from taskrunner.containers.engine import STREAM_NAMES, StreamName

if TYPE_CHECKING:
    from collections.abc import Callable

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_decoder = codecs.getincrementaldecoder("utf-8")


class Tail:
    """The last bytes of a stream, as text.

    It never begins or (while the stream lives) ends within a character; each byte that is not UTF-8 is one
    U+FFFD, as Go has it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self._cut = False

    def append(self, data: bytes) -> None:
        """Take the stream's next bytes."""
        self._kept += data[max(0, len(data) - self._limit_bytes) :]
        excess = len(self._kept) - self._limit_bytes
        self._cut = self._cut or excess > 0 or len(data) > self._limit_bytes
        if excess > 0:
            del self._kept[:excess]

    def text(self, *, ended: bool) -> str:
        """The tail so far; a character whose bytes are still coming waits, unless the stream has ended."""
        whole = bytes(self._kept)
        if self._cut:
            whole = whole[_leading_continuation_bytes(whole) :]
        decoded = _decoder("surrogateescape").decode(whole, final=ended)
        return _ESCAPED_BYTE.sub("\ufffd", decoded)


def _leading_continuation_bytes(data: bytes) -> int:
    """How many bytes at the front continue a character that was cut off: at most three."""
    count = 0
    while count < min(3, len(data)) and data[count] & 0b1100_0000 == 0b1000_0000:
        count += 1
    return count


class Timer(Protocol):
    """Something that will be called later, unless cancelled."""

    def cancel(self) -> None:
        """Don't call it."""


class Clock(Protocol):
    """The part of an event loop that is needed here."""

    def time(self) -> float:
        """Seconds, monotonic."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call something after `delay` seconds."""


class OutputTeller:
    """Keeps the tails of a container's two streams and tells them, throttled, to `tell(stream, text)`."""

    def __init__(
        self,
        tell: Callable[[StreamName, str], None],
        clock: Clock,
        *,
        tail_bytes: int,
        update_seconds: float,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._update_seconds = update_seconds
        self._tails = {name: Tail(tail_bytes) for name in STREAM_NAMES}
        self._told: dict[StreamName, str] = dict.fromkeys(STREAM_NAMES, "")
        self._waiting: list[StreamName] = []
        self._next_at: float | None = None
        self._timer: Timer | None = None

    def write(self, stream: StreamName, data: bytes) -> None:
        """Take the next bytes of a stream; tell them now or when it is time."""
        self._tails[stream].append(data)
        if self._update_seconds <= 0:
            return
        if stream not in self._waiting:
            self._waiting.append(stream)
        if self._timer is None:
            self._tell_when_due()

    def close(self) -> None:
        """The streams have ended: tell what has not been told yet. Safe to call again."""
        self._cancel_timer()
        self._waiting.clear()
        for stream in STREAM_NAMES:
            self._tell_change(stream, self.tail(stream))

    def tail(self, stream: StreamName) -> str:
        """The whole tail of a stream that has ended."""
        return self._tails[stream].text(ended=True)

    def _tell_when_due(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        now = self._clock.time()
        if self._next_at is not None and now < self._next_at:
            self._timer = self._clock.call_later(self._next_at - now, self._tell_when_due)
            return
        stream = self._waiting.pop(0)
        if self._tell_change(stream, self._tails[stream].text(ended=False)):
            self._next_at = now + self._update_seconds
        self._tell_when_due()

    def _tell_change(self, stream: StreamName, text: str) -> bool:
        if text == self._told[stream]:
            return False
        self._told[stream] = text
        self._tell(stream, text)
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
