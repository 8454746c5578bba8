"""How much of the machine an executor gets, worked out from what is asked and what the job has."""

import math

import pytest

from taskrunner.containers.bounds import Bounds
from taskrunner.containers.limits import Limits, Shortage, limits_for
from taskrunner.settings import ContainerSettings
from taskrunner.task import Resources

GIB = 2**30
UNBOUND = Bounds()
JOB = Bounds(memory_bytes=8 * GIB, cpus=4.0, pids=1000)


def limits(
    ram_gb: float | None = None,
    cpu_cores: int | None = None,
    bounds: Bounds = UNBOUND,
    pids_limit: int | None = None,
) -> Limits:
    resources = Resources(ram_gb=ram_gb, cpu_cores=cpu_cores)
    return limits_for(resources, bounds, ContainerSettings(pids_limit=pids_limit))


def amounts(limits: Limits) -> tuple[int | None, float | None, int | None]:
    return limits.memory_bytes, limits.cpus, limits.pids


def test_nothing_asked_and_no_bounds_is_no_limit() -> None:
    assert amounts(limits()) == (None, None, None)
    assert limits_for(None, Bounds(), ContainerSettings()) == limits()


def test_a_task_gets_what_it_asks_for_and_a_gigabyte_is_2_to_the_30() -> None:
    assert amounts(limits(1.5, 2, JOB, pids_limit=100)) == (3 * GIB // 2, 2, 100)
    assert amounts(limits(1.5, 2, pids_limit=100)) == (3 * GIB // 2, 2, 100)


@pytest.mark.parametrize("resources", [None, Resources(), Resources(ram_gb=0, cpu_cores=0)])
def test_a_task_that_asks_for_nothing_gets_what_the_job_has(resources: Resources | None) -> None:
    assert amounts(limits_for(resources, JOB, ContainerSettings())) == (8 * GIB, 4.0, 1000)


def test_who_asks_for_more_gets_the_bound_and_each_shortage_is_told() -> None:
    short = limits(16, 8, JOB, pids_limit=5000)

    assert amounts(short) == (8 * GIB, 4.0, 1000)
    assert short.shortages == (
        Shortage("memory_bytes", 16 * GIB, 8 * GIB),
        Shortage("cpus", 8, 4.0),
        Shortage("pids", 5000, 1000),
    )


def test_no_more_cpus_than_the_host_has_can_be_asked_for_and_nobody_gets_them_unasked() -> None:
    def on_a_host(cpu_cores: int | None, bounds: Bounds = UNBOUND) -> Limits:
        return limits_for(Resources(cpu_cores=cpu_cores), bounds, ContainerSettings(), host_cpus=2)

    assert (on_a_host(8).cpus, on_a_host(8).shortages) == (2, (Shortage("cpus", 8, 2),))
    assert (on_a_host(1).cpus, on_a_host(8, Bounds(cpus=0.5)).cpus, on_a_host(None).cpus) == (1, 0.5, None)


def test_who_asks_for_as_much_as_the_job_has_is_not_short() -> None:
    assert limits(8, 4, JOB, pids_limit=1000).shortages == ()


def test_memory_is_never_less_than_the_engine_gives_nor_more_than_it_can_count() -> None:
    assert limits(1e-9).memory_bytes == 6 * 2**20
    assert limits(math.inf).memory_bytes == 2**63 - 1


def test_a_job_that_has_less_than_the_engine_can_give_gives_the_least() -> None:
    tiny = Bounds(memory_bytes=4 * 2**20, cpus=0.002, pids=1)

    assert amounts(limits(bounds=tiny)) == (6 * 2**20, 0.01, 1)
    assert limits(1, 1, tiny).shortages == (
        Shortage("memory_bytes", GIB, 6 * 2**20),
        Shortage("cpus", 1, 0.01),
    )


def test_whose_the_memory_limit_is_can_be_told() -> None:
    assert limits(1, bounds=JOB).memory_from == "the task's resources.ram_gb"
    assert limits(16, bounds=JOB).memory_from == limits(bounds=JOB).memory_from == "what the job itself has"
