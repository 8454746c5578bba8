"""The options on executors' containers: how they are read, from the command line and from variables."""

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from taskrunner.cli.options import CONTAINERS, LIMITS, PLANNING, settings_from
from taskrunner.settings import ContainerSettings, ExtraMount, HostPath, Network, Settings, Ulimit
from tests.program import typed


def settings_of(*arguments: str, options: Sequence[click.Parameter] = (*CONTAINERS, *LIMITS)) -> Settings:
    """The settings that a command line with these options gives."""
    parameters = list(options)
    found: list[Settings] = []
    command = click.Command(
        "x", params=parameters, callback=lambda **values: found.append(settings_from(parameters, values))
    )
    command.main(list(arguments), standalone_mode=False)
    return found[0]


def test_nothing_told_is_what_settings_say() -> None:
    assert settings_of() == Settings()


def test_each_option_sets_its_own() -> None:
    arguments = (
        "--network none --user 1000:100 --ulimit nofile=1:2 --ulimit core=0 --shm-size 1GiB --pids-limit 100 "
        "--mount /ref:/data/ref --mount /a/../cache/:/cache//x/:rw --mount /b:/c:ro --init --pass-credentials "
        "--executor-timeout 1h30m --allow-parameter User --allow-parameter network --no-watchdog"
    )
    assert settings_of(*arguments.split()).containers == ContainerSettings(
        network=Network.NONE,
        user="1000:100",
        ulimits=(Ulimit("nofile", 1, 2), Ulimit("core", 0, 0)),
        shm_bytes=2**30,
        pids_limit=100,
        extra_mounts=(
            ExtraMount("/ref", "/data/ref"),
            ExtraMount("/cache", "/cache/x", read_only=False),
            ExtraMount("/b", "/c"),
        ),
        init=True,
        pass_credentials=True,
        timeout_seconds=5400.0,
        allowed_parameters=("user", "network"),
        watchdog=False,
    )


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKRUNNER_ULIMIT", "nofile=1:2,core=0")
    monkeypatch.setenv("TASKRUNNER_MOUNT", "/a:/b,/c:/d:rw")
    monkeypatch.setenv("TASKRUNNER_ALLOW_PARAMETER", "user, init")
    containers = settings_of().containers

    assert containers.ulimits == (Ulimit("nofile", 1, 2), Ulimit("core", 0, 0))
    assert containers.extra_mounts == (ExtraMount("/a", "/b"), ExtraMount("/c", "/d", read_only=False))
    assert containers.allowed_parameters == ("user", "init")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--network", "lan", "'bridge', 'none', 'host'"),
        ("--user", "a b", "expected UID, UID:GID or names"),
        ("--ulimit", "nofile", "expected NAME=SOFT[:HARD]"),
        ("--shm-size", "0", "expected a number of bytes"),
        ("--pids-limit", "0", "expected a whole number from 1"),
        ("--mount", "/a", "expected two absolute paths as HOST:CONTAINER[:ro|rw]"),
        ("--mount", "a:/b", "expected two absolute paths"),
        ("--mount", "/a:/b:rx", "expected two absolute paths"),
        ("--mount", "/a:/", "the second below /"),
        ("--mount", "/a:/tmp/", "expected a path in the container that has no mount of its own"),
        ("--mount", "/a:/proc/x", "no mount of its own"),
        ("--mount", "/a:/sys", "no mount of its own"),
        ("--mount", "/a:/x/../dev", "no mount of its own"),
        ("--executor-timeout", "0", "expected seconds (more than 0)"),
        ("--allow-parameter", "mount", "expected one of executor_timeout, init, network"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_with_what_was_expected(
    option: str, value: str, expected: str
) -> None:
    exit_code, _, stderr = typed("run", "-", option, value)

    assert (exit_code, option in stderr, repr(value) in stderr) == (64, True, True)
    assert expected in " ".join(stderr.split())


def test_a_path_in_the_container_is_mounted_once() -> None:
    exit_code, _, stderr = typed("run", "-", "--mount", "/a:/x", "--mount", "/b:/y", "--mount", "/c:/x/:rw")

    assert (exit_code, "--mount: expected each path in the container once, got /x again" in stderr) == (
        64,
        True,
    )


def test_two_slashes_lead_to_where_one_does() -> None:
    settings = settings_of("--host-path", "//a//b=//c", "--work-dir", "//a/work", options=PLANNING)

    assert settings.work.host_paths == (HostPath(Path("/a/b"), Path("/c")),)
    assert str(settings.work.work_dir) == "/a/work"


def test_all_times_take_units() -> None:
    for option in (
        "--executor-timeout", "--timeout", "--stop-timeout", "--sweep-after", "--stop-grace-seconds",
        "--log-update-seconds", "--progress-seconds",
    ):  # fmt: skip
        exit_code, _, stderr = typed("run", option, "1h30m")
        assert (option, exit_code, "give either TASK" in stderr) == (option, 64, True)
