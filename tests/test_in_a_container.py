"""The runner in a container of its own, as in a Batch job: its siblings see its files, wherever the host has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.engine import ask
from tests.job import run_job, started
from tests.program import Ended


def copying(image: str, to: str = "/scratch/out") -> dict[str, Any]:
    """A task that copies an input, with a word about it, to `out/copy` on the scratch disk."""
    return {
        "inputs": [{"path": "/data/in", "content": "one\n"}],
        "executors": [
            {"image": image, "command": ["sh", "-c", "cat /data/in - > /out/copy"], "stdin": "/data/in"}
        ],
        "outputs": [{"url": f"{to}/copy", "path": "/out/copy"}],
    }


def copied(tmp_path: Path) -> str:
    return (tmp_path / "host" / "out" / "copy").read_text()


def told_host_paths(ended: Ended) -> list[tuple[str, str]]:
    """Our path and the host's, of the work directory."""
    return [
        (
            event["path"].removesuffix(f"/{ended.task_id}"),
            event["host_path"].removesuffix(f"/{ended.task_id}"),
        )
        for event in ended.events
        if event["msg"] == "host path found"
    ]


ALLOW_SCRATCH = ("--allow-dir", "/scratch")


@pytest.fixture
def volume() -> Iterator[str]:
    """The name of a volume."""
    name = f"test-{uuid4().hex[:12]}"
    yield name
    ask("DELETE", f"/volumes/{name}")


