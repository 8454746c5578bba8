"""What the Docker host calls our directories: tables of a container's mounts and what the operator told."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskrunner.containers.bounds import Bounds
from taskrunner.containers.engine import ContainerMount, Inspected
from taskrunner.containers.host_paths import host_paths
from taskrunner.errors import EngineUnavailableError, ExitCode
from taskrunner.mounts import host_path
from taskrunner.settings import HostPath

VOLUME = "/var/lib/docker/volumes/scratch/_data"


def bind(source: str, destination: str) -> ContainerMount:
    return ContainerMount("bind", source, destination)


def volume(destination: str) -> ContainerMount:
    return ContainerMount("volume", VOLUME, destination)


def tmpfs(destination: str) -> ContainerMount:
    return ContainerMount("tmpfs", "", destination)


def told(**directories: str) -> tuple[HostPath, ...]:
    return tuple(HostPath(Path(f"/{runner}"), Path(host)) for runner, host in directories.items())


def found(
    work_dir: str,
    mounts: list[ContainerMount],
    operator: tuple[HostPath, ...] = (),
    real_work_dir: str | None = None,
) -> str:
    """What the host calls the task's directory below `work_dir`."""
    container = Inspected(
        container_id="0a" * 32,
        mounts=tuple(mounts),
        layer=None,
        bounds=Bounds(),
    )
    mapping = host_paths(Path(work_dir), Path(real_work_dir or work_dir), operator, container)
    return host_path(Path(work_dir) / "task-1", mapping)


@pytest.mark.parametrize(
    ("work_dir", "mounts", "on_host"),
    [
        pytest.param("/scratch", [bind("/mnt/disk", "/scratch")], "/mnt/disk/task-1", id="bind"),
        pytest.param("/scratch/w", [bind("/mnt", "/scratch")], "/mnt/w/task-1", id="below a bind"),
        pytest.param("/scratch", [volume("/scratch")], f"{VOLUME}/task-1", id="named volume"),
        pytest.param(
            "/scratch/w/x",
            [bind("/a", "/scratch"), bind("/b", "/scratch/w"), bind("/c", "/scratch/w/y")],
            "/b/x/task-1",
            id="the deepest around it",
        ),
        pytest.param(
            "/scratch/tmp/w",
            [tmpfs("/scratch/tmp"), bind("/b", "/scratch/tmp/w")],
            "/b/task-1",
            id="in a tmpfs",
        ),
        pytest.param(
            "/scratch", [bind("/a", "/scratch"), tmpfs("/scratch/tmp")], "/a/task-1", id="around one"
        ),
        pytest.param("/host/w", [bind("/", "/host")], "/w/task-1", id="all of the host"),
    ],
)
def test_a_directory_is_where_the_deepest_mount_around_it_comes_from(
    work_dir: str, mounts: list[ContainerMount], on_host: str
) -> None:
    assert found(work_dir, mounts) == on_host


@pytest.mark.parametrize(
    ("operator", "on_host"),
    [
        pytest.param(told(scratch="/x"), "/x/w/task-1", id="of the same directory"),
        pytest.param({"/scratch/w": "/x"}, "/x/task-1", id="of a deeper one"),
        pytest.param({"/": "/x"}, "/mnt/w/task-1", id="of a wider one"),
        pytest.param(told(other="/x"), "/mnt/w/task-1", id="of another one"),
    ],
)
def test_the_operators_word_goes_first_and_the_longest_match_wins(
    operator: tuple[HostPath, ...] | dict[str, str], on_host: str
) -> None:
    if isinstance(operator, dict):
        operator = tuple(HostPath(Path(runner), Path(host)) for runner, host in operator.items())
    assert found("/scratch/w", [bind("/mnt", "/scratch")], operator) == on_host


def test_the_operator_may_know_of_a_directory_that_no_mount_shows() -> None:
    assert found("/own", [], told(own="/x")) == "/x/task-1"
    assert found("/tm", [tmpfs("/tm")], told(tm="/x")) == "/x/task-1"


def test_links_lead_where_they_do_in_our_container() -> None:
    mounts = [bind("/mnt", "/scratch")]
    assert found("/work/dir", mounts, real_work_dir="/scratch/dir") == "/mnt/dir/task-1"
    assert found("/work/dir", mounts, told(work="/x"), real_work_dir="/scratch/dir") == "/x/dir/task-1"
    assert found("/work/dir", mounts, told(scratch="/x"), real_work_dir="/scratch/dir") == "/x/dir/task-1"


@pytest.mark.parametrize(
    ("mounts", "missing"),
    [
        pytest.param([], "on no mount of our container", id="no mounts"),
        pytest.param([bind("/mnt", "/scratch2")], "on no mount of our container", id="mounts elsewhere"),
        pytest.param([tmpfs("/scratch")], "on the tmpfs /scratch of our container", id="tmpfs"),
        pytest.param(
            [bind("/mnt", "/scratch"), tmpfs("/scratch/w")],
            "on the tmpfs /scratch/w of our container",
            id="a tmpfs in a mount",
        ),
    ],
)
def test_a_work_directory_that_the_host_does_not_have_is_an_error(
    mounts: list[ContainerMount], missing: str
) -> None:
    with pytest.raises(EngineUnavailableError) as raised:
        found("/scratch/w", mounts)
    assert raised.value.exit_code == ExitCode.ENGINE_UNAVAILABLE
    text = str(raised.value)
    assert text.startswith(f"the work directory /scratch/w is {missing}")
    assert "--host-path /scratch/w=DIRECTORY" in text
