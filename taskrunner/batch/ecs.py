"""What the ECS agent tells a container of its task about itself (task metadata endpoint, version 4).

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from taskrunner.batch.endpoint import ask_patiently
from taskrunner.errors import TaskrunnerError, TransferIOError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB = 1024 * 1024
_UNITS_OF_A_CPU = 1024
_LEAST_CPUS = 0.01
"""The kernel grants no smaller part of its time. A container that asked for none is told to have 2 units."""
_BEYOND = 2**40
"""No machine has so many MiB or CPUs."""
_FULL_ID = re.compile(r"[0-9a-f]{64}")
_OF_THE_CONTAINER = {
    "ContainerARN": "ecs_container_arn",
    "Name": "ecs_container_name",
    "DockerName": "ecs_docker_name",
    "Image": "ecs_image",
    "ImageID": "ecs_image_id",
}
_OF_THE_TASK = {
    "Cluster": "ecs_cluster",
    "TaskARN": "ecs_task_arn",
    "Family": "ecs_task_family",
    "Revision": "ecs_task_revision",
    "AvailabilityZone": "ecs_availability_zone",
    "LaunchType": "ecs_launch_type",
}


@dataclass(frozen=True, slots=True)
class EcsMetadata:
    """The answers of the endpoint; None where it does not say."""

    docker_id: str | None = None
    """The full id of our own container."""
    memory_bytes: int | None = None
    """The hard limit of our container."""
    cpus: float | None = None
    """vCPUs of our container."""
    task_memory_bytes: int | None = None
    task_cpus: float | None = None
    described: Mapping[str, str] = field(default_factory=dict)
    """What is worth telling with the task's metadata, by name."""
    failure: str | None = None
    """Why the task's answer is missing, where our container's is there."""


async def read_metadata(uri: str) -> EcsMetadata:
    """Ask the endpoint at `uri` (ECS_CONTAINER_METADATA_URI_V4) about our container and its task.

    Raises TransientError where it does not answer about our container, TransferIOError where that answer can't be
    read. Without the task's answer, which has the lesser news, the container's is still good.
    """
    base = uri.rstrip("/")
    container = await _told(base)
    try:
        task = await _told(f"{base}/task")
    except TaskrunnerError as error:
        return replace(parse_metadata(container, {}), failure=str(error))
    return parse_metadata(container, task)


async def _told(url: str) -> dict[str, object]:
    answer = await ask_patiently(url)
    if answer.status != 200:
        raise TransferIOError(f"{url} (ECS_CONTAINER_METADATA_URI_V4) answered {answer.status}")
    try:
        told = json.loads(answer.body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise TransferIOError(
            f"{url} (ECS_CONTAINER_METADATA_URI_V4) answered with something else than a JSON object"
        )
    return told


def parse_metadata(container: Mapping[str, object], task: Mapping[str, object]) -> EcsMetadata:
    """What the answers say; what is absent, or of another type than it should be, is not said.

    A container's CPU limit is in CPU units, 1,024 of a vCPU, the task's in vCPUs; memory is in MiB in both.
    """
    docker_id = container.get("DockerId")
    return EcsMetadata(
        docker_id=docker_id if isinstance(docker_id, str) and _FULL_ID.fullmatch(docker_id) else None,
        memory_bytes=_memory_bytes(container),
        cpus=_cpus(container, _UNITS_OF_A_CPU),
        task_memory_bytes=_memory_bytes(task),
        task_cpus=_cpus(task, 1),
        described={**_described(task, _OF_THE_TASK), **_described(container, _OF_THE_CONTAINER)},
    )


def _memory_bytes(told: Mapping[str, object]) -> int | None:
    size_bytes = int(_limit(told, "Memory") * _MIB)
    return size_bytes if size_bytes >= _MIB else None


def _cpus(told: Mapping[str, object], units_of_a_cpu: int) -> float | None:
    cpus = _limit(told, "CPU") / units_of_a_cpu
    return cpus if cpus >= _LEAST_CPUS else None


def _limit(told: Mapping[str, object], name: str) -> float:
    """A limit; 0, as in the answers, where there is none."""
    limits = told.get("Limits")
    value = limits.get(name) if isinstance(limits, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 < value < _BEYOND else 0  # compared as it is: not every number has a float


def _described(told: Mapping[str, object], names: Mapping[str, str]) -> dict[str, str]:
    values = {ours: told.get(theirs) for theirs, ours in names.items()}
    return {name: value for name, value in values.items() if isinstance(value, str) and value}
