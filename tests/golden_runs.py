"""Runs a recorded case with the real program: sets up what it needs, starts it, sends it signals, looks at what is left."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.engine import ask
from tests.golden_comparison import Golden, Observed, load
from tests.servers import S3Server

ROOT = Path(__file__).parent.parent
RUN_SECONDS = 120


class Bucket:
    """A new bucket of a real S3 server."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.name = server.make_bucket()
        self._client = server.client()

    def put(self, key: str, body: bytes) -> None:
        """Store an object."""
        self._client.put_object(Bucket=self.name, Key=key, Body=body)

    def contents(self) -> dict[str, bytes]:
        """Every object, by its key."""
        listed = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        keys = [each["Key"] for each in listed]
        return {key: self._client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()


@dataclass(frozen=True)
class Case:
    """One recorded case in its places of today."""

    golden: Golden
    places: Mapping[str, str]
    local: Path
    bucket: Bucket

    def run(self) -> Observed:
        """Run it to its end."""
        before = self._stored()
        exit_code, stdout, stderr = self._program()
        lines = stderr.splitlines(keepends=True)
        events = tuple(line.rstrip("\n") for line in lines if line.startswith("{"))
        task_ids = {json.loads(line)["taskID"] for line in events}
        after = self._stored()
        return Observed(
            exit_code=exit_code,
            event_lines=events,
            stderr_text="".join(line for line in lines if not line.startswith("{")),
            stdout=stdout,
            outputs={
                url: {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
                for url, body in sorted(after.items())
                if before.get(url) != body
            },
            inputs_gone=tuple(before.keys() - after.keys()),
            containers_left=tuple(name for name in _containers() if name.rpartition("-")[0] in task_ids),
            work_dir_left=tuple(_listing(self.local / "work")),
        )

    def _stored(self) -> dict[str, bytes]:
        """Everything in the case's folder and bucket, by its URL."""
        files = {
            f"file://{path}": path.read_bytes()
            for path in self.local.rglob("*")
            if path.is_file() and self.local / "work" not in path.parents
        }
        objects = {f"s3://{self.bucket.name}/{key}": body for key, body in self.bucket.contents().items()}
        return files | objects

    def _command(self) -> list[str | Path]:
        options = self.golden.options
        command: list[str | Path] = [sys.executable, "-m", "taskrunner", "run", "--allow-dir", self.local]
        command += ["--work-dir", self.local / "work"]
        # Funnel kills at once (`docker rm -f`); a shell as the first process never hears our polite signal.
        command += ["--stop-grace-seconds", "1"]
        if "log_update_seconds" in options:
            command += ["--log-update-seconds", str(options["log_update_seconds"])]
        if "log_tail_bytes" in options:
            command += ["--log-tail-bytes", str(options["log_tail_bytes"])]
        if options.get("leave_work_dir"):
            command += ["--leave-work-dir"]
        if options.get("base64"):
            return [*command, "--task-base64", base64.b64encode(self.golden.document.encode()).decode()]
        task = self.local.parent / "task.json"
        task.write_text(self.golden.document, "utf-8")
        return [*command, task]

    def _program(self) -> tuple[int, str, str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TASKRUNNER_")}
        environment |= {**self.bucket.server.environment(), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            self._command(),
            cwd=self.local,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        guard = threading.Timer(RUN_SECONDS, process.kill)
        guard.start()
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            stderr = "".join(self._acted_upon(process, process.stderr))
            stdout = process.stdout.read()
        guard.cancel()
        return process.returncode, stdout, stderr

    def _acted_upon(self, process: subprocess.Popen[str], stderr: Any) -> Iterator[str]:
        """The program's lines; the case's signal is sent so many seconds after its event."""
        action = self.golden.action
        for line in stderr:
            yield line
            if action and line.startswith("{") and json.loads(line)["msg"] == action["after_event"]:
                number = signal.Signals[action["signal"]]
                threading.Timer(action["seconds"], process.send_signal, [number]).start()


@contextmanager
def prepared(name: str, directory: Path, bucket: Bucket, image: str) -> Iterator[Case]:
    """The case `name`, its files in `directory` and `bucket`, its web server running."""
    local = directory / "local"
    local.mkdir()
    setup = load(name).setup
    for path, body in setup.get("local", {}).items():
        (local / path).parent.mkdir(parents=True, exist_ok=True)
        (local / path).write_bytes(_body(body))
    for key, body in setup.get("s3", {}).items():
        bucket.put(key, _body(body))
    with _web(setup.get("http", {})) as url, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # a port that is taken and where no registry answers
        places = {
            "LOCAL": str(local),
            "WORK": str(local / "work"),
            "HTTP": url,
            "BUCKET": bucket.name,
            "S3": f"s3://{bucket.name}",
            "IMAGE": image,
            "REGISTRY": f"127.0.0.1:{nobody.getsockname()[1]}",
            "HOST": socket.gethostname(),
        }
        yield Case(load(name, places), places, local, bucket)


def _body(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode()
    if "base64" in body:
        return base64.b64decode(body["base64"])
    return random.Random(body.get("seed", 1)).randbytes(body["noise"])


@contextmanager
def _web(pages: Mapping[str, Any]) -> Iterator[str]:
    """A web server with these pages: path to `body`, `status` (200), `etag` (none)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = pages.get(self.path.lstrip("/"), {"status": 404, "body": "not here\n"})
            body = _body(page["body"])
            self.send_response(page.get("status", 200))
            self.send_header("Content-Length", str(len(body)))
            if "etag" in page:
                self.send_header("ETag", page["etag"])
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # the base class's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=[0.01])
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def _containers() -> list[str]:
    _, body = ask("GET", "/containers/json?all=1")
    return [name.lstrip("/") for container in json.loads(body) for name in container["Names"]]


def _listing(work: Path) -> Iterator[str]:
    for path in sorted(work.rglob("*")):
        status = path.lstat()
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        if path.is_dir():
            yield f"folder {mode} {path.relative_to(work)}"
        else:
            yield f"file {mode} {path.relative_to(work)} {status.st_size} bytes, {status.st_nlink} links"
