"""What dead runners left on the engine's host, how it is known that they are dead, and what is none of ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from taskrunner.containers import reaper
from taskrunner.containers.engine import Engine
from taskrunner.containers.reaper import is_gone, runner_id
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import ContainerNotRemoved, ContainerOrphanRemoved, SweepFailed
from taskrunner.workdir import leased
from tests.containers.conftest import Task
from tests.engine import ask, containers_of, remove_image
from tests.servers import web_server

NOWHERE = Engine("unix:///nowhere")
"""Never asked."""
HOST = f"test-{uuid4().hex[:12]}"
"""What this host is called here: what our dead runners leave, no other test's sweep may take away."""
PID_NAMESPACE = Path("/proc/self/ns/pid").stat().st_ino


def process_id(pid: int) -> str:
    """A process as it would call itself."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{HOST}/{PID_NAMESPACE}/{pid}/{stat[19]}"


@pytest.fixture(autouse=True)
def _a_host_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def dead(sleeper: subprocess.Popen[bytes]) -> str:
    """The id of a runner whose process is gone."""
    runner = process_id(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    return runner


# --- who is gone


def test_a_runner_outside_a_container_is_a_process_of_this_host() -> None:
    assert runner_id(None) == process_id(os.getpid())


def test_a_runner_in_a_container_is_the_container() -> None:
    assert runner_id("c" * 64) == "c" * 64


def test_the_start_of_a_process_is_read_whatever_its_name(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b c"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as process:
        try:
            assert reaper._started_ticks(str(process.pid)) == int(process_id(process.pid).rpartition("/")[2])
        finally:
            process.kill()


async def test_a_process_that_runs_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    assert not await is_gone(NOWHERE, process_id(sleeper.pid))


async def test_a_process_that_is_not_there_is_gone(dead: str) -> None:
    assert await is_gone(NOWHERE, dead)


async def test_a_process_whose_number_another_one_has_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    assert await is_gone(NOWHERE, process_id(sleeper.pid) + "1")


async def test_a_process_of_another_host_is_alive(dead: str) -> None:
    assert not await is_gone(NOWHERE, f"other-{dead}")


async def test_a_process_of_another_pid_namespace_is_alive(dead: str) -> None:
    host, namespace, pid, started = dead.split("/")
    assert not await is_gone(NOWHERE, f"{host}/{int(namespace) + 1}/{pid}/{started}")


async def test_somebody_elses_process_that_proc_hides_is_alive(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not await is_gone(NOWHERE, dead)


@pytest.mark.parametrize(
    "runner",
    [
        "",
        "x",
        "HERE/1",
        "HERE/-1/5",
        "HERE/0/5",
        "HERE/9999999999/x",
        "HERE/999999999/5/6",
        "a" * 63,
        "A" * 64,
    ],
)
async def test_an_id_that_no_runner_has_is_alive(runner: str) -> None:
    assert not await is_gone(NOWHERE, runner.replace("HERE", f"{HOST}/{PID_NAMESPACE}"))


async def test_a_container_that_is_not_there_is_gone(engine: Engine) -> None:
    assert await is_gone(engine, "0" * 64)


async def test_a_container_is_gone_when_it_has_ended_and_not_before(task: Task) -> None:
    config = {"Image": task.image, "Cmd": ["sleep", "600"], "Labels": {"taskrunner.task-id": task.task_id}}
    container = await task.engine.create(task.task_id, config)
    seen = [await is_gone(task.engine, container)]
    await task.engine.start(container)
    seen.append(await is_gone(task.engine, container))
    await task.engine.kill(container)
    await task.engine.wait(container)
    assert [*seen, await is_gone(task.engine, container)] == [False, False, True]


@asynccontextmanager
async def refusing_engine(status: int) -> AsyncIterator[Engine]:
    """An engine that tells its version and refuses everything else."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"})
        return web.json_response({"message": "no such luck"}, status=status)

    async with (
        web_server({"/{any:.*}": answer}) as url,
        Engine(url.replace("http://", "tcp://")) as engine,
    ):
        yield engine


@pytest.mark.parametrize("status", [400, 403, 409, 500, 503])
async def test_an_engine_that_refuses_to_say_does_not_mean_gone(status: int) -> None:
    async with refusing_engine(status) as engine:
        assert not await is_gone(engine, "0" * 64)


# --- the sweep


async def sweep(task: Task, root: Path | None = None, runner: str = "ours") -> None:
    await reaper.sweep(task.engine, runner, task.task_id, str(root or task.workdir.root), task.reporter)


async def left_behind(task: Task, *command: str, **labels: str) -> str:
    """A running container as a runner makes it; `labels` are beside (or over) its task's, `-` for `_`."""
    config = {
        "Image": labels.pop("image", task.image),
        "Cmd": list(command),
        "Labels": {
            "taskrunner.task-id": task.task_id,
            **{f"taskrunner.{name.replace('_', '-')}": value for name, value in labels.items()},
        },
    }
    container = await task.engine.create(f"{task.task_id}-{uuid4().hex[:6]}", config)
    await task.engine.start(container)
    return container


def told(task: Task) -> list[tuple[object, object]]:
    """Name and runner of what was removed."""
    events = [event.fields() for event in task.reporter.of(ContainerOrphanRemoved)]
    return sorted((str(fields["container"])[: len(task.task_id)], fields["runner"]) for fields in events)


