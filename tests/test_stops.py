"""Whatever stops a task, what it has made is saved in the time that is left, and it says why it ended."""

import json
import subprocess
from pathlib import Path
from signal import Signals
from typing import Any
from uuid import uuid4

import pytest

from tests.engine import containers_of
from tests.job import started
from tests.program import command, environment, run
from tests.servers import S3Server, slow_proxy


def shell(image: str, script: str, **more: Any) -> dict[str, Any]:
    return {"image": image, "command": ["sh", "-c", script], **more}


def left(tmp_path: Path) -> list[str]:
    work = tmp_path / "work"
    return sorted(path.name for path in work.iterdir()) if work.exists() else []


def result_of(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "result.json").read_text())  # type: ignore[no-any-return]


ENDLESS = "trap 'echo stopping; exit 0' TERM; echo half > /out/half; echo begun; while :; do sleep 1; done"


def test_a_stopped_task_leaves_no_container_and_no_file_and_says_so(
    tmp_path: Path, busybox_image: str
) -> None:
    task = {
        "executors": [
            shell(busybox_image, "trap 'echo stopping; exit 0' TERM; echo begun; while :; do sleep 1; done")
        ]
    }
    ended = run(task, tmp_path, "--result", tmp_path / "result.json", stop_after="EXECUTOR_STDOUT")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (ended.exit_code, ended.states[-1], result["state"]) == (75, "CANCELED", "CANCELED")
    assert "SIGTERM" in ended.fields("System error", "error")[0]
    assert ended.fields("EXECUTOR_STDOUT", "stdout")[-1] == "begun\nstopping\n"
    assert result["logs"][0]["logs"][0]["stdout"] == "begun\nstopping\n"
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_an_upload_that_has_no_time_left_leaves_no_upload_open(
    signal_name: str, tmp_path: Path, moto: S3Server, busybox_image: str
) -> None:
    bucket = moto.make_bucket()
    with slow_proxy(moto.url, bytes_per_second=2_000_000) as url:
        task = {
            "executors": [shell(busybox_image, "dd if=/dev/zero of=/out/big bs=1M count=40 2>&1")],
            "outputs": [{"url": f"s3://{bucket}/big", "path": "/out/big"}],
        }
        env = {"AWS_ENDPOINT_URL": url, "TASKRUNNER_STOP_TIMEOUT": "8"}
        ended = run(task, tmp_path, env=env, stop_after="upload started", stop_signal=Signals[signal_name])
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")
    assert ended.fields("outputs not saved", "error") == ["there was no time left"]
    assert signal_name in ended.fields("System error", "error")[0]
    assert moto.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert moto.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


def test_a_stopped_download_keeps_what_another_attempt_can_use_and_never_starts_an_executor(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    s3.client().put_object(Bucket=bucket, Key="big", Body=bytes(20_000_000))
    with slow_proxy(s3.url, bytes_per_second=1_000_000) as url:
        task = {
            "inputs": [{"url": f"s3://{bucket}/big", "path": "/data/big"}],
            "executors": [shell(busybox_image, "true")],
        }
        ended = run(task, tmp_path, env={"AWS_ENDPOINT_URL": url}, stop_after="download started")
    assert (ended.exit_code, ended.states) == (75, ["INITIALIZING", "CANCELED"])
    assert left(tmp_path) == [f".{ended.task_id}"]
    kept = sorted(path.suffix for path in (tmp_path / "work" / f".{ended.task_id}/inputs").iterdir())
    assert kept == ["", ".journal"]


def test_a_signal_after_the_verdict_changes_nothing(tmp_path: Path, s3: S3Server, busybox_image: str) -> None:
    bucket = s3.make_bucket()
    with slow_proxy(s3.url, bytes_per_second=20_000) as url:
        task = {"executors": [shell(busybox_image, "true")], "description": "d" * 30_000}
        options = ["--result", f"s3://{bucket}/result.json"]
        ended = run(task, tmp_path, *options, env={"AWS_ENDPOINT_URL": url}, stop_after="TASK_END_TIME")
    assert (ended.exit_code, ended.states[-1], left(tmp_path)) == (0, "COMPLETE", [])
    result = s3.client().get_object(Bucket=bucket, Key="result.json")["Body"].read()
    assert json.loads(result)["state"] == "COMPLETE"


def test_a_runner_that_waits_for_standard_input_can_be_stopped(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    process = subprocess.Popen(
        command("run", "-", "--result", result),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"PYTHONASYNCIODEBUG": "0"}),
        text=True,
    )
    with process:
        while not stops_are_heard(process.pid):
            assert process.poll() is None
        process.send_signal(Signals.SIGTERM)
        assert process.wait(timeout=30) == 75
        assert "stopped by a signal before the task began" in (
            process.stderr.read() if process.stderr else ""
        )
    assert json.loads(result.read_text())["state"] == "CANCELED"