def test_a_task_runs_where_scratch_comes_from_another_host_path(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    ended = run_job(runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH)
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
    assert told_host_paths(ended) == [("/scratch/work", f"{tmp_path}/host/work")]


@pytest.mark.parametrize(
    "host_config",
    [
        pytest.param({"NetworkMode": "host"}, id="host networking"),
        pytest.param({"NetworkMode": "none"}, id="no network"),
        pytest.param({"CgroupnsMode": "private"}, id="a cgroup namespace of its own"),
    ],
)
def test_the_runner_finds_its_container_with_any(
    tmp_path: Path, runner_image: str, busybox_image: str, host_config: Mapping[str, Any]
) -> None:
    ended = run_job(runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH, host_config=host_config)
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")


def test_the_hosts_name_says_nothing_about_the_container(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    other_scratch = tmp_path / "other"
    other_scratch.mkdir()
    with started(runner_image, {"executors": [sleeping(busybox_image)]}, other_scratch) as other:
        name = {"Hostname": other.container[:12]}
        with started(runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH, more=name) as job:
            ended = job.ended()
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")


def test_containers_that_share_a_network_are_told_apart(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    other_scratch = tmp_path / "other"
    other_scratch.mkdir()
    with started(runner_image, {"executors": [sleeping(busybox_image)]}, other_scratch) as other:
        shared = {"NetworkMode": f"container:{other.container}"}
        ended = run_job(runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH, host_config=shared)
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
    assert told_host_paths(ended) == [("/scratch/work", f"{tmp_path}/host/work")]


def test_of_nested_mounts_the_deepest_counts(tmp_path: Path, runner_image: str, busybox_image: str) -> None:
    for name in ("deep", "deeper"):
        (tmp_path / name).mkdir()
    binds = {"Binds": [f"{tmp_path}/deep:/scratch/a", f"{tmp_path}/deeper:/scratch/a/b"]}
    for work_dir, on_host in [("/scratch/a/work", "deep/work"), ("/scratch/a/b/c/work", "deeper/c/work")]:
        ended = run_job(
            runner_image,
            copying(busybox_image),
            tmp_path,
            *ALLOW_SCRATCH,
            host_config=binds,
            work_dir=work_dir,
        )
        assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
        assert told_host_paths(ended) == [(work_dir, f"{tmp_path}/{on_host}")]


def test_a_work_directory_on_a_named_volume_is_found(
    tmp_path: Path, runner_image: str, busybox_image: str, volume: str
) -> None:
    host_config = {"Mounts": [{"Type": "volume", "Source": volume, "Target": "/volume"}]}
    ended = run_job(
        runner_image,
        copying(busybox_image),
        tmp_path,
        *ALLOW_SCRATCH,
        host_config=host_config,
        work_dir="/volume/w",
    )
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
    assert told_host_paths(ended) == [("/volume/w", f"/var/lib/docker/volumes/{volume}/_data/w")]


def test_a_link_to_the_work_directory_means_what_it_does_in_the_container(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    (tmp_path / "host" / "real").mkdir(parents=True)
    (tmp_path / "host" / "link").symlink_to("/scratch/real")  # which the host itself does not have
    ended = run_job(
        runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH, work_dir="/scratch/link/work"
    )
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
    assert told_host_paths(ended) == [("/scratch/link/work", f"{tmp_path}/host/real/work")]


@pytest.mark.parametrize(
    ("work_dir", "host_config", "sentence"),
    [
        pytest.param("/own/work", {}, "is on no mount of our container", id="the container's own layer"),
        pytest.param(
            "/memory/work",
            {"Tmpfs": {"/memory": ""}},
            "is on the tmpfs /memory of our container",
            id="--tmpfs",
        ),
        pytest.param(
            "/scratch/m/work",
            {"Mounts": [{"Type": "tmpfs", "Target": "/scratch/m"}]},
            "is on the tmpfs /scratch/m of our container",
            id="a tmpfs in the scratch directory",
        ),
    ],
)
def test_a_work_directory_that_siblings_can_not_see_ends_the_task_before_the_first_byte(
    tmp_path: Path,
    *,
    runner_image: str,
    busybox_image: str,
    work_dir: str,
    host_config: Mapping[str, Any],
    sentence: str,
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "in").write_text("never read\n")
    task = {
        "inputs": [{"url": "/scratch/in", "path": "/data/in"}],
        "executors": [{"image": busybox_image, "command": ["true"]}],
    }
    with started(
        runner_image, task, tmp_path, *ALLOW_SCRATCH, host_config=host_config, work_dir=work_dir
    ) as job:
        ended = job.ended()
        assert job.children() == []
    assert (ended.exit_code, ended.states[-1]) == (69, "SYSTEM_ERROR")
    (error,) = ended.fields("System error", "error")
    assert error.startswith(f"the work directory {work_dir} {sentence}")
    assert {"download started", "EXECUTOR_START_TIME"}.isdisjoint(ended.messages)


def test_the_operator_may_tell_otherwise_and_the_longest_match_wins(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "another-name").symlink_to(tmp_path / "host")
    told = ["--host-path", "/=/nowhere", "--host-path", f"/scratch={tmp_path}/another-name"]
    ended = run_job(runner_image, copying(busybox_image), tmp_path, *ALLOW_SCRATCH, *told)
    assert (ended.exit_code, copied(tmp_path)) == (0, "one\none\n")
    assert told_host_paths(ended) == [("/scratch/work", f"{tmp_path}/another-name/work")]


def test_executors_carry_the_jobs_labels(tmp_path: Path, runner_image: str, busybox_image: str) -> None:
    batch = {"AWS_BATCH_JOB_ID": "0b4c:7", "AWS_BATCH_JOB_ATTEMPT": "2"}
    with started(runner_image, {"executors": [sleeping(busybox_image)]}, tmp_path, env=batch) as job:
        labels = job.executor()["Config"]["Labels"]
    assert labels["taskrunner.task-id"] == job.task_id
    assert labels["taskrunner.runner-id"] == job.container
    assert (labels["taskrunner.job-id"], labels["taskrunner.attempt"]) == ("0b4c:7", "2")


def test_executors_are_in_the_jobs_own_cgroup_where_it_can_hold_them(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    with started(runner_image, {"executors": [sleeping(busybox_image)]}, tmp_path) as job:
        parent = job.executor()["HostConfig"]["CgroupParent"]
    _, body = ask("GET", "/info")
    info = json.loads(body)
    nests = (info["CgroupVersion"], info["CgroupDriver"]) == ("1", "cgroupfs")
    assert parent == (f"/docker/{job.container}" if nests else "")


def test_the_jobs_own_limits_bound_its_executors(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    limits = {"Memory": 300 * 2**20, "NanoCpus": 1_500_000_000, "PidsLimit": 99}
    with started(runner_image, {"executors": [sleeping(busybox_image)]}, tmp_path, host_config=limits) as job:
        given = job.executor()["HostConfig"]
    assert {name: given[name] for name in limits} == limits


_THREE_MB = "x=$(head -c 3000000 /dev/zero | tr '\\0' x); sleep 300"
_MANY = """
for i in $(seq 80); do (sh -c "$0"; echo $? >> /tmp/ended) & done
until [ -s /tmp/ended ]; do sleep 0.2; done
exit $(head -n 1 /tmp/ended)
"""


def test_an_executor_of_many_small_processes_goes_before_the_runner_when_the_jobs_memory_is_full(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    task = {"executors": [{"image": busybox_image, "command": ["sh", "-c", _MANY, _THREE_MB]}]}
    memory = {"Memory": 160 * 2**20, "MemorySwap": 160 * 2**20}
    result = ("--result", "/scratch/result.json")
    ended = run_job(runner_image, task, tmp_path, *ALLOW_SCRATCH, *result, host_config=memory)

    assert (ended.exit_code, ended.states[-1]) == (137, "EXECUTOR_ERROR")
    assert json.loads((tmp_path / "host" / "result.json").read_text())["state"] == "EXECUTOR_ERROR"


def sleeping(image: str) -> dict[str, Any]:
    return {"image": image, "command": ["sleep", "300"]}
