"""Servers that tests share: one of each for every worker process, each test with buckets of its own."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.engine import (
    bare_image,
    busybox_image,
    docker_engine,
    locked_registry,
    open_registry,
    runner_image,
)
from tests.servers import S3Server, moto_s3, rclone_s3, self_signed

__all__ = [
    "bare_image",
    "busybox_image",
    "docker_engine",
    "locked_registry",
    "open_registry",
    "runner_image",
]
"""The engine's fixtures, for every test below."""

# The same examples on every machine, and no limit on the time of one: machines are slow now and then.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _alone_or_beside_others(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked `alone` has the machine's engine for itself: another runner would do what is waited for.

    All tests share one lock, and such a test takes it whole. Whoever waits stands at the gate, so that others
    that come meanwhile wait behind.
    """
    kind = fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH
    places = Path(tempfile.gettempdir())
    with (places / "taskrunner-test-alone.lock").open("w") as lock:
        with (places / "taskrunner-test-gate.lock").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, kind)
        yield


@pytest.fixture(autouse=True)
def _environment_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the AWS settings, proxies or CA bundles of who runs it."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on a directory."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """A mock of S3 with versions, encryption and archives."""
    with moto_s3() as server:
        yield server


@pytest.fixture
def s3(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The real S3 server, with the AWS environment leading to it."""
    return _leading_to(rclone_server, monkeypatch)


@pytest.fixture
def moto(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The mocked S3 server, with the AWS environment leading to it."""
    return _leading_to(moto_server, monkeypatch)


def _leading_to(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody trusts yet, and its key."""
    return self_signed(tmp_path_factory.mktemp("certificate"))
