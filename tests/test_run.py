"""One task end to end by the real program, on a real engine and a real S3 server."""

import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from taskrunner.workdir import leased
from tests.engine import Registry, containers_of, remove_image
from tests.program import environment, run, typed
from tests.servers import S3Server, raw_server, read_head


def shell(image: str, script: str, **more: Any) -> dict[str, Any]:
    return {"image": image, "command": ["sh", "-c", script], **more}


def left(tmp_path: Path) -> list[str]:
    work = tmp_path / "work"
    return sorted(path.name for path in work.iterdir()) if work.exists() else []


def test_outputs_of_a_failed_executor_are_uploaded_and_its_code_is_ours(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    outputs = [
        {"url": f"s3://{bucket}/.exitcode", "path": "/out/.exitcode"},
        {"url": f"s3://{bucket}/result", "path": "/out/result"},
    ]
    task = {"executors": [shell(busybox_image, "echo 3 > /out/.exitcode; exit 3")], "outputs": outputs}
    ended = run(task, tmp_path)
    assert (ended.exit_code, ended.states[-1]) == (3, "EXECUTOR_ERROR")
    assert ended.fields("output missing", "path") == ["/out/result"]
    assert s3.client().get_object(Bucket=bucket, Key=".exitcode")["Body"].read() == b"3\n"
    assert (left(tmp_path), containers_of(ended.task_id)) == ([], [])


def test_outputs_of_a_failed_executor_can_be_skipped(tmp_path: Path, busybox_image: str) -> None:
    task = {
        "executors": [shell(busybox_image, "echo x > /out/x; exit 3")],
        "outputs": [{"url": f"{tmp_path}/x", "path": "/out/x"}],
    }
    ended = run(task, tmp_path, "--on-executor-error", "skip", "--allow-dir", tmp_path)
    assert (ended.exit_code, (tmp_path / "x").exists()) == (3, False)
    assert "upload started" not in ended.messages


def test_an_ignored_error_neither_hides_nor_spreads(tmp_path: Path, busybox_image: str) -> None:
    executors = [
        shell(busybox_image, "exit 4", ignore_error=True),
        shell(busybox_image, "echo between"),
        shell(busybox_image, "exit 5", ignore_error=True),
    ]
    ended = run({"executors": executors}, tmp_path)
    assert (ended.exit_code, ended.states[-1]) == (0, "COMPLETE")
    assert ended.fields("EXECUTOR_EXIT_CODE", "exit_code") == [4, 0, 5]


def test_a_failing_executor_ends_the_task_and_the_next_never_starts(
    tmp_path: Path, busybox_image: str
) -> None:
    ended = run({"executors": [shell(busybox_image, "exit 4"), shell(busybox_image, "true")]}, tmp_path)
    assert (ended.exit_code, ended.messages.count("EXECUTOR_START_TIME")) == (4, 1)
    assert ended.fields("Exec error", "error") == ["exit status 4"]


def test_executors_see_the_same_volumes_inputs_and_tmp(tmp_path: Path, busybox_image: str) -> None:
    task = {
        "volumes": ["/vol"],
        "inputs": [{"path": "/tmp/script.sh", "content": "#!/bin/sh\ncat /vol/x /tmp/y\n"}],
        "executors": [
            shell(busybox_image, "echo one > /vol/x; echo two > /tmp/y"),
            {"image": busybox_image, "command": ["/tmp/script.sh"]},
        ],
    }
    ended = run(task, tmp_path)
    assert (ended.exit_code, ended.fields("EXECUTOR_STDOUT", "stdout")[-1]) == (0, "one\ntwo\n")


def test_input_and_output_may_be_one_path(tmp_path: Path, s3: S3Server, busybox_image: str) -> None:
    bucket = s3.make_bucket()
    s3.client().put_object(Bucket=bucket, Key="in", Body=b"first\n")
    task = {
        "inputs": [{"url": f"s3://{bucket}/in", "path": "/work/file"}],
        "outputs": [{"url": f"s3://{bucket}/out", "path": "/work/file"}],
        "executors": [
            shell(busybox_image, "echo second >> /work/file; mv /work/file /tmp/f; mv /tmp/f /work/file")
        ],
    }
    assert run(task, tmp_path).exit_code == 0
    assert s3.client().get_object(Bucket=bucket, Key="out")["Body"].read() == b"first\nsecond\n"
    assert s3.client().get_object(Bucket=bucket, Key="in")["Body"].read() == b"first\n"


def test_a_users_local_input_is_never_changed_by_an_executor(tmp_path: Path, busybox_image: str) -> None:
    original = tmp_path / "original"
    original.write_text("precious\n")
    task = {
        "inputs": [
            {"url": f"{original}", "path": "/data/read-only"},
            {"url": f"{original}", "path": "/vol/writable"},
        ],
        "volumes": ["/vol"],
        "executors": [
            shell(busybox_image, "echo x > /vol/writable; echo x > /data/read-only", ignore_error=True)
        ],
    }
    ended = run(task, tmp_path, "--allow-dir", tmp_path)
    assert (ended.exit_code, ended.fields("EXECUTOR_EXIT_CODE", "exit_code")) == (0, [1])
    assert (original.read_text(), original.stat().st_nlink) == ("precious\n", 1)


@pytest.mark.parametrize(("script", "exit_code"), [("echo made > /x", 0), ("true", 73)])
def test_an_output_directly_under_the_root_is_made_or_missing(
    tmp_path: Path, busybox_image: str, script: str, exit_code: int
) -> None:
    task = {
        "outputs": [{"url": f"{tmp_path}/x", "path": "/x"}],
        "executors": [shell(busybox_image, script)],
    }
    ended = run(task, tmp_path, "--allow-dir", tmp_path)
    assert (ended.exit_code, (tmp_path / "x").exists()) == (exit_code, exit_code == 0)


def test_the_images_own_files_are_read_only_unless_switched(tmp_path: Path, busybox_image: str) -> None:
    task = {"executors": [shell(busybox_image, "echo x > /made-here")]}
    assert run(task, tmp_path).exit_code == 1
    assert run(task, tmp_path, "--no-read-only-root").exit_code == 0


def test_the_result_document_tells_the_whole_task(tmp_path: Path, busybox_image: str) -> None:
    task = {
        "name": "n",
        "outputs": [{"url": f"{tmp_path}/x", "path": "/out/x"}],
        "executors": [shell(busybox_image, "echo told; echo 12345 > /out/x")],
        "unheard_of": 1,
    }
    ended = run(task, tmp_path, "--allow-dir", tmp_path, "--result", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    [log] = result["logs"]
    assert (ended.exit_code, result["state"], result["id"], result["name"]) == (
        0,
        "COMPLETE",
        ended.task_id,
        "n",
    )
    assert [(one["exit_code"], one["stdout"]) for one in log["logs"]] == [(0, "told\n")]
    assert log["outputs"] == [{"url": f"{tmp_path}/x", "path": "/out/x", "size_bytes": "6"}]
    assert log["start_time"] < log["end_time"]
    assert "unheard_of" in log["system_logs"][0]
    assert "unheard_of" not in result


def test_the_result_of_a_bad_document_says_what_is_wrong(tmp_path: Path) -> None:
    ended = run({"executors": []}, tmp_path, "--result", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (ended.exit_code, ended.events, result["state"]) == (65, (), "SYSTEM_ERROR")
    assert "executors" in result["logs"][0]["system_logs"][0]
    assert left(tmp_path) == []


def test_events_and_result_are_handed_in_at_urls(tmp_path: Path, s3: S3Server, busybox_image: str) -> None:
    bucket = s3.make_bucket()
    options = ["--events", f"s3://{bucket}/events.jsonl", "--result", f"s3://{bucket}/result.json"]
    ended = run({"executors": [shell(busybox_image, "echo x")]}, tmp_path, *options)
    copy = s3.client().get_object(Bucket=bucket, Key="events.jsonl")["Body"].read()
    result = s3.client().get_object(Bucket=bucket, Key="result.json")["Body"].read()
    assert [json.loads(line) for line in copy.splitlines()] == list(ended.events)
    assert json.loads(result)["state"] == "COMPLETE"


@pytest.mark.parametrize("option", ["--result", "--events"])
def test_a_place_that_cannot_be_written_is_told_before_the_task_begins(tmp_path: Path, option: str) -> None:
    ended = run({"executors": [{"image": "i", "command": ["c"]}]}, tmp_path, option, "/no/such/folder/file")
    assert (ended.exit_code, ended.events) == (73, ())
    assert option in ended.text


def test_a_missing_bucket_is_told_before_anything_is_moved(
    tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    bucket = s3.make_bucket()
    s3.client().put_object(Bucket=bucket, Key="in", Body=b"x")
    task = {
        "inputs": [{"url": f"s3://{bucket}/in", "path": "/in"}],
        "outputs": [{"url": "s3://no-such-bucket-anywhere/x", "path": "/out/x"}],
        "executors": [shell(busybox_image, "true")],
    }
    ended = run(task, tmp_path)
    assert (ended.exit_code, ended.states) == (73, ["INITIALIZING", "SYSTEM_ERROR"])
    assert "no-such-bucket-anywhere" in ended.fields("System error", "error")[0]
    assert "download started" not in ended.messages


def test_an_engine_that_does_not_answer_is_told_before_anything_is_moved(tmp_path: Path) -> None:
    task = {
        "inputs": [{"url": f"{tmp_path}/in", "path": "/data/in"}],
        "executors": [{"image": "busybox", "command": ["true"]}],
    }
    (tmp_path / "in").touch()
    engine = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    ended = run(task, tmp_path, "--allow-dir", tmp_path, env=engine)
    assert (ended.exit_code, ended.states[-1]) == (69, "SYSTEM_ERROR")
    assert "docker.sock" in ended.fields("System error", "error")[0]
    assert "download started" not in ended.messages


def test_secrets_never_reach_an_event(tmp_path: Path, busybox_image: str) -> None:
    task = {
        "inputs": [{"url": "http://user:hunter2@127.0.0.1:9/x?X-Amz-Signature=hunter3", "path": "/data/x"}],
        "executors": [shell(busybox_image, "true", env={"DB_PASSWORD": "hunter4", "PLAIN": "seen"})],
    }
    failed = run(task, tmp_path)
    ran = run({"executors": task["executors"]}, tmp_path)
    said = failed.text + json.dumps(failed.events) + ran.text + json.dumps(ran.events)
    assert (failed.exit_code, ran.exit_code) == (75, 0)
    assert "hunter" not in said
    assert "PLAIN=seen" in said


def test_a_store_that_is_busy_at_first_is_asked_again(tmp_path: Path, busybox_image: str) -> None:
    answers = iter([b"503 Slow Down"])

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        status = next(answers, b"200 OK")
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with raw_server(serve) as url:
        task = {
            "executors": [shell(busybox_image, "exit 7")],
            "outputs": [{"url": "s3://bucket/x", "path": "/out/x"}],
        }
        env = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        ended = run(task, tmp_path, env=env)
    assert ended.exit_code == 7


def test_the_secrets_of_the_documents_own_url_are_not_told(tmp_path: Path) -> None:
    url = "http://user:hunter2@127.0.0.1:9/t.json?X-Amz-Signature=hunter3"
    result = tmp_path / "result.json"
    exit_code, _, stderr = typed("run", url, "--result", result)
    assert (exit_code, "127.0.0.1:9" in stderr) == (75, True)
    assert "hunter" not in stderr + result.read_text()


def test_the_work_directory_can_be_kept(tmp_path: Path, busybox_image: str) -> None:
    ended = run({"executors": [shell(busybox_image, "echo x > /tmp/kept")]}, tmp_path, "--leave-work-dir")
    assert left(tmp_path) == [ended.task_id]
    assert (tmp_path / "work" / ended.task_id / "tmp/kept").read_text() == "x\n"


@pytest.mark.parametrize("way", ["stdin", "base64", "gzipped", "s3", "file-url"])
def test_the_document_comes_from_wherever_it_is(
    way: str, tmp_path: Path, s3: S3Server, busybox_image: str
) -> None:
    document = json.dumps({"executors": [{"image": busybox_image, "command": ["true"]}]})
    (tmp_path / "task.json").write_text(document)
    arguments: list[str] = {
        "stdin": ["-"],
        "base64": ["--task-base64", base64.b64encode(document.encode()).decode()],
        "gzipped": ["--task-base64", base64.b64encode(gzip.compress(document.encode())).decode()],
        "file-url": [f"file://{tmp_path}/task.json"],
        "s3": [],
    }[way]
    if way == "s3":
        bucket = s3.make_bucket()
        s3.client().put_object(Bucket=bucket, Key="t.json", Body=document.encode())
        arguments = [f"s3://{bucket}/t.json"]
    exit_code, _, stderr = typed("run", *arguments, "--work-dir", tmp_path / "work", stdin=document)
    assert (exit_code, "COMPLETE" in stderr) == (0, True)


def test_images_are_pulled_while_inputs_download(
    tmp_path: Path, busybox_image: str, open_registry: Registry
) -> None:
    image = open_registry.push(busybox_image, f"{tmp_path.name}:1")
    pulled = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        body = b"x" if pulled.wait(60) else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n" + body)

    with raw_server(serve) as url:
        task = {
            "inputs": [{"url": f"{url}/x", "path": "/data/x"}],
            "executors": [{"image": image, "command": ["true"]}],
        }
        try:
            ended = run(task, tmp_path, on_event={"image pull finished": pulled.set})
        finally:
            remove_image(image)
    assert ended.exit_code == 0
    assert ended.messages.index("image pull finished") < ended.messages.index("download finished")


def test_an_image_that_is_not_to_be_had_ends_the_downloads(tmp_path: Path, open_registry: Registry) -> None:
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        stopped.wait(60)

    with raw_server(serve) as url:
        task = {
            "inputs": [{"url": f"{url}/x", "path": "/data/x"}],
            "executors": [{"image": f"{open_registry.host}/absent:1", "command": ["true"]}],
        }
        ended = run(task, tmp_path)
        stopped.set()
    assert (ended.exit_code, ended.states[-1]) == (69, "SYSTEM_ERROR")
    assert "absent:1" in ended.fields("System error", "error")[0]


AS_NOBODY = """
import concurrent.futures.thread, contextlib, encodings.utf_8_sig, gzip, io, os, sys
import aiodocker, aiohttp, structlog, stamina, encodings.idna
import taskrunner.runner, taskrunner.document, taskrunner.planning, taskrunner.identity, taskrunner.storage.local, taskrunner.cli.telling
from taskrunner.cli import command, exit_code_of
with contextlib.redirect_stderr(io.StringIO()):
    exit_code_of(lambda: command(["validate", "/dev/null"]))  # so that all of it is loaded
group = os.stat("/var/run/docker.sock").st_gid
os.setgroups([group]); os.setgid(group); os.setuid(65534)
sys.exit(exit_code_of(lambda: command(sys.argv[1:])))
"""
"""The command, by a user who may use the engine and nothing else; imports come first, from a root's home."""


def run_by_nobody(task: dict[str, Any], home: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "run", "-", "--work-dir", f"{home}/work", "--allow-dir", home],
        input=json.dumps(task),
        cwd=home,
        env=environment({"HOME": home}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_runner_that_is_not_root_reads_and_removes_what_root_made(
    tmp_path: Path, busybox_image: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    script = (
        "umask 077; mkdir /out/d /tmp/d; echo x > /out/x; echo y > /tmp/d/y; chmod 555 /tmp/d; chmod 0 /out/d"
    )
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 65534, 65534)
        task = {
            "outputs": [{"url": f"{home}/x", "path": "/out/x"}],
            "executors": [shell(busybox_image, script)],
        }
        ended = run_by_nobody(task, home)
        assert (ended.returncode, "not removed" in ended.stderr) == (0, False), ended.stderr
        assert (Path(home, "x").read_text(), list(Path(home, "work").iterdir())) == ("x\n", [])


def test_a_runner_that_is_not_root_never_gives_itself_the_originals_of_local_inputs(
    tmp_path: Path, busybox_image: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 65534, 65534)
        original = Path(home, "original")
        original.write_text("root's\n")
        original.chmod(0o666)  # so that the kernel would let anybody link it
        task = {
            "inputs": [{"url": str(original), "path": "/data/in"}],
            "executors": [{"image": busybox_image, "command": ["cat", "/data/in"]}],
        }
        ended = run_by_nobody(task, home)
        assert (ended.returncode, original.stat().st_uid) == (0, 0), ended.stderr


def test_what_a_dead_runner_left_of_another_task_is_swept_away(tmp_path: Path, busybox_image: str) -> None:
    with leased(tmp_path / "work/dead") as lease:
        (lease.workdir.root / "big").write_text("of a task that was killed")
        shutil.copytree(tmp_path / "work", tmp_path / "kept")  # as a kill leaves it: the lease says `at work`
    shutil.copytree(tmp_path / "kept", tmp_path / "work", dirs_exist_ok=True)
    task = {"executors": [shell(busybox_image, "true")]}
    fresh = run(task, tmp_path)
    assert (fresh.exit_code, left(tmp_path)) == (0, [".dead", "dead"])
    swept = run(task, tmp_path, "--sweep-after", "0")
    assert (swept.exit_code, left(tmp_path)) == (0, [])
    assert swept.fields("work directory swept", "path") == [f"{tmp_path}/work/dead"]
