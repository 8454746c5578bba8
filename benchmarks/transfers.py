"""One scenario, round after round: every tool in turn moves the same bytes, and what came is looked at.

The first round is not measured. A download goes to a new folder each time, an upload to a new prefix. What a
tool moved is compared to the byte outside of the measured time; only uploads that a server drops by intent
are compared by count and size, after the unmeasured round had them compared wholly. A tool that fails, or
moves something else, has failed for good and has no figures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.content import Files, GiB, Ground, shown_size
from benchmarks.measure import FailedRunError, Sample, median_sample, run
from benchmarks.servers import Endpoint, rclone_server, self_signed, shaped, source_server, touch
from benchmarks.tools import Move, Tool, in_venv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.goals import Verdict
    from benchmarks.scenarios import Transfer

SHM = Path("/dev/shm")
TIMEOUT_SECONDS = 600
PREFIX = "files/"


@dataclass
class ToolResult:
    """What one tool (or one size) came to: samples, or why there are none."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    @property
    def median(self) -> Sample | None:
        return median_sample(self.samples) if self.samples and not self.failure else None


@dataclass
class Result:
    """What a scenario came to."""

    name: str
    title: str
    notes: list[str]
    rows: list[ToolResult]
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def medians(self) -> dict[str, Sample]:
        return {row.name: median for row in self.rows if (median := row.median)}


@dataclass(frozen=True)
class Room:
    """Where scenarios put their files: memory where there is enough of it, else a disk."""

    memory: Path | None
    disk: Path

    def folder(self, need_bytes: int) -> Path:
        """A folder with so much space.

        Raises:
            FailedRunError: there is none.
        """
        if self.memory and free_memory_bytes(self.memory) > need_bytes:
            return self.memory
        if shutil.disk_usage(self.disk).free > need_bytes * 1.1:
            return self.disk
        raise FailedRunError(f"no place for {shown_size(need_bytes)}, neither in memory nor in {self.disk}")


def free_memory_bytes(folder: Path) -> int:
    """What may be put into a tmpfs while enough memory remains for everybody else."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(shutil.disk_usage(folder).free, int(int(line.split()[1]) * 1024 * 0.7))
    return 0


@dataclass(frozen=True)
class Bench:
    """What every scenario needs: tools, ours first, a place for files, what is in them, and an ear."""

    tools: Sequence[Tool]
    place: Room
    ground: Ground
    say: Callable[[str], None]


@contextmanager
def room() -> Iterator[Room]:
    """Folders of this run alone, removed in the end."""
    with ExitStack() as stack:
        memory = None
        if SHM.is_dir() and os.access(SHM, os.W_OK):
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=SHM)))
        yield Room(memory, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))))


def space_bytes(transfer: Transfer, files: Files) -> int:
    """What a transfer's files take at most: theirs on one side, and on the other where that keeps them too."""
    generated = transfer.down and transfer.server == "source"
    return files.total_bytes * (1 if generated else 2) + GiB // 4


@contextmanager
def stage(transfer: Transfer, files: Files, folder: Path, ground: Ground) -> Iterator[Endpoint]:
    """The servers of a scenario, with the objects that are to be downloaded."""
    with ExitStack() as stack:
        certificate = self_signed(folder) if transfer.tls else None
        root = folder / "server"
        for bucket in ("data", "kept", "sink"):
            (root / bucket).mkdir(parents=True)
        names = [PREFIX + name for name in files.names()] if transfer.down else []
        if transfer.server == "rclone":
            for name in names:
                ground.write(root / "data" / name, name, files.size_bytes)
            program = in_venv("rclone")()
            if program is None:
                raise FailedRunError("rclone, which is the server here, is not installed")
            endpoint = stack.enter_context(rclone_server(program[0], root, certificate))
            touch(endpoint, "data", names)
        else:
            manifest = {"data": dict.fromkeys(names, files.size_bytes)}
            endpoint = stack.enter_context(source_server(root, manifest, certificate))
        if transfer.link:
            endpoint = stack.enter_context(shaped(endpoint, transfer.link))
        yield endpoint


