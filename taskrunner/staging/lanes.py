"""Lanes: threads that carry bytes, one blocking job after another, while the event loop decides.

A lane is one thread with kept-alive connections of its own. Receiving, TLS, checksums and writing release the
GIL, so a handful of lanes use several cores and fill a fast link, and the loop never waits on a disk or a
socket. Memory is lanes x buffer, whatever the files' sizes. A lane is stopped by shutting its sockets down: the
blocked call returns with an error at once, and the lane is waited for, so that no thread outlives the phase
that owns it. Only a look-up of a host name can't be cut short; a lane in the midst of one is left to itself
after a while, and being a daemon it does not keep the process.
"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeVar

from taskrunner.errors import TransientError, the_error_in
from taskrunner.shielded import settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from taskrunner.settings import TransferSettings
    from taskrunner.staging.width import Width
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_CUT_OFF_SECONDS = 3.0
LANE_BYTES = 512 * 1024
"""What a lane needs at most: its buffer, TLS, its stack."""
_LANE_DESCRIPTORS = 5
_OTHER_DESCRIPTORS = 64
"""Open files of the rest of the program: libraries, logs, the engine's connections."""


def most_lanes(settings: TransferSettings) -> int:
    """How many lanes there may be: by the operator's caps, and by how many files this process may open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    caps = [settings.max_connections, (descriptors - _OTHER_DESCRIPTORS) // _LANE_DESCRIPTORS]
    if settings.memory_bytes is not None:
        caps.append(settings.memory_bytes // LANE_BYTES)
    return max(1, min(caps))


class Lane:
    """One thread and its connections."""

    def __init__(self, number: int, connections: Connections) -> None:
        self.connections = connections
        self.piece: FileSlice | None = None
        """What it carries just now; None between two jobs."""
        self.piece_since_seconds = 0.0
        self.piece_began_at = 0
        """`piece.done` when it was taken up."""
        self.piece_restarts = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"lane-{number}", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[Lane], T]) -> T:
        """Run `job` in the lane's thread. When cancelled, the job is cut off and waited for; the lane is spent."""
        result: Future[T] = Future()
        self._jobs.put(lambda: settle(result, lambda: job(self)))
        running = asyncio.wrap_future(result)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.connections.abort()
            await asyncio.wait([running], timeout=_CUT_OFF_SECONDS)
            if running.done() and not running.cancelled():
                running.exception()  # its end was our doing; nobody else will ask for it
            running.cancel()
            raise

    @contextmanager
    def carrying(self, piece: FileSlice, *, restarts: bool) -> Iterator[None]:
        """In the lane's thread: for as long as the context lasts it carries `piece`.

        `restarts`: whether it begins from its start again when the request for it is given up.
        """
        self.piece_since_seconds, self.piece_began_at = time.monotonic(), piece.done
        self.piece_restarts = restarts
        self.piece = piece
        try:
            yield
        finally:
            self.piece = None

    def close(self) -> None:
        """Close the connections and let the thread go."""
        self.connections.close()
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Source(Protocol[T_co]):
    """Where lanes take from; asked on the loop, so it may decide by what has happened since."""

    def take(self, lane_count: int) -> T_co | None:
        """The next thing to do; None when there is none for now."""


class Lanes:
    """The lanes of one phase: one worker each, as many of them at work as `width` allows."""

    def __init__(self, width: Width, connect: Callable[[], Connections]) -> None:
        self.width = width
        self.opened: list[Lane] = []
        self._connect = connect
        self.busy = 0
        """How many are at work."""
        self._over = False
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be more to take, or more lanes may work: let those look that wait."""
        self._news.set()
        self._news = asyncio.Event()

    async def work_through(self, source: Source[T], work: Callable[[Lane, T], Awaitable[None]]) -> None:
        """Let lanes take from `source` until nothing is left and none is at work; the first error stops all."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.width.most):
                    group.create_task(self._worker(number, source, work), name=f"lane-worker-{number}")
        except BaseExceptionGroup as failures:
            raise the_error_in(failures) from failures
        finally:
            for lane in self.opened:
                lane.close()

    async def _worker(
        self, number: int, source: Source[T], work: Callable[[Lane, T], Awaitable[None]]
    ) -> None:
        lane: Lane | None = None
        while not self._over:
            may_work = number < self.width.now
            if may_work and lane is None:
                lane = self._open(number)
                if lane is None:
                    return  # others work; one more is not to be had
            item = source.take(self.width.now) if may_work and lane is not None else None
            if item is not None and lane is not None:
                await self._work_on(lane, item, work)
                if number >= self.width.now:
                    self.wake()  # whoever may still work has to find out whether this was the last
            elif may_work and not self.busy:
                self._over = True
                self.wake()
            else:
                await self._news.wait()

    async def _work_on(self, lane: Lane, item: T, work: Callable[[Lane, T], Awaitable[None]]) -> None:
        self.busy += 1
        try:
            await work(lane, item)
        finally:
            self.busy -= 1

    def _open(self, number: int) -> Lane | None:
        """A new lane; None where the system has no thread to give and there are others."""
        try:
            lane = Lane(number, self._connect())
        except RuntimeError as error:
            if self.opened:
                return None
            raise TransientError(f"can't start a thread: {error}; is there a limit of processes?") from error
        self.opened.append(lane)
        return lane
