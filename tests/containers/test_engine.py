"""Reaching the engine: where it is, and what is said when it is not there, hangs, or goes away."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.containers.engine import Engine
from taskrunner.errors import EngineUnavailableError
from tests.program import run
from tests.servers import web_server


@asynccontextmanager
async def hanging_engine(*, answers_version: bool) -> AsyncIterator[str]:
    """An engine that takes every question and answers none, but for its version; gives its DOCKER_HOST."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if answers_version and request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"})
        never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
        return await never

    async with web_server({"/{any:.*}": answer}) as url:
        yield url.replace("http://", "tcp://")


async def test_an_engine_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        EngineUnavailableError, match=r"mount /var/run/docker\.sock into the job or set DOCKER_HOST"
    ):
        async with Engine(f"unix://{tmp_path}/docker.sock"):
            pass


async def test_a_docker_host_that_is_no_address_is_explained() -> None:
    with pytest.raises(EngineUnavailableError, match="expected unix:///PATH or tcp://HOST:PORT"):
        async with Engine("somewhere"):
            pass


async def test_an_engine_that_never_answers_is_not_waited_for() -> None:
    async with hanging_engine(answers_version=False) as host:
        with pytest.raises(EngineUnavailableError, match=r"did not answer within 0\.1 s"):
            async with Engine(host, answer_seconds=0.1):
                pass


QUESTIONS: list[Callable[[Engine], Awaitable[object]]] = [
    lambda engine: engine.image_id("x"),
    lambda engine: engine.create("x", {"Image": "x"}),
    lambda engine: engine.start("x"),
    lambda engine: engine.inspect("x"),
    lambda engine: engine.kill("x"),
    lambda engine: engine.remove("x"),
    lambda engine: engine.labelled("a"),
]


@pytest.mark.parametrize(
    "ask", QUESTIONS, ids=["image", "create", "start", "inspect", "kill", "remove", "labelled"]
)
async def test_an_engine_that_hangs_later_is_not_waited_for(
    ask: Callable[[Engine], Awaitable[object]],
) -> None:
    async with hanging_engine(answers_version=True) as host, Engine(host) as engine:
        engine._answer_seconds = 0.1
        with pytest.raises(EngineUnavailableError, match=f"at {host} did not answer within"):
            await ask(engine)


@contextmanager
def tcp_to_unix(path: str) -> Iterator[str]:
    """A TCP address for an engine that has a socket only; gives its DOCKER_HOST. Ends of streams are passed on."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def serve(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(path)
            answering = threading.Thread(target=pump, args=(far, near), daemon=True)
            answering.start()
            pump(near, far)
            answering.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, name="tcp-to-unix", daemon=True)
        accepting.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_an_engine_behind_tcp_runs_a_task_with_a_stdin(tmp_path: Path, busybox_image: str) -> None:
    text = "a line that is read\n" * 50_000
    task = {
        "inputs": [{"path": "/data/in", "content": text}],
        "outputs": [{"path": "/out/copy", "url": f"{tmp_path}/copy"}],
        "executors": [
            {
                "image": busybox_image,
                "command": ["sh", "-c", "tee /out/copy | wc -l"],
                "stdin": "/data/in",
                "stdout": "/out/count",
            }
        ],
    }
    with tcp_to_unix("/var/run/docker.sock") as docker_host:
        ended = run(task, tmp_path, "--allow-dir", tmp_path, env={"DOCKER_HOST": docker_host})

    assert (ended.exit_code, ended.fields("EXECUTOR_STDOUT", "stdout")) == (0, ["50000\n"]), ended.text
    assert (tmp_path / "copy").read_text() == text


HOMELESS = """
import asyncio, os, pwd

def unknown(uid):
    raise KeyError(uid)

pwd.getpwuid = unknown
os.environ.pop("HOME", None)

from taskrunner.containers.engine import Engine
from taskrunner.containers.registry import read_docker_config

async def main():
    async with Engine():
        print(read_docker_config(), os.environ.get("HOME"))

asyncio.run(main())
"""


def test_a_user_id_nobody_knows_reaches_the_engine_without_a_home(docker_engine: None) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HOMELESS], capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.stdout.strip() == "DockerConfig(remark='') None", ran.stderr