def measure_transfer(bench: Bench, transfer: Transfer, files: Files, rounds: int) -> Result:
    """All tools in turn, `rounds` times after one that does not count."""
    rows = [ToolResult(tool.name, failure=_excuse(tool, files)) for tool in bench.tools]
    base = bench.place.folder(space_bytes(transfer, files))
    with tempfile.TemporaryDirectory(dir=base) as scratch:
        folder = Path(scratch)
        if not transfer.down:
            for name in files.names():
                bench.ground.write(folder / "source" / name, name, files.size_bytes)
        with stage(transfer, files, folder, bench.ground) as endpoint:
            for number in range(rounds + 1):
                for tool, row in zip(bench.tools, rows, strict=True):
                    if row.failure:
                        continue
                    bench.say(f"{transfer.name}: {f'round {number}' if number else 'warm-up'}, {tool.name}")
                    turn = Turn(files, endpoint, folder, bench.ground, down=transfer.down, kept=not number)
                    try:
                        sample = turn.take(tool)
                    except FailedRunError as error:
                        row.failure = str(error)
                    else:
                        row.samples += [sample] if number else []
    notes = _notes(transfer, files, in_memory=base == bench.place.memory)
    return Result(transfer.name, f"{transfer.title}: {files}", notes, rows)


def _excuse(tool: Tool, files: Files) -> str | None:
    """Why a tool is left out; None where it isn't."""
    if tool.find() is None:
        return "not installed"
    return "moves single files only" if tool.single_only and files.count > 1 else None


def _notes(transfer: Transfer, files: Files, *, in_memory: bool) -> list[str]:
    """What a reader must know of a scenario."""
    notes = [f"server: {'rclone serve s3' if transfer.server == 'rclone' else 'benchmarks.source_server'}"]
    notes[0] += ", TLS" if transfer.tls else ""
    notes.append(f"files, each round in a new folder, {'in memory (tmpfs)' if in_memory else 'on a disk'}")
    if transfer.link:
        least = transfer.link.least_seconds(files.total_bytes)
        notes.append(f"link: {transfer.link}; it carries this in {least:.2f} s at best")
    return notes


@dataclass(frozen=True)
class Turn:
    """One run of one tool, and what it left behind."""

    files: Files
    endpoint: Endpoint
    folder: Path
    ground: Ground
    down: bool
    kept: bool
    """Whether an upload goes to the bucket whose objects every server keeps."""

    def take(self, tool: Tool) -> Sample:
        """Run the tool, look at what came, and remove it. Raises FailedRunError."""
        with tempfile.TemporaryDirectory(prefix="turn-", dir=self.folder) as scratch:
            name = Path(scratch).name
            move = self._move(Path(scratch), name)
            program = tool.find() or [tool.name]
            environment = {"HOME": scratch} | self.endpoint.environment() | tool.environment(self.endpoint)
            try:
                command = [*program, *tool.arguments(move, self.endpoint)]
                sample = run(command, environment, Path(scratch), TIMEOUT_SECONDS)
                self._check(Path(scratch) / "to" if self.down else self._arrived(move.bucket, name))
            finally:
                if not self.down:
                    shutil.rmtree(self._arrived(move.bucket, name), ignore_errors=True)
        return sample

    def _move(self, scratch: Path, name: str) -> Move:
        single = "" if self.files.count > 1 else self.files.names()[0]
        if self.down:
            target = scratch / "to"
            target.mkdir()
            return Move("data", PREFIX + single, target / single, down=True)
        bucket = "kept" if self.kept else "sink"
        return Move(bucket, f"{name}/{single}", self.folder / "source" / single, down=False)

    def _arrived(self, bucket: str, name: str) -> Path:
        return self.endpoint.folder / bucket / name

    def _check(self, root: Path) -> None:
        """Compare what is in `root` with what ought to be."""
        names = self.files.names()
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        if found != set(names):
            extra, missing = sorted(found - set(names)), sorted(set(names) - found)
            raise FailedRunError(
                f"moved {len(found)} files, not {len(names)}: missing {missing[:2]}, too many {extra[:2]}"
            )
        dropped = not self.down and not self.kept and not self.endpoint.keeps_everything
        for name in names:
            if not dropped:
                wrong = self.ground.first_difference(root / name, name, self.files.size_bytes)
            else:
                size = (root / name).stat().st_size
                wrong = f"{name} has {size:,} bytes" if size != self.files.size_bytes else None
            if wrong:
                raise FailedRunError(f"moved other bytes: {wrong}")
