"""What surrounds the executors of one task: found once, before the first of them, and the same for all."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.containers.bounds import Bounds, cgroup_bounds, least, own_cgroup, read_cgroup
from taskrunner.containers.host_paths import host_paths
from taskrunner.containers.labels import ATTEMPT_LABEL, JOB_ID_LABEL, RUN_LABEL, RUNNER_ID_LABEL
from taskrunner.containers.own import find_own_container
from taskrunner.containers.reaper import runner_id
from taskrunner.events import HostPathFound
from taskrunner.mounts import host_path
from taskrunner.shielded import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskrunner.batch.ecs import EcsMetadata
    from taskrunner.batch.job import Job
    from taskrunner.containers.engine import Engine, Inspected
    from taskrunner.events import Reporter
    from taskrunner.plan import Plan
    from taskrunner.settings import ContainerSettings, HostPath, Settings


_NO_GPUS = frozenset({"", "none", "void"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The Docker host and the job, as far as executors' containers depend on them."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """On every container we make, beside the task's own: whose it is."""
    own_container: str | None = None
    """The full id of the container we run in; None outside one, or where the engine does not know it."""
    host_paths: tuple[HostPath, ...] = ()
    """Our container's directories that the Docker host has too, and where; the operator's words first."""
    bounds: Bounds = field(default_factory=Bounds)
    cgroup_parent: str | None = None
    """The cgroup that executors are to be in, so that the job's own limits hold for them; None: the engine's."""
    gpus: tuple[str, ...] = ()
    """Ids of the GPUs that are the job's."""
    gpus_withheld: bool = False
    """Whether executors get no GPUs, whatever task and image say: in a job that has none."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that every executor gets, unless the task sets them."""


async def survey(
    engine: Engine, job: Job, ecs: EcsMetadata, *, plan: Plan, settings: Settings, reporter: Reporter
) -> Surroundings:
    """Look around, once, before the first byte is moved.

    Raises:
        EngineUnavailableError: the Docker host does not have the work directory, or its engine does not answer.
    """
    work_dir = plan.root.parent
    here = await in_daemon_thread(lambda: _Here.read(work_dir), name="surroundings")
    own = await find_own_container(engine, ecs.docker_id, here.mountinfo)
    own_id = None if own is None else own.container_id
    paths = settings.work.host_paths
    if own is not None:
        paths = host_paths(work_dir, here.real_work_dir, paths, own)
    on_host = host_path(plan.root, paths)
    if own is not None or on_host != str(plan.root):
        reporter.report(HostPathFound(path=str(plan.root), host_path=on_host))
    ids = gpus(job.visible_gpus)
    return Surroundings(
        labels=_labels(job, runner_id(own_id)),
        own_container=own_id,
        host_paths=paths,
        bounds=_bounds(ecs, own, here.cgroup),
        cgroup_parent=await _cgroup_parent(engine, own, here.cgroups),
        gpus=ids,
        gpus_withheld=not ids and (job.job_id or job.metadata_uri) is not None,
        environment=_environment(job, settings.containers),
    )


@dataclass(frozen=True, slots=True)
class _Here:
    """What the kernel tells us about ourselves."""

    mountinfo: str
    cgroups: str
    """/proc/self/cgroup."""
    cgroup: Mapping[str, str]
    """The texts of its limits."""
    real_work_dir: Path

    @classmethod
    def read(cls, work_dir: Path) -> _Here:
        """Read it. Blocks for a moment, or for ever where the work directory is on a file system that hangs."""
        proc = Path("/proc/self")
        cgroups = (proc / "cgroup").read_text()
        return cls(
            mountinfo=(proc / "mountinfo").read_text(errors="replace"),
            cgroups=cgroups,
            cgroup=read_cgroup(cgroups),
            real_work_dir=work_dir.resolve(),
        )


def gpus(visible: str | None) -> tuple[str, ...]:
    """The ids in NVIDIA_VISIBLE_DEVICES, or `all`; words that stand for none are no ids.

    https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html
    """
    ids = (one.strip() for one in (visible or "").split(","))
    return tuple(one for one in ids if one not in _NO_GPUS)


def _labels(job: Job, runner: str) -> dict[str, str]:
    labels = {RUNNER_ID_LABEL: runner, RUN_LABEL: secrets.token_hex(8)}
    if job.job_id is not None:
        labels[JOB_ID_LABEL] = job.job_id
    if job.attempt is not None:
        labels[ATTEMPT_LABEL] = str(job.attempt)
    return labels


def _bounds(ecs: EcsMetadata, own: Inspected | None, cgroup: Mapping[str, str]) -> Bounds:
    """What ECS, the engine and the kernel say; outside a container our cgroup is that of whoever started us."""
    told = [Bounds(ecs.memory_bytes, ecs.cpus), Bounds(ecs.task_memory_bytes, ecs.task_cpus)]
    if own is not None:
        told += [own.bounds, cgroup_bounds(cgroup)]
    return least(told)


async def _cgroup_parent(engine: Engine, own: Inspected | None, cgroups: str) -> str | None:
    """Our container's cgroup, where the engine can put others into it: systemd's can't hold any."""
    ours = None if own is None else own_cgroup(own.container_id, cgroups)
    if ours is None:
        return None
    made = await engine.cgroups()
    return ours if (made.version, made.driver) == ("1", "cgroupfs") else None


def _environment(job: Job, containers: ContainerSettings) -> tuple[tuple[str, str], ...]:
    if not containers.pass_credentials or job.credentials_uri is None:
        return ()
    return (("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", job.credentials_uri),)
