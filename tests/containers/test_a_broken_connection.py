"""The connection to the engine breaks while an executor runs: no byte of its output and no exit code is lost."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from taskrunner.containers.engine import Engine
from taskrunner.errors import TransientError
from taskrunner.events import EngineBack, EngineLost, ExecutorStdout
from tests.containers.conftest import Task
from tests.engine_proxy import EngineProxy, engine_proxy

COUNTING = """
i=0
while [ $i -lt 400 ]; do i=$((i+1)); echo "line $i"; echo "note $i" >&2; usleep 3000; done
printf 'no newline'
exit 5
"""
QUIET = "echo begun; while [ ! -e /work/go ]; do usleep 20000; done; "


@pytest.fixture
def proxy(docker_engine: None) -> Iterator[EngineProxy]:
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory, engine_proxy(Path(directory)) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def engine(proxy: EngineProxy) -> AsyncIterator[Engine]:
    """The engine as all of these tests see it: behind the proxy."""
    async with Engine(proxy.host) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _tell_at_once(task: Task) -> None:
    task.with_logs(update_seconds=0.01)


def numbered(word: str) -> str:
    return "".join(f"{word} {number}\n" for number in range(1, 401))


async def test_output_goes_on_exactly_where_it_broke_off_as_often_as_it_does(
    task: Task, proxy: EngineProxy
) -> None:
    step = task.step("sh", "-c", COUNTING, stdout="/work/out", stderr="/work/err")
    running = asyncio.create_task(task.run(step))
    for line in (30, 130, 230):
        await task.reporter.until(ExecutorStdout, f"line {line}")
        proxy.refuse()
        proxy.cut()
        await task.reporter.until(EngineLost)
        proxy.open()
    result = await running

    assert (result.exit_code, result.error) == (5, None)
    assert (task.workdir.root / "work/out").read_text() == numbered("line") + "no newline"
    assert (task.workdir.root / "work/err").read_text() == numbered("note")
    assert len(task.reporter.of(EngineLost)) == len(task.reporter.of(EngineBack)) == 3
    assert task.reporter.last(EngineLost)["container"] == f"{task.task_id}-0"
    assert task.containers == []


@pytest.mark.parametrize("count", [1, 20_000, 100_001, 300_000])
async def test_output_still_on_its_way_when_the_container_has_ended_is_not_lost(
    task: Task, proxy: EngineProxy, count: int
) -> None:
    go = task.workdir.root / "work/go"
    running = asyncio.create_task(task.run(task.step("sh", "-c", QUIET + "seq 1 100000", stdout="/work/out")))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut_after(count)
    go.touch()
    result = await running

    assert result.exit_code == 0
    expected = "begun\n" + "".join(f"{number}\n" for number in range(1, 100_001))
    assert (task.workdir.root / "work/out").read_text() == expected
    assert task.reporter.of(EngineLost)


async def test_binary_output_and_endless_lines_are_exact(task: Task, proxy: EngineProxy) -> None:
    random_bytes = random.Random(5).randbytes(200_000)
    long_lines = b"".join(b"x" * size + b"\n" for size in (16383, 16384, 16385, 32768, 100_000)) + b"\r\n\n\r"
    (task.workdir.root / "work/in").write_bytes(random_bytes + long_lines)
    step = task.step("sh", "-c", QUIET + "cat /work/in", stdout="/work/out")
    running = asyncio.create_task(task.run(step))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut_after(50_000)
    (task.workdir.root / "work/go").touch()

    assert (await running).exit_code == 0
    assert (task.workdir.root / "work/out").read_bytes() == b"begun\n" + random_bytes + long_lines
    assert task.reporter.of(EngineLost)


async def test_a_container_that_ends_while_the_engine_is_out_of_reach_has_its_code(
    task: Task, proxy: EngineProxy
) -> None:
    step = task.step("sh", "-c", QUIET + "echo alone; exit 7", stdout="/work/out")
    running = asyncio.create_task(task.run(step))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.refuse()
    proxy.cut()
    (task.workdir.root / "work/go").touch()
    async with Engine() as direct:
        await direct.wait(f"{task.task_id}-0")
    proxy.open()

    assert (await running).exit_code == 7
    assert (task.workdir.root / "work/out").read_text() == "begun\nalone\n"


async def test_an_endless_last_line_that_can_not_be_told_exactly_is_worth_another_attempt(
    task: Task, proxy: EngineProxy
) -> None:
    step = task.step("sh", "-c", QUIET + "head -c 20000 /dev/zero", stdout="/work/out")
    running = asyncio.create_task(task.run(step))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut()
    await task.reporter.until(EngineBack)
    (task.workdir.root / "work/go").touch()

    with pytest.raises(TransientError, match="its last line, longer than 16 KiB"):
        await running


async def test_more_output_than_the_engine_keeps_is_never_silently_shortened(
    task: Task, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.containers.following.LOG_KEPT_BYTES", 10_000)
    running = asyncio.create_task(task.run(task.step("sh", "-c", COUNTING, stdout="/work/out")))
    await task.reporter.until(ExecutorStdout, "line 100")
    proxy.cut()

    with pytest.raises(TransientError, match="longer than the engine's log of it"):
        await running
    assert task.containers == []


async def test_an_engine_that_stays_away_ends_the_task_as_worth_another_attempt(
    task: Task, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.containers.following.PATIENCE_SECONDS", 0.5)
    running = asyncio.create_task(task.run(task.step("sh", "-c", COUNTING)))
    await task.reporter.until(ExecutorStdout, "line 1")
    proxy.refuse()
    proxy.cut()
    with pytest.raises(TransientError, match=r"did not come back within 0\.5 s"):
        await running
    proxy.open()

    assert task.reporter.messages[-1] == "EXECUTOR_END_TIME"


async def test_a_stdin_that_was_cut_off_is_never_taken_for_its_end(task: Task, proxy: EngineProxy) -> None:
    (task.workdir.root / "work/in").write_bytes(b"x" * 5_000_000)
    running = asyncio.create_task(
        task.run(task.step("sh", "-c", QUIET + "wc -c", stdin="/work/in", stdout="/work/out"))
    )
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut()
    await task.reporter.until(EngineLost)
    (task.workdir.root / "work/go").touch()

    with pytest.raises(TransientError, match="stdin may have been cut off"):
        await running


async def test_a_stdin_that_was_sent_before_does_not_matter(task: Task, proxy: EngineProxy) -> None:
    (task.workdir.root / "work/in").write_text("read\n")
    running = asyncio.create_task(
        task.run(task.step("sh", "-c", "cat; " + QUIET + "echo end", stdin="/work/in", stdout="/work/out"))
    )
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut()
    await task.reporter.until(EngineBack)
    (task.workdir.root / "work/go").touch()

    assert (await running).exit_code == 0
    assert (task.workdir.root / "work/out").read_text() == "read\nbegun\nend\n"


async def test_a_stop_while_the_engine_is_away_still_stops_the_container(
    task: Task, proxy: EngineProxy
) -> None:
    running = asyncio.create_task(task.run(task.step("sh", "-c", QUIET)))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.refuse()
    proxy.cut()
    await task.reporter.until(EngineLost)
    running.cancel()
    await asyncio.sleep(0.5)
    proxy.open()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert task.containers == []


async def test_a_container_that_somebody_removed_meanwhile_is_told(task: Task, proxy: EngineProxy) -> None:
    running = asyncio.create_task(task.run(task.step("sh", "-c", QUIET)))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.refuse()
    proxy.cut()
    async with Engine() as direct:
        await direct.remove(f"{task.task_id}-0")
    proxy.open()

    with pytest.raises(TransientError, match="No such container"):
        await running


async def test_without_a_log_of_the_engines_a_break_is_worth_another_attempt(
    task: Task, proxy: EngineProxy
) -> None:
    containers = replace(task.settings.containers, engine_log=False)
    task.settings = replace(task.settings, containers=containers)
    running = asyncio.create_task(task.run(task.step("sh", "-c", QUIET)))
    await task.reporter.until(ExecutorStdout, "begun")
    proxy.cut()
    with pytest.raises(TransientError, match="no log"):
        await running
    assert task.containers == []
