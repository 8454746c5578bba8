"""Ours alone, at growing sizes: is memory the same for all of them, and does time grow with the size only?

Downloads are compared to the byte. Uploads are of sparse files, which take no space, to a server that drops
them: counts and sizes are compared.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.content import Files, GiB, MiB, shown_size
from benchmarks.goals import judge_growth, judge_memory
from benchmarks.measure import FailedRunError, Sample
from benchmarks.scenarios import Transfer
from benchmarks.transfers import Bench, Result, Room, ToolResult, Turn, stage

if TYPE_CHECKING:
    from collections.abc import Sequence


SMALL_BYTES = 64 * 1024
BYTES, BYTES_QUICK = [2**n * GiB for n in range(5)], [2**n * 128 * MiB for n in range(4)]
COUNTS, COUNTS_QUICK = [2**n * 1000 for n in range(5)], [2**n * 250 for n in range(4)]
MEMORY, MEMORY_QUICK = [GiB, 16 * GiB], [128 * MiB, GiB]
DIRECTIONS = (("download", True), ("upload", False))


def taken(bench: Bench, files: Files, rounds: int, *, down: bool) -> list[Sample]:
    """Move `files` by our command, `rounds` times after one that does not count (unless one is all)."""
    direction: Literal["down", "up"] = "down" if down else "up"
    base = bench.place.folder(_space_bytes(files, down=down))
    samples = []
    with tempfile.TemporaryDirectory(dir=base) as scratch:
        folder = Path(scratch)
        if not down:
            for name in files.names():
                path = folder / "source" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.truncate(path, files.size_bytes)
        with stage(
            Transfer("series", "", direction, "source", files), files, folder, bench.ground
        ) as endpoint:
            for number in range(rounds + (rounds > 1)):
                bench.say(f"{direction} {files}, run {number + 1}")
                turn = Turn(files, endpoint, folder, bench.ground, down=down, kept=False)
                sample = turn.take(bench.tools[0])
                if number or rounds == 1:
                    samples.append(sample)
    return samples


def _space_bytes(files: Files, *, down: bool) -> int:
    """What they take: uploads are of sparse files, and dropped."""
    return (files.total_bytes if down else 0) + GiB // 4


def measure_memory(bench: Bench, *, quick: bool) -> Result:
    """The peak memory at a small and a large size, down and up."""
    rows, notes, verdicts = [], ["files go to a disk where they are larger than memory allows"], []
    for word, down in DIRECTIONS:
        peaks = {}
        for size in MEMORY_QUICK if quick else MEMORY:
            fitting = size
            while (
                row := _row(bench, f"{word} {shown_size(fitting)}", Files(1, fitting), 1, down=down)
            ) is None:
                fitting //= 2
            if fitting != size:
                notes.append(
                    f"{word}: {shown_size(fitting)} instead of {shown_size(size)}, for want of space"
                )
            rows.append(row)
            if row.median and row.median.peak_bytes:
                peaks[fitting] = row.median.peak_bytes
        verdicts += judge_memory(word, peaks)
    return Result("memory", "peak memory, whatever the size", notes, rows, verdicts)


def measure_growth(bench: Bench, rounds: int, *, quick: bool) -> Result:
    """The time at growing sizes and at growing numbers of files, down and up, and the lines through them."""
    rows: list[ToolResult] = []
    notes: list[str] = []
    verdicts = []
    sizes = [Files(1, size) for size in (BYTES_QUICK if quick else BYTES)]
    counts = [Files(count, SMALL_BYTES) for count in (COUNTS_QUICK if quick else COUNTS)]
    for word, down in DIRECTIONS:
        for unit, series in (("GiB", sizes), ("thousand files", counts)):
            points = []
            for files in _fitting(bench.place, series, notes, down=down):
                row = _row(bench, f"{word} {files}", files, rounds, down=down)
                if row is None:
                    continue
                rows.append(row)
                amount = files.total_bytes / GiB if files.count == 1 else files.count / 1000
                if row.median:
                    points.append((amount, row.median.wall_seconds))
            verdicts.append(judge_growth(f"{unit} of {word}s", points))
    return Result("growth", "time at growing sizes", notes, rows, verdicts)


def _fitting(place: Room, series: Sequence[Files], notes: list[str], *, down: bool) -> list[Files]:
    """Those that fit into memory: a disk's own pace is not what is measured here."""
    if not down or place.memory is None:
        return list(series)
    small_enough = []
    for files in series:
        if place.folder(_space_bytes(files, down=down)) == place.memory:
            small_enough.append(files)
        else:
            notes.append(f"download of {files} left out: too large for files in memory")
    return small_enough


def _row(bench: Bench, name: str, files: Files, rounds: int, *, down: bool) -> ToolResult | None:
    """One size's figures; None where there is no place for it."""
    try:
        bench.place.folder(_space_bytes(files, down=down))
    except FailedRunError:
        return None
    try:
        return ToolResult(name, taken(bench, files, rounds, down=down))
    except FailedRunError as error:
        return ToolResult(name, failure=str(error))


def measure_startup(rounds: int) -> Result:
    """A whole task beside the same `docker run`; that has a module, and a command line, of its own."""
    from benchmarks.startup import IMAGE, measure  # noqa: PLC0415  # its imports need the tests' environment
    from scripts.busybox_image import imported  # noqa: PLC0415

    rows = [ToolResult("taskrunner"), ToolResult("docker")]
    try:
        with imported(IMAGE):
            medians = measure(IMAGE, rounds)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        for row in rows:
            row.failure = f"{type(error).__name__}: {error}"
    else:
        for row in rows:
            row.samples = [Sample(medians[f"{row.name}_seconds"])]
    return Result("startup", "a hello-world task beside the same `docker run`", [], rows)
