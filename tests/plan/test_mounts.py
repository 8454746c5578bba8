"""Which places of a task are mounted, in which order; one table, `path:ro` or `path:rw`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.mounts import directories, host_path, placeholders, plan_mounts, shareable_inputs
from taskrunner.paths import is_within, normalise
from taskrunner.settings import HostPath
from taskrunner.task import Executor, FileType, Input, Output, Task

ROOT = Path("/work/T")


def _task(
    *,
    volumes: tuple[str, ...] = (),
    inputs: tuple[str, ...] = (),
    outputs: tuple[str | tuple[str, str], ...] = (),
    stdout: str | None = None,
) -> Task:
    """Paths ending in `/` are DIRECTORY inputs and outputs; a pair is a pattern and its path_prefix."""
    return Task(
        id="T",
        volumes=volumes,
        inputs=tuple(Input(url="s3://b/k", path=path, type=_type(path)) for path in inputs),
        outputs=tuple(_output(output) for output in outputs),
        executors=(Executor(image="i", command=("c",), stdout=stdout),),
    )


def _type(path: str) -> FileType:
    return FileType.DIRECTORY if path.endswith("/") else FileType.FILE


def _output(output: str | tuple[str, str]) -> Output:
    if isinstance(output, tuple):
        return Output(url="s3://b/", path=output[0], path_prefix=output[1])
    return Output(url="s3://b/k", path=output, type=_type(output))


def _shown(task: Task) -> list[str]:
    mounts = plan_mounts(task, ROOT, ())
    return [f"{mount.container}:{'ro' if mount.read_only else 'rw'}" for mount in mounts]


@pytest.mark.parametrize(
    ("task", "mounts"),
    [
        (_task(), ["/tmp:rw"]),
        (
            _task(volumes=("/v",), inputs=("/i/x",), outputs=("/o/y",)),
            ["/v:rw", "/tmp:rw", "/i/x:ro", "/o:rw"],
        ),
        (_task(inputs=("/x", "/d/")), ["/tmp:rw", "/x:ro", "/d:ro"]),
        (_task(volumes=("/v/sub/", "/w")), ["/v/sub/:rw", "/w:rw", "/tmp:rw"]),
        (_task(volumes=("/v", "/v/", "//v")), ["/v:rw", "/tmp:rw"]),
        (_task(volumes=("/tmp/",)), ["/tmp/:rw"]),
        # The wider writable mount takes the place of the narrower one.
        (_task(volumes=("/v/a", "/w", "/v")), ["/v:rw", "/w:rw", "/tmp:rw"]),
        (_task(volumes=("/v/a", "/v/b"), outputs=("/v/x",)), ["/v:rw", "/tmp:rw"]),
        (_task(inputs=("/i",), outputs=("/o/a/x", "/o/x")), ["/tmp:rw", "/i:ro", "/o:rw"]),
        (_task(outputs=("/o/x", "/o/a/x", "/o/y")), ["/tmp:rw", "/o:rw"]),
        # An input inside a writable mount is simply there.
        (_task(inputs=("/tmp/in",)), ["/tmp:rw"]),
        (_task(inputs=("/work/in",), outputs=("/work/out",)), ["/tmp:rw", "/work:rw"]),
        (_task(inputs=("/work/x",), outputs=("/work/x",)), ["/tmp:rw", "/work:rw"]),
        (_task(inputs=("/v/a/b/c/",), volumes=("/v/a",)), ["/v/a:rw", "/tmp:rw"]),
        # An input inside another input too, in whichever order they come.
        (_task(inputs=("/d/", "/d/x")), ["/tmp:rw", "/d:ro"]),
        (_task(inputs=("/d/x", "/e", "/d/")), ["/tmp:rw", "/e:ro", "/d:ro"]),
        # What is writable inside a read-only directory keeps its own mount.
        (_task(inputs=("/d/",), outputs=("/d/out/x",)), ["/tmp:rw", "/d:ro", "/d/out:rw"]),
        # Look-alikes.
        (_task(volumes=("/a", "/ab")), ["/a:rw", "/ab:rw", "/tmp:rw"]),
        (_task(inputs=("/ab/x",), outputs=("/a/x",)), ["/tmp:rw", "/ab/x:ro", "/a:rw"]),
        (_task(inputs=("/a/", "/ab/", "/a.b")), ["/tmp:rw", "/a:ro", "/ab:ro", "/a.b:ro"]),
        (_task(inputs=("/tmpfile",)), ["/tmp:rw", "/tmpfile:ro"]),
        # Directly under the root.
        (_task(outputs=("/x",)), ["/tmp:rw", "/x:rw"]),
        (_task(outputs=("/x/",)), ["/tmp:rw", "/x:rw"]),
        (_task(outputs=("/x", "/x/y")), ["/tmp:rw", "/x:rw"]),
        (_task(inputs=("/x",), outputs=("/x",)), ["/tmp:rw", "/x:rw"]),
        # Patterns.
        (_task(outputs=(("/w/*.txt", "/w"),)), ["/tmp:rw", "/w:rw"]),
        (_task(outputs=(("/w/a/*/x", "/w"),)), ["/tmp:rw", "/w/a:rw"]),
        (_task(outputs=(("/w/a/*.txt", "/"),)), ["/tmp:rw", "/w/a:rw"]),
        (_task(outputs=(("/w/plain", "/w"),)), ["/tmp:rw", "/w:rw"]),
        # The files for captured streams are ours alone.
        (_task(stdout="/log/out"), ["/tmp:rw"]),
    ],
)
def test_the_mounts_of_a_task(task: Task, mounts: list[str]) -> None:
    assert _shown(task) == mounts


def test_a_mount_is_the_same_place_on_our_side_and_on_the_hosts() -> None:
    (mount, *_) = plan_mounts(
        _task(volumes=("/v/sub/",)), ROOT, (HostPath(Path("/work"), Path("/mnt/disk")),)
    )
    assert mount.container == "/v/sub/"
    assert mount.runner == ROOT / "v/sub"
    assert mount.host == "/mnt/disk/T/v/sub"


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/work/T", "/host/work/T"),
        ("/work", "/host/work"),
        ("/work/deep/x", "/elsewhere/x"),
        ("/work/deeper", "/host/work/deeper"),
        ("/workshop", "/workshop"),
        ("/other", "/other"),
    ],
)
def test_the_longest_mapping_gives_the_hosts_path(path: str, host: str) -> None:
    mapping = (
        HostPath(Path("/work"), Path("/host/work")),
        HostPath(Path("/work/deep"), Path("/elsewhere")),
    )
    assert host_path(Path(path), mapping) == host
    assert host_path(Path(path), mapping[::-1]) == host


@pytest.mark.parametrize(
    ("task", "made"),
    [
        (_task(), ["/tmp"]),
        (_task(volumes=("/v/a/",)), ["/v", "/v/a", "/tmp"]),
        (_task(inputs=("/i/a/x", "/i/d/")), ["/tmp", "/i", "/i/a", "/i/d"]),
        (_task(inputs=("/x",), outputs=("/y",)), ["/tmp"]),
        (_task(outputs=("/o/a/x", "/o/d/", ("/p/q/*", "/p"))), ["/tmp", "/o", "/o/a", "/o/d", "/p", "/p/q"]),
        (_task(stdout="/log/a/out"), ["/tmp", "/log", "/log/a"]),
        (_task(inputs=("/d/",), outputs=("/d/out/x",)), ["/tmp", "/d", "/d/out"]),
    ],
)
def test_the_directories_a_task_needs_come_parents_first(task: Task, made: list[str]) -> None:
    assert list(directories(task)) == made


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (_task(outputs=("/x", "/o/y", "/d/", ("/p/*", "/p"))), {"/x"}),
        (_task(outputs=("/x", "/x/y")), set()),
        (_task(outputs=("/x",), volumes=("/x",)), set()),
        (_task(inputs=("/x",), outputs=("/x",)), set()),
        (_task(inputs=("/x/in",), outputs=("/x",)), set()),
        (_task(outputs=("/tmp",)), set()),
    ],
)
def test_only_a_file_that_nothing_else_makes_needs_a_placeholder(task: Task, expected: set[str]) -> None:
    assert placeholders(task) == expected


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (_task(inputs=("/i/x", "/d/")), {"/i/x", "/d"}),
        (_task(inputs=("/tmp/x", "/w/y"), outputs=("/w/z",)), set()),
        (_task(inputs=("/i/x", "/i/xy"), outputs=("/i/x/deep/z",)), {"/i/xy"}),
        (_task(inputs=("/d/",), outputs=("/d/out/x",)), set()),
        (_task(inputs=("/i/x",), stdout="/i/x"), set()),
        (_task(inputs=("/d/", "/e/"), stdout="/d/log"), {"/e"}),
    ],
)
def test_an_input_that_anybody_may_write_to_is_not_shared(task: Task, expected: set[str]) -> None:
    assert shareable_inputs(task) == expected


_PLACES = st.lists(st.sampled_from(["a", "ab", "b", "tmp"]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
_DIRECTORIES = _PLACES.map(lambda path: path + "/")


@given(
    st.lists(_DIRECTORIES, max_size=3),
    st.lists(_PLACES | _DIRECTORIES, max_size=4),
    st.lists(_PLACES | _DIRECTORIES, max_size=4),
)
def test_every_place_is_mounted_once_and_as_it_must_be(
    volumes: list[str], inputs: list[str], outputs: list[str]
) -> None:
    task = _task(volumes=tuple(volumes), inputs=tuple(inputs), outputs=tuple(outputs))
    mounts = plan_mounts(task, ROOT, ())
    writable = [normalise(mount.container) for mount in mounts if not mount.read_only]
    read_only = [normalise(mount.container) for mount in mounts if mount.read_only]
    for path in (*volumes, "/tmp", *outputs):
        assert sum(is_within(normalise(path), mount) for mount in writable) == 1
    for path in inputs:
        assert any(is_within(normalise(path), mount) for mount in (*writable, *read_only))
    for path in read_only:
        assert not any(is_within(path, other) for other in (*writable, *read_only) if other != path)
        assert path not in writable
    assert all(mount.runner.is_relative_to(ROOT) and mount.runner != ROOT for mount in mounts)
