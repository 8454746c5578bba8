"""What a person types, and what they get to see."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import environment, typed

TASK = '{"executors": [{"image": "busybox", "command": ["true"]}]}'


def loaded_by(code: str) -> set[str]:

    script = f"import sys; {code}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})), file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    return set(ended.stderr.split())


@pytest.mark.parametrize("words", [["run"], ["stage-in"], ["storage"], ["storage", "get"]])
def test_help_loads_no_aws_docker_or_http_library(words: list[str]) -> None:
    help_typed = f"from taskrunner.cli import command; command({[*words, '--help']})"
    heavy = {
        "aioboto3",
        "aiobotocore",
        "botocore",
        "boto3",
        "awscrt",
        "aiodocker",
        "aiohttp",
        "urllib3",
        "pydantic",
    }
    heavy |= {"structlog", "rich", "stamina"}
    assert not loaded_by(help_typed) & heavy


def test_a_hello_world_loads_no_aws_library() -> None:
    assert not loaded_by("import taskrunner.runner, taskrunner.cli.telling") & {
        "aioboto3",
        "botocore",
        "awscrt",
        "rich",
    }


def test_validate_says_that_a_good_document_is_good() -> None:
    assert typed("validate", "-", stdin=TASK) == (0, "", "the task document is valid\n")


def test_validate_lists_every_mistake_with_its_place() -> None:
    document = json.dumps({"inputs": [{"path": "relative"}], "executors": [{"image": "", "command": []}]})
    exit_code, stdout, stderr = typed("validate", "-", stdin=document)
    assert (exit_code, stdout) == (65, "")
    places = ("inputs[0].path", "inputs[0].url", "executors[0].image", "executors[0].command")
    assert [place for place in places if place not in stderr] == []


def test_validate_warns_of_fields_that_tes_does_not_know() -> None:
    exit_code, _, stderr = typed("validate", "-", stdin=TASK.replace("{", '{"x_y": 1, ', 1))
    assert (exit_code, "x_y" in stderr) == (0, True)


def test_plan_prints_json_and_touches_nothing(tmp_path: Path) -> None:
    exit_code, stdout, _ = typed("plan", "-", "--work-dir", tmp_path / "work", stdin=TASK)
    plan = json.loads(stdout)
    assert (exit_code, plan["executors"][0]["command"]) == (0, ["true"])
    assert not (tmp_path / "work").exists()


def test_a_local_url_that_is_not_allowed_names_the_option_that_allows_it(tmp_path: Path) -> None:
    document = json.dumps({**json.loads(TASK), "inputs": [{"url": "/etc/passwd", "path": "/data/x"}]})
    exit_code, _, stderr = typed("validate", "-", stdin=document)
    assert (exit_code, "--allow-dir" in stderr) == (77, True)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["run"], 64, "TASK"),
        (["run", "-", "--task-base64", "e30="], 64, "--task-base64"),
        (["run", "--no-such-option"], 64, "--no-such-option"),
        (["no-such-command"], 64, "no-such-command"),
        (["run", "/no/such/task.json"], 66, "/no/such/task.json"),
        (["run", "gs://bucket/task.json"], 64, "gs://bucket/task.json"),
        (["run", "--task-base64", "%%%"], 65, "base64"),
        (["run", "-", "--s3-kms-key-id", "k"], 64, "--s3-sse"),
        (["run", "-", "--log-update-seconds", "-1"], 64, "log-update-seconds"),
        (["run", "-", "--host-path", "a=b"], 64, "RUNNER=HOST"),
    ],
)
def test_what_is_typed_wrong_ends_with_a_sentence_and_its_code(
    arguments: list[str], exit_code: int, words: str
) -> None:
    ended, stdout, stderr = typed(*arguments)
    assert (ended, stdout, words in stderr, "Traceback" in stderr) == (exit_code, "", True, False)


def test_a_setting_may_come_from_its_variable(tmp_path: Path) -> None:
    variables = {"TASKRUNNER_WORK_DIR": str(tmp_path / "w"), "TASKRUNNER_READ_ONLY_ROOT": "false"}
    _, stdout, _ = typed("plan", "-", stdin=TASK, env=variables)
    assert json.loads(stdout)["root"].startswith(str(tmp_path / "w"))


def test_directories_in_a_variable_are_separated_as_in_path(tmp_path: Path) -> None:
    inputs = [{"url": "/a b/x", "path": "/data/x"}, {"url": "/c/y", "path": "/data/y"}]
    document = json.dumps({**json.loads(TASK), "inputs": inputs})
    exit_code, _, _ = typed("plan", "-", stdin=document, env={"TASKRUNNER_ALLOW_DIR": "/a b:/c"})
    assert exit_code == 0


def test_the_version_is_told() -> None:
    from taskrunner import __version__

    assert typed("--version") == (0, f"taskrunner, version {__version__}\n", "")


def test_closed_standard_streams_are_no_mistake_of_ours_and_nothing_else_gets_what_is_told(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    get = f"{sys.executable} -m taskrunner storage get {source} {tmp_path}/copy"
    codes = [
        subprocess.run(["sh", "-c", f"{get} {closed}"], env=environment(), timeout=60, check=False).returncode
        for closed in (">&-", ">&- 2>&- <&-", "--json >&-")
    ]
    assert (codes, (tmp_path / "copy").read_text()) == ([0, 0, 74], "content")
