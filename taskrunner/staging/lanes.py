"""Lanes: threads that carry bytes, one blocking request after another, while the event loop decides.

A lane is one thread with kept-alive connections of its own. Receiving, TLS and writing release the GIL, so a
handful of lanes use several cores and fill a fast link, and the loop never waits on a disk or a socket. Memory
is lanes x buffer, whatever the files' sizes. A lane is stopped by shutting its sockets down: the blocked call
returns with an error at once, and the lane is waited for, so that no thread outlives the phase that owns it.
Only a look-up of a host name can't be cut short; a lane in the midst of one is left to itself after a while,
and being a daemon it does not keep the process.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from taskrunner.errors import the_error_in
from taskrunner.shielded import settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from taskrunner.storage.wire import Connections

T = TypeVar("T")

_CUT_OFF_SECONDS = 3.0


class Lane:
    """One thread and its connections."""

    def __init__(self, number: int, connections: Connections) -> None:
        self._connections = connections
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"lane-{number}", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[Connections], T]) -> T:
        """Run `job` in the lane's thread. When cancelled, the job is cut off and waited for; the lane is spent."""
        result: Future[T] = Future()
        self._jobs.put(lambda: settle(result, lambda: job(self._connections)))
        running = asyncio.wrap_future(result)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._connections.abort()
            await asyncio.wait([running], timeout=_CUT_OFF_SECONDS)
            if running.done() and not running.cancelled():
                running.exception()  # its end was our doing; nobody else will ask for it
            running.cancel()
            raise

    def close(self) -> None:
        """Close the connections and let the thread go."""
        self._connections.close()
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


@asynccontextmanager
async def open_lanes(count: int, connect: Callable[[], Connections]) -> AsyncIterator[tuple[Lane, ...]]:
    """`count` lanes for one phase; connections are made when first used."""
    lanes = tuple(Lane(number, connect()) for number in range(count))
    try:
        yield lanes
    finally:
        for lane in lanes:
            lane.close()


async def work_through(
    schedule: Iterator[T], lanes: Sequence[Lane], work: Callable[[Lane, T], Awaitable[None]]
) -> None:
    """Let every lane take the next thing from `schedule` until it is empty; the first error stops all.

    The schedule is shared and asked on the loop, one item at a time, so it may decide by what has happened
    since. There is one worker a lane, never one a part.
    """

    async def worker(lane: Lane) -> None:
        for item in schedule:
            await work(lane, item)

    try:
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(worker(lane), name=f"lane-worker-{number}")
    except BaseExceptionGroup as failures:
        raise the_error_in(failures) from failures
