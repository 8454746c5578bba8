"""The engine itself is restarted while an executor runs: what goes on is followed, what ended is not believed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from taskrunner.containers.engine import Engine
from taskrunner.errors import TransientError
from taskrunner.events import EngineBack, EngineLost, ExecutorStdout
from taskrunner.settings import ContainerSettings, Network
from tests.containers.conftest import Task
from tests.second_engine import SecondEngine, second_engine

QUIET = "while [ ! -e /work/go ]; do usleep 20000; done; "


@pytest.fixture(scope="module")
def second(busybox_image: str) -> Iterator[SecondEngine]:
    with second_engine(busybox_image) as second:
        yield second


@pytest_asyncio.fixture
async def engine(second: SecondEngine) -> AsyncIterator[Engine]:
    """The engine as all of these tests see it: the one that they may end."""
    async with Engine(second.host) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _tell_at_once_without_a_network(task: Task) -> None:
    task.with_logs(update_seconds=0.01)
    containers = ContainerSettings(stop_grace_seconds=1.0, network=Network.NONE)
    task.settings = replace(task.settings, containers=containers)


def go(task: Task) -> None:
    (task.workdir.root / "work/go").touch()


def text(task: Task, name: str) -> str:
    return Path(task.workdir.root / "work" / name).read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_executor_that_outlives_its_engine_loses_no_line_and_no_code(
    task: Task, second: SecondEngine, number: signal.Signals
) -> None:
    script = (
        f"seq 1 1000; printf unfinished; {QUIET}echo ', finished'; echo in the dark >&2; "
        "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo later $i; usleep 20000; done; exit 3"
    )
    step = task.step("sh", "-c", script, stdout="/work/out", stderr="/work/err")
    running = asyncio.create_task(task.run(step))
    await task.reporter.until(ExecutorStdout, "unfinished")
    await asyncio.to_thread(second.end, number)
    go(task)
    await asyncio.to_thread(second.start)
    result = await running

    assert (result.exit_code, result.error) == (3, None)
    before = "".join(f"{line}\n" for line in range(1, 1001))
    after = "".join(f"later {line}\n" for line in range(1, 151))
    assert text(task, "out") == before + "unfinished, finished\n" + after
    assert text(task, "err") == "in the dark\n"
    assert task.reporter.of(EngineLost)
    assert task.reporter.of(EngineBack)


async def test_an_executor_that_ended_without_its_engine_is_worth_another_attempt(
    task: Task, second: SecondEngine
) -> None:
    running = asyncio.create_task(task.run(task.step("sh", "-c", f"echo begun; {QUIET}echo lost; exit 0")))
    await task.reporter.until(ExecutorStdout, "begun")
    await asyncio.to_thread(second.end)
    go(task)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(second.start)

    with pytest.raises(TransientError, match="the executor ended meanwhile"):
        await running


async def test_an_executor_that_its_engine_ended_did_not_fail(task: Task, second: SecondEngine) -> None:
    second.end()
    second.start(live_restore=False)
    script = f"trap 'exit 143' TERM; echo begun; {QUIET}"
    running = asyncio.create_task(task.run(task.step("sh", "-c", script)))
    await task.reporter.until(ExecutorStdout, "begun")
    await asyncio.to_thread(second.end)
    await asyncio.to_thread(second.start)

    with pytest.raises(TransientError, match=r"the engine was restarted.*exit code 143.*live-restore"):
        await running


async def test_a_stdin_that_the_engine_still_held_is_never_taken_for_whole(
    task: Task, second: SecondEngine
) -> None:
    (task.workdir.root / "work/in").write_text("x" * 200_000)
    script = f"echo begun; {QUIET}wc -c"
    running = asyncio.create_task(task.run(task.step("sh", "-c", script, stdin="/work/in")))
    await task.reporter.until(ExecutorStdout, "begun")
    await asyncio.to_thread(second.end)
    await asyncio.to_thread(second.start)

    with pytest.raises(TransientError, match="stdin may have been cut off"):
        await running
