"""Lanes: threads that carry bytes, one blocking request after another, while the event loop decides.

A lane is one thread with kept-alive connections of its own. Receiving, TLS and writing release the GIL, so a
handful of lanes use several cores and fill a fast link, and the loop never waits on a disk or a socket. Memory
is lanes x buffer, whatever the files' sizes. A lane is stopped by shutting its sockets down: the blocked call
returns with an error at once, and the lane is waited for, so that no thread outlives the phase that owns it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from taskrunner.storage.wire import Connections

T = TypeVar("T")


class Lane:
    """One thread and its connections."""

    def __init__(self, number: int, connections: Connections) -> None:
        self._connections = connections
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"lane-{number}")

    async def run(self, job: Callable[[Connections], T]) -> T:
        """Run `job` in the lane's thread. When cancelled, the job is cut off and waited for; the lane is spent."""
        running = asyncio.wrap_future(self._thread.submit(job, self._connections))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._connections.abort()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # its end was our doing; nobody else will ask for it
            raise

    def close(self) -> None:
        """Close the connections and let the thread go."""
        self._connections.close()
        self._thread.shutdown(wait=False)


@asynccontextmanager
async def open_lanes(count: int, connect: Callable[[], Connections]) -> AsyncIterator[tuple[Lane, ...]]:
    """`count` lanes for one phase; threads and connections are made when first used."""
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

    async with asyncio.TaskGroup() as group:
        for number, lane in enumerate(lanes):
            group.create_task(worker(lane), name=f"lane-worker-{number}")
