"""What SIGTERM, SIGINT and SIGHUP do: end the task soon, and everything after it in time.

AWS Batch sends SIGTERM and, 30 seconds later, SIGKILL. So the first signal starts a clock. Before and while the
task runs it cancels it; what follows the verdict (result, events, clean-up) is not cancelled by a signal, since
the task's outcome is decided and worth telling, but it has to be done when the clock runs out.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from taskrunner.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOP_SECONDS = 23.0
"""From the first signal to our end; Batch kills after 30."""
_LEAST_SECONDS = 3.0
"""What is left for result and clean-up however long the containers took to stop."""


def hold_signals() -> None:
    """Let signals wait until somebody listens: the first process of a container must not miss one by starting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class Stops:
    """The stop signals of one run, while `listening`."""

    def __init__(self, *, hurried: bool = False) -> None:
        """`hurried`: a second signal cuts the winding up short."""
        self._hurried = hurried
        self._deadline: float | None = None
        self._running: asyncio.Task[object] | None = None
        self._concluding: asyncio.Task[object] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals cancel the current task, with their name as the message; the first one only.

        Afterwards they are ignored: the process is about to end, and a late one must not change its exit code.
        SIGHUP is left alone where it is ignored already: `nohup` asked for that.
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

    def _signalled(self, name: str) -> None:
        first = self._deadline is None
        if first:
            self._deadline = asyncio.get_running_loop().time() + _STOP_SECONDS
        if self._concluding is not None:
            self._end_in_time()
        elif first and self._running is not None:
            self._running.cancel(name)
        elif self._hurried:
            for task in asyncio.all_tasks():  # also those that are shielded from the first
                task.cancel(name)

    async def in_time(self, work: Coroutine[object, object, T]) -> T:
        """Run what follows the verdict: no signal cancels it, but once one has come it must end in time.

        Raises TimeoutError where it did not, and whatever `work` raises.
        """
        task = asyncio.create_task(work, name="conclude")
        self._concluding = task
        self._end_in_time()
        await asyncio.wait([task])
        if task.cancelled():
            raise TimeoutError("there was no time left")
        return task.result()

    def _end_in_time(self) -> None:
        if self._deadline is not None and self._concluding is not None:
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._deadline, loop.time() + _LEAST_SECONDS), self._concluding.cancel)


async def until_stopped(work: Coroutine[object, object, T]) -> T:
    """Run `work`; the first signal cancels it, so that it winds up, a second one ends that too.

    Raises TransientError when stopped, and whatever `work` raises.
    """
    with Stops(hurried=True).listening():
        try:
            return await work
        except asyncio.CancelledError as stop:
            raise TransientError(f"stopped by {stop or 'a signal'}; what was complete stays") from stop
