"""Backend parameters: how a task may have its own containers, where the operator lets it (TES, tesResources).

The operator lists the names with `--allow-parameter`; names are compared caselessly, as TES wants. A parameter
changes one of `ContainerSettings`, read by the same words as its option. Limits that the operator has set can
only be lowered. Mounts and credentials are never a task's to ask for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from taskrunner.quantities import count, duration_seconds, size_bytes, ulimit, user
from taskrunner.settings import ContainerSettings, Network, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from taskrunner.task import Resources, Task


def heeded(resources: Resources, containers: ContainerSettings) -> Mapping[str, str]:
    """The parameters of a task that count here, by their names as the user spelled them."""
    return {
        name: value
        for name, value in resources.backend_parameters.items()
        if name.lower() in containers.allowed_parameters
    }


def problems(resources: Resources, containers: ContainerSettings) -> Iterator[tuple[str, str]]:
    """Each parameter, by its name as the user spelled it, whose value can't be used, and what was expected."""
    seen: set[str] = set()
    for name, value in heeded(resources, containers).items():
        if name.lower() in seen:
            yield name, "expected each parameter once (capitals don't count)"
        seen.add(name.lower())
        try:
            _SETTERS[name.lower()](containers, value)
        except ValueError as error:
            yield name, str(error)


def settings_for(task: Task, settings: Settings) -> Settings:
    """The operator's settings with what the task may change of them; it has passed the rules."""
    if task.resources is None:
        return settings
    containers = settings.containers
    for name, value in heeded(task.resources, containers).items():
        containers = _SETTERS[name.lower()](containers, value)
    return replace(settings, containers=containers)


def _network(containers: ContainerSettings, text: str) -> ContainerSettings:
    try:
        return replace(containers, network=Network(text.strip().lower()))
    except ValueError:
        raise ValueError(f"expected one of {', '.join(Network)}") from None


def _user(containers: ContainerSettings, text: str) -> ContainerSettings:
    return replace(containers, user=user(text))


def _shm_size(containers: ContainerSettings, text: str) -> ContainerSettings:
    return replace(containers, shm_bytes=size_bytes(text))


def _ulimits(containers: ContainerSettings, text: str) -> ContainerSettings:
    """Those of other names stay the operator's: of one name the last counts."""
    return replace(containers, ulimits=(*containers.ulimits, *map(ulimit, text.split(","))))


def _pids_limit(containers: ContainerSettings, text: str) -> ContainerSettings:
    asked = count(text)
    if containers.pids_limit is not None and asked > containers.pids_limit:
        raise ValueError(f"expected at most {containers.pids_limit}, the operator's own limit")
    return replace(containers, pids_limit=asked)


def _executor_timeout(containers: ContainerSettings, text: str) -> ContainerSettings:
    asked = duration_seconds(text, positive=True)
    if containers.timeout_seconds is not None and asked > containers.timeout_seconds:
        raise ValueError(f"expected at most {containers.timeout_seconds:g} s, the operator's own limit")
    return replace(containers, timeout_seconds=asked)


def _init(containers: ContainerSettings, text: str) -> ContainerSettings:
    if (word := text.strip().lower()) not in ("true", "false"):
        raise ValueError("expected true or false")
    return replace(containers, init=word == "true")


_SETTERS: Mapping[str, Callable[[ContainerSettings, str], ContainerSettings]] = {
    "executor_timeout": _executor_timeout,
    "init": _init,
    "network": _network,
    "pids_limit": _pids_limit,
    "shm_size": _shm_size,
    "ulimits": _ulimits,
    "user": _user,
}

KNOWN_PARAMETERS = tuple(_SETTERS)
"""All names that an operator can allow, in lower case."""
