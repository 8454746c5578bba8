"""Array jobs: one TASK for all children, of which each takes its own."""

import base64
import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.program import RUN_SECONDS, command, environment, typed
from tests.servers import S3Server

EXECUTORS = [{"image": "busybox", "command": ["true"]}]
JOB_ID = "1d828f65-7a4d-42e8-996d-3b900ed59dc4"


def tasks(count: int) -> list[dict[str, Any]]:
    return [{"id": f"task-{number}", "executors": EXECUTORS} for number in range(count)]


def child(index: int, **more: str) -> dict[str, str]:
    return {
        "AWS_BATCH_JOB_ID": f"{JOB_ID}:{index}",
        "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
        "AWS_BATCH_JOB_ARRAY_SIZE": "3",
        **more,
    }


def planned(*arguments: str | Path, **more: Any) -> str:
    """The id of the task that was planned."""
    exit_code, stdout, stderr = typed("plan", *arguments, **more)
    assert exit_code == 0, stderr
    return str(json.loads(stdout)["id"])


def as_list(directory: Path) -> str:
    path = directory / "tasks.json"
    path.write_text(json.dumps(tasks(3), indent=2))
    return str(path)


def as_lines(directory: Path) -> str:
    path = directory / "tasks.jsonl"
    path.write_text("".join(f"{json.dumps(task)}\n" for task in tasks(3)))
    return str(path)


def as_directory(directory: Path) -> str:
    """With names whose byte order is that of the tasks, and neighbours that are none."""
    for name, task in zip(("10.json", "9.json", "a é.json"), tasks(3), strict=True):
        (directory / name).write_text(json.dumps(task))
    (directory / "0.txt").write_text("no task")
    (directory / ".0.json").write_text("hidden")
    (directory / "00.json").mkdir()
    (directory / "00.json/0.json").write_text("further down")
    return str(directory)


def as_file_url(directory: Path) -> str:
    return f"file://{as_directory(directory)}/"


SHAPES = [as_list, as_lines, as_directory, as_file_url]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_index_of_the_child_picks_its_task(tmp_path: Path, shape: Callable[[Path], str]) -> None:
    source = shape(tmp_path)
    assert [planned(source, env=child(index)) for index in (0, 2)] == ["task-0", "task-2"]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_index_out_of_range_ends_with_64(tmp_path: Path, shape: Callable[[Path], str]) -> None:
    exit_code, _, stderr = typed("validate", shape(tmp_path), env=child(3))
    assert (exit_code, "holds 3 tasks: expected an index from 0 to 2" in stderr) == (64, True)


@pytest.mark.parametrize("shape", SHAPES)
def test_many_tasks_without_an_index_end_with_64(tmp_path: Path, shape: Callable[[Path], str]) -> None:
    exit_code, _, stderr = typed("validate", shape(tmp_path))
    assert (exit_code, "holds 3 tasks" in stderr, "AWS_BATCH_JOB_ARRAY_INDEX" in stderr) == (64, True, True)


def test_tasks_may_come_on_standard_input_or_the_command_line() -> None:
    document = json.dumps(tasks(3))
    packed = base64.b64encode(gzip.compress(document.encode())).decode()
    assert planned("-", stdin=document, env=child(1)) == "task-1"
    assert planned("--task-base64", packed, env=child(2)) == "task-2"


def test_a_single_task_runs_whatever_the_index() -> None:
    assert planned("-", stdin=json.dumps(tasks(1)[0]), env=child(2)) == "task-0"


