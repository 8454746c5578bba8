"""What the Docker host calls the directories of our container, since its engine mounts by the host's paths only.

Binds and volumes of our container are directories of the host's, each found under the deepest mount around a path.
What is on a tmpfs, or in the container's own layer, no other container can ever see. What the operator says goes
first, where both speak of the same directory. Pure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import EngineUnavailableError
from taskrunner.mounts import host_path
from taskrunner.settings import HostPath

if TYPE_CHECKING:
    from taskrunner.containers.engine import ContainerMount, Inspected

_ON_THE_HOST = frozenset({"bind", "volume"})


def host_paths(
    work_dir: Path, real_work_dir: Path, told: tuple[HostPath, ...], own: Inspected
) -> tuple[HostPath, ...]:
    """Where the Docker host has our directories: what the operator told, and the mounts of our container.

    `real_work_dir` is `work_dir` without symbolic links, which lead elsewhere on the host.

    Raises:
        EngineUnavailableError: the host does not have the work directory.
    """
    shared = [mount for mount in own.mounts if mount.kind in _ON_THE_HOST and mount.source]
    found = (*told, *(HostPath(Path(mount.destination), Path(mount.source)) for mount in shared))
    if any(work_dir.is_relative_to(entry.runner) for entry in told):
        real_work_dir = work_dir
    depth = _depth(real_work_dir, [entry.runner for entry in found])
    hidden = [mount for mount in own.mounts if mount not in shared]
    if depth < max(1, _depth(real_work_dir, [Path(mount.destination) for mount in hidden])):
        raise EngineUnavailableError(_unseen(work_dir, real_work_dir, hidden))
    if real_work_dir == work_dir:
        return found
    return (*found, HostPath(work_dir, Path(host_path(real_work_dir, found))))


def _depth(path: Path, directories: list[Path]) -> int:
    """How deep the deepest of `directories` around `path` is; 0 where none is."""
    return max((len(one.parts) for one in directories if path.is_relative_to(one)), default=0)


def _unseen(work_dir: Path, real_work_dir: Path, hidden: list[ContainerMount]) -> str:
    tmpfs = [mount.destination for mount in hidden if real_work_dir.is_relative_to(mount.destination)]
    missing = max(tmpfs, key=len, default=str(real_work_dir))
    where = f"on the tmpfs {missing} of our container" if tmpfs else "on no mount of our container"
    return (
        f"the work directory {work_dir} is {where}, so the executors' containers can't see it: mount a directory "
        f"of the Docker host at {missing} (in AWS Batch by the job definition's volumes and mountPoints), choose "
        f"another --work-dir, or say by --host-path {work_dir}=DIRECTORY where the host has it"
    )
