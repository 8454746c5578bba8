"""What the job around us has, from cgroup files as kernels write them: the least of all that is told counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from taskrunner.containers.bounds import Bounds, cgroup_bounds, least, own_cgroup, read_cgroup

OURS = "0a" * 32
V1_UNLIMITED = "9223372036854771712"


@pytest.mark.parametrize(
    ("texts", "bounds"),
    [
        pytest.param(
            {
                "memory/memory.stat": "cache 9\nhierarchical_memory_limit 67108864\ntotal_cache 9",
                "cpu/cpu.cfs_quota_us": "150000",
                "cpu/cpu.cfs_period_us": "100000",
                "pids/pids.max": "77",
            },
            Bounds(64 * 2**20, 1.5, 77),
            id="version 1",
        ),
        pytest.param(
            {
                "memory/memory.stat": f"hierarchical_memory_limit {V1_UNLIMITED}\n",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "pids/pids.max": "max",
            },
            Bounds(),
            id="version 1, no limits",
        ),
        pytest.param(
            {"memory.max": "67108864", "cpu.max": "50000 100000", "pids.max": "77"},
            Bounds(64 * 2**20, 0.5, 77),
            id="version 2",
        ),
        pytest.param(
            {"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max"},
            Bounds(),
            id="version 2, no limits",
        ),
        pytest.param({}, Bounds(), id="nothing to read"),
        pytest.param({"memory.max": "lots", "cpu.max": "1"}, Bounds(), id="no numbers"),
    ],
)
def test_limits_of_a_cgroup(texts: Mapping[str, str], bounds: Bounds) -> None:
    assert cgroup_bounds(texts) == bounds


def test_the_least_of_each_counts() -> None:
    told = [Bounds(None, 4.0, None), Bounds(8, 2.0, None), Bounds(9, None, None)]
    assert least(told) == Bounds(8, 2.0, None)
    assert least([]) == Bounds()


def make(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_containers_own_cgroup_is_the_top_of_what_it_sees(tmp_path: Path) -> None:
    make(tmp_path, {"memory/memory.stat": "hierarchical_memory_limit 5\n", "pids/pids.max": "7\n"})
    shown = f"4:memory:/docker/{OURS}\n0::/docker/{OURS}\n"
    assert cgroup_bounds(read_cgroup(shown, tmp_path)) == Bounds(5, None, 7)


def test_in_the_hosts_cgroup_namespace_of_version_2_ours_is_further_down(tmp_path: Path) -> None:
    ours = f"system.slice/docker-{OURS}.scope"
    make(tmp_path, {f"{ours}/memory.max": "5\n", "system.slice/memory.max": "9\n", "pids.max": "100\n"})
    assert cgroup_bounds(read_cgroup(f"0::/{ours}\n", tmp_path)).memory_bytes == 5


@pytest.mark.parametrize(
    ("own_cgroups", "path"),
    [
        pytest.param(f"9:name=systemd:/docker/{OURS}\n4:memory:/docker/{OURS}\n", f"/docker/{OURS}", id="v1"),
        pytest.param(f"5:cpu,memory:/ecs/task-1/{OURS}\n0::/\n", f"/ecs/task-1/{OURS}", id="v1 on ECS"),
        pytest.param("4:memory:/\n1:cpu:/\n", None, id="v1, a cgroup namespace of its own"),
        pytest.param(f"4:memory:/docker/{'1b' * 32}\n", None, id="v1, another's"),
        pytest.param(f"0::/docker/{OURS}\n", None, id="v2, the host's namespace"),
        pytest.param(f"0::/system.slice/docker-{OURS}.scope\n", None, id="v2 by systemd"),
        pytest.param("0::/\n", None, id="v2"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_executors_can_be_put_below_our_cgroup_where_it_shows(own_cgroups: str, path: str | None) -> None:
    assert own_cgroup(OURS, own_cgroups) == path
