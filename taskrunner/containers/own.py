"""Which container we are in, so that the engine can tell about it: its mounts, its limits, its cgroup.

ECS says it outright. Else the kernel does: the engine mounts three files into every container (/etc/hostname,
/etc/hosts, /etc/resolv.conf) out of a directory that has the container's id as its name, with every kind of
network and cgroup. The host's name is no witness: in host networking it is the instance's.

Containers that share a network share these files, too: all have those of the container whose network it is.
Which of them is ours shows in its own layer, on top of its image, which is mounted at `/`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.containers.engine import Engine, Inspected

_FILE_OF_A_CONTAINER = re.compile(r".*/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf)")
_MOUNTED_AT = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})


async def find_own_container(engine: Engine, told_id: str | None, mountinfo: str) -> Inspected | None:
    """The container we are in; None outside one, or in one of another engine's.

    `told_id` is what ECS metadata says, `mountinfo` the text of /proc/self/mountinfo.
    """
    if told_id is not None and (told := await engine.look_into(told_id)) is not None:
        return told
    named_id = container_in(mountinfo)
    named = None if named_id is None else await engine.look_into(named_id)
    if named is None or _is_ours(named, mountinfo):
        return named
    for container_id in await engine.sharing_network(named.container_id):
        sharing = await engine.look_into(container_id)
        if sharing is not None and _is_ours(sharing, mountinfo):
            return sharing
    return None


def container_in(mountinfo: str) -> str | None:
    """The id of the container whose files are mounted at the places that each container has them; else None.

    On the host itself other mounts may lead to files of containers, which says nothing of us.
    """
    for mounted, mount_point, _ in _mounts(mountinfo):
        found = _FILE_OF_A_CONTAINER.fullmatch(mounted)
        if found and mount_point in _MOUNTED_AT:
            return found[1]
    return None


def _is_ours(container: Inspected, mountinfo: str) -> bool:
    """Whether the container's own layer is what we have at `/`; true where either is not known."""
    layers = [
        option.removeprefix("upperdir=")
        for _, mount_point, options in _mounts(mountinfo)
        if mount_point == "/"
        for option in options.split(",")
        if option.startswith("upperdir=")
    ]
    if container.layer is None or not layers:
        return True
    # The kernel may tell it from another directory on; a layer's name and the directory in it say enough.
    return PurePosixPath(layers[-1]).parts[-2:] == PurePosixPath(container.layer).parts[-2:]


def _mounts(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """Of each mount: what is mounted, in its own file system; where; and the file system's options (proc(5))."""
    for line in mountinfo.splitlines():
        ours, _, file_system = line.partition(" - ")
        fields, options = ours.split(), file_system.split()
        if len(fields) > 4:
            yield fields[3], fields[4], options[-1] if options else ""
