"""Which container we are in: read off mount tables as kernels show them, and asked of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from taskrunner.containers.bounds import Bounds
from taskrunner.containers.engine import Engine, Inspected
from taskrunner.containers.own import container_in, find_own_container

OURS, PAUSE, OTHER = "0a" * 32, "1b" * 32, "2c" * 32

HOST = f"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
42 27 254:0 /var/lib/docker /var/lib/docker rw,relatime shared:1 - ext4 /dev/vda rw
98 42 0:47 / /var/lib/docker/containers/{OTHER}/mounts/shm rw,nosuid shared:9 - tmpfs shm rw,size=65536k
99 27 254:0 /var/lib/docker/containers/{OTHER}/hosts /srv/hosts rw,relatime - ext4 /dev/vda rw
"""


def in_docker(
    container: str = OURS, *, docker: str = "/var/lib/docker", upper: str = "", cgroups: str = "v1"
) -> str:
    """The mount table of a container with /scratch mounted, as Docker 20.10 makes it."""
    files = f"{docker}/containers/{container}"
    cgroup = (
        f"81 77 0:32 /docker/{OTHER} /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory"
        if cgroups == "v1"
        else "77 76 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate"
    )
    return f"""\
72 48 0:39 / / rw,relatime master:2 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir={upper},workdir=/x/work
73 72 0:42 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
{cgroup}
89 72 254:0 /mnt/{OTHER}/data /scratch rw,relatime - ext4 /dev/vda rw,discard
92 72 254:0 {files}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
93 72 254:0 {files}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw
94 72 254:0 {files}/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw
"""


ONLY_HOSTS_OF_ITS_OWN = "\n".join(line for line in in_docker().splitlines() if "/etc/host" not in line)
KUBERNETES = (
    "93 72 254:0 /var/lib/kubelet/pods/3c9c1b0e/etc-hosts /etc/hosts rw,relatime - ext4 /dev/vda rw\n"
    f"94 72 254:0 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/{OTHER}/hostname /etc/hostname rw - ext4 a rw\n"
)


@pytest.mark.parametrize(
    ("mountinfo", "container"),
    [
        pytest.param(in_docker(), OURS, id="cgroup v1"),
        pytest.param(in_docker(cgroups="v2"), OURS, id="cgroup v2"),
        pytest.param(in_docker(docker="/docker"), OURS, id="/var/lib/docker is a disk of its own"),
        pytest.param(in_docker(docker=""), OURS, id="Docker's directory is that disk's top"),
        pytest.param(ONLY_HOSTS_OF_ITS_OWN, OURS, id="/etc/hosts and /etc/hostname come from elsewhere"),
        pytest.param(HOST, None, id="on the host, other containers' files are mounted"),
        pytest.param(KUBERNETES, None, id="another kind of engine"),
        pytest.param("", None, id="nothing mounted"),
        pytest.param("nonsense\n1 2 3\n", None, id="no mount table"),
    ],
)
def test_our_container_is_the_one_whose_files_are_at_their_customary_places(
    mountinfo: str, container: str | None
) -> None:
    assert container_in(mountinfo) == container


@dataclass
class Containers:
    """An engine that knows some containers."""

    known: Mapping[str, Inspected]
    sharing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def look_into(self, container: str) -> Inspected | None:
        self.asked.append(container)
        return self.known.get(container)

    async def sharing_network(self, container_id: str) -> tuple[str, ...]:
        return self.sharing.get(container_id, ())

    async def find(self, told_id: str | None, mountinfo: str) -> str | None:
        found = await find_own_container(cast(Engine, self), told_id, mountinfo)
        return None if found is None else found.container_id


def inspected(container_id: str, layer: str | None = None) -> Inspected:
    return Inspected(
        container_id=container_id,
        mounts=(),
        layer=layer,
        bounds=Bounds(),
    )


async def test_what_ecs_says_comes_first() -> None:
    engine = Containers({OURS: inspected(OURS), OTHER: inspected(OTHER)})
    assert await engine.find(OURS, in_docker(OTHER)) == OURS
    assert engine.asked == [OURS]


async def test_a_container_that_the_engine_does_not_know_is_none_of_its_own() -> None:
    assert await Containers({}).find(OTHER, in_docker()) is None
    assert await Containers({OURS: inspected(OURS)}).find(OTHER, in_docker()) == OURS


async def test_on_the_host_the_engine_is_not_even_asked() -> None:
    engine = Containers({OTHER: inspected(OTHER)})
    assert (await engine.find(None, HOST), engine.asked) == (None, [])


async def test_of_containers_that_share_a_network_ours_is_the_one_with_our_layer() -> None:
    docker = "/var/lib/docker/overlay2"
    known = {
        PAUSE: inspected(PAUSE, f"{docker}/p/diff"),
        OTHER: inspected(OTHER, f"{docker}/q/diff"),
        OURS: inspected(OURS, f"{docker}/o/diff"),
    }
    engine = Containers(known, sharing={PAUSE: (OTHER, OURS)})
    assert await engine.find(None, in_docker(PAUSE, upper=f"{docker}/o/diff")) == OURS
    assert await engine.find(None, in_docker(PAUSE, upper="o/diff")) == OURS
    assert await engine.find(None, in_docker(PAUSE, upper=f"{docker}/p/diff")) == PAUSE
    assert await engine.find(None, in_docker(PAUSE, upper=f"{docker}/gone/diff")) is None
