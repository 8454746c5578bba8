"""What a Batch job on EC2 can ask about itself, on loopback: ECS task metadata version 4 and IMDSv2.

One server for both, as strict about tokens as EC2's own. Its knobs may be turned while it serves, and every call it
gets is in `calls`. A program is led to it by `environment()`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTAINER_PATH = "/v4/0f1e2d3c-1234567890"
TASK_PATH = f"{CONTAINER_PATH}/task"
TOKEN_PATH = "/latest/api/token"
NOTICE_PATH = "/latest/meta-data/spot/instance-action"

CONTAINER: Mapping[str, Any] = {
    "DockerId": "ea32192c8553fbff06c9340478a2ff089b2bb5646fb718b4ee206641c9086d66",
    "Name": "default",
    "DockerName": "ecs-md5sum-1-default-cca48e8dcadd97805600",
    "Image": "111122223333.dkr.ecr.us-west-2.amazonaws.com/taskrunner:latest",
    "ImageID": "sha256:d691691e9652791a60114e67b365688d20d19940dde7c4736ea30e660d8d3553",
    "Labels": {"com.amazonaws.ecs.cluster": "default"},
    "Limits": {"CPU": 2048, "Memory": 4096},
    "ContainerARN": "arn:aws:ecs:us-west-2:111122223333:container/default/0f1e2d3c/0206b271",
}
TASK: Mapping[str, Any] = {
    "Cluster": "arn:aws:ecs:us-west-2:111122223333:cluster/default",
    "TaskARN": "arn:aws:ecs:us-west-2:111122223333:task/default/0f1e2d3c",
    "Family": "md5sum",
    "Revision": "1",
    "Limits": {"CPU": 2, "Memory": 4096},
    "AvailabilityZone": "us-west-2d",
    "LaunchType": "EC2",
}


@dataclass(slots=True)
class MetadataServer:
    """The server, its knobs and its book of calls."""

    url: str = ""
    container: Any = field(default_factory=lambda: dict(CONTAINER))
    """What the container's own answer is: a JSON value, or bytes as they are; likewise below."""
    task: Any = field(default_factory=lambda: dict(TASK))
    notice: Any = None
    """What EC2 will do to the instance; None: nothing, for now."""
    statuses: list[int] = field(default_factory=list)
    """The next calls, whatever they ask, are answered with these."""
    tokens_granted: int = 0
    calls: list[str] = field(default_factory=list)
    """METHOD PATH of every call, in order."""
    _valid_token: str | None = None

    @property
    def metadata_uri(self) -> str:
        return self.url + CONTAINER_PATH

    def environment(self) -> dict[str, str]:
        """The variables of a job on EC2 whose endpoints are these."""
        return {
            "ECS_CONTAINER_METADATA_URI_V4": self.metadata_uri,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url,
            "AWS_EC2_METADATA_DISABLED": "false",
        }

    def expire_token(self) -> None:
        """From now on the token granted last is none any more."""
        self._valid_token = None

    def answer(self, method: str, path: str, headers: Message) -> tuple[int, bytes]:
        """Status and body for one call."""
        self.calls.append(f"{method} {path}")
        if self.statuses:
            return self.statuses.pop(0), b""
        if (method, path) == ("PUT", TOKEN_PATH):
            if not 1 <= int(headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0")) <= 21600:
                return 400, b""
            self.tokens_granted += 1
            self._valid_token = f"token-{self.tokens_granted}"
            return 200, self._valid_token.encode()
        if path == NOTICE_PATH and headers.get("X-aws-ec2-metadata-token") != self._valid_token:
            return 401, b""
        answers = {CONTAINER_PATH: self.container, TASK_PATH: self.task, NOTICE_PATH: self.notice}
        value = answers.get(path) if method == "GET" else None
        if value is None:
            return 404, b""
        return 200, value if isinstance(value, bytes) else json.dumps(value).encode()


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """Both endpoints, at a port of their own."""
    server = MetadataServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = server.answer(self.command, self.path, self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815  # the base class's

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's
            """Nothing: standard error belongs to the test."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
