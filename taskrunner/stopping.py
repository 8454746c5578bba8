"""What ends a task before its end, and how it still ends in time.

AWS Batch sends SIGTERM and, 30 seconds later, SIGKILL; EC2 takes a Spot instance back two minutes after it said
so; operators set time limits. Whatever comes first starts a clock and cancels the task where it stands. What
saves its work (outputs, then result and events) is not cancelled by that, but has to be done when its share of the
time is over. A later, more pressing reason brings the end nearer; a second signal leaves hardly any time.
"""

from __future__ import annotations

import asyncio
import math
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from taskrunner.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP_SECONDS = 25.0
_LEAST_SECONDS = 3.0
"""What is left for result and clean-up however long everything before took."""


class StopKind(Enum):
    """Who wants a task to stop."""

    SIGNAL = "signal"
    RECLAIM = "reclaim"
    TIME_LIMIT = "time limit"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a task is being stopped; `reason` completes `stopped before its end by …`."""

    kind: StopKind
    reason: str


def hold_signals() -> None:
    """Let signals wait until somebody listens.

    The first process of a container misses every signal that it has no handler for; from here on none is lost.
    What comes in the tenths of a second before, while Python itself starts, only an init could hand on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class Stops:
    """The stops of one run; its signals while `listening`."""

    def __init__(self, *, stop_seconds: float = _STOP_SECONDS, hurried: bool = False) -> None:
        """`stop_seconds`: from a signal to the end. `hurried`: a second signal cancels whatever there is."""
        self.first: Stop | None = None
        """What ended the task; later ones only bring the end nearer."""
        self.hurry = asyncio.Event()
        """Set by a second signal: nothing is waited for any more that can be broken off."""
        self.on_stop: Callable[[Stop, float], None] | None = None
        """Told each stop as it comes, and how many seconds it leaves."""
        self._stop_seconds = stop_seconds
        self._cancels_all = hurried
        self._signals = 0
        self._deadline = math.inf
        self._running: asyncio.Task[object] | None = None
        self._saving: _Saving | None = None

    def seconds_left(self) -> float:
        """Until the run has to be over: infinity while nothing stops it, at least 0."""
        if self.first is None:
            return math.inf
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let stops cancel the current task, with their reason as the message; the first one only.

        Afterwards signals are ignored: the process is about to end, and a late one must not change its exit
        code. SIGHUP is left alone where it is ignored already: `nohup` asked for that.
        """
        loop = asyncio.get_running_loop()
        self._running = asyncio.current_task()

        def heard(number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(self._signalled, signal.Signals(number).name)

        # Not the loop's own handlers: it would put the default action back when it closes.
        for number in _SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, heard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            yield
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def stop(self, stop: Stop, within_seconds: float) -> None:
        """End the task, everything included within so many seconds from now."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + within_seconds)
        is_first, self.first = self.first is None, self.first or stop
        if self.on_stop is not None:
            self.on_stop(stop, self.seconds_left())
        if self._saving is not None:
            self._saving.end_by(self._deadline)
        elif is_first and self._running is not None:
            self._running.cancel(stop.reason)

    def nothing_to_cancel(self) -> None:
        """From here on stops cancel no task: what there was to cut short is over. They still limit the time."""
        self._running = None

    def _signalled(self, name: str) -> None:
        self._signals += 1
        if self._signals == 1:
            self.stop(Stop(StopKind.SIGNAL, name), self._stop_seconds)
        elif self._cancels_all:
            for task in asyncio.all_tasks():  # also those that are shielded from the first
                task.cancel(name)
        else:
            self.hurry.set()
            self.stop(Stop(StopKind.SIGNAL, name), 0.0)

    async def in_time(
        self,
        work: Coroutine[object, object, T],
        *,
        least_seconds: float = _LEAST_SECONDS,
        reserve_seconds: float = 0.0,
    ) -> T:
        """Run what saves the task's work: no stop cancels it, but once there is one it must end in time.

        It has `least_seconds` in any case, and leaves `reserve_seconds` to what comes afterwards. Raises
        TimeoutError where it did not end in time, and whatever `work` raises.
        """
        task = asyncio.create_task(work, name="save")
        self._saving = _Saving(task, least_seconds, reserve_seconds)
        if self.first is not None:
            self._saving.end_by(self._deadline)
        try:
            await asyncio.wait([task])
        finally:
            self._saving = None
        if task.cancelled():
            raise TimeoutError("there was no time left")
        return task.result()


@dataclass(slots=True)
class _Saving:
    """Work that stops do not cancel, but limit."""

    task: asyncio.Task[object]
    least_seconds: float
    reserve_seconds: float

    def end_by(self, deadline: float) -> None:
        """Cancel the work when its share of the time until `deadline` (the loop's) is over."""
        loop = asyncio.get_running_loop()
        moment = max(deadline - self.reserve_seconds, loop.time() + self.least_seconds)
        loop.call_at(moment, self.task.cancel)


async def until_stopped(work: Coroutine[object, object, T]) -> T:
    """Run `work`; the first signal cancels it, so that it winds up, a second one ends that too.

    Raises TransientError when stopped, and whatever `work` raises.
    """
    with Stops(hurried=True).listening():
        try:
            return await work
        except asyncio.CancelledError as stop:
            raise TransientError(f"stopped by {stop or 'a signal'}; what was complete stays") from stop
