"""Whenever a step is cancelled, its container is gone, its last output told, and nothing else left behind."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

import pytest

from taskrunner.containers.engine import Engine
from taskrunner.containers.executor import StepResult
from taskrunner.containers.images import ensure_image
from taskrunner.containers.registry import DockerConfig, RegistryLogin
from taskrunner.errors import ImageUnavailableError, TransferIOError
from taskrunner.events import (
    ExecutorStartTime,
    ExecutorStdout,
    RunningCommand,
    SilentReporter,
    StoppingContainer,
)
from taskrunner.settings import ContainerSettings, PullPolicy
from taskrunner.stopping import Stop, StopKind
from tests.containers.conftest import Task

ENDLESS = ("sh", "-c", "trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.1; done")
DEAF = ("sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.1; done")


async def cancelled(running: asyncio.Task[StepResult]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_running_container_may_say_goodbye(task: Task) -> None:
    running = asyncio.create_task(task.run(task.step(*ENDLESS, stdout="/work/out")))
    await task.reporter.until(ExecutorStdout, "begun")
    await cancelled(running)

    assert task.reporter.messages == [
        "EXECUTOR_START_TIME",
        "Running command",
        "EXECUTOR_STDOUT",
        "Stopping container",
        "EXECUTOR_STDOUT",
        "EXECUTOR_END_TIME",
    ]
    assert task.reporter.last(StoppingContainer) == {"container": f"{task.task_id}-0"}
    assert task.reporter.last(ExecutorStdout) == {"stdout": "begun\nbye\n"}
    assert (task.workdir.root / "work/out").read_text() == "begun\nbye\n"
    assert [(result.exit_code, result.error) for result in task.results] == [(None, "stopped before its end")]
    assert task.containers == []


async def test_a_container_deaf_to_signals_is_killed(task: Task) -> None:
    running = asyncio.create_task(task.run(task.step(*DEAF)))
    await task.reporter.until(ExecutorStdout, "begun")
    await cancelled(running)

    assert task.reporter.messages[-2:] == ["Stopping container", "EXECUTOR_END_TIME"]
    assert task.containers == []


async def test_being_cancelled_again_does_not_cut_the_stopping_short(task: Task) -> None:
    running = asyncio.create_task(task.run(task.step(*ENDLESS)))
    await task.reporter.until(ExecutorStdout, "begun")
    running.cancel()
    await task.reporter.until(StoppingContainer)
    await cancelled(running)

    assert task.reporter.last(ExecutorStdout) == {"stdout": "begun\nbye\n"}
    assert task.containers == []


async def test_a_step_cancelled_while_its_image_comes_has_made_nothing(task: Task) -> None:
    image_ready = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(task.run(task.step("true", stdout="/work/out"), image_ready))
    await task.reporter.until(ExecutorStartTime)
    await cancelled(running)

    assert task.reporter.messages == ["EXECUTOR_START_TIME", "EXECUTOR_END_TIME"]
    assert task.containers == []


@pytest.mark.parametrize("point", range(0, 24, 2))
async def test_a_step_cancelled_at_any_moment_leaves_no_container(task: Task, point: int) -> None:
    """The moments are counted in turns of the loop after the command was told: in create, attach, start."""
    running = asyncio.create_task(task.run(task.step(*ENDLESS)))
    await task.reporter.until(RunningCommand)
    for _ in range(point):
        await asyncio.sleep(0.002)
    await cancelled(running)

    assert task.containers == []
    assert task.reporter.messages[-1] == "EXECUTOR_END_TIME"


@pytest.mark.parametrize("method", ["create", "attach_output", "start", "wait"])
async def test_a_step_cancelled_amid_a_call_to_the_engine_leaves_no_container(
    task: Task, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    reached = asyncio.Event()
    original = getattr(Engine, method)

    def reaching(*args: object, **kwargs: object) -> object:
        reached.set()
        return original(*args, **kwargs)

    monkeypatch.setattr(Engine, method, reaching)
    running = asyncio.create_task(task.run(task.step("sh", "-c", "sleep 0.2")))
    await reached.wait()
    await asyncio.sleep(0)
    await cancelled(running)

    assert task.containers == []


async def test_a_full_disk_stops_the_container_and_is_told(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int, _data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("taskrunner.containers.capture._write_all", full)
    chatty = "while :; do echo much; sleep 0.05; done"
    with pytest.raises(TransferIOError, match="/work/out: No space left on device"):
        await task.run(task.step("sh", "-c", chatty, stdout="/work/out"))

    assert task.containers == []
    assert task.reporter.messages[-1] == "EXECUTOR_END_TIME"


async def test_an_image_that_is_not_to_be_had_ends_the_step(task: Task) -> None:
    image_ready = asyncio.get_running_loop().create_future()
    image_ready.set_exception(ImageUnavailableError("no such image"))
    with pytest.raises(ImageUnavailableError):
        await task.run(task.step("true"), image_ready)

    assert task.reporter.messages == ["EXECUTOR_START_TIME", "EXECUTOR_END_TIME"]
    assert [(result.exit_code, result.error) for result in task.results] == [(None, "no such image")]


async def test_an_image_removed_in_the_meantime_is_told_as_unavailable(task: Task) -> None:
    absent = f"taskrunner-test/{secrets.token_hex(4)}:1"
    with pytest.raises(ImageUnavailableError, match="is not on the Docker host"):
        await task.run(task.step("true", image=absent))


async def test_a_strangers_container_under_the_name_is_left_alone(task: Task) -> None:
    strange = await task.engine.create(f"{task.task_id}-0", {"Image": task.image, "Cmd": ["true"]})
    try:
        assert (await task.run(task.step("echo", "beside"))).stdout == "beside\n"
        assert (await task.engine.inspect(strange)).status == "created"
    finally:
        await task.engine.remove(strange)


async def test_removing_and_stopping_what_is_gone_is_fine(engine: Engine) -> None:
    gone = f"test-{secrets.token_hex(6)}"
    await engine.remove(gone)
    await engine.stop(gone, 1)
    await engine.kill(gone)


async def test_a_pull_can_be_cancelled(engine: Engine) -> None:
    """Nobody answers at the address (TEST-NET-1), so the pull would last."""
    login = RegistryLogin(DockerConfig({}))
    pulling = asyncio.create_task(
        ensure_image(
            engine, "192.0.2.1:5/x:1", policy=PullPolicy.ALWAYS, login=login, reporter=SilentReporter()
        )
    )
    await asyncio.sleep(0)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling


async def test_a_shell_that_ignores_sigterm_is_killed_when_its_grace_is_over(task: Task) -> None:
    """A shell as the first process of a container has no handler, so the kernel drops the signal."""
    running = asyncio.create_task(task.run(task.step("sh", "-c", "echo begun; sleep 1000; echo never")))
    await task.reporter.until(ExecutorStdout, "begun")
    await cancelled(running)

    assert task.reporter.last(ExecutorStdout) == {"stdout": "begun\n"}
    assert task.containers == []


async def test_a_hurried_stop_kills_at_once(task: Task) -> None:
    """With a grace of ten minutes, which nothing else could cut short."""
    task.settings = replace(task.settings, containers=ContainerSettings(stop_grace_seconds=600))
    running = asyncio.create_task(task.run(task.step(*DEAF)))
    await task.reporter.until(ExecutorStdout, "begun")
    running.cancel()
    await task.reporter.until(StoppingContainer)
    task.stops.hurry.set()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await running

    assert task.containers == []


@pytest.mark.parametrize("seconds_left", [9.0, 0.0])
async def test_the_grace_leaves_time_to_save_what_there_is(
    task: Task, monkeypatch: pytest.MonkeyPatch, seconds_left: float
) -> None:
    """A stop with nine seconds left has no grace to give."""
    graces: list[float] = []
    stop = Engine.stop

    async def noting(engine: Engine, container: str, grace_seconds: float) -> None:
        graces.append(grace_seconds)
        await stop(engine, container, grace_seconds)

    monkeypatch.setattr(Engine, "stop", noting)
    task.settings = replace(task.settings, containers=ContainerSettings(stop_grace_seconds=600))
    running = asyncio.create_task(task.run(task.step(*DEAF)))
    await task.reporter.until(ExecutorStdout, "begun")
    task.stops.stop(Stop(StopKind.SIGNAL, "SIGTERM"), seconds_left)
    await cancelled(running)

    assert graces == [0.0]
    assert task.containers == []


async def test_an_executor_that_takes_too_long_is_stopped_and_its_last_words_are_kept(task: Task) -> None:
    task.settings = replace(task.settings, containers=ContainerSettings(timeout_seconds=1.0))
    result = await task.run(task.step(*ENDLESS, stdout="/work/out"))

    assert (result.timed_out, result.exit_code) == (True, 0)
    assert result.error == "it did not end within 1 s (--executor-timeout)"
    assert (task.workdir.root / "work/out").read_text() == "begun\nbye\n"
    assert task.reporter.messages[-3:] == ["EXECUTOR_STDOUT", "EXECUTOR_END_TIME", "EXECUTOR_EXIT_CODE"]
    assert "Stopping container" in task.reporter.messages
    assert task.containers == []


async def test_an_executor_out_of_time_that_is_deaf_is_killed(task: Task) -> None:
    limits = ContainerSettings(timeout_seconds=1.0, stop_grace_seconds=1.0)
    task.settings = replace(task.settings, containers=limits)
    result = await task.run(task.step(*DEAF))

    assert (result.timed_out, result.exit_code, result.stdout) == (True, 137, "begun\n")
    assert result.oom_killed is False


async def test_an_executor_in_time_is_left_alone(task: Task) -> None:
    task.settings = replace(task.settings, containers=ContainerSettings(timeout_seconds=600))
    result = await task.run(task.step("sh", "-c", "exit 4"))

    assert (result.timed_out, result.exit_code, result.error) == (False, 4, None)


async def test_a_command_that_can_not_be_started_is_not_out_of_time(task: Task) -> None:
    task.settings = replace(task.settings, containers=ContainerSettings(timeout_seconds=0.001))
    result = await task.run(task.step("no-such-command"))

    assert (result.timed_out, result.exit_code) == (False, 127)


async def test_a_stop_while_an_executor_is_out_of_time_is_a_stop(task: Task) -> None:
    limits = ContainerSettings(timeout_seconds=0.5, stop_grace_seconds=600)
    task.settings = replace(task.settings, containers=limits)
    running = asyncio.create_task(task.run(task.step(*DEAF)))
    await task.reporter.until(StoppingContainer)
    task.stops.hurry.set()
    await cancelled(running)

    assert [result.error for result in task.results] == ["stopped before its end"]
    assert task.containers == []
