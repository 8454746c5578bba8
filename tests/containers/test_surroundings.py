"""What is around the executors: outside a container, as ECS tells it, and as the engine knows a container."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from taskrunner.batch.ecs import EcsMetadata
from taskrunner.batch.job import Job
from taskrunner.containers.bounds import Bounds
from taskrunner.containers.engine import ContainerMount, Engine
from taskrunner.containers.reaper import runner_id
from taskrunner.containers.surroundings import Surroundings, gpus, survey
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import HostPathFound
from taskrunner.plan import Plan
from taskrunner.settings import ContainerSettings, HostPath, Settings, WorkSettings
from taskrunner.task import Task
from tests.containers.conftest import Recorder
from tests.engine import ask
from tests.job import remove

OUTSIDE = Job()


def plan(root: Path) -> Plan:
    task = Task.model_validate({"id": "task-1", "executors": [{"image": "i", "command": ["true"]}]})
    return Plan(task=task, root=root, directories=(), downloads=(), contents=(), steps=(), uploads=())


async def look(
    engine: Engine,
    root: Path,
    job: Job = OUTSIDE,
    ecs: EcsMetadata | None = None,
    settings: Settings | None = None,
) -> tuple[Surroundings, Recorder]:
    reporter = Recorder()
    found = await survey(
        engine, job, ecs or EcsMetadata(), plan=plan(root), settings=settings or Settings(), reporter=reporter
    )
    return found, reporter


async def test_outside_a_container_paths_are_the_same_and_nothing_bounds(
    engine: Engine, tmp_path: Path
) -> None:
    found, reporter = await look(engine, tmp_path / "task-1")
    assert found == Surroundings(labels=found.labels)
    assert set(found.labels) == {"taskrunner.runner-id", "taskrunner.run"}
    assert found.labels["taskrunner.runner-id"] == runner_id(None)
    assert f"/{os.getpid()}/" in found.labels["taskrunner.runner-id"]
    assert reporter.events == []


async def test_outside_a_container_the_operators_word_is_told(engine: Engine, tmp_path: Path) -> None:
    told = (HostPath(tmp_path, Path("/on/host")),)
    found, reporter = await look(
        engine, tmp_path / "task-1", settings=Settings(work=WorkSettings(host_paths=told))
    )
    assert found.host_paths == told
    assert reporter.last(HostPathFound) == {"path": f"{tmp_path}/task-1", "host_path": "/on/host/task-1"}


async def test_a_work_directory_that_hangs_does_not_keep_the_process(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = threading.Event(), threading.Event()

    def hang(_: str) -> dict[str, str]:
        begun.set()
        over.wait()
        return {}

    monkeypatch.setattr("taskrunner.containers.surroundings.read_cgroup", hang)
    looking = asyncio.create_task(look(engine, tmp_path))
    try:
        await asyncio.to_thread(begun.wait)
        assert [one.daemon for one in threading.enumerate() if one.name == "surroundings"] == [True]
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
    finally:
        over.set()


async def test_what_ecs_tells_bounds_the_executors(engine: Engine, tmp_path: Path) -> None:
    ecs = EcsMetadata(memory_bytes=2**30, cpus=2.0, task_memory_bytes=2**31, task_cpus=1.0)
    found, _ = await look(engine, tmp_path, ecs=ecs)
    assert found.bounds == Bounds(memory_bytes=2**30, cpus=1.0)


async def test_the_job_is_in_the_labels_as_batch_counts(engine: Engine, tmp_path: Path) -> None:
    found, _ = await look(engine, tmp_path, Job(job_id="0b4c:7", attempt=2))
    assert {name: found.labels[name] for name in set(found.labels) - {"taskrunner.run"}} == {
        "taskrunner.job-id": "0b4c:7",
        "taskrunner.attempt": "2",
        "taskrunner.runner-id": runner_id(None),
    }


async def test_executors_get_the_jobs_credentials_only_where_the_operator_wants_it(
    engine: Engine, tmp_path: Path
) -> None:
    job = Job(credentials_uri="/v2/credentials/1")
    passing = Settings(containers=ContainerSettings(pass_credentials=True))
    assert (await look(engine, tmp_path, job))[0].environment == ()
    assert (await look(engine, tmp_path, OUTSIDE, settings=passing))[0].environment == ()
    assert (await look(engine, tmp_path, job, settings=passing))[0].environment == (
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1"),
    )


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ()),
        ("", ()),
        ("none", ()),
        ("void", ()),
        ("all", ("all",)),
        ("GPU-1", ("GPU-1",)),
        ("GPU-1, GPU-2", ("GPU-1", "GPU-2")),
        ("GPU-1,", ("GPU-1",)),
        (",", ()),
        ("none,void", ()),
    ],
)
def test_exactly_the_gpus_that_batch_gave(visible: str | None, ids: tuple[str, ...]) -> None:
    assert gpus(visible) == ids


async def test_a_job_without_gpus_has_none_for_its_executors(engine: Engine, tmp_path: Path) -> None:
    withheld = [
        (await look(engine, tmp_path, job))[0].gpus_withheld
        for job in (
            Job(job_id="0b4c"),
            Job(metadata_uri="http://127.0.0.1/v4"),
            Job(job_id="0b4c", visible_gpus="void"),
            Job(job_id="0b4c", visible_gpus="GPU-1"),
            OUTSIDE,
        )
    ]
    assert withheld == [True, True, True, False, False]


async def test_ecs_metadata_leads_to_our_containers_mounts(
    engine: Engine, busybox_image: str, tmp_path: Path
) -> None:
    name, scratch = f"test-{uuid4().hex[:12]}", tmp_path / "host"
    scratch.mkdir()
    made = make(
        name, busybox_image, {"Binds": [f"{scratch}:/scratch"], "Memory": 2**26, "CgroupParent": "/ecs/1"}
    )
    try:
        found, _ = await look(engine, Path("/scratch/work/task-1"), ecs=EcsMetadata(docker_id=made))
        assert (found.own_container, found.labels["taskrunner.runner-id"]) == (made, made)
        assert found.host_paths == (HostPath(Path("/scratch"), scratch),)
        assert found.bounds.memory_bytes == 2**26
        with pytest.raises(EngineUnavailableError, match="the work directory /elsewhere is on no mount"):
            await look(engine, Path("/elsewhere/task-1"), ecs=EcsMetadata(docker_id=made))
    finally:
        remove(made)


async def test_the_engine_tells_how_a_container_was_made(
    engine: Engine, busybox_image: str, tmp_path: Path
) -> None:
    name = f"test-{uuid4().hex[:12]}"
    host_config = {
        "Mounts": [
            {"Type": "bind", "Source": str(tmp_path), "Target": "/bind"},
            {"Type": "volume", "Source": name, "Target": "/volume"},
            {"Type": "tmpfs", "Target": "/tmpfs"},
        ],
        "Tmpfs": {"/another": "size=1m"},
        "Memory": 2**26,
        "NanoCpus": 1_500_000_000,
        "PidsLimit": 77,
    }
    made = make(name, busybox_image, host_config)
    quota = make(f"{name}-quota", busybox_image, {"CpuQuota": 50_000, "NetworkMode": f"container:{made}"})
    try:
        shown = await engine.look_into(name)
        assert shown is not None
        assert (shown.container_id, shown.bounds) == (made, Bounds(2**26, 1.5, 77))
        assert set(shown.mounts) == {
            ContainerMount("bind", str(tmp_path), "/bind"),
            ContainerMount("volume", f"/var/lib/docker/volumes/{name}/_data", "/volume"),
            ContainerMount("tmpfs", "", "/tmpfs"),
            ContainerMount("tmpfs", "", "/another"),
        }
        plain = await engine.look_into(quota)
        assert plain is not None
        assert (plain.mounts, plain.bounds) == ((), Bounds(cpus=0.5))
        assert await engine.sharing_network(made) == (quota,)
        assert await engine.look_into(f"{name}-none") is None
    finally:
        remove(quota)
        remove(made)
        ask("DELETE", f"/volumes/{name}")


async def test_the_engine_tells_how_it_makes_cgroups(engine: Engine) -> None:
    _, body = ask("GET", "/info")
    info, cgroups = json.loads(body), await engine.cgroups()
    assert (cgroups.version, cgroups.driver) == (info["CgroupVersion"], info["CgroupDriver"])


def make(name: str, image: str, host_config: object) -> str:
    """A container that is never started; its id."""
    body = json.dumps({"Image": image, "Cmd": ["true"], "HostConfig": host_config}).encode()
    status, answer = ask(
        "POST", f"/containers/create?name={name}", body, {"Content-Type": "application/json"}
    )
    assert status == 201, answer
    return str(json.loads(answer)["Id"])


async def test_runs_that_follow_each_other_in_one_place_are_told_apart(
    engine: Engine, tmp_path: Path
) -> None:
    (one, _), (other, _) = await look(engine, tmp_path), await look(engine, tmp_path)
    assert one.labels["taskrunner.runner-id"] == other.labels["taskrunner.runner-id"]
    assert one.labels["taskrunner.run"] != other.labels["taskrunner.run"]
