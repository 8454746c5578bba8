"""A step as the engine's JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from taskrunner.containers.convert import (
    LONGEST_ARGUMENT_BYTES,
    container_config,
    give_back_config,
    owner_labels,
    start_failure_code,
    too_long,
)
from taskrunner.containers.limits import NO_LIMITS, Limits
from taskrunner.containers.surroundings import Surroundings
from taskrunner.mounts import Mount
from taskrunner.plan import Step
from taskrunner.settings import ContainerSettings, ExtraMount, Network, Ulimit

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


OPERATORS = ContainerSettings(
    network=Network.NONE,
    user="1000:100",
    ulimits=(Ulimit("nofile", 1024, 4096), Ulimit("core", 0, 0), Ulimit("nofile", 1, 2)),
    shm_bytes=2**30,
    extra_mounts=(ExtraMount("/ref", "/data/ref"), ExtraMount("/cache", "/cache", read_only=False)),
    init=True,
)
JOBS = Surroundings(
    labels={"taskrunner.job-id": "j"},
    cgroup_parent="/ecs/t/c",
    environment=(("B", "the job's"), ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x")),
)
DEFAULTS, NOWHERE = ContainerSettings(), Surroundings()
LIMITS = Limits(memory_bytes=2**30, cpus=1.5, pids=100)


def config_of(
    step: Step = PLAIN,
    settings: ContainerSettings = DEFAULTS,
    surroundings: Surroundings = NOWHERE,
    limits: Limits = NO_LIMITS,
) -> dict[str, Any]:
    return container_config(step, settings, surroundings, limits, "/host/abc-def")


@pytest.mark.parametrize(
    ("golden", "config"),
    [
        ("plain", config_of()),
        ("full", config_of(FULL, ContainerSettings(read_only_root=False))),
        ("limited", config_of(FULL, OPERATORS, JOBS, LIMITS)),
        ("gpus", config_of(surroundings=Surroundings(gpus=("GPU-1", "GPU-2")))),
        (
            "give-back",
            give_back_config("ubuntu", "/host/abc-def", 1000, 100, owner_labels("abc-def", "/host/abc-def")),
        ),
    ],
)
def test_the_engine_gets_exactly_this(golden: str, config: dict[str, object]) -> None:
    assert config == json.loads((GOLDENS / f"{golden}.json").read_text())


@pytest.mark.parametrize(("network", "mode"), [("bridge", None), ("none", "none"), ("host", "host")])
def test_a_bridge_is_what_the_engine_gives_anyway(network: str, mode: str | None) -> None:
    config = config_of(settings=ContainerSettings(network=Network(network)))
    assert config["HostConfig"].get("NetworkMode") == mode


def test_all_gpus_are_told_by_a_count() -> None:
    (request,) = config_of(surroundings=Surroundings(gpus=("all",)))["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}


def test_a_task_cannot_choose_gpus_that_are_not_the_jobs() -> None:
    step = dataclasses.replace(PLAIN, env=(("NVIDIA_VISIBLE_DEVICES", "all"), ("A", "1")))
    assert config_of(step, surroundings=Surroundings(gpus=("GPU-1",)))["Env"] == ["A=1"]


def test_where_gpus_are_withheld_neither_task_nor_image_chooses_any() -> None:
    step = dataclasses.replace(PLAIN, env=(("NVIDIA_VISIBLE_DEVICES", "all"), ("A", "1")))
    withheld = config_of(step, surroundings=Surroundings(gpus_withheld=True))
    assert withheld["Env"] == ["NVIDIA_VISIBLE_DEVICES=void", "A=1"]
    assert config_of(surroundings=Surroundings(gpus_withheld=True))["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert config_of(step)["Env"] == ["NVIDIA_VISIBLE_DEVICES=all", "A=1"]


def test_a_variable_of_the_jobs_yields_to_the_tasks_own() -> None:
    surroundings = Surroundings(environment=(("A", "job"), ("C", "job")))
    assert config_of(FULL, surroundings=surroundings)["Env"] == ["A=", "C=job", "B=2=2"]


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
