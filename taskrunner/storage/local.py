"""Files on this machine, as far as the operator opened them.

A task document is untrusted, so a path counts by where it really is, every link resolved, and that must be in
one of the allowed directories. It is looked at when it is named and again when it is open, so that no link put
there in between leads elsewhere. New files are made under a hidden name beside their place and renamed when
they are whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import stat
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
    UsageError,
)
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, StoredObject
from taskrunner.urls import local_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from taskrunner.storage.wire import Connections

_STEP_BYTES = 8 * 1024 * 1024  # between two looks at whether the lane was stopped
# File systems that can't copy inside the kernel, or not between these two files, say it by one of these.
_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)


class LocalStore:
    """See `Store`. `location` of what it finds is the file's real path."""

    def __init__(self, allowed_dirs: Sequence[Path]) -> None:
        self._allowed = tuple(Path(os.path.realpath(directory)) for directory in allowed_dirs)

    async def check(self, url: str) -> None:
        """See `Store.check`: the path is in an allowed directory."""
        await asyncio.to_thread(self._real, url)

    async def stat(self, url: str) -> StoredObject:
        """See `Store.stat`."""
        return await asyncio.to_thread(self._stat, url)

    def _stat(self, url: str) -> StoredObject:
        path = self._real(url)
        try:
            status = path.stat()
        except OSError as error:
            raise _reading_failed(url, error) from error
        if stat.S_ISDIR(status.st_mode):
            raise InputMissingError(f"{url} is a directory; expected a file (inputs have a type: DIRECTORY)")
        if not stat.S_ISREG(status.st_mode):
            raise TransferIOError(f"{url} is a pipe, socket or device, not a file")
        return _described(url, path, status)

    async def list_directory(self, url: str) -> AsyncIterator[StoredObject]:
        """See `Store.list_directory`. Links are followed as long as they stay in the allowed directories."""
        for found in await asyncio.to_thread(lambda: list(self._walk(url, self._real(url), "", ()))):
            yield found

    def _walk(
        self, url: str, directory: Path, below: str, parents: tuple[Path, ...]
    ) -> Iterator[StoredObject]:
        try:
            entries = sorted(os.scandir(directory), key=_sort_key)
        except OSError as error:
            raise _reading_failed(f"{url}/{below}" if below else url, error) from error
        for entry in entries:
            name = below + entry.name
            its_url = f"{url.rstrip('/')}/{name}"
            if not entry.is_dir():
                yield self._listed(its_url, name)
                continue
            real = self._real(its_url)
            if real in (directory, *parents):
                raise TransferIOError(f"{its_url} is a link to a directory that it is in")
            yield from self._walk(url, real, f"{name}/", (directory, *parents))

    def _listed(self, url: str, name: str) -> StoredObject:
        return replace(self._stat(url), name=name)

    async def read(self, found: StoredObject, start: int, length: int | None) -> LocalReading:
        """See `Store.read`."""
        path = Path(found.location) if found.location else self._real(found.url)
        return LocalReading(self._allowed, found, path, start, length)

    async def begin_upload(self, url: str, parts: Sequence[Part]) -> LocalUpload:
        """See `Store.begin_upload`. Missing directories are made.

        Raises OutputFailedError where the target is a directory or can't be made.
        """
        making = asyncio.create_task(
            asyncio.to_thread(self._begin_upload, url, parts), name=f"begin-upload {url}"
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # A thread can't be cancelled: what it makes now is nobody's.
            await asyncio.wait([making])
            if making.exception() is None:
                making.result().discard()
            raise

    def _begin_upload(self, url: str, parts: Sequence[Part]) -> LocalUpload:
        target = self._real(url)
        if target.is_dir() or url.endswith("/"):
            raise OutputFailedError(f"{url} is a directory; expected a file's path")
        partial = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(partial, flags, 0o666)
        except OSError as error:
            raise _writing_failed(url, error) from error
        upload = LocalUpload(url, target, partial, fd, sum(part.length for part in parts))
        if not _is_allowed(_path_of(fd), self._allowed):
            upload.discard()
            raise _not_allowed(url)
        return upload

    def _real(self, url: str) -> Path:
        """Where a URL's path really is. Raises AccessDeniedError where that is not allowed."""
        try:
            path = Path(os.path.realpath(local_path(url)))
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not _is_allowed(path, self._allowed):
            raise _not_allowed(url)
        return path


def _sort_key(entry: os.DirEntry[str]) -> bytes:
    """Byte order of whole names: `a.txt` comes before what is in `a/`."""
    return os.fsencode(f"{entry.name}/" if entry.is_dir() else entry.name)


def _is_allowed(path: Path, allowed: Sequence[Path]) -> bool:
    return any(path.is_relative_to(directory) for directory in allowed)


def _not_allowed(url: str) -> AccessDeniedError:
    return AccessDeniedError(f"{url} is not in a directory that was opened to tasks with --allow-dir")


def _path_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}").readlink()


