"""Time, processor and memory of a process with all its children."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.measure import FailedRunError, run

MB = 1_000_000


def python(source: str) -> list[str]:
    return [sys.executable, "-S", "-c", source]


def test_memory_of_all_processes_at_once_is_counted(tmp_path: Path) -> None:
    child = "import time; held = b'x' * 60_000_000; time.sleep(0.5)"
    source = (
        "import subprocess, sys\n"
        f"both = [subprocess.Popen([sys.executable, '-S', '-c', {child!r}]) for _ in range(2)]\n"
        "[each.wait() for each in both]"
    )
    sample = run(python(source), os.environ, tmp_path, 60)
    assert sample.peak_bytes is not None
    assert 120 * MB < sample.peak_bytes < 240 * MB


def test_processor_time_of_children_is_counted(tmp_path: Path) -> None:
    child = "import time\nwhile time.process_time() < 0.3: pass"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    sample = run(python(source), os.environ, tmp_path, 60)
    assert sample.cpu_seconds is not None
    assert sample.cpu_seconds >= 0.3


def test_a_failed_command_says_its_code_and_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(FailedRunError, match="exit code 3: no such bucket"):
        run(["sh", "-c", "echo no such bucket >&2; exit 3"], os.environ, tmp_path, 60)


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(FailedRunError, match="not ending in time"):
        run(["sh", "-c", "sleep 600 & echo $! >child; wait"], os.environ, tmp_path, 0.5)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    # Killed is killed, but the kernel buries it when it has a moment.
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().split(")")[1].split()[0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.01)
