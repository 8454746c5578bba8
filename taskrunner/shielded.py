"""Work and cancellation: what must be finished although its task is cancelled, and what can't be cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


async def to_the_end(work: Coroutine[object, object, T], *, name: str, limit_seconds: float) -> T:
    """Run `work` to its end, whatever cancels us meanwhile; a cancellation is raised when it has ended.

    Once cancelled, be it meanwhile or before (as in a `finally`), the work has `limit_seconds` left; where it
    takes longer it is cancelled itself.
    """
    waiting = asyncio.current_task()
    cancelled_before = waiting is not None and waiting.cancelling() > 0
    task = asyncio.create_task(work, name=name)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            limited = cancelled_before or cancellation is not None
            finished, _ = await asyncio.wait([task], timeout=limit_seconds if limited else None)
        except asyncio.CancelledError as error:
            cancellation = error
            continue
        if not finished:
            task.cancel()
    if cancellation is not None:
        raise cancellation from (None if task.cancelled() else task.exception())
    return task.result()


async def in_daemon_thread(job: Callable[[], T], *, name: str) -> T:
    """Run a blocking call that nothing can interrupt (a read of a terminal or a pipe).

    When cancelled, the call is left to itself: it may never return, and being a daemon's it does not keep the
    process, as a thread of the loop's own pool would.
    """
    result: Future[T] = Future()
    threading.Thread(target=settle, args=(result, job), name=name, daemon=True).start()
    return await asyncio.wrap_future(result)


def settle(result: Future[T], job: Callable[[], T]) -> None:
    """Run `job` and give its outcome to `result`, unless nobody waits for it any more."""
    if not result.set_running_or_notify_cancel():
        return
    try:
        value = job()
    except BaseException as error:  # noqa: BLE001  # whatever it is, whoever waits is to see it
        result.set_exception(error)
    else:
        result.set_result(value)