def _described(url: str, path: Path, status: os.stat_result) -> StoredObject:
    # No ETag, as Funnel tells none; but this changes when the file does, and readings are pinned by it.
    version = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
    return StoredObject(url, status.st_size, "", ranged=True, version=version, location=str(path))


@dataclass(frozen=True, slots=True)
class LocalReading:
    """One stretch of a file."""

    allowed: tuple[Path, ...]
    found: StoredObject
    path: Path
    start: int
    length: int | None

    def run(self, connections: Connections, target: FileSlice) -> None:
        """See `Reading.run`."""
        url = self.found.url
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _reading_failed(url, error) from error
        try:
            if not _is_allowed(_path_of(fd), self.allowed):
                raise _not_allowed(url)
            self._check_unchanged(fd)
            length = (self.found.size_bytes or 0) - self.start if self.length is None else self.length
            source = FileSlice(fd, self.start, length)
            _copy(connections, source, target, length, url)
            self._check_unchanged(fd)
        finally:
            os.close(fd)

    def _check_unchanged(self, fd: int) -> None:
        if _described(self.found.url, self.path, os.fstat(fd)).version != self.found.version:
            raise TransferIOError(f"{self.found.url} was changed while it was read; nothing of it is kept")


@dataclass(frozen=True, slots=True)
class LocalWriting:
    """One part of a new file."""

    fd: int
    url: str
    part: Part

    def run(self, connections: Connections, source: FileSlice) -> str:
        """See `Writing.run`; there is no receipt."""
        source.done = 0
        target = FileSlice(self.fd, self.part.offset, self.part.length)
        _copy(connections, source, target, self.part.length, self.url)
        return ""


@dataclass(slots=True)
class LocalUpload:
    """One file in the making."""

    url: str
    target: Path
    partial: Path
    fd: int
    size_bytes: int
    ended: bool = False
    ending: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """A cancelled `complete` may still be at work in its thread when `abort` comes, which then waits for it."""

    async def write_part(self, part: Part) -> LocalWriting:
        """See `Upload.write_part`."""
        return LocalWriting(self.fd, self.url, part)

    async def complete(self, receipts: Sequence[str]) -> StoredObject:  # noqa: ARG002  # parts have none here
        """See `Upload.complete`."""
        return await asyncio.to_thread(self._complete)

    def _complete(self) -> StoredObject:
        with self.ending:
            return self._shown()

    def _shown(self) -> StoredObject:
        status = os.fstat(self.fd)
        if status.st_size != self.size_bytes:
            raise TransferIOError(
                f"{self.url}: wrote {status.st_size} bytes where {self.size_bytes} were due"
            )
        try:
            self.partial.rename(self.target)
        except OSError as error:
            raise _writing_failed(self.url, error) from error
        self.ended = True
        os.close(self.fd)
        return _described(self.url, self.target, status)

    async def abort(self) -> None:
        """See `Upload.abort`."""
        await asyncio.to_thread(self.discard)

    def discard(self) -> None:
        """Leave no trace of a file that is not whole; directories made for it stay."""
        with self.ending:
            if not self.ended:
                self.ended = True
                os.close(self.fd)
                self.partial.unlink(missing_ok=True)


def _copy(connections: Connections, source: FileSlice, target: FileSlice, length: int, url: str) -> None:
    """Copy `length` bytes, inside the kernel where it can; both slices count them."""
    copy = _copy_in_kernel
    while source.done < length:
        connections.raise_if_aborted()
        try:
            count = copy(source, target, min(_STEP_BYTES, length - source.done))
        except OSError as error:
            if copy is _copy_in_kernel and error.errno in _NO_KERNEL_COPY:
                copy = _copy_by_hand
                continue
            raise TransferIOError(f"copying {url} failed: {error.strerror}") from error
        if not count:
            raise TransferIOError(f"{url} became shorter while it was read")
        source.done += count


def _copy_in_kernel(source: FileSlice, target: FileSlice, length: int) -> int:
    count = os.copy_file_range(
        source.fd, target.fd, length, source.offset + source.done, target.offset + target.done
    )
    target.done += count
    return count


def _copy_by_hand(source: FileSlice, target: FileSlice, length: int) -> int:
    chunk = os.pread(source.fd, length, source.offset + source.done)
    target.append(memoryview(chunk))
    return len(chunk)


def _reading_failed(url: str, error: OSError) -> TaskrunnerError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputMissingError(f"{url} does not exist")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        return AccessDeniedError(f"{url} can't be read: {error.strerror}")
    return TransferIOError(f"{url} can't be read: {error.strerror}")


def _writing_failed(url: str, error: OSError) -> TaskrunnerError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDeniedError(f"{url} can't be written: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return TransferIOError(f"{url} can't be written: {error.strerror}")
    return OutputFailedError(f"{url} can't be written: {error.strerror}")
