"""A server of its own process, for as long as a test or a benchmark needs it."""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GRACE_SECONDS = 5.0


@contextmanager
def announced(command: list[str], announcement: str, cwd: Path | None = None) -> Iterator[str]:
    """Start a server, wait until it says where it is (`announcement`'s first group), and end it and only it.

    What it says later is read and dropped, or it would wait for that one day.

    Raises:
        RuntimeError: it ended without having said so; with what it said instead.
    """
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if match := re.search(announcement, line):
                break
        else:
            raise RuntimeError(f"{command[0]} did not start: {''.join(said)}")
        draining = threading.Thread(target=process.stdout.read, name="drain-server-output", daemon=True)
        draining.start()
        try:
            yield match[1]
        finally:
            _end(process)
            draining.join()
    finally:
        _end(process)
        process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
