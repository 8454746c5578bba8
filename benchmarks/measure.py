"""One run of a command: how long it took, what the processor did for it, and what memory all its processes had.

CPU time is the kernel's account of the process and of every child it waited for. Memory is the resident size
of the whole process tree, looked at every ten milliseconds; what the kernel remembers of the largest process
is its floor. Shared pages count once for each process, so of several processes the sum is an upper bound.
"""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SAMPLE_SECONDS = 0.01
FAMILY_SECONDS = 0.05
"""How often new processes are looked for."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MESSAGE_CHARACTERS = 300


class FailedRunError(Exception):
    """A command that did not do what it was to do."""


@dataclass(frozen=True)
class Sample:
    """What one run took; None where that was not measured."""

    wall_seconds: float
    cpu_seconds: float | None = None
    peak_bytes: int | None = None


def median_sample(samples: Sequence[Sample]) -> Sample:
    """The median of each measure for itself."""
    cpu = [each.cpu_seconds for each in samples if each.cpu_seconds is not None]
    peak = [each.peak_bytes for each in samples if each.peak_bytes is not None]
    return Sample(
        statistics.median(each.wall_seconds for each in samples),
        statistics.median(cpu) if cpu else None,
        round(statistics.median(peak)) if peak else None,
    )


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_seconds: float
) -> Sample:
    """Run a command to its end.

    Raises:
        FailedRunError: it ended with another code than 0, or not in time; with the end of what it said.
    """
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        memory = MemoryWatch(process.pid)
        memory.start()
        overdue = threading.Timer(timeout_seconds, os.killpg, (process.pid, signal.SIGKILL))
        overdue.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            os.wait4(process.pid, 0)
            raise
        finally:
            wall = time.perf_counter() - begun
            overdue.cancel()
            memory.stop()
            process.returncode = 0  # it has been waited for
        code = os.waitstatus_to_exitcode(status)
        if code:
            said.seek(0)
            raise FailedRunError(_reason(code, said.read().decode(errors="replace")))
    return Sample(wall, usage.ru_utime + usage.ru_stime, max(memory.peak_bytes, _floor(usage)))


def _reason(code: int, said: str) -> str:
    """Why a command failed, in one line."""
    end = " ".join(said.split())[-MESSAGE_CHARACTERS:]
    if code == -signal.SIGKILL:
        return f"killed, most likely for not ending in time. {end}".strip()
    return f"exit code {code}: {end or 'it said nothing'}"


def _floor(usage: resource.struct_rusage) -> int:
    """The largest process, in bytes, unless that was we before the command's program was loaded."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss * 1024 if usage.ru_maxrss > ours else 0


class MemoryWatch(threading.Thread):
    """Looks at the resident memory of a process and its descendants, and keeps the largest sum."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory-watch", daemon=True)
        self.peak_bytes = 0
        self._pid = pid
        self._over = threading.Event()

    def run(self) -> None:
        family: list[int] = []
        looked = 0.0
        while not self._over.wait(SAMPLE_SECONDS):
            if time.monotonic() - looked > FAMILY_SECONDS:
                family = list(descendants(self._pid))
                looked = time.monotonic()
            self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, family)))

    def stop(self) -> None:
        self._over.set()
        self.join()


def descendants(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = " ".join((each / "children").read_text() for each in threads)
    except OSError:  # it has just ended
        return
    for child in children.split():
        yield from descendants(int(child))


def resident_bytes(pid: int) -> int:
    """A process's resident memory; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0
