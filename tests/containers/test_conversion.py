"""A step as the engine's JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from taskrunner.containers.convert import (
    LONGEST_ARGUMENT_BYTES,
    container_config,
    give_back_config,
    start_failure_code,
    too_long,
)
from taskrunner.mounts import Mount
from taskrunner.plan import Step
from taskrunner.settings import ContainerSettings

GOLDENS = Path(__file__).parent / "goldens"

PLAIN = Step(
    index=1,
    image="ubuntu",
    command=("echo", "a b", "$HOME"),
    container_name="abc-def-1",
    workdir=None,
    env=(),
    stdin=None,
    stdout=None,
    stderr=None,
    ignore_error=False,
    mounts=(Mount("/tmp", Path("/w/abc-def/tmp"), "/host/abc-def/tmp", read_only=False),),
)
FULL = dataclasses.replace(
    PLAIN,
    workdir="/data",
    env=(("B", "2=2"), ("A", "")),
    stdin="/data/in",
    stdout="/data/out",
    mounts=(
        *PLAIN.mounts,
        Mount("/data/in", Path("/w/abc-def/data/in"), "/host/abc-def/data/in", read_only=True),
    ),
)


@pytest.mark.parametrize(
    ("golden", "config"),
    [
        ("plain", container_config(PLAIN, ContainerSettings(), "/host/abc-def")),
        ("full", container_config(FULL, ContainerSettings(read_only_root=False), "/host/abc-def")),
        ("give-back", give_back_config("ubuntu", "/host/abc-def", 1000, 100, "abc-def")),
    ],
)
def test_the_engine_gets_exactly_this(golden: str, config: dict[str, object]) -> None:
    assert config == json.loads((GOLDENS / f"{golden}.json").read_text())


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127),
        ('exec: "/x": stat /x: no such file or directory: unknown', 127),
        ('exec: "/tmp": permission denied: unknown', 126),
        ('exec: "/tmp/": is a directory: unknown', 126),
        ("exec /x: exec format error", 126),
        ("OCI runtime create failed: something else", 125),
    ],
)
def test_a_failed_start_has_the_docker_commands_exit_code(words: str, exit_code: int) -> None:
    assert start_failure_code(words) == exit_code


def test_an_argument_may_have_exactly_what_linux_allows() -> None:
    longest = "x" * LONGEST_ARGUMENT_BYTES
    assert too_long(dataclasses.replace(PLAIN, command=("echo", longest))) is None

    reason = too_long(dataclasses.replace(PLAIN, command=("echo", longest + "x")))
    assert reason is not None
    assert reason.startswith("argument 1 of the command has 131072 bytes")


def test_a_variable_that_is_too_long_is_named_without_its_value() -> None:
    reason = too_long(dataclasses.replace(PLAIN, env=(("BIG", "é" * 70_000),)))
    assert reason is not None
    assert reason.startswith("the environment variable BIG has 140004 bytes")
    assert "é" not in reason
