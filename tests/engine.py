"""The real Docker engine for tests: one that answers, an image made on the spot, private registries on loopback.

Everything here speaks the Engine API directly and blocking, so that what is tested and what tests it share
nothing. A machine without an engine or without `docker-registry` fails with a sentence, never silently skips.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import runner_image as images
from scripts.busybox_image import BUSYBOX, ENVIRONMENT, add_program, packed

REPOSITORY = "taskrunner-test/busybox"
BARE_REPOSITORY = "taskrunner-test/bare"
RUNNER_REPOSITORY = "taskrunner-test/runner"
_SPARED_SECONDS = 3600  # somebody may be looking at one by hand

USER, PASSWORD = "porter", "open sesame"
# bcrypt of PASSWORD, the one kind of hash docker-registry takes.
_HTPASSWD = f"{USER}:$2b$04$SZN72drBu/DIeCOajemxfOUnmHN/IE973sf6Rn4RxyJRtRbkdMKVW\n"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """One request to the engine at DOCKER_HOST or its customary socket: HTTP status and body."""
    host = urllib.parse.urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    connection = (
        _UnixConnection(host.path)
        if host.scheme == "unix"
        else http.client.HTTPConnection(host.hostname or "localhost", host.port or 2375, timeout=120)
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def containers_of(task_id: str) -> list[str]:
    """The names of all containers, running or not, that carry a task's label."""
    filters = urllib.parse.quote(json.dumps({"label": [f"taskrunner.task-id={task_id}"]}))
    _, body = ask("GET", f"/containers/json?all=1&filters={filters}")
    return [container["Names"][0].lstrip("/") for container in json.loads(body)]


def remove_image(reference: str) -> None:
    """Take a name off an image (and the image away, if that was its last name)."""
    ask("DELETE", f"/images/{reference}?force=1")


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """An engine that answers."""
    try:
        status, _ = ask("GET", "/_ping")
    except OSError as error:
        pytest.fail(f"no Docker engine answers ({error}): `make test` starts one")
    assert status == 200


@pytest.fixture(scope="session")
def busybox_image(docker_engine: None) -> str:
    """An image with busybox and its applets as links, `/tmp`, and PATH; named after its content."""
    _require_busybox()
    return _imported(REPOSITORY, packed(), ENVIRONMENT)


@pytest.fixture(scope="session")
def bare_image(docker_engine: None) -> str:
    """An image that holds one static program, its entry point `/busybox`, and nothing else: no shell, no links."""
    _require_busybox()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add_program(tar, "busybox")
    return _imported(BARE_REPOSITORY, archive.getvalue(), 'ENTRYPOINT ["/busybox"]')


@pytest.fixture(scope="session")
def runner_image(docker_engine: None) -> Iterator[str]:
    """An image of this checkout's runner, its entry point `taskrunner`, on this machine's own Python.

    Those of earlier code, which nobody wants any more, are removed.
    """
    _require_busybox()
    base, packages, runner = images.base(), images.packages(), images.runner()
    bare = _named(RUNNER_REPOSITORY, base.digest().encode(), *images.BASE_CHANGES)
    below = _named(RUNNER_REPOSITORY, packages.digest().encode(), bare)
    image = _named(RUNNER_REPOSITORY, runner.digest().encode(), below, *images.RUNNER_CHANGES)
    with _wanted(bare), _wanted(below), _wanted(image):
        _import_once(bare, lambda: images.packed_base(base), *images.BASE_CHANGES)
        _build_once(below, packages, bare)
        _build_once(image, runner, below, *images.RUNNER_CHANGES)
        _remove_unwanted(RUNNER_REPOSITORY)
        yield image