async def test_what_a_dead_runner_of_any_task_left_is_removed_running_or_not(task: Task, dead: str) -> None:
    await left_behind(task, "sleep", "600", runner_id=dead, work_dir="/elsewhere")
    ended = await left_behind(task, "true", runner_id=dead, work_dir="/elsewhere")
    await task.engine.wait(ended)
    await sweep(task)
    assert task.containers == []
    assert told(task) == [(task.task_id, dead)] * 2


async def test_a_dead_runners_watchdog_is_removed_as_well(task: Task, dead: str) -> None:
    await left_behind(task, "sleep", "600", runner_id=dead, watchdog="true")
    await sweep(task)
    assert task.containers == []


async def test_what_an_earlier_runner_left_in_our_own_directory_is_removed_wherever_it_was(
    task: Task,
) -> None:
    """That we hold the lease of the directory proves that it is dead."""
    for labels in ({"runner_id": "elsewhere/1/2/3"}, {}):
        await left_behind(task, "sleep", "600", work_dir=str(task.workdir.root), **labels)
    await sweep(task)
    assert task.containers == []


async def test_the_container_of_a_runner_that_lives_is_left_alone(
    task: Task, sleeper: subprocess.Popen[bytes]
) -> None:
    await left_behind(task, "sleep", "600", runner_id=process_id(sleeper.pid))
    await sweep(task)
    assert len(task.containers) == 1
    assert task.reporter.events == []


async def test_our_own_containers_are_left_alone(task: Task) -> None:
    await left_behind(task, "sleep", "600", runner_id="ours", work_dir=str(task.workdir.root))
    await sweep(task)
    assert len(task.containers) == 1


async def test_another_live_runner_of_the_task_keeps_its_container(task: Task) -> None:
    """It holds the lease of the first directory, so ours is another, and so are our containers' names."""
    with leased(task.workdir.root) as beside:
        other = await left_behind(task, "sleep", "600", work_dir=str(task.workdir.root))
        assert beside.workdir.root != task.workdir.root
        await sweep(task, beside.workdir.root)
        assert task.reporter.events == []
        assert (await task.engine.inspect(other)).status == "running"


async def test_what_is_not_labelled_is_left_alone(task: Task, dead: str) -> None:
    name = f"test-{uuid4().hex[:12]}"
    other = await task.engine.create(
        name, {"Image": task.image, "Cmd": ["true"], "Labels": {"runner-id": dead}}
    )
    try:
        await sweep(task)
        assert (await task.engine.inspect(other)).status == "created"
    finally:
        await task.engine.remove(other)


def committed(container: str, name: str) -> str:
    """The image that somebody made of a container; it has the container's labels, and so has what runs from it."""
    status, body = ask("POST", f"/commit?container={container}&repo={name}&tag=latest", b"{}", JSON)
    assert status == 201, body
    return str(json.loads(body)["Id"])


JSON = {"Content-Type": "application/json"}


async def test_what_runs_from_an_image_of_a_dead_runners_container_is_left_alone(
    task: Task, dead: str
) -> None:
    root = str(task.workdir.root)
    left = await left_behind(task, "sleep", "600", runner_id=dead, work_dir=root)
    image = committed(left, task.task_id)
    try:
        theirs = await task.engine.create(f"{task.task_id}-theirs", {"Image": image})
        assert (await task.engine.inspect(theirs)).labels["taskrunner.runner-id"] == dead
        await sweep(task)
        assert task.containers == [f"{task.task_id}-theirs"]
    finally:
        await task.engine.remove(f"{task.task_id}-theirs")
        remove_image(task.task_id)


async def test_what_a_later_dead_runner_ran_from_such_an_image_is_removed(task: Task, dead: str) -> None:
    first = await left_behind(task, "sleep", "600", runner_id="elsewhere/1/2/3")
    image = committed(first, task.task_id)
    try:
        await left_behind(task, "sleep", "600", image=image, runner_id=dead)
        await sweep(task)
        assert told(task) == [(task.task_id, dead)]
    finally:
        await task.engine.remove(first)
        remove_image(task.task_id)


async def test_a_steps_own_container_would_be_known_as_an_orphan(task: Task) -> None:
    """What a step labels and what is looked for are the same thing."""
    seen: list[dict[str, str]] = []
    original = Engine.create

    async def noting(engine: Engine, name: str, config: dict[str, dict[str, str]]) -> str:
        seen.append(config["Labels"])
        return await original(engine, name, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "create", noting)
        await task.run(task.step("true"))
    ours = {"taskrunner.task-id": task.task_id, "taskrunner.work-dir": str(task.workdir.root)}
    assert len(seen) == 1
    assert ours.items() <= seen[0].items()


async def test_an_orphan_that_stays_is_told(task: Task, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await left_behind(task, "true", runner_id=dead)

    async def refuse(_engine: Engine, _container: str) -> None:
        raise EngineUnavailableError("driver failed to remove root filesystem")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "remove", refuse)
        await sweep(task)
    assert {event.fields()["error"] for event in task.reporter.of(ContainerNotRemoved)} == {
        "driver failed to remove root filesystem"
    }
    assert containers_of(task.task_id) != []


async def test_an_engine_that_refuses_the_sweep_is_told_and_the_task_goes_on(task: Task) -> None:
    async with refusing_engine(403) as engine:
        task.engine, real = engine, task.engine
        await sweep(task)
        task.engine = real
    assert "no such luck" in str(task.reporter.last(SweepFailed)["error"])


async def test_an_engine_that_does_not_answer_the_sweep_is_an_error(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_engine: Engine, _label: str) -> None:
        raise EngineUnavailableError("no Docker engine answers")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "labelled", silent)
        with pytest.raises(EngineUnavailableError, match="no Docker engine answers"):
            await sweep(task)
