"""A command that runs out of memory is told as that, with the limit, whatever its exit code is."""

from __future__ import annotations

import pytest

from taskrunner.containers.ending import look_at_memory
from taskrunner.containers.engine import ContainerState, Engine
from taskrunner.containers.executor import StepResult
from taskrunner.task import Resources
from tests.containers.conftest import Task

GREEDY = "x=x; while :; do x=$x$x; done"


async def run_with_16_mib(task: Task, script: str) -> StepResult:
    """Now and then the engine does not learn of a killed child, and nobody can; so it has a few tries."""
    task.resources = Resources(ram_gb=16 / 1024)
    for _ in range(10):
        result = await task.run(task.step("sh", "-c", script))
        if result.oom_killed:
            break
    return result


async def test_a_killed_child_is_told_although_the_command_got_over_it(task: Task) -> None:
    result = await run_with_16_mib(task, f"sh -c '{GREEDY}'; sleep 1; exit 0")

    assert (result.exit_code, result.oom_killed) == (0, True)
    assert result.error is not None
    assert "out of memory: the kernel killed a process at its limit of 16 MiB" in result.error
    assert "(the task's resources.ram_gb)" in result.error
    assert "its output may be short" in result.error


async def test_a_command_keeps_its_own_code_in_the_log(task: Task) -> None:
    result = await run_with_16_mib(task, f"sh -c '{GREEDY}'; sleep 1; exit 3")

    assert (result.exit_code, result.oom_killed) == (3, True)
    assert result.error is not None
    assert "short" not in result.error


async def test_a_killed_command_is_told_with_its_limit(task: Task) -> None:
    result = await run_with_16_mib(task, GREEDY)

    assert (result.exit_code, result.oom_killed) == (137, True)
    assert result.error is not None
    assert "its limit of 16 MiB" in result.error


async def test_a_sigkill_that_nobody_explains_is_likely_that(task: Task) -> None:
    task.resources = Resources(ram_gb=16 / 1024)
    result = await task.run(task.step("sh", "-c", "sh -c 'kill -9 $$'; exit $?"))

    assert (result.exit_code, result.oom_killed) == (137, False)
    assert result.error is not None
    assert "out of memory is the likeliest cause, at its limit of 16 MiB" in result.error


async def test_without_a_limit_a_sigkill_is_just_that(task: Task) -> None:
    result = await task.run(task.step("sh", "-c", "exit 137"))

    assert (result.exit_code, result.oom_killed, result.error) == (137, False, None)


async def test_an_engine_that_learns_of_it_late_is_asked_again(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[ContainerState] = []
    inspect = Engine.inspect

    async def learning(engine: Engine, container: str) -> ContainerState:
        state = await inspect(engine, container)
        looks.append(state)
        if len(looks) == 3:
            object.__setattr__(state, "oom_killed", True)
        return state

    container = await task.engine.create(f"{task.task_id}-0", {"Image": task.image, "Cmd": ["true"]})
    try:
        monkeypatch.setattr(Engine, "inspect", learning)
        memory = await look_at_memory(task.engine, container, 137, "the job's")
    finally:
        await task.engine.remove(container)

    assert memory.killed
    assert len(looks) == 3
    assert "the limit of the Docker host's or the job's memory" in str(memory.error)


async def test_a_container_that_somebody_removed_is_told_as_that(task: Task) -> None:
    memory = await look_at_memory(task.engine, f"{task.task_id}-gone", 137, "")

    assert (memory.killed, memory.error) == (False, "somebody removed its container")
