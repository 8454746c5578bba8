"""What dead runners left on the engine's host, how it is known that they are dead, and what is none of ours."""

from __future__ import annotations

import asyncio
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
from taskrunner.containers.engine import Engine, Labelled
from taskrunner.containers.reaper import Life, life_of, runner_id
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
            assert asyncio.run(life_of(NOWHERE, process_id(process.pid))) is Life.ALIVE
        finally:
            process.kill()


async def test_a_process_that_runs_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    assert await life_of(NOWHERE, process_id(sleeper.pid)) is Life.ALIVE


async def test_a_process_that_is_not_there_is_gone(dead: str) -> None:
    assert await life_of(NOWHERE, dead) is Life.GONE


async def test_a_process_whose_number_another_one_has_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    assert await life_of(NOWHERE, process_id(sleeper.pid) + "1") is Life.GONE


def test_a_killed_process_whose_parent_does_not_look_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    runner = process_id(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert asyncio.run(life_of(NOWHERE, runner)) is Life.GONE


async def test_a_process_of_another_host_is_not_known(dead: str) -> None:
    assert await life_of(NOWHERE, f"other-{dead}") is Life.UNKNOWN


async def test_a_process_of_another_pid_namespace_is_not_known(dead: str) -> None:
    host, namespace, pid, started = dead.split("/")
    assert await life_of(NOWHERE, f"{host}/{int(namespace) + 1}/{pid}/{started}") is Life.UNKNOWN


async def test_somebody_elses_process_that_proc_hides_is_not_known(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert await life_of(NOWHERE, dead) is Life.UNKNOWN


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
async def test_an_id_that_no_runner_has_is_not_known(runner: str) -> None:
    assert await life_of(NOWHERE, runner.replace("HERE", f"{HOST}/{PID_NAMESPACE}")) is Life.UNKNOWN


async def test_a_container_that_is_not_there_is_gone(engine: Engine) -> None:
    assert await life_of(engine, "0" * 64) is Life.GONE


async def test_a_container_is_gone_when_it_has_ended_and_not_before(task: Task) -> None:
    config = {"Image": task.image, "Cmd": ["sleep", "600"], "Labels": {"taskrunner.task-id": task.task_id}}
    container = await task.engine.create(task.task_id, config)
    seen = [await life_of(task.engine, container)]
    await task.engine.start(container)
    seen.append(await life_of(task.engine, container))
    await task.engine.kill(container)
    await task.engine.wait(container)
    assert [*seen, await life_of(task.engine, container)] == [Life.ALIVE, Life.ALIVE, Life.GONE]


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
async def test_of_whom_the_engine_refuses_to_say_anything_nothing_is_known(status: int) -> None:
    async with refusing_engine(status) as engine:
        assert await life_of(engine, "0" * 64) is Life.UNKNOWN


# --- the sweep


async def sweep(task: Task, root: Path | None = None, found: tuple[Labelled, ...] | None = None) -> None:
    """What is `found` before we make any is all that there is, unless it is given."""
    await reaper.sweep(
        task.engine,
        await reaper.every_runners(task.engine, task.reporter) if found is None else found,
        runner="ours",
        task_id=task.task_id,
        host_root=str(root or task.workdir.root),
        reporter=task.reporter,
    )


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
    await left_behind(task, "sleep", "600", runner_id=dead, watchdog=dead)
    await sweep(task)
    assert task.containers == []


async def test_watchdogs_go_after_what_they_watch_over_whatever_labels_images_bring(
    task: Task, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchdog = await left_behind(task, "sleep", "600", runner_id=dead, watchdog=dead)
    forged = await left_behind(task, "sleep", "600", runner_id=dead, watchdog="true")
    removed: list[str] = []
    original = Engine.remove

    async def noting(engine: Engine, container: str) -> None:
        removed.append(container)
        await original(engine, container)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "remove", noting)
        await sweep(task)
    assert removed == [forged, watchdog]


async def test_what_an_earlier_runner_left_in_our_own_directory_is_removed_wherever_it_was(
    task: Task,
) -> None:
    """That we hold the lease of the directory proves that it is dead, be it in a former life of our container."""
    for labels in ({"runner_id": "elsewhere/1/2/3"}, {"runner_id": "ours"}, {}):
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


async def test_the_container_of_a_runner_that_lives_is_left_alone_whatever_directory_it_says(
    task: Task, sleeper: subprocess.Popen[bytes]
) -> None:
    """In another mount namespace the same path is another directory."""
    await left_behind(
        task, "sleep", "600", runner_id=process_id(sleeper.pid), work_dir=str(task.workdir.root)
    )
    await sweep(task)
    assert len(task.containers) == 1


async def test_our_own_containers_are_left_alone(task: Task) -> None:
    found = await reaper.every_runners(task.engine, task.reporter)
    await left_behind(task, "sleep", "600", runner_id="ours", work_dir=str(task.workdir.root))
    await sweep(task, found=found)
    assert len(task.containers) == 1


async def test_another_runner_in_our_container_keeps_its_containers(task: Task) -> None:
    await left_behind(task, "sleep", "600", runner_id="ours", work_dir="/another")
    await sweep(task)
    assert len(task.containers) == 1


async def test_a_runner_that_the_engine_does_not_answer_about_counts_as_alive_and_stops_nothing(
    task: Task, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = await left_behind(task, "sleep", "600")
    others = await left_behind(task, "sleep", "600", runner_id=stuck, work_dir=str(task.workdir.root))
    await left_behind(task, "sleep", "600", runner_id=dead)

    async def silent(_engine: Engine, _container: str) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "inspect", silent)
        patch.setattr(reaper, "_ANSWER_SECONDS", 0.1)
        await sweep(task)
    assert told(task) == [(task.task_id, dead)]
    assert (await task.engine.inspect(others)).status == "running"
    assert stuck in str([event.fields() for event in task.reporter.of(SweepFailed)])


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
