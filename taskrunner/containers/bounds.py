"""The most of memory, CPUs and processes that the job around us has, as ECS, the engine and the kernel tell it.

Each may know a limit that the others do not: ECS the whole task's, the engine our container's, our cgroup what
neither of them set, and with version 1 the memory limits of the cgroups around it. The least of each counts. Pure,
but for reading the cgroup's own files.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CGROUPS = Path("/sys/fs/cgroup")

_NO_LIMIT = 1 << 60
"""From here on the kernel means "no limit": cgroup v1 says it as the largest multiple of a page in 63 bits."""
_V1 = ("memory/memory.stat", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "pids/pids.max")
_V2 = ("memory.max", "cpu.max", "pids.max")

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that the job around us has; None where nothing bounds it."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None


def least(bounds: Iterable[Bounds]) -> Bounds:
    """What is left when all of them hold."""
    every = tuple(bounds)
    return Bounds(
        memory_bytes=_least(one.memory_bytes for one in every),
        cpus=_least(one.cpus for one in every),
        pids=_least(one.pids for one in every),
    )


def cgroup_bounds(texts: Mapping[str, str]) -> Bounds:
    """What the files of a cgroup say, by their paths below /sys/fs/cgroup: of version 1 or 2, whichever are there.

    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and .../cgroup-v2.html
    """
    within = re.search(
        r"^hierarchical_memory_limit (\d+)$", texts.get("memory/memory.stat", ""), re.MULTILINE
    )
    quota, _, period = texts.get("cpu.max", "").partition(" ")
    return Bounds(
        memory_bytes=_limit(texts.get("memory.max") or (within and within[1])),
        cpus=_share(quota or texts.get("cpu/cpu.cfs_quota_us"), period or texts.get("cpu/cpu.cfs_period_us")),
        pids=_limit(texts.get("pids.max") or texts.get("pids/pids.max")),
    )


def read_cgroup(own_cgroups: str, root: Path = CGROUPS) -> dict[str, str]:
    """The texts of our cgroup's limits that are to be had, for `cgroup_bounds`; `own_cgroups`: /proc/self/cgroup.

    A container mostly sees its own cgroup as the top of the tree; only on version 2 in the host's own cgroup
    namespace the whole tree is there, and /proc/self/cgroup says where in it we are. Blocks for a moment.
    """
    texts: dict[str, str] = {}
    unified = next((line[3:] for line in own_cgroups.splitlines() if line.startswith("0::")), "/")
    for name in (*_V1, *_V2):
        for directory in (root / unified.lstrip("/"), root):
            with suppress(OSError):
                texts[name] = (directory / name).read_text().strip()
                break
    return texts


def own_cgroup(container_id: str, own_cgroups: str) -> str | None:
    """Our container's cgroup of version 1, as the engine's host calls it; None where it does not show.

    `own_cgroups` is the text of /proc/self/cgroup, which shows it in the host's cgroup namespace only.
    """
    for line in own_cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and path.endswith(f"/{container_id}"):
            return path
    return None


def _limit(text: str | None) -> int | None:
    """A limit, where the text is one: not `max`, not nothing, not what stands for none."""
    limit = int(text) if text is not None and text.isdecimal() else 0
    return limit if 0 < limit < _NO_LIMIT else None


def _share(quota: str | None, period: str | None) -> float | None:
    """How many CPUs a quota of CPU time per period is; a quota of `max` or -1 is none."""
    time, of = _limit(quota), _limit(period)
    return time / of if time and of else None


def _least(values: Iterable[_Number | None]) -> _Number | None:
    return min((value for value in values if value is not None), default=None)
