"""Backend parameters: how a task may have its own containers, where the operator lets it (TES, tesResources).

The operator lists the names with `--allow-parameter`; names are compared caselessly, as TES wants. A parameter
changes one of `ContainerSettings`, read by the same words as its option. Limits that the operator has set can
only be lowered. Mounts and credentials are never a task's to ask for.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from taskrunner.quantities import count, duration_seconds, size_bytes, ulimit, user
from taskrunner.settings import ContainerSettings, Network, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from taskrunner.task import Resources, Task

_Amount = TypeVar("_Amount", int, float)


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
    return replace(containers, shm_bytes=_lowered(size_bytes(text), containers.shm_bytes, " bytes"))


def _ulimits(containers: ContainerSettings, text: str) -> ContainerSettings:
    """Those of other names stay the operator's: of one name the last counts."""
    asked = tuple(map(ulimit, text.split(",")))
    operators = {one.name: one for one in containers.ulimits}
    for one in asked:
        limit = operators.get(one.name, one)
        if _unlimited(one.soft) > _unlimited(limit.soft) or _unlimited(one.hard) > _unlimited(limit.hard):
            most = f"{limit.name}={limit.soft}:{limit.hard}"
            raise ValueError(f"expected at most {most}, the operator's own limit")
    return replace(containers, ulimits=(*containers.ulimits, *asked))


def _pids_limit(containers: ContainerSettings, text: str) -> ContainerSettings:
    return replace(containers, pids_limit=_lowered(count(text), containers.pids_limit))


def _executor_timeout(containers: ContainerSettings, text: str) -> ContainerSettings:
    asked = duration_seconds(text, positive=True)
    return replace(containers, timeout_seconds=_lowered(asked, containers.timeout_seconds, " s"))


def _init(containers: ContainerSettings, text: str) -> ContainerSettings:
    if (word := text.strip().lower()) not in ("true", "false"):
        raise ValueError("expected true or false")
    return replace(containers, init=word == "true")


def _lowered(asked: _Amount, operators: _Amount | None, unit: str = "") -> _Amount:
    """What is asked, where that is no more than the operator's own limit. Raises ValueError."""
    if operators is not None and asked > operators:
        raise ValueError(f"expected at most {operators:.15g}{unit}, the operator's own limit")
    return asked


def _unlimited(amount: int) -> float:
    """A ulimit as a number to compare by."""
    return math.inf if amount == -1 else amount


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