def stops_are_heard(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (Signals.SIGTERM - 1) & 1)


def test_a_stopped_task_saves_what_its_executors_made_so_far(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    task = {
        "executors": [shell(busybox_image, ENDLESS)],
        "outputs": [
            {"url": f"s3://{bucket}/half", "path": "/out/half"},
            {"url": f"s3://{bucket}/whole", "path": "/out/whole"},
        ],
    }
    ended = run(task, tmp_path, "--result", tmp_path / "result.json", stop_after="EXECUTOR_STDOUT")
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")
    assert ended.fields("task stopping", "reason") == ["SIGTERM"]
    assert s3.client().get_object(Bucket=bucket, Key="half")["Body"].read() == b"half\n"
    assert ended.fields("output missing", "path") == ["/out/whole"]
    assert [one["url"] for one in result_of(tmp_path)["logs"][0]["outputs"]] == [f"s3://{bucket}/half"]
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


def test_a_finished_task_that_is_stopped_while_uploading_goes_on_and_is_complete(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    with slow_proxy(s3.url, bytes_per_second=4_000_000) as url:
        task = {
            "executors": [shell(busybox_image, "dd if=/dev/zero of=/out/big bs=1M count=8 2>&1")],
            "outputs": [{"url": f"s3://{bucket}/big", "path": "/out/big"}],
        }
        ended = run(task, tmp_path, env={"AWS_ENDPOINT_URL": url}, stop_after="upload started")
    assert ended.fields("task stopping", "reason") == ["SIGTERM"]
    assert (ended.exit_code, ended.states[-1]) == (0, "COMPLETE")
    assert s3.client().head_object(Bucket=bucket, Key="big")["ContentLength"] == 8 << 20


def test_a_stop_after_the_last_executors_end_breaks_nothing_off(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    task = {
        "executors": [shell(busybox_image, "echo whole > /out/whole")],
        "outputs": [{"url": f"s3://{bucket}/whole", "path": "/out/whole"}],
    }
    ended = run(task, tmp_path, stop_after="EXECUTOR_EXIT_CODE")
    assert (ended.exit_code, ended.states[-1]) == (0, "COMPLETE")
    assert s3.client().get_object(Bucket=bucket, Key="whole")["Body"].read() == b"whole\n"


def test_a_stop_after_an_executor_failed_does_not_hide_that(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    with slow_proxy(s3.url, bytes_per_second=2_000_000) as url:
        task = {
            "executors": [shell(busybox_image, "dd if=/dev/zero of=/out/big bs=1M count=40 2>&1; exit 4")],
            "outputs": [{"url": f"s3://{bucket}/big", "path": "/out/big"}],
        }
        env = {"AWS_ENDPOINT_URL": url, "TASKRUNNER_STOP_TIMEOUT": "8"}
        ended = run(task, tmp_path, env=env, stop_after="upload started")
    assert (ended.exit_code, ended.states[-1]) == (4, "EXECUTOR_ERROR")
    assert ended.fields("outputs not saved", "error") == ["there was no time left"]
    assert s3.client().list_objects_v2(Bucket=bucket).get("Contents", []) == []


def test_a_task_that_takes_too_long_is_stopped_and_what_it_made_is_saved(
    tmp_path: Path, busybox_image: str
) -> None:
    task = {
        "executors": [shell(busybox_image, ENDLESS)],
        "outputs": [{"url": f"{tmp_path}/half", "path": "/out/half"}],
    }
    options: list[str | Path] = [
        "--allow-dir",
        tmp_path,
        "--timeout",
        "6s",
        "--result",
        tmp_path / "result.json",
    ]
    ended = run(task, tmp_path, *options)
    assert (ended.exit_code, ended.states[-1]) == (124, "SYSTEM_ERROR")
    assert "--timeout, 6 s" in ended.fields("System error", "error")[0]
    assert (tmp_path / "half").read_text() == "half\n"
    assert result_of(tmp_path)["logs"][0]["logs"][0]["stdout"] == "begun\nstopping\n"
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


def test_an_executor_that_takes_too_long_is_stopped_and_what_it_made_is_saved(
    tmp_path: Path, busybox_image: str
) -> None:
    task = {
        "executors": [shell(busybox_image, ENDLESS), shell(busybox_image, "echo never")],
        "outputs": [{"url": f"{tmp_path}/half", "path": "/out/half"}],
    }
    options: list[str | Path] = [
        "--allow-dir",
        tmp_path,
        "--executor-timeout",
        "2",
        "--result",
        tmp_path / "result.json",
    ]
    ended = run(task, tmp_path, *options)
    assert (ended.exit_code, ended.states[-1]) == (124, "EXECUTOR_ERROR")
    assert "--executor-timeout" in ended.fields("Exec error", "error")[0]
    assert (tmp_path / "half").read_text() == "half\n"
    assert [log["stdout"] for log in result_of(tmp_path)["logs"][0]["logs"]] == ["begun\nstopping\n"]
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


def test_an_executor_that_may_fail_may_also_take_too_long(tmp_path: Path, busybox_image: str) -> None:
    executors = [shell(busybox_image, "exec sleep 60", ignore_error=True), shell(busybox_image, "echo next")]
    options = ["--executor-timeout", "1s", "--stop-grace-seconds", "0"]
    ended = run({"executors": executors}, tmp_path, *options)
    assert (ended.exit_code, ended.states[-1]) == (0, "COMPLETE")
    assert ended.fields("EXECUTOR_STDOUT", "stdout") == ["next\n"]


def test_a_shell_that_ignores_the_stop_signal_is_killed_in_time_and_its_outputs_are_saved(
    tmp_path: Path, busybox_image: str
) -> None:
    task = {
        "executors": [shell(busybox_image, "echo half > /out/half; echo begun; sleep 600; true")],
        "outputs": [{"url": f"{tmp_path}/half", "path": "/out/half"}],
    }
    options: list[str | Path] = ["--allow-dir", tmp_path, "--stop-timeout", "10"]
    ended = run(task, tmp_path, *options, stop_after="EXECUTOR_STDOUT")
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")
    assert (tmp_path / "half").read_text() == "half\n"
    assert containers_of(ended.task_id) == []


def test_under_init_a_shell_hears_the_stop_signal(tmp_path: Path, busybox_image: str) -> None:
    task = {"executors": [shell(busybox_image, "echo begun; sleep 600; true")]}
    ended = run(task, tmp_path, "--init", "--stop-grace-seconds", "1h", stop_after="EXECUTOR_STDOUT")
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")


def test_a_stopped_job_container_saves_what_its_executors_made_so_far(
    tmp_path: Path, runner_image: str, busybox_image: str
) -> None:
    task = {
        "executors": [shell(busybox_image, ENDLESS)],
        "outputs": [{"url": "/scratch/saved/half", "path": "/out/half"}],
    }
    options = ("--allow-dir", "/scratch", "--result", "/scratch/result.json")
    with started(runner_image, task, tmp_path, *options) as job:
        job.until("EXECUTOR_STDOUT", "begun")
        job.stop()
        ended = job.ended()
        assert job.children() == []
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")
    assert (tmp_path / "host/saved/half").read_text() == "half\n"
    assert json.loads((tmp_path / "host/result.json").read_text())["state"] == "CANCELED"


def test_a_second_signal_waits_for_no_grace(tmp_path: Path, runner_image: str, busybox_image: str) -> None:
    task = {"executors": [shell(busybox_image, "echo begun; sleep 3600; true")]}
    with started(runner_image, task, tmp_path, "--stop-grace-seconds", "1h", "--stop-timeout", "2h") as job:
        job.until("EXECUTOR_STDOUT", "begun")
        job.kill("SIGTERM")
        job.until("Stopping container")
        job.kill("SIGTERM")
        ended = job.ended()
    assert (ended.exit_code, ended.states[-1]) == (75, "CANCELED")
    assert ended.fields("task stopping", "reason") == ["SIGTERM", "SIGTERM"]


def test_two_live_runners_of_one_task_both_finish(tmp_path: Path, busybox_image: str) -> None:
    """Each waits, in a directory that both see, until the other's executor runs as well."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    wait = 'touch "/meeting/$HOSTNAME"; while [ "$(ls /meeting | wc -l)" -lt 2 ]; do usleep 50000; done'
    document = tmp_path / "task.json"
    task_id = f"test-{uuid4().hex[:12]}"
    document.write_text(json.dumps({"id": task_id, "executors": [shell(busybox_image, wait)]}))
    options: list[str | Path] = ["--work-dir", tmp_path / "work", "--mount", f"{meeting}:/meeting:rw"]
    runners = [
        subprocess.Popen(
            command("run", document, *options), env=environment(), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [runner.communicate(timeout=120)[1] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], told
    assert len(list(meeting.iterdir())) == 2
    assert (left(tmp_path), containers_of(task_id)) == ([], [])
