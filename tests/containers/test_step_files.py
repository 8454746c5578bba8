"""An executor's stdin, stdout and stderr as files of the task's directory."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from taskrunner.errors import InputMissingError, OutputFailedError
from taskrunner.events import LogFilesFailed
from tests.containers.conftest import Task


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size_bytes: int) -> bytes:
    return random.Random(1).randbytes(size_bytes)


async def test_binary_output_is_captured_to_the_byte(task: Task) -> None:
    data = noise(5_000_000) + b"\0\n\0"
    (task.workdir.root / "work/data").write_bytes(data)
    result = await task.run(task.step("cat", "/work/data", stdout="/work/copy"))

    assert result.exit_code == 0
    assert sha256((task.workdir.root / "work/copy").read_bytes()) == sha256(data)


async def test_both_streams_go_to_their_own_files_and_into_events(task: Task) -> None:
    step = task.step("sh", "-c", "echo out; echo err >&2", stdout="/work/new/out", stderr="/work/err")
    result = await task.run(step)

    assert (task.workdir.root / "work/new/out").read_text() == result.stdout == "out\n"
    assert (task.workdir.root / "work/err").read_text() == result.stderr == "err\n"
    assert stat.S_IMODE((task.workdir.root / "work/err").stat().st_mode) == 0o666


async def test_both_streams_may_share_one_file(task: Task) -> None:
    step = task.step("sh", "-c", "echo out; sleep 0.2; echo err >&2", stdout="/work/log", stderr="/work/log")
    await task.run(step)

    assert (task.workdir.root / "work/log").read_text() == "out\nerr\n"


async def test_stdin_is_streamed_from_its_file(task: Task) -> None:
    data = noise(20_000_000)
    (task.workdir.root / "work/in").write_bytes(data)
    result = await task.run(task.step("sha256sum", stdin="/work/in"))

    assert result.stdout.split()[0] == sha256(data)
    assert (task.workdir.root / "work/in").stat().st_size == len(data)


async def test_stdin_goes_in_while_output_comes_out(task: Task) -> None:
    data = noise(5_000_000)
    (task.workdir.root / "work/in").write_bytes(data)
    await task.run(task.step("cat", stdin="/work/in", stdout="/work/out"))

    assert sha256((task.workdir.root / "work/out").read_bytes()) == sha256(data)


async def test_an_empty_stdin_ends_at_once(task: Task) -> None:
    (task.workdir.root / "work/in").touch()
    result = await task.run(task.step("wc", "-c", stdin="/work/in"))

    assert result.stdout.strip() == "0"


async def test_without_stdin_a_reader_sees_the_end_of_file(task: Task) -> None:
    result = await task.run(task.step("wc", "-c"))

    assert result.stdout.strip() == "0"


async def test_a_container_that_ignores_its_stdin_is_fine(task: Task) -> None:
    (task.workdir.root / "work/in").write_bytes(noise(20_000_000))
    result = await task.run(task.step("echo", "done", stdin="/work/in"))

    assert (result.exit_code, result.stdout) == (0, "done\n")


async def test_a_container_that_reads_only_the_head_of_its_stdin_is_fine(task: Task) -> None:
    (task.workdir.root / "work/in").write_bytes(b"first\n" + noise(20_000_000))
    result = await task.run(task.step("head", "-n", "1", stdin="/work/in"))

    assert (result.exit_code, result.stdout) == (0, "first\n")


async def test_stdin_and_stdout_may_be_one_path(task: Task) -> None:
    (task.workdir.root / "work/x").write_text("abc\n")
    await task.run(task.step("rev", stdin="/work/x", stdout="/work/x"))

    assert (task.workdir.root / "work/x").read_text() == "cba\n"


async def test_a_missing_stdin_ends_the_step_before_its_start(task: Task) -> None:
    with pytest.raises(InputMissingError, match="/work/absent is not there"):
        await task.run(task.step("cat", stdin="/work/absent"))

    assert task.reporter.messages == ["Couldn't prepare log files"]
    assert "/work/absent" in str(task.reporter.last(LogFilesFailed)["unknown"])
    assert task.results == []


def make_fifo(place: Path) -> None:
    os.mkfifo(place)


def make_directory(place: Path) -> None:
    place.mkdir()


def make_outside_link(place: Path) -> None:
    place.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [make_fifo, make_directory, make_outside_link])
async def test_a_stdin_that_is_no_file_of_the_task_is_refused(
    task: Task, make: Callable[[Path], None]
) -> None:
    make(task.workdir.root / "work/in")
    with pytest.raises(InputMissingError, match="stdin /work/in"):
        await task.run(task.step("cat", stdin="/work/in"))


async def test_a_link_within_the_task_is_followed_for_stdin(task: Task) -> None:
    (task.workdir.root / "work/real").write_text("through a link\n")
    (task.workdir.root / "work/in").symlink_to("/work/real")
    result = await task.run(task.step("cat", stdin="/work/in"))

    assert result.stdout == "through a link\n"


async def test_a_capture_file_never_goes_through_a_link_out_of_the_task(task: Task, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (task.workdir.root / "work/out").symlink_to("../../outside")
    with pytest.raises(OutputFailedError, match="stdout can't be written to /work/out"):
        await task.run(task.step("echo", "x", stdout="/work/out"))

    assert outside.read_text() == "precious"
    assert task.reporter.messages == ["Couldn't prepare log files"]


async def test_a_capture_file_never_writes_into_another_name_of_an_old_file(
    task: Task, tmp_path: Path
) -> None:
    original = tmp_path / "original"
    original.write_text("precious")
    (task.workdir.root / "work/out").hardlink_to(original)
    await task.run(task.step("echo", "x", stdout="/work/out"))

    assert original.read_text() == "precious"
    assert (task.workdir.root / "work/out").read_text() == "x\n"


async def test_a_pipe_in_a_capture_files_place_is_replaced(task: Task) -> None:
    os.mkfifo(task.workdir.root / "work/out")
    await task.run(task.step("echo", "x", stdout="/work/out"))

    assert (task.workdir.root / "work/out").read_text() == "x\n"


async def test_why_a_container_did_not_start_stands_in_its_stderr_file(task: Task) -> None:
    await task.run(task.step("no-such-command", stderr="/work/err"))

    assert "executable file not found" in (task.workdir.root / "work/err").read_text()
