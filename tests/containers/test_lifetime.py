"""A container's end: what could not be removed in time is told, whoever it was that ran out of time."""

from __future__ import annotations

import asyncio

import pytest

from taskrunner.containers import lifetime
from taskrunner.containers.engine import Engine
from taskrunner.containers.lifetime import created
from taskrunner.events import ContainerNotRemoved
from tests.containers.conftest import Task


async def test_what_the_engine_does_not_remove_before_a_stops_time_is_over_is_told(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"Image": task.image, "Cmd": ["true"], "Labels": {"taskrunner.task-id": task.task_id}}
    inside = asyncio.Event()

    async def step() -> None:
        async with created(task.engine, task.task_id, config, task.reporter):
            inside.set()
            await asyncio.Event().wait()

    async def hang(_engine: Engine, _container: str) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(lifetime, "_LIMIT_SECONDS", 0.1)
        patch.setattr(Engine, "remove", hang)
        running = asyncio.create_task(step())
        await inside.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    told = task.reporter.last(ContainerNotRemoved)
    assert (told["container"], "within 0.1 s" in str(told["error"])) == (task.task_id, True)


async def test_what_may_not_go_stays(task: Task) -> None:
    config = {"Image": task.image, "Cmd": ["true"], "Labels": {"taskrunner.task-id": task.task_id}}

    async def no() -> bool:
        return False

    async with created(task.engine, task.task_id, config, task.reporter, may_go=no):
        pass
    assert task.containers == [task.task_id]
    assert task.reporter.events == []
