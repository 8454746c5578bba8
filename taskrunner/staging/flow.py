"""One phase's flow of bytes: its lanes, and everything that watches over them.

A ticker on the loop looks at the flow a few times a second: it tells how far the phase is, lets the number of
lanes follow what they bring (`width`), and gives up requests that are far slower than the others (`outliers`).
All files of a phase share the lanes and the counts (`Tally`), all phases of a task the retries (`Allowance`).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from taskrunner.errors import TaskrunnerError, ThrottledError
from taskrunner.staging.lanes import Lane, Lanes, most_lanes
from taskrunner.staging.outliers import Outliers
from taskrunner.staging.progress import Tally
from taskrunner.staging.width import Width

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from taskrunner.settings import TransferSettings
    from taskrunner.staging.lanes import Source
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.slices import FileSlice

T = TypeVar("T")

_LOOK_SECONDS = 0.1
_TELL_EVERY = 5
"""Progress is told at every so many looks."""
_REQUEST_BYTES = 64 * 1024
"""For the width, a request counts as so many bytes more: what small objects need is round trips."""


class Flow:
    """The lanes of one phase and what they share."""

    def __init__(self, stores: Stores, settings: TransferSettings, *, most_items: int) -> None:
        """`most_items`: how many pieces there are; more lanes than that are never opened."""
        self.stores = stores
        self.settings = settings
        self.tally = Tally()
        self.allowance = stores.allowance
        self._width = Width(max(1, min(most_lanes(settings), most_items)))
        self._lanes = Lanes(self._width, stores.connections)
        self._outliers = Outliers()
        self._requests_done = 0

    async def work_through(self, source: Source[T], work: Callable[[Lane, T], Awaitable[None]]) -> None:
        """See `Lanes.work_through`."""
        await self._lanes.work_through(source, work)

    def more_to_take(self) -> None:
        """The source has got something again."""
        self._lanes.wake()

    async def tries(self, lane: Lane, job: Callable[[Lane], T], failed: TaskrunnerError | None = None) -> T:
        """Run a job in a lane, again and again as far as patience and allowance go.

        `failed`: how a quick try of the same (`once`) ended; it counts as the first one.

        Raises the last try's error.
        """
        async for attempt in self.settings.patience.tries(self.allowance):
            with attempt:
                try:
                    if failed is not None:
                        error, failed = failed, None
                        raise error
                    result = await lane.run(job)
                except ThrottledError:
                    self._width.throttled(time.monotonic())
                    raise
                self.allowance.earn()
                self._requests_done += 1
                return result
        raise AssertionError("the last try either returns or raises")

    async def once(self, lane: Lane, jobs: Sequence[Callable[[Lane], T]]) -> list[T | TaskrunnerError]:
        """Run jobs in a lane, one after another, each once; how each ended.

        Where a server asks for fewer requests, that is the end of all that follow.
        """
        outcomes = await lane.run(partial(_outcomes, jobs))
        for outcome in outcomes:
            if not isinstance(outcome, TaskrunnerError):
                self.allowance.earn()
                self._requests_done += 1
        return outcomes

    def moved(self, lane: Lane, piece: FileSlice) -> None:
        """In a lane's thread, before it lets go of `piece`: the request for it ended well."""
        seconds = time.monotonic() - lane.piece_since_seconds
        self._outliers.finished(piece.done - lane.piece_began_at, seconds)

    @asynccontextmanager
    async def watched(self, tell: Callable[[], None]) -> AsyncIterator[None]:
        """Look after the flow for as long as the context lasts, and call `tell` now and then."""
        ticker = asyncio.create_task(self._watch(tell), name="watch-the-flow")
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.wait([ticker])
            if not ticker.cancelled():
                ticker.result()  # it never ends by itself but for a mistake of ours

    async def _watch(self, tell: Callable[[], None]) -> None:
        looks = 0
        self._width.look(0, time.monotonic(), busy=0)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            looks += 1
            now = time.monotonic()
            amount = self.tally.bytes_done + self._requests_done * _REQUEST_BYTES
            before = self._width.now
            self._width.look(amount, now, busy=self._lanes.busy)
            if self._width.now > before:
                self._lanes.wake()
            self._cut_slow_ones(now)
            if looks % _TELL_EVERY == 0:
                tell()

    def _cut_slow_ones(self, now_seconds: float) -> None:
        for lane in self._lanes.opened:
            piece = lane.piece
            if piece is None or piece.left is None:
                continue
            seconds = now_seconds - lane.piece_since_seconds
            moved = max(0, piece.done - lane.piece_began_at)
            again = piece.left + moved if lane.piece_restarts else piece.left
            if self._outliers.is_slow(
                moved=moved, again_bytes=again, left=piece.left, seconds=seconds, cut_before=piece.cut_count
            ):
                piece.cut_count += 1
                self._outliers.cut()
                lane.connections.cut()


def _outcomes(jobs: Sequence[Callable[[Lane], T]], lane: Lane) -> list[T | TaskrunnerError]:
    outcomes: list[T | TaskrunnerError] = []
    for job in jobs:
        if outcomes and isinstance(outcomes[-1], ThrottledError):
            outcomes.append(outcomes[-1])
            continue
        try:
            outcomes.append(job(lane))
        except TaskrunnerError as error:
            outcomes.append(error)
    return outcomes
