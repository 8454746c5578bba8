"""How a container's life ends otherwise than by itself: stopped, out of time, or out of memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.containers.engine import PATIENCE_SECONDS, RefusedError, persistently
from taskrunner.errors import EngineUnavailableError

if TYPE_CHECKING:
    from taskrunner.containers.engine import Engine
    from taskrunner.stopping import Stops

ENGINE_SECONDS = 3.0
"""How long one call to the engine may take while we are being stopped."""
_SAVING_SECONDS = 9.0
"""Of the time that a stop leaves, what saving outputs and result gets at least."""
_KILLED = 128 + 9
_LOOKS, _LOOK_SECONDS = 5, 0.1
"""The engine hears of a process killed for want of memory a little after the process has ended, now and then."""


async def ended_or_out_of_time(
    following: asyncio.Task[int], started: asyncio.Event, limit_seconds: float | None
) -> None:
    """Wait until `following` is done, or `limit_seconds` are over since the container was `started`."""
    if limit_seconds is not None:
        starting = asyncio.create_task(started.wait(), name="start of the container")
        try:
            await asyncio.wait([following, starting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            starting.cancel()
    await asyncio.wait([following], timeout=limit_seconds)


async def end(engine: Engine, container: str, grace_seconds: float, stops: Stops) -> None:
    """Send a running container its stop signal and, when the grace is over, SIGKILL; at once where stops hurry.

    The grace is shorter where a stop leaves less. Takes at most the grace and two calls to the engine.
    """
    grace_seconds = max(0.0, min(grace_seconds, stops.seconds_left() - _SAVING_SECONDS))
    limit_seconds = grace_seconds + ENGINE_SECONDS
    asking = partial(engine.stop, container, grace_seconds)
    stopping = asyncio.create_task(persistently(asking, limit_seconds), name="stop container")
    hurry = asyncio.create_task(stops.hurry.wait(), name="hurry")
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait([stopping, hurry], timeout=limit_seconds, return_when=first)
        stopped = stopping.done() and stopping.exception() is None
    finally:
        stopping.cancel()
        hurry.cancel()
        await asyncio.gather(stopping, hurry, return_exceptions=True)
    if not stopped:
        # What the engine still does not do now, the removal will try, and tell if it can't.
        with suppress(TimeoutError, EngineUnavailableError):
            async with asyncio.timeout(ENGINE_SECONDS):
                await persistently(partial(engine.kill, container), ENGINE_SECONDS)


@dataclass(frozen=True, slots=True)
class Memory:
    """Whether a container that has ended lacked memory, in the engine's words and in ours."""

    killed: bool = False
    error: str | None = None


async def look_at_memory(engine: Engine, container: str, exit_code: int, limit_from: str) -> Memory:
    """Whether the kernel killed a process of a container that has ended for want of memory.

    `limit_from` says whose limit its memory has. Not every such kill becomes known to the engine (one of a child
    may not), and a container may get over it: its exit code may be any.
    """
    look = partial(persistently, partial(engine.inspect, container), PATIENCE_SECONDS)
    try:
        state = await look()
        for _ in range(_LOOKS if exit_code == _KILLED else 0):
            if state.oom_killed:
                break
            await asyncio.sleep(_LOOK_SECONDS)
            state = await look()
    except RefusedError:
        return Memory(error="somebody removed its container")
    except EngineUnavailableError as error:
        return Memory(error=f"whether it lacked memory is not known: {error}")
    limit = _limit_in_words(state.memory_bytes, limit_from)
    if state.oom_killed:
        short = "; its output may be short" if exit_code == 0 else ""
        return Memory(killed=True, error=f"out of memory: the kernel killed a process at {limit}{short}")
    if exit_code == _KILLED and state.memory_bytes:
        return Memory(error=f"killed by SIGKILL; out of memory is the likeliest cause, at {limit}")
    return Memory()


def _limit_in_words(memory_bytes: int, limit_from: str) -> str:
    if not memory_bytes:
        return "the limit of the Docker host's or the job's memory"
    source = f" ({limit_from})" if limit_from else ""
    return f"its limit of {memory_bytes / 2**20:.0f} MiB{source}"
