"""What must be finished is finished although its task is cancelled, within a limit."""

import asyncio
import threading

import pytest

from taskrunner.shielded import in_daemon_thread, to_the_end


async def test_work_goes_on_to_its_end_when_its_task_is_cancelled() -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0.05)
        finished.set()

    task = asyncio.create_task(to_the_end(work(), name="work", limit_seconds=30))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()


@pytest.mark.parametrize("when", ["meanwhile", "before"])
async def test_work_that_takes_too_long_after_a_cancellation_is_cancelled_itself(when: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def task_of_ours() -> None:
        if when == "meanwhile":
            await to_the_end(endless(), name="work", limit_seconds=0.05)
        try:
            await asyncio.Event().wait()
        finally:
            await to_the_end(endless(), name="work", limit_seconds=0.05)

    task = asyncio.create_task(task_of_ours())
    await asyncio.sleep(0)
    if when == "meanwhile":
        await begun.wait()
    task.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


async def test_a_call_that_never_returns_does_not_hold_up_who_is_cancelled() -> None:
    release = threading.Event()
    task = asyncio.create_task(in_daemon_thread(release.wait, name="stuck"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


async def test_the_outcome_of_a_call_comes_back() -> None:
    assert await in_daemon_thread(lambda: 7, name="seven") == 7
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0, name="error")
