"""Work that must be finished although the task that waits for it is cancelled: making, stopping, removing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def to_the_end(work: Coroutine[object, object, T], *, name: str, limit_seconds: float) -> T:
    """Run `work` to its end, whatever cancels us meanwhile; a cancellation is raised when it has ended.

    Once cancelled, the work has `limit_seconds` left; where it takes longer it is cancelled itself.
    """
    task = asyncio.create_task(work, name=name)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            finished, _ = await asyncio.wait([task], timeout=None if cancellation is None else limit_seconds)
        except asyncio.CancelledError as error:
            cancellation = error
            continue
        if not finished:
            task.cancel()
    if cancellation is not None:
        raise cancellation from (None if task.cancelled() else task.exception())
    return task.result()
