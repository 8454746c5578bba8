"""One executor in a real container, from its first event to its last."""

from __future__ import annotations

import pytest

from taskrunner.events import (
    ContainerMetadata,
    ExecutorExitCode,
    ExecutorStderr,
    ExecutorStdout,
    RunningCommand,
)
from tests.containers.conftest import Task


async def test_the_events_of_a_hello_world_come_in_funnels_order(task: Task) -> None:
    result = await task.run(task.step("echo", "hello world"))

    assert task.reporter.messages == [
        "EXECUTOR_START_TIME",
        "Running command",
        "EXECUTOR_STDOUT",
        "EXECUTOR_END_TIME",
        "EXECUTOR_EXIT_CODE",
    ]
    assert task.reporter.last(ExecutorStdout) == {"stdout": "hello world\n"}
    assert str(task.reporter.last(RunningCommand)["cmd"]).endswith(f"{task.image} echo hello world")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "hello world\n", "")
    assert task.results == [result]
    assert task.containers == []


async def test_a_failing_command_gives_its_own_code(task: Task) -> None:
    result = await task.run(task.step("sh", "-c", "echo oh no >&2; exit 3"))

    assert (result.exit_code, result.stderr, result.error) == (3, "oh no\n", None)
    assert task.reporter.last(ExecutorExitCode) == {"exit_code": 3}


async def test_a_silent_command_has_no_stream_event(task: Task) -> None:
    await task.run(task.step("true"))

    assert task.reporter.of(ExecutorStdout) == task.reporter.of(ExecutorStderr) == []


async def test_an_update_interval_of_0_tells_each_stream_once_at_the_end(task: Task) -> None:
    task.with_logs(update_seconds=0)
    await task.run(task.step("sh", "-c", "echo a; sleep 0.2; echo x >&2; sleep 0.2; echo b"))

    assert task.reporter.messages[2:] == [
        "EXECUTOR_STDOUT",
        "EXECUTOR_STDERR",
        "EXECUTOR_END_TIME",
        "EXECUTOR_EXIT_CODE",
    ]
    assert task.reporter.last(ExecutorStdout) == {"stdout": "a\nb\n"}
    assert task.reporter.last(ExecutorStderr) == {"stderr": "x\n"}


async def test_a_tail_of_ten_bytes_is_the_last_ten_bytes(task: Task) -> None:
    task.with_logs(tail_bytes=10)
    result = await task.run(task.step("sh", "-c", "for i in 7 8 9 10; do echo abc; echo $i; done"))

    assert result.stdout == "\n9\nabc\n10\n"
    assert task.reporter.last(ExecutorStdout) == {"stdout": "\n9\nabc\n10\n"}


async def test_a_tail_of_no_bytes_tells_nothing(task: Task) -> None:
    task.with_logs(tail_bytes=0)
    await task.run(task.step("sh", "-c", "echo out; echo err >&2"))

    assert task.reporter.of(ExecutorStdout) == task.reporter.of(ExecutorStderr) == []


async def test_a_container_is_described_once_it_has_run_three_seconds(task: Task) -> None:
    await task.run(task.step("sleep", "4"))

    told = task.reporter.last(ContainerMetadata)
    assert told["containerName"] == f"/{task.task_id}-0"
    assert len(str(told["containerID"])) == 64
    assert str(told["containerImageHash"]).startswith("sha256:")


async def test_env_workdir_and_mounts_are_as_the_step_says(task: Task) -> None:
    step = task.step(
        "sh", "-c", 'pwd; echo "$GREETING"; echo made > file', env=(("GREETING", "a b=c"),), workdir="/work"
    )
    result = await task.run(step)

    assert result.stdout == "/work\na b=c\n"
    assert (task.workdir.root / "work/file").read_text() == "made\n"


async def test_the_root_file_system_is_read_only_and_tmp_is_not(task: Task) -> None:
    result = await task.run(task.step("sh", "-c", "touch /tmp/x && touch /etc/x"))

    assert result.exit_code == 1
    assert "Read-only file system" in result.stderr


async def test_arguments_of_tens_of_kilobytes_come_through(task: Task) -> None:
    result = await task.run(task.step("sh", "-c", "echo ${#1}", "sh", "x" * 60_000))

    assert result.stdout == "60000\n"


async def test_one_argument_longer_than_linux_allows_is_explained(task: Task) -> None:
    result = await task.run(task.step("echo", "x" * 140_000))

    assert result.exit_code == 126
    assert "argument 1 of the command has 140000 bytes; Linux allows 131071" in result.stderr
    assert task.reporter.messages[-2:] == ["EXECUTOR_END_TIME", "EXECUTOR_EXIT_CODE"]


async def test_an_image_without_a_shell_runs_by_its_entry_point(task: Task, bare_image: str) -> None:
    result = await task.run(task.step("echo", "no shell", image=bare_image))

    assert (result.exit_code, result.stdout) == (0, "no shell\n")


@pytest.mark.parametrize(
    ("command", "exit_code", "words"),
    [
        (("no-such-command", "x"), 127, "executable file not found"),
        (("/no/such/file",), 127, "no such file or directory"),
        (("/tmp",), 126, "permission denied"),
    ],
)
async def test_a_command_that_cannot_be_started_is_the_executors_error(
    task: Task, command: tuple[str, ...], exit_code: int, words: str
) -> None:
    result = await task.run(task.step(*command))

    assert result.exit_code == exit_code
    assert words in str(task.reporter.last(ExecutorStderr)["stderr"])
    assert result.error is not None
    assert task.containers == []


async def test_a_mount_whose_source_is_not_on_the_host_is_explained(task: Task) -> None:
    (task.workdir.root / "work").rmdir()
    result = await task.run(task.step("true"))

    assert result.exit_code == 125
    assert "is the work directory at the same path on the Docker host?" in result.stderr
    assert not (task.workdir.root / "work").exists()
