"""What of the container's tree is ours: which directories there are, and how they get into a container.

A task's files live in one directory on our side whose tree mirrors the container's. Mounted are only the
places the task names, in Funnel's order (its worker of 0.9-0.10): volumes, `/tmp`, inputs, outputs. A wider
writable mount takes the place of the narrower ones in it. An input inside a writable mount, or inside another
input, is simply there. Pure: container path, our path and the Docker host's path are all just text here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskrunner.paths import fixed_directory, has_wildcard, normalise, parent, upwards
from taskrunner.task import FileType, Output, Task

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from taskrunner.settings import HostPath

TMP = "/tmp"  # noqa: S108  # the container's: writable in every executor, as its root file system is not


@dataclass(frozen=True, slots=True)
class Mount:
    """One file or directory of ours in a container."""

    container: str
    """As Funnel shows it: normalised, but a volume keeps the slash at its end."""
    runner: Path
    """The same on our side."""
    host: str
    """The same as the Docker engine must be told."""
    read_only: bool


def host_path(path: Path, mapping: tuple[HostPath, ...]) -> str:
    """What the Docker host calls our `path`: by the longest directory of `mapping` around it, or the same."""
    known = [entry for entry in mapping if path.is_relative_to(entry.runner)]
    if not known:
        return str(path)
    nearest = max(known, key=lambda entry: len(entry.runner.parts))
    return str(nearest.host / path.relative_to(nearest.runner))


def place(root: Path, container_path: str) -> Path:
    """Where a container path is on our side, the task's directory being `root`."""
    return root / normalise(container_path).lstrip("/")


def plan_mounts(task: Task, root: Path, mapping: tuple[HostPath, ...]) -> tuple[Mount, ...]:
    """Every mount that each of the task's executors gets, in Funnel's order."""
    return tuple(
        Mount(container, place(root, container), host_path(place(root, container), mapping), read_only)
        for container, read_only in _mounted(task)
    )


def _mounted(task: Task) -> Iterator[tuple[str, bool]]:
    """Each mount as it is shown, and whether it is read-only."""
    writable = _writable(task)
    before_inputs = {_outermost(normalise(path), writable) for path in (*task.volumes, TMP)}
    inputs = dict.fromkeys(normalise(item.path) for item in task.inputs)
    yield from ((shown, False) for path, shown in writable.items() if path in before_inputs)
    for path in inputs:
        if writable.keys().isdisjoint(upwards(path)) and _outermost(path, inputs) == path:
            yield path, True
    yield from ((shown, False) for path, shown in writable.items() if path not in before_inputs)


def _writable(task: Task) -> dict[str, str]:
    """The writable mounts, none inside another, in the order they were first named; and how each is shown."""
    shown: dict[str, str] = {}
    for volume in task.volumes:
        path = normalise(volume)
        shown.setdefault(path, f"{path}/" if volume.endswith("/") else path)
    for path in (TMP, *map(output_mount, task.outputs)):
        shown.setdefault(path, path)
    widest = dict.fromkeys(_outermost(path, shown) for path in shown)
    return {path: shown[path] for path in widest}


def _outermost(path: str, among: Collection[str]) -> str:
    """The widest of `among` that holds `path`; `path` itself where none does."""
    return [path, *(above for above in upwards(path) if above in among)][-1]


def output_mount(output: Output) -> str:
    """What must be writable for an output to be made, as a normalised container path.

    A FILE's directory, a DIRECTORY itself, the deepest directory that all of a pattern's matches are in. For
    a FILE directly under `/` it is the file itself, since `/` can't be a mount.
    """
    path = normalise(output.path)
    if is_pattern(output):
        return fixed_directory(path)
    if output.type is FileType.DIRECTORY or parent(path) == "/":
        return path
    return parent(path)


def is_pattern(output: Output) -> bool:
    """Whether the output's path stands for whatever matches it (TES 1.1, `path_prefix`)."""
    return bool(output.path_prefix) and has_wildcard(output.path)


def directories(task: Task) -> tuple[str, ...]:
    """Container paths of every directory that must exist before staging; parents first, none twice."""
    ordered: dict[str, None] = {}
    for path in _needed_directories(task):
        ordered.update(dict.fromkeys(reversed([*upwards(path)])))
    return tuple(ordered)


def _needed_directories(task: Task) -> Iterator[str]:
    yield from (normalise(volume) for volume in task.volumes)
    yield TMP
    for item in task.inputs:
        path = normalise(item.path)
        yield path if item.type is FileType.DIRECTORY else parent(path)
    for output in task.outputs:
        mount = output_mount(output)
        yield parent(mount) if _is_bare_file(output) else mount
    yield from map(parent, _captured(task))


def placeholders(task: Task) -> frozenset[str]:
    """Outputs directly under `/` that nothing else makes: without a file there, they could not be mounted."""
    taken = {normalise(item.path) for item in task.inputs}.union(directories(task))
    return frozenset(normalise(output.path) for output in task.outputs if _is_bare_file(output)) - taken


def shareable_inputs(task: Task) -> frozenset[str]:
    """Paths of the inputs that neither an executor nor we ourselves write to once they are staged.

    Only these may share their bytes with a local original. A writable mount counts around an input and in it,
    and so does a file in its place that takes an executor's stdout or stderr.
    """
    writable = _writable(task)
    touched = {above for path in (*writable, *_captured(task)) for above in upwards(path)}
    inputs = {normalise(item.path) for item in task.inputs}
    return frozenset(path for path in inputs - touched if writable.keys().isdisjoint(upwards(path)))


def _is_bare_file(output: Output) -> bool:
    """Whether this is a FILE directly under `/`."""
    is_file = output.type is FileType.FILE and not is_pattern(output)
    return is_file and parent(normalise(output.path)) == "/"


def _captured(task: Task) -> Iterator[str]:
    """The files that executors' stdout and stderr go to."""
    for executor in task.executors:
        yield from (normalise(path) for path in (executor.stdout, executor.stderr) if path)
