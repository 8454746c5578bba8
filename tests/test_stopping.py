"""A signal ends the task, never what follows its verdict, and everything in time."""

import asyncio
import math
import os
import signal

import pytest

from taskrunner.errors import TransientError
from taskrunner.shielded import to_the_end
from taskrunner.stopping import Stop, StopKind, Stops, until_stopped


async def heard_by(stops: Stops) -> str:
    """Wait to be cancelled by a signal; its name."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return str(error)
    raise AssertionError


@pytest.fixture(autouse=True)
def _handlers_as_before() -> object:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have said nohup
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_cancels_what_runs_and_says_its_name(number: signal.Signals) -> None:
    stops = Stops()
    with stops.listening():
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        assert await heard_by(stops) == number.name
    assert signal.getsignal(number) is signal.SIG_IGN


async def test_what_follows_the_verdict_is_finished_although_a_signal_comes() -> None:
    stops = Stops()
    finished = asyncio.Event()

    async def conclude() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        finished.set()
        return "done"

    with stops.listening():
        assert await stops.in_time(conclude()) == "done"
    assert finished.is_set()


async def test_what_follows_the_verdict_is_given_up_when_the_time_is_over() -> None:
    stops = Stops(stop_seconds=0.05)

    async def endless() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with stops.listening():
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError, match="no time left"):
                await stops.in_time(endless(), least_seconds=0.05)


async def test_a_second_signal_leaves_hardly_any_time() -> None:
    stops = Stops(stop_seconds=3600)

    async def endless() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with stops.listening():
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError, match="no time left"):
                await stops.in_time(endless(), least_seconds=0.05)
    assert stops.hurry.is_set()


async def test_what_saves_leaves_time_for_what_comes_after_it() -> None:
    stops = Stops(stop_seconds=3600)
    with stops.listening():
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError, match="no time left"):
                await stops.in_time(stopped_by_a_limit(stops), least_seconds=0, reserve_seconds=7200)
    assert stops.seconds_left() > 3000


async def stopped_by_a_limit(stops: Stops) -> None:
    stops.stop(Stop(StopKind.TIME_LIMIT, "its time limit"), 3600)
    await asyncio.Event().wait()


async def test_the_first_stop_is_the_reason_and_a_later_one_brings_the_end_nearer() -> None:
    stops = Stops()
    told: list[tuple[str, float]] = []
    stops.on_stop = lambda stop, seconds: told.append((stop.reason, round(seconds)))
    reclaim, signalled = Stop(StopKind.RECLAIM, "a reclaim"), Stop(StopKind.SIGNAL, "SIGTERM")
    assert stops.seconds_left() == math.inf
    stops.stop(reclaim, 110)
    stops.stop(signalled, 25)
    stops.stop(signalled, 300)
    assert stops.first is reclaim
    assert told == [("a reclaim", 110), ("SIGTERM", 25), ("SIGTERM", 25)]


async def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stops = Stops()
    with stops.listening():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await heard_by(stops) == "SIGTERM"


async def test_a_stopped_command_says_so_and_is_worth_a_retry() -> None:
    async def endless() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(TransientError, match="SIGTERM"):
        await until_stopped(endless())


async def test_a_second_signal_ends_what_is_shielded_from_the_first() -> None:
    winding_up = asyncio.Event()

    async def wind_up() -> None:
        winding_up.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    async def endless() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            await to_the_end(wind_up(), name="wind up", limit_seconds=600)

    async with asyncio.timeout(30):
        with pytest.raises(TransientError, match="stopped by SIG"):
            await until_stopped(endless())
    assert winding_up.is_set()


async def test_a_stop_after_the_verdict_cancels_nothing_but_still_limits_the_time() -> None:
    stops = Stops(stop_seconds=3600)
    with stops.listening():
        stops.nothing_to_cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
    assert stops.first == Stop(StopKind.SIGNAL, "SIGTERM")
    assert 3000 < stops.seconds_left() < 3600
