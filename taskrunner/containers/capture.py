"""The files behind a step's stdin, stdout and stderr, opened by us on our side of the mounts.

They are opened before the container starts, when nothing else runs in the task's directory, and never through
a link that leads out of it. A capture file is always a new one: an older file of that name may be a hard link,
a pipe or a device that an earlier executor left. Bytes are written as they came, off the loop, and the
container is not read faster than the disk takes them.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, OutputFailedError, TransferIOError
from taskrunner.workdir import EscapingLinkError, make_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from taskrunner.containers.engine import StreamName
    from taskrunner.plan import Step
    from taskrunner.workdir import WorkDir

_READ_BYTES = 256 * 1024
_PENDING_BYTES = 1024 * 1024
_CAPTURE_MODE = 0o666


class CaptureFile:
    """One file that takes a stream in full; writes are gathered while the disk is busy."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._pending = bytearray()
        self._writing: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while more than 1 MiB is pending. Raises TransferIOError (disk full)."""
        self._pending += data
        if self._writing is not None and self._writing.done():
            await self._settle()
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_pending(), name=f"write {self._path}")
        if len(self._pending) >= _PENDING_BYTES:
            await self._settle()

    async def finish(self) -> None:
        """Wait until every byte is in the file, and close it. Raises TransferIOError; closed all the same."""
        try:
            await self._settle()
        finally:
            os.close(self._fd)

    async def _settle(self) -> None:
        if self._writing is not None:
            # Not awaited itself: our cancellation would leave its thread writing to a closed file.
            await asyncio.wait([self._writing])
            writing, self._writing = self._writing, None
            writing.result()

    async def _write_pending(self) -> None:
        while self._pending:
            data, self._pending = self._pending, bytearray()
            try:
                await asyncio.to_thread(_write_all, self._fd, data)
            except OSError as error:
                raise TransferIOError(
                    f"can't write the executor's output to {self._path}: {error.strerror}"
                ) from error


def _write_all(fd: int, data: bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


@dataclass(slots=True)
class StepFiles:
    """A step's open files; `captures` may hold one file under both names."""

    stdin_fd: int | None = None
    captures: dict[StreamName, CaptureFile] = field(default_factory=dict)

    async def write(self, stream: StreamName, data: bytes) -> None:
        """Put bytes of a stream where the step wants them, if anywhere."""
        if capture := self.captures.get(stream):
            await capture.write(data)

    async def read_stdin(self) -> AsyncIterator[bytes]:
        """The stdin file's bytes, chunk by chunk."""
        if self.stdin_fd is None:
            return
        offset = 0
        while chunk := await asyncio.to_thread(os.pread, self.stdin_fd, _READ_BYTES, offset):
            offset += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Flush and close everything. Raises TransferIOError where bytes could not be written."""
        if self.stdin_fd is not None:
            os.close(self.stdin_fd)
            self.stdin_fd = None
        captures = {id(capture): capture for capture in self.captures.values()}
        self.captures = {}
        results = await asyncio.gather(
            *(capture.finish() for capture in captures.values()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


def open_files(files: StepFiles, workdir: WorkDir, step: Step) -> None:
    """Open a step's stdin and make its stdout and stderr files (mode 0666). Blocking.

    They are put into `files` one by one, which the caller closes whatever happens.

    Raises:
        InputMissingError: stdin is not there, or no ordinary file within the task's directory.
        OutputFailedError: stdout's or stderr's place can't be written or leads out of the task's directory.
        TransferIOError: stdin is there but can't be read.
    """
    if step.stdin is not None:
        files.stdin_fd = _open_stdin(workdir, step.stdin)
    wanted: Mapping[StreamName, str | None] = {"stdout": step.stdout, "stderr": step.stderr}
    by_place: dict[Path, CaptureFile] = {}
    for stream, path in wanted.items():
        if path is None:
            continue
        place = _capture_place(workdir, stream, path)
        if place not in by_place:
            by_place[place] = CaptureFile(_make_capture(place, stream, path), path)
        files.captures[stream] = by_place[place]


def _open_stdin(workdir: WorkDir, path: str) -> int:
    try:
        place = workdir.resolve(path)
        # Looked at first: merely opening a device can have effects, and opening a pipe can wait for ever.
        if not stat.S_ISREG(place.lstat().st_mode):
            raise InputMissingError(f"the executor's stdin {path} is not an ordinary file")
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except EscapingLinkError as error:
        raise InputMissingError(f"the executor's stdin {path} can't be used: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissingError(
            f"the executor's stdin {path} is not there: no input and no earlier executor made it"
        ) from error
    except OSError as error:
        raise TransferIOError(f"can't read the executor's stdin {path}: {error.strerror}") from error
    return fd


def _capture_place(workdir: WorkDir, stream: StreamName, path: str) -> Path:
    try:
        return workdir.resolve(path)
    except (EscapingLinkError, OSError) as error:
        raise OutputFailedError(f"the executor's {stream} can't be written to {path}: {error}") from error


def _make_capture(place: Path, stream: StreamName, path: str) -> int:
    try:
        make_directory(place.parent)
        with suppress(FileNotFoundError):
            place.unlink()
        fd = os.open(
            place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _CAPTURE_MODE
        )
        # The umask does not count: executors run as any user may read and write it, as in Funnel.
        os.fchmod(fd, _CAPTURE_MODE)
    except OSError as error:
        raise OutputFailedError(
            f"the executor's {stream} can't be written to {path}: {error.strerror}"
        ) from error
    return fd