def test_tasks_right_below_an_s3_prefix_are_picked_in_byte_order(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    names = ("p/10.json", "p/9.json", "p/a é.json")
    for name, task in zip(names, tasks(3), strict=True):
        s3.client().put_object(Bucket=bucket, Key=name, Body=json.dumps(task).encode())
    for name in ("p/0.txt", "p/.0.json", "p/00/0.json", "pp/0.json"):
        s3.client().put_object(Bucket=bucket, Key=name, Body=b"no task")
    env = s3.environment()
    assert [planned(f"s3://{bucket}/p/", env={**env, **child(index)}) for index in (0, 1, 2)] == [
        "task-0",
        "task-1",
        "task-2",
    ]
    exit_code, _, stderr = typed("validate", f"s3://{bucket}/p/", env={**env, **child(3)})
    assert (exit_code, "holds 3 tasks" in stderr) == (64, True)
    exit_code, _, stderr = typed("validate", f"s3://{bucket}/none/", env={**env, **child(0)})
    assert (exit_code, f"no task in s3://{bucket}/none/ (*.json)" in stderr) == (66, True)


def test_a_list_in_s3_is_one_too(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.client().put_object(Bucket=bucket, Key="tasks.json", Body=json.dumps(tasks(3)).encode())
    assert planned(f"s3://{bucket}/tasks.json", env={**s3.environment(), **child(1)}) == "task-1"


def test_a_directory_without_tasks_ends_with_66(tmp_path: Path) -> None:
    exit_code, _, stderr = typed("validate", tmp_path, env=child(0))
    assert (exit_code, f"no task in {tmp_path} (*.json)" in stderr) == (66, True)


def test_mistakes_say_in_which_of_the_tasks_they_are(tmp_path: Path) -> None:
    bad = {"executors": [{"image": "", "command": ["true"]}]}
    lines = tmp_path / "tasks.jsonl"
    lines.write_text(f"{json.dumps(tasks(1)[0])}\n{{nonsense\n{json.dumps(bad)}\n")
    exit_code, _, stderr = typed("validate", lines, env=child(2))
    assert (exit_code, f"line 3 of {lines} has 1 mistake:\n  executors[0].image: " in stderr) == (65, True)
    exit_code, _, stderr = typed("validate", lines, env=child(1))
    assert (exit_code, "line 2, column 2: expected a name" in stderr) == (65, True)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/b.json").write_text(json.dumps([bad]))
    exit_code, _, stderr = typed("validate", tmp_path / "dir", env=child(0))
    assert (
        exit_code,
        f"{tmp_path}/dir/b.json has 1 mistake:\n  expected an object, got a list" in stderr,
    ) == (
        65,
        True,
    )


def test_a_task_without_an_id_is_named_after_its_job() -> None:
    document = json.dumps({"executors": EXECUTORS})
    assert planned("-", stdin=document, env=child(2)) == f"{JOB_ID}-2"


def test_staging_by_hand_picks_as_a_run_does_and_finds_its_directory_again(tmp_path: Path) -> None:
    document = [
        {
            "inputs": [{"path": "/in/x", "url": f"{tmp_path}/in-{{array_index}}"}],
            "outputs": [{"path": "/in/x", "url": f"{tmp_path}/out-{number}"}],
            "executors": EXECUTORS,
        }
        for number in range(2)
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(document))
    (tmp_path / "in-1").write_text("1")
    arguments = (
        tmp_path / "tasks.json",
        "--work-dir",
        tmp_path / "work",
        "--allow-dir",
        tmp_path,
        "--fill-in-urls",
    )
    exit_code, stdout, stderr = typed("stage-in", *arguments, env=child(1, AWS_BATCH_JOB_ATTEMPT="3"))
    assert (exit_code, stdout) == (0, f"{tmp_path}/work/{JOB_ID}-1\n")
    assert {json.loads(line)["attempt"] for line in stderr.splitlines()} == {2}
    exit_code, _, stderr = typed("stage-out", *arguments, env=child(1))
    assert (exit_code, (tmp_path / "out-1").read_text()) == (0, "1"), stderr


FILLED = {
    "inputs": [{"path": "/in/x", "url": "s3://in/{array_index}"}],
    "outputs": [{"path": "/out/x", "url": "s3://out/{job_id}/{attempt}/{other}"}],
    "executors": EXECUTORS,
}


def test_placeholders_in_a_tasks_urls_are_filled_in_where_the_operator_wants_it() -> None:
    env = child(2, AWS_BATCH_JOB_ATTEMPT="3", TASKRUNNER_FILL_IN_URLS="true")
    exit_code, stdout, _ = typed("plan", "-", stdin=json.dumps(FILLED), env=env)
    plan = json.loads(stdout)
    assert exit_code == 0
    assert plan["downloads"][0]["url"] == "s3://in/2"
    assert plan["uploads"][0]["url"] == f"s3://out/{JOB_ID}:2/3/{{other}}"


def test_placeholders_in_a_tasks_urls_are_left_alone_by_default() -> None:
    exit_code, stdout, _ = typed("plan", "-", stdin=json.dumps(FILLED), env=child(2))
    assert (exit_code, json.loads(stdout)["downloads"][0]["url"]) == (0, "s3://in/{array_index}")


def test_a_placeholder_without_a_value_ends_with_64() -> None:
    exit_code, _, stderr = typed("validate", "-", "--fill-in-urls", stdin=json.dumps(FILLED))
    assert (exit_code, "inputs[0].url" in stderr, "AWS_BATCH_JOB_ARRAY_INDEX" in stderr) == (64, True, True)


def test_rules_look_at_urls_as_they_are_filled_in() -> None:
    outputs = [{"path": f"/out/{url}", "url": f"s3://out/{url}"} for url in ("{attempt}", "1")]
    document = json.dumps({"outputs": outputs, "executors": EXECUTORS})
    env = child(0, AWS_BATCH_JOB_ATTEMPT="1")
    exit_code, _, stderr = typed("validate", "-", "--fill-in-urls", stdin=document, env=env)
    assert (exit_code, "outputs[1].url: expected a URL of its own" in stderr) == (65, True)


def typed_as_nobody_special(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and standard error of a command line for which permissions count, although root types it."""
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    ended = subprocess.run(
        [*plain, *command(*arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=RUN_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_what_may_not_be_listed_searched_or_read_ends_with_77(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/task.json").write_text("{}")
    (tmp_path / "closed").chmod(0)
    for source in (tmp_path / "closed", tmp_path / "closed/task.json"):
        exit_code, stderr = typed_as_nobody_special("validate", source)
        assert (exit_code, f"{source} may not be read: Permission denied" in stderr) == (77, True)


def test_a_name_that_is_too_long_ends_with_74() -> None:
    exit_code, _, stderr = typed("validate", "x" * 300)
    assert (exit_code, "File name too long" in stderr) == (74, True)


def test_a_broken_link_is_the_trouble_of_its_own_child_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("a.json")
    (tmp_path / "b.json").symlink_to("gone")
    (tmp_path / "c.json").write_text(json.dumps(tasks(1)[0]))
    assert planned(tmp_path, env=child(2)) == "task-0"
    assert [typed("validate", tmp_path, env=child(index))[0] for index in (0, 1)] == [74, 66]


@pytest.mark.parametrize("index", [0, 2])
def test_a_task_that_is_alone_runs_whatever_the_index(tmp_path: Path, index: int) -> None:
    [task] = tasks(1)
    (tmp_path / "task.json").write_text(json.dumps(task))
    assert planned(tmp_path, env=child(index)) == "task-0"
    for document in (json.dumps([task]), f"\n{json.dumps(task)}\n\n"):
        assert planned("-", stdin=document, env=child(index)) == "task-0"


@pytest.mark.parametrize("broken", ["xx", "{", "[]", '{"executors" 1}', '"'])
def test_a_line_that_is_no_json_is_the_trouble_of_its_own_child_alone(broken: str) -> None:
    first, last = (json.dumps(task) for task in tasks(2))
    document = f"{first}\n{broken}\n{last}\n"
    assert [planned("-", stdin=document, env=child(index)) for index in (0, 2)] == ["task-0", "task-1"]
    assert typed("validate", "-", stdin=document, env=child(1))[0] == 65


def test_a_first_line_that_is_no_json_is_the_trouble_of_its_own_child_alone() -> None:
    document = f'{{"executors" 1}}\n{json.dumps(tasks(1)[0])}\n'
    assert planned("-", stdin=document, env=child(1)) == "task-0"
    assert typed("validate", "-", stdin=document, env=child(0))[0] == 65


def test_a_byte_order_mark_on_a_line_of_its_own_is_no_task() -> None:
    document = "\ufeff\n" + "".join(f"{json.dumps(task)}\n" for task in tasks(3))
    assert [planned("-", stdin=document, env=child(index)) for index in (0, 2)] == ["task-0", "task-2"]


def test_a_task_over_many_lines_is_a_single_one() -> None:
    document = (
        '{"executors": [{"image": "busybox", "command": ["true"]}], "tags": {"a": "b"}\n, "id": "one"\n}\n'
    )
    assert planned("-", stdin=document, env=child(2)) == "one"
