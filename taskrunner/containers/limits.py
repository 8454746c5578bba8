"""How much of the machine an executor gets: what the task asks for, within what the job has.

A sibling container is outside the job's own limits, so they are put on it here. What is asked comes from TES
`resources` (memory and CPUs) and the operator's `--pids-limit`; a task that asks for more than the job has gets
that and is told so, one that asks for nothing gets what the job has. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taskrunner.containers.bounds import Bounds, least

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.settings import ContainerSettings
    from taskrunner.task import Resources

_GIB = 2**30
_LEAST_MEMORY_BYTES, _LEAST_CPUS = 6 * 2**20, 0.01
"""The engine can't give a container less."""
_MOST_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Shortage:
    """A resource of which more was asked than the job has; in the unit that its name says."""

    resource: str
    asked: float
    given: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What each executor's container may use; None where nothing limits it."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    memory_from: str = ""
    """Whose limit that of the memory is, for a sentence: `the task's resources.ram_gb`."""
    shortages: tuple[Shortage, ...] = ()


NO_LIMITS = Limits()


def limits_for(
    resources: Resources | None,
    bounds: Bounds,
    containers: ContainerSettings,
    *,
    host_cpus: int | None = None,
) -> Limits:
    """The limits of every executor of a task with these `resources`, in a job with these `bounds`.

    `host_cpus` is how many CPUs the Docker host has: the engine refuses to promise more.

    A gigabyte of `ram_gb` is 2**30 bytes: clients (Nextflow) divide by that, and Batch counts MiB. An amount of 0
    asks for nothing, as in protobuf.
    """
    asked = Bounds(
        memory_bytes=_memory_bytes((resources and resources.ram_gb) or 0.0),
        cpus=(resources and resources.cpu_cores) or None,
        pids=containers.pids_limit,
    )
    given = least((asked, bounds))
    given = _at_least_the_least(least((given, Bounds(cpus=given.cpus and host_cpus))))
    own_memory = asked.memory_bytes is not None and asked.memory_bytes == given.memory_bytes
    return Limits(
        memory_bytes=given.memory_bytes,
        cpus=given.cpus,
        pids=given.pids,
        memory_from="the task's resources.ram_gb" if own_memory else "what the job itself has",
        shortages=tuple(_shortages(asked, given)),
    )


def _memory_bytes(ram_gb: float) -> int | None:
    if ram_gb <= 0:
        return None
    return max(int(min(ram_gb * _GIB, _MOST_BYTES)), _LEAST_MEMORY_BYTES)


def _at_least_the_least(given: Bounds) -> Bounds:
    return replace(
        given,
        memory_bytes=given.memory_bytes and max(given.memory_bytes, _LEAST_MEMORY_BYTES),
        cpus=given.cpus and max(given.cpus, _LEAST_CPUS),
    )


def _shortages(asked: Bounds, given: Bounds) -> Iterator[Shortage]:
    for resource in ("memory_bytes", "cpus", "pids"):
        wanted, got = getattr(asked, resource), getattr(given, resource)
        if wanted is not None and wanted > got:
            yield Shortage(resource, wanted, got)
