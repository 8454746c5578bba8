"""What an executor in a real container may use, and who it is: seen from within.

The files of limits are those of cgroup v1 or v2, whichever the machine has.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskrunner.containers.bounds import Bounds
from taskrunner.containers.surroundings import Surroundings
from taskrunner.errors import EngineUnavailableError, ExitCode
from taskrunner.quantities import count
from taskrunner.settings import ExtraMount, Network, Ulimit
from taskrunner.task import Resources
from tests.containers.conftest import Task

MIB = 2**20

_SHOW = """
cd /sys/fs/cgroup
if [ -e memory/memory.limit_in_bytes ]; then
  echo $(cat memory/memory.limit_in_bytes) $(($(cat memory/memory.memsw.limit_in_bytes) - $(cat memory/memory.limit_in_bytes)))
  echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)
  cat pids/pids.max
else
  echo $(cat memory.max memory.swap.max)
  cat cpu.max pids.max
fi
"""


def wants(task: Task, **changes: Any) -> None:
    """Change what the operator wants of containers."""
    task.settings = replace(task.settings, containers=replace(task.settings.containers, **changes))


async def out(task: Task, *command: str, **more: Any) -> str:
    """What a command prints that ends well."""
    result = await task.run(task.step(*command, **more))
    assert (result.exit_code, result.stderr, result.error) == (0, "", None)
    return result.stdout


async def seen_limits(task: Task) -> tuple[list[int], float, int]:
    """Bytes of memory and of swap, CPUs, processes."""
    memory, cpu, pids = (await out(task, "sh", "-c", _SHOW)).splitlines()
    quota, period = map(int, cpu.split())
    return [int(amount) for amount in memory.split()], quota / period, int(pids)


async def test_an_executor_has_the_memory_and_cpus_its_task_asks_for_and_no_swap(task: Task) -> None:
    task.resources = Resources(ram_gb=0.125, cpu_cores=1)
    wants(task, pids_limit=50)

    assert await seen_limits(task) == ([128 * MIB, 0], 1.0, 50)


async def test_an_executor_has_what_the_job_has_where_its_task_asks_for_nothing(task: Task) -> None:
    task.surroundings = Surroundings(bounds=Bounds(memory_bytes=100 * MIB, cpus=0.5, pids=60))

    assert await seen_limits(task) == ([100 * MIB, 0], 0.5, 60)


async def test_an_executor_has_what_the_job_has_where_its_task_asks_for_more(task: Task) -> None:
    task.surroundings = Surroundings(bounds=Bounds(memory_bytes=100 * MIB, cpus=0.5, pids=60))
    task.resources = Resources(ram_gb=1e12, cpu_cores=10_000)
    wants(task, pids_limit=1000)

    assert await seen_limits(task) == ([100 * MIB, 0], 0.5, 60)


async def test_the_engine_takes_the_least_and_the_most_memory_that_can_be_asked_for(task: Task) -> None:
    for ram_gb in (1e-9, 1e300):
        task.resources = Resources(ram_gb=ram_gb)
        assert await out(task, "echo", "well") == "well\n"


async def test_the_engine_takes_the_least_that_a_job_can_have_and_the_most_processes(task: Task) -> None:
    task.surroundings = Surroundings(bounds=Bounds(memory_bytes=4 * MIB, cpus=0.002))
    wants(task, pids_limit=count("4194304"))
    assert await out(task, "echo", "well") == "well\n"


async def test_an_executor_can_start_no_more_processes_than_it_may_have(task: Task) -> None:
    wants(task, pids_limit=5)
    result = await task.run(task.step("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all"))

    assert (result.exit_code, result.stdout) == (2, "")
    assert "can't fork" in result.stderr


async def test_an_executor_runs_as_the_user_that_is_wanted(task: Task) -> None:
    wants(task, user="1234:567")

    assert await out(task, "sh", "-c", "id -u; id -g") == "1234\n567\n"


async def test_an_executor_has_the_ulimits_and_shared_memory_that_are_wanted(task: Task) -> None:
    wants(task, ulimits=(Ulimit("nofile", 100, 200), Ulimit("core", 0, 0)), shm_bytes=10 * MIB)
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | awk 'END {print $2}'"

    assert await out(task, "sh", "-c", script) == "100\n200\n0\n10240\n"


async def test_an_executor_runs_under_the_engines_init_where_that_is_wanted(task: Task) -> None:
    script = "cat /proc/1/comm; true"
    assert await out(task, "sh", "-c", script) == "sh\n"

    wants(task, init=True)
    assert await out(task, "sh", "-c", script) in ("docker-init\n", "tini\n")


@pytest.mark.parametrize(("network", "has_way"), [(Network.BRIDGE, True), (Network.NONE, False)])
async def test_an_executor_is_on_the_bridge_or_on_no_network(
    task: Task, network: Network, has_way: bool
) -> None:
    wants(task, network=network)
    devices = (await out(task, "ls", "/sys/class/net")).split()

    assert "lo" in devices
    assert ("eth0" in devices) == has_way
    assert await out(task, "readlink", "/proc/self/ns/net") != _own_network()


async def test_an_executor_may_have_the_hosts_own_network(task: Task) -> None:
    wants(task, network=Network.HOST)

    assert await out(task, "readlink", "/proc/self/ns/net") == _own_network()


def _own_network() -> str:
    return f"{Path('/proc/self/ns/net').readlink()}\n"


async def test_a_mount_of_the_operators_is_read_only_unless_told(task: Task, tmp_path: Path) -> None:
    for name in ("reference", "cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    wants(
        task,
        extra_mounts=(
            ExtraMount(str(tmp_path / "reference"), "/reference"),
            ExtraMount(str(tmp_path / "cache"), "/cache", read_only=False),
        ),
    )
    script = "cat /*/file; echo new > /cache/new; echo new 2>/dev/null > /reference/new || echo refused"

    assert await out(task, "sh", "-c", script) == "cachereferencerefused\n"
    assert [(tmp_path / name / "new").exists() for name in ("cache", "reference")] == [True, False]


async def test_a_mount_of_the_operators_that_is_not_there_is_named(task: Task) -> None:
    wants(task, extra_mounts=(ExtraMount("/no/such/place", "/reference"),))
    with pytest.raises(EngineUnavailableError) as caught:
        await task.run(task.step("true"))

    assert str(caught.value) == (
        "the Docker host has no /no/such/place, which is to be mounted: give --mount only what is there"
    )
    assert task.containers == []


async def test_an_executor_has_no_credentials_by_default(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    assert "AWS_" not in await out(task, "env")


async def test_a_variable_of_the_jobs_reaches_the_executor_and_no_event(task: Task) -> None:
    uri = "/v2/credentials/3f0c-secret"
    task.surroundings = Surroundings(environment=(("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", uri),))
    await out(task, "sh", "-c", "echo $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI > /work/uri")

    assert (task.workdir.root / "work/uri").read_text() == f"{uri}\n"
    assert not any(uri in str(event.fields()) for event in task.reporter.events)


async def test_gpus_that_the_engine_cannot_give_end_the_task_with_what_is_missing(task: Task) -> None:
    task.surroundings = Surroundings(gpus=("GPU-3f0c",))
    with pytest.raises(EngineUnavailableError) as caught:
        await task.run(task.step("true"))

    assert caught.value.exit_code == ExitCode.ENGINE_UNAVAILABLE
    assert "GPU-3f0c" in str(caught.value)
    assert "NVIDIA container toolkit" in str(caught.value)
    assert task.containers == []
