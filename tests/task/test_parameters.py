"""Backend parameters: what a task may set for its own containers."""

import pytest

from taskrunner.parameters import KNOWN_PARAMETERS, settings_for
from taskrunner.settings import ContainerSettings, Network, Settings, Ulimit
from tests.task.documents import load, mistakes

ALL = ContainerSettings(allowed_parameters=KNOWN_PARAMETERS)


def containers_for(parameters: dict[str, str], operators: ContainerSettings = ALL) -> ContainerSettings:
    """The container settings of a task with these parameters."""
    loaded = load(operators, resources={"backend_parameters": parameters})
    return settings_for(loaded.task, Settings(containers=operators)).containers


@pytest.mark.parametrize(
    ("name", "value", "setting", "expected"),
    [
        ("network", "none", "network", Network.NONE),
        ("network", "HOST", "network", Network.HOST),
        ("user", "1000:100", "user", "1000:100"),
        ("shm_size", "1GiB", "shm_bytes", 2**30),
        ("ulimits", "nofile=1:2", "ulimits", (Ulimit("nofile", 1, 2),)),
        ("ulimits", "nofile=1,core=0", "ulimits", (Ulimit("nofile", 1, 1), Ulimit("core", 0, 0))),
        ("pids_limit", "100", "pids_limit", 100),
        ("init", "true", "init", True),
        ("executor_timeout", "15m", "timeout_seconds", 900.0),
        ("Shm_Size", "1GiB", "shm_bytes", 2**30),
    ],
)
def test_an_allowed_parameter_changes_the_tasks_own_containers(
    name: str, value: str, setting: str, expected: object
) -> None:
    assert getattr(containers_for({name: value}), setting) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("network", "lan", 'expected one of bridge, none, host, got "lan"'),
        ("user", "a b", 'expected UID, UID:GID or names in their place, as 1000:1000, got "a b"'),
        ("shm_size", "much", "expected a number of bytes, as 500MB"),
        ("ulimits", "nofile=1,x", "expected NAME=SOFT[:HARD], as nofile=1024:4096"),
        ("ulimits", "", "expected NAME=SOFT[:HARD], as nofile=1024:4096"),
        ("pids_limit", "0", "expected a whole number from 1"),
        ("init", "yes", 'expected true or false, got "yes"'),
        ("executor_timeout", "0", "expected seconds (more than 0), or a time as 90s, 15m, 2h or 1d"),
    ],
)
def test_a_value_that_cannot_be_read_is_a_mistake_at_its_place(name: str, value: str, expected: str) -> None:
    (told,) = mistakes(ALL, resources={"backend_parameters": {name: value}})
    assert told.startswith(f"resources.backend_parameters.{name}: {expected}")


def test_a_parameter_that_is_not_allowed_is_noted_and_changes_nothing_however_it_reads() -> None:
    only_user = ContainerSettings(allowed_parameters=("user",))
    loaded = load(only_user, resources={"backend_parameters": {"network": "lan", "user": "1"}})

    assert loaded.unsupported_parameters == ("network",)
    assert loaded.task.resources is not None
    assert loaded.task.resources.backend_parameters == {"user": "1"}
    assert containers_for({"network": "host"}, only_user) == only_user


def test_a_strict_task_is_told_which_option_of_the_operators_it_needs() -> None:
    resources = {"backend_parameters": {"Network": "none", "user": "1"}, "backend_parameters_strict": True}

    assert mistakes(ContainerSettings(allowed_parameters=("user",)), resources=resources) == [
        (
            "resources.backend_parameters.Network: expected only parameters that the operator allows, since "
            "backend_parameters_strict is true: --allow-parameter network"
        )
    ]
    assert load(ALL, resources=resources).unsupported_parameters == ()


def test_limits_of_the_operators_can_only_be_lowered() -> None:
    operators = ContainerSettings(allowed_parameters=KNOWN_PARAMETERS, pids_limit=100, timeout_seconds=3600.0)

    lowered = containers_for({"pids_limit": "100", "executor_timeout": "30m"}, operators)
    assert (lowered.pids_limit, lowered.timeout_seconds) == (100, 1800.0)
    assert mistakes(
        operators, resources={"backend_parameters": {"pids_limit": "101", "executor_timeout": "2h"}}
    ) == [
        'resources.backend_parameters.pids_limit: expected at most 100, the operator\'s own limit, got "101"',
        (
            "resources.backend_parameters.executor_timeout: expected at most 3600 s, the operator's own limit, "
            'got "2h"'
        ),
    ]


def test_shared_memory_and_ulimits_of_the_operators_can_only_be_lowered() -> None:
    operators = ContainerSettings(
        allowed_parameters=KNOWN_PARAMETERS,
        shm_bytes=2**20,
        ulimits=(Ulimit("nofile", 1, 2), Ulimit("nofile", 1024, 4096), Ulimit("memlock", -1, -1)),
    )

    lowered = containers_for(
        {"shm_size": "1MiB", "ulimits": "nofile=1000:4096,memlock=-1,core=-1"}, operators
    )
    assert lowered.shm_bytes == 2**20
    assert lowered.ulimits[3:] == (
        Ulimit("nofile", 1000, 4096),
        Ulimit("memlock", -1, -1),
        Ulimit("core", -1, -1),
    )
    assert mistakes(operators, resources={"backend_parameters": {"shm_size": "2MiB"}}) == [
        'resources.backend_parameters.shm_size: expected at most 1048576 bytes, the operator\'s own limit, got "2MiB"'
    ]
    for asked in ("nofile=1025:4096", "nofile=1024:4097", "nofile=1024:-1", "core=0,nofile=-1"):
        (told,) = mistakes(operators, resources={"backend_parameters": {"ulimits": asked}})
        assert "expected at most nofile=1024:4096, the operator's own limit, got " in told


def test_a_parameter_can_be_given_once_whatever_its_capitals() -> None:
    assert mistakes(ALL, resources={"backend_parameters": {"user": "1", "USER": "2"}}) == [
        'resources.backend_parameters.USER: expected each parameter once (capitals don\'t count), got "2"'
    ]


def test_no_parameter_reaches_mounts_credentials_or_what_else_the_operator_decides() -> None:
    assert KNOWN_PARAMETERS == (
        "executor_timeout",
        "init",
        "network",
        "pids_limit",
        "shm_size",
        "ulimits",
        "user",
    )