@dataclass(frozen=True, slots=True)
class Registry:
    """A private registry on loopback; `host` is `127.0.0.1:PORT`, which engines use without TLS."""

    host: str
    auth: dict[str, str]

    def push(self, image: str, name: str) -> str:
        """Store an image of the engine's as `HOST/name` (with a tag) and return that; the engine forgets it again."""
        repository, tag = f"{self.host}/{name.partition(':')[0]}", name.partition(":")[2]
        status, body = ask("POST", f"/images/{image}/tag?repo={repository}&tag={tag}")
        assert status == 201, body
        header = base64.urlsafe_b64encode(json.dumps(self.auth).encode()).decode()
        status, body = ask(
            "POST", f"/images/{repository}/push?tag={tag}", headers={"X-Registry-Auth": header}
        )
        assert status == 200, body
        assert b'"error"' not in body, body
        remove_image(f"{repository}:{tag}")
        return f"{repository}:{tag}"


@pytest.fixture(scope="session")
def open_registry(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that lets everybody in."""
    with _registry(tmp_path_factory.mktemp("registry"), locked=False) as registry:
        yield registry


@pytest.fixture(scope="session")
def locked_registry(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants USER and PASSWORD."""
    with _registry(tmp_path_factory.mktemp("registry"), locked=True) as registry:
        yield registry


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _registry(directory: Path, *, locked: bool) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail(
            "Debian's docker-registry is missing (apt-get install docker-registry): `make test` installs it"
        )
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": host},
    }
    if locked:
        (directory / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    # JSON is YAML.
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", directory / "config.yml"], stdout=log, stderr=log)
    try:
        _await_registry(process, host, directory / "log")
        auth = {"username": USER, "password": PASSWORD, "serveraddress": host} if locked else {}
        yield Registry(host, auth)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await_registry(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, timeout=5)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status in (200, 401):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        finally:
            connection.close()
    pytest.fail(f"docker-registry did not answer at {host}: {log.read_text()}")


def _require_busybox() -> None:
    if not BUSYBOX.exists():
        pytest.fail("there is no /bin/busybox (apt-get install busybox-static): `make test` installs it")


def _imported(repository: str, archive: bytes, change: str) -> str:
    """The image of a tar, named after its content."""
    image = _named(repository, archive, change)
    _import_once(image, lambda: archive, change)
    return image


def _import_once(image: str, archive: Callable[[], bytes], *changes: str) -> None:
    repository, _, tag = image.partition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", one) for one in changes)]
    _make_once(image, f"/images/create?{urllib.parse.urlencode(query)}", archive)


def _build_once(image: str, layer: images.Layer, below: str, *changes: str) -> None:
    """The image of a layer on top of another image."""
    _make_once(image, f"/build?t={image}", lambda: images.build_context(layer, below, changes))


def _named(repository: str, content: bytes, *further: str) -> str:
    return f"{repository}:{hashlib.sha256(content + ''.join(further).encode()).hexdigest()[:12]}"


def _make_once(image: str, request: str, archive: Callable[[], bytes]) -> None:
    """Make an image once per machine, however many test processes want it."""
    with _lock("images").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _ = ask("GET", f"/images/{image}/json")
        if status == 404:
            status, body = ask("POST", request, archive(), {"Content-Type": "application/x-tar"})
            assert status == 200, body
            assert b'"error"' not in body, body


@contextmanager
def _wanted(image: str) -> Iterator[None]:
    """Until the end of this test process nobody removes an image."""
    with _lock(image).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _remove_unwanted(repository: str) -> None:
    """Remove a repository's older images that no test process wants; one that a container uses stays (409)."""
    filters = urllib.parse.quote(json.dumps({"reference": [repository]}))
    _, body = ask("GET", f"/images/json?filters={filters}")
    old = [one for one in json.loads(body) if one["Created"] < time.time() - _SPARED_SECONDS]
    for image in (tag for one in old for tag in one["RepoTags"] or ()):
        with _lock(image).open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status, body = ask("DELETE", f"/images/{image}")
            assert status in (200, 404, 409), body


def _lock(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"taskrunner-test-{name.rpartition(':')[2]}.lock"
