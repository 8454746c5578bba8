"""Run `examples/http-to-s3.json` for real, with everything it needs on this machine's loopback interface.

A page is served by Python's own HTTP server, the bucket by `rclone serve s3`, and the image is made on the
spot of Debian's static busybox, since there may be no registry. Then `taskrunner run` does the rest, and its
events scroll by as AWS Batch would log them. Servers, files and image are gone afterwards.
"""

# ruff: noqa: T201  # it talks to a person

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.busybox_image import imported

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "http-to-s3.json"
IMAGE = "taskrunner-demo:busybox"
PAGE = b"<!doctype html><title>An example</title><p>Hello from the loopback interface.</p>\n"
KEY, SECRET = "demo", secrets.token_hex(16)
RESULT = "my-bucket/results/md5sum.txt"
START_SECONDS = 30
RUN_SECONDS = 300


def say(text: str) -> None:
    """One line to the reader, set off from the events."""
    print(f"\n== {text}", flush=True)


@contextmanager
def served(command: list[str], log: Path, announced: str) -> Iterator[int]:
    """A server that picks a free port and announces it in its log; the port; stopped at the end."""
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        yield _announced_port(server, log, announced)
    finally:
        server.terminate()
        server.wait(timeout=START_SECONDS)


def _announced_port(server: subprocess.Popen[bytes], log: Path, announced: str) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(announced, log.read_text()):
            return int(found.group(1))
        time.sleep(0.05)
    sys.exit(f"{server.args!r} did not start; its log:\n{log.read_text()}")


def environment(s3_port: int) -> dict[str, str]:
    """Ours without the user's own AWS settings and proxies, with those of the S3 server here."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and "proxy" not in k.lower()}
    return kept | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def run_task(task: Path, work_dir: Path, env: dict[str, str]) -> int:
    """`taskrunner run`, its events shown as they come; its exit code."""
    command = [str(BIN / "taskrunner"), "run", str(task), "--work-dir", str(work_dir)]
    say(shlex.join(command))
    # Through a pipe standard error is no terminal, so the events come as JSON, as in a Batch job.
    runner = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert runner.stderr is not None  # for the type checker
        for line in runner.stderr:
            print(line, end="", flush=True)
        return runner.wait(timeout=RUN_SECONDS)
    finally:
        if runner.poll() is None:
            runner.terminate()
            runner.wait(timeout=START_SECONDS)


def object_in_bucket(s3_port: int) -> str:
    """The text of the task's result, asked of the S3 server."""
    remote = (
        f":s3,provider=Rclone,access_key_id={KEY},secret_access_key={SECRET},"
        f'endpoint="http://127.0.0.1:{s3_port}":{RESULT}'
    )
    command = [str(BIN / "rclone"), "--config", os.devnull, "cat", remote]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def demo(directory: Path, stack: ExitStack) -> int:
    """Set the scene, run the task, look at the result; our exit code."""
    web, buckets = directory / "web", directory / "buckets"
    web.mkdir()
    (buckets / "my-bucket").mkdir(parents=True)
    (web / "index.html").write_bytes(PAGE)
    http = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(web), "0"]
    s3 = [str(BIN / "rclone"), "--config", os.devnull, "serve", "s3", str(buckets), "--addr", "127.0.0.1:0"]
    http_port = stack.enter_context(served(http, directory / "http.log", r"http://127\.0\.0\.1:(\d+)/"))
    s3_port = stack.enter_context(
        served([*s3, "--auth-key", f"{KEY},{SECRET}"], directory / "s3.log", r"http://127\.0\.0\.1:(\d+)/")
    )
    stack.enter_context(imported(IMAGE))

    page_url = f"http://127.0.0.1:{http_port}/index.html"
    document = json.loads(EXAMPLE.read_text())
    document["inputs"][0]["url"] = page_url
    document["executors"][0]["image"] = IMAGE
    task = directory / "task.json"
    task.write_text(json.dumps(document, indent=2))
    say("The task: examples/http-to-s3.json, with a page, a bucket and an image of this machine")
    print(task.read_text())

    exit_code = run_task(task, directory / "work", environment(s3_port))
    if exit_code:
        say(f"The demo failed: taskrunner ended with exit code {exit_code}")
        return exit_code
    result = object_in_bucket(s3_port)
    say(f"s3://{RESULT} now holds")
    print(result, end="")
    return verdict(result)


def verdict(result: str) -> int:
    """Compare the uploaded sum with the page's own; 0 when they agree."""
    expected = hashlib.md5(PAGE, usedforsecurity=False).hexdigest()
    if result.split()[:1] != [expected]:
        say(f"The demo failed: the page's MD5 is {expected}")
        return 1
    say("The demo succeeded: that is the MD5 of the page. Servers, files and image are cleaned up")
    return 0


def main() -> int:
    """The demo in a directory of its own; everything is cleaned up however it ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="taskrunner-demo-") as name, ExitStack() as stack:
            return demo(Path(name), stack)
    except subprocess.CalledProcessError as error:
        say(f"The demo failed: {shlex.join(map(str, error.cmd))} ended with exit code {error.returncode}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
