"""What a killed runner left on the engine's host, and what is none of ours."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from taskrunner.containers.engine import Engine
from taskrunner.containers.lifetime import remove_orphans
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import ContainerNotRemoved, ContainerOrphanRemoved
from taskrunner.workdir import leased
from tests.containers.conftest import Task
from tests.engine import containers_of


async def left_behind(task: Task, name: str, host_root: Path, *command: str) -> str:
    """A running container as a runner of this task makes it, in some work directory."""
    labels = {"taskrunner.task-id": task.task_id, "taskrunner.work-dir": str(host_root)}
    config = {"Image": task.image, "Cmd": list(command), "Labels": labels}
    container = await task.engine.create(name, config)
    await task.engine.start(container)
    return container


async def test_what_a_dead_runner_left_is_removed_running_or_not(task: Task) -> None:
    root = task.workdir.root
    await left_behind(task, f"{task.task_id}-0", root, "sleep", "60")
    ended = await left_behind(task, f"{task.task_id}-1", root, "true")
    await task.engine.wait(ended)

    await remove_orphans(task.engine, task.task_id, str(root), task.reporter)

    assert task.containers == []
    told = sorted(str(event.fields()["container"]) for event in task.reporter.of(ContainerOrphanRemoved))
    assert told == [f"{task.task_id}-0", f"{task.task_id}-1"]
    assert (await task.run(task.step("echo", "mine"))).stdout == "mine\n"


async def test_a_steps_own_container_would_be_known_as_an_orphan(task: Task, tmp_path: Path) -> None:
    """What a step labels and what is looked for are the same thing."""
    result = await task.run(task.step("sh", "-c", "echo x"))
    assert result.exit_code == 0
    seen: list[object] = []
    original = Engine.create

    async def noting(engine: Engine, name: str, config: dict[str, object]) -> str:
        seen.append(config["Labels"])
        return await original(engine, name, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "create", noting)
        await task.run(task.step("true"))

    assert seen == [{"taskrunner.task-id": task.task_id, "taskrunner.work-dir": str(task.workdir.root)}]


async def test_another_live_runner_of_the_task_keeps_its_container(task: Task) -> None:
    """It holds the lease of the first directory, so ours is another, and so are our containers' names."""
    with leased(task.workdir.root) as beside:
        other = await left_behind(task, f"{task.task_id}-0", task.workdir.root, "sleep", "60")
        assert beside.workdir.root != task.workdir.root

        await remove_orphans(task.engine, task.task_id, str(beside.workdir.root), task.reporter)

        assert task.reporter.events == []
        assert (await task.run(task.step("echo", "beside"))).stdout == "beside\n"
        assert (await task.engine.inspect(other)).status == "running"


async def test_another_tasks_container_is_left_alone(task: Task) -> None:
    name = f"test-{secrets.token_hex(6)}"
    labels = {"taskrunner.task-id": name, "taskrunner.work-dir": str(task.workdir.root)}
    config = {"Image": task.image, "Cmd": ["true"], "Labels": labels}
    other = await task.engine.create(name, config)
    try:
        await remove_orphans(task.engine, task.task_id, str(task.workdir.root), task.reporter)

        assert containers_of(name) == [name]
        assert task.reporter.events == []
    finally:
        await task.engine.remove(other)


async def test_an_orphan_that_stays_is_told(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    await left_behind(task, f"{task.task_id}-0", task.workdir.root, "true")

    async def refuse(_engine: Engine, _container: str) -> None:
        raise EngineUnavailableError("driver failed to remove root filesystem")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "remove", refuse)
        await remove_orphans(task.engine, task.task_id, str(task.workdir.root), task.reporter)

    assert task.reporter.messages == ["container not removed"]
    assert task.reporter.last(ContainerNotRemoved)["container"] == f"{task.task_id}-0"
