"""A Docker engine of the tests' own, beside the machine's: one that may be killed and started again.

Its data, its sockets and its containerd are in a directory of its own. It has no network: its containers need
`none`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.engine import ask


class SecondEngine:
    """A dockerd; its containers go on while it is away only with `live_restore`."""

    def __init__(self, directory: Path) -> None:
        self.host = f"unix://{directory}/docker.sock"
        """For DOCKER_HOST."""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, live_restore: bool = True) -> None:
        """Start it, and wait until it answers."""
        place = self._directory
        command: list[str | Path] = [
            # In a network of its own: with `--bridge=none` it removes the machine's docker0, which is not its own.
            *("unshare", "--net", "dockerd"),
            *("--data-root", place / "data", "--exec-root", place / "exec", "--pidfile", place / "pid"),
            *("--host", self.host, "--bridge=none", "--iptables=false", "--shutdown-timeout=2"),
            *(["--live-restore"] if live_restore else []),
        ]
        with (place / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(600):
            with suppress(OSError):
                if self.ask("GET", "/_ping")[0] == 200:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"dockerd did not come up: {(place / 'log').read_text()[-2000:]}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal, and wait until it is gone."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=60)
        # Its containerd ends with it; where nobody has buried that yet, the next dockerd would take it for alive.
        (self._directory / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request to it."""
        with patch.dict(os.environ, {"DOCKER_HOST": self.host}):
            return ask(method, path, body, {"Content-Type": "application/x-tar"} if body else None)

    def clear(self) -> None:
        """End it, and whatever its tests left, so that nothing of it runs on."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        for container in json.loads(self.ask("GET", "/containers/json?all=1")[1]):
            self.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.end()
        # It mounts its data onto themselves, at each start, and leaves it at that.
        while (
            subprocess.run(["umount", self._directory / "data"], capture_output=True, check=False).returncode
            == 0
        ):
            pass


@contextmanager
def second_engine(image: str) -> Iterator[SecondEngine]:
    """A second engine that has an image of the first one's."""
    if shutil.which("dockerd") is None:
        pytest.fail("there is no dockerd here: `make test` installs it")
    _, packed = ask("GET", f"/images/{image}/get")
    # A short path, since those of sockets are limited.
    with tempfile.TemporaryDirectory(prefix="dockerd-", ignore_cleanup_errors=True) as directory:
        engine = SecondEngine(Path(directory))
        try:
            engine.start()
            assert engine.ask("POST", "/images/load", packed)[0] == 200
            yield engine
        finally:
            engine.clear()
