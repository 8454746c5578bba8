"""Files on this machine, as far as the operator opened them.

A task document is untrusted, so a path counts by where it really is, every link resolved, and that must be in
one of the allowed directories. It is looked at when it is named and again when it is open, so that no link put
there in between leads elsewhere. New files are made under a hidden name beside their place and renamed when
they are whole.
"""

from __future__ import annotations

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
from taskrunner.storage.slices import FileSlice, path_of
from taskrunner.storage.store import Part, Receipt, StoredObject
from taskrunner.urls import join, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taskrunner.storage.wire import Connections

_LONGEST_BEGINNING_BYTES = 200  # of a name, in that of its file in the making: NAME_MAX is 255
_STEP_BYTES = 8 * 1024 * 1024  # between two looks at whether the lane was stopped
_CHUNK_BYTES = 256 * 1024  # of our memory, where the kernel doesn't copy
# File systems that can't copy inside the kernel, or not between these two files, say it by one of these.
_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)


class LocalStore:
    """See `Store`. `location` of what it finds is the file's real path."""

    def __init__(self, allowed_dirs: Sequence[Path]) -> None:
        self._allowed = tuple(Path(os.path.realpath(directory)) for directory in allowed_dirs)

    def check(self, connections: Connections, url: str) -> None:
        """See `Store.check`: the path is in an allowed directory."""
        connections.raise_if_aborted()
        self._real(url)

    def stat(self, connections: Connections, url: str) -> StoredObject:
        """See `Store.stat`."""
        connections.raise_if_aborted()
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

    def list_directory(
        self, connections: Connections, url: str, *, deep: bool = True
    ) -> Iterator[StoredObject]:
        """See `Store.list_directory`. Links are followed as long as they stay in the allowed directories."""
        return self._walk(connections, url, self._real(url), "", (), deep=deep)

    def _walk(
        self,
        connections: Connections,
        url: str,
        directory: Path,
        below: str,
        parents: tuple[Path, ...],
        *,
        deep: bool,
    ) -> Iterator[StoredObject]:
        try:
            entries = sorted(os.scandir(directory), key=_sort_key)
        except OSError as error:
            raise _reading_failed(f"{url}/{below}" if below else url, error) from error
        for entry in entries:
            name = below + entry.name
            its_url = join(url, name)
            if not entry.is_dir():
                yield replace(self.stat(connections, its_url), name=name)
                continue
            if not deep:
                continue
            real = self._real(its_url)
            if real in (directory, *parents):
                raise TransferIOError(f"{its_url} is a link to a directory that it is in")
            yield from self._walk(connections, url, real, f"{name}/", (directory, *parents), deep=True)

    def read(self, connections: Connections, found: StoredObject, target: FileSlice) -> None:
        """See `Store.read`."""
        path = Path(found.location) if found.location else self._real(found.url)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _reading_failed(found.url, error) from error
        try:
            if not _is_allowed(path_of(fd), self._allowed):
                raise _not_allowed(found.url)
            _check_unchanged(found, fd)
            left = (found.size_bytes or 0) - target.position if target.left is None else target.left
            _copy(connections, FileSlice(fd, target.position, left), target, found.url)
            _check_unchanged(found, fd)
        finally:
            os.close(fd)

    def abandon_upload(
        self, connections: Connections, url: str, resume_id: str | None, since_seconds: float
    ) -> None:
        """See `Store.abandon_upload`: there are none to go on with here."""

    def begin_upload(
        self,
        connections: Connections,
        url: str,
        parts: Sequence[Part],
        resume_id: str | None = None,  # noqa: ARG002  # a copy is as quickly made anew
    ) -> LocalUpload:
        """See `Store.begin_upload`. Missing directories are made.

        Raises OutputFailedError where the target is a directory or can't be made.
        """
        connections.raise_if_aborted()
        target = self._real(url)
        partial = partial_beside(target)
        try:
            _check_replaceable(url, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(partial, flags, 0o666)
        except OSError as error:
            raise _writing_failed(url, error) from error
        upload = LocalUpload(url, target, partial, fd, sum(part.length for part in parts))
        if not _is_allowed(path_of(fd), self._allowed):
            upload.abort(connections)
            raise _not_allowed(url)
        return upload

    def _real(self, url: str) -> Path:
        """Where a URL's path really is. Raises AccessDeniedError where that is not allowed."""
        try:
            path = Path(os.path.realpath(local_path(url)))
        except ValueError as error:
            raise UsageError(str(error)) from error
        except OSError as error:  # what was looked at changed meanwhile
            raise _reading_failed(url, error) from error
        if not _is_allowed(path, self._allowed):
            raise _not_allowed(url)
        return path


def _check_replaceable(url: str, target: Path) -> None:
    if target.is_dir() or url.endswith("/"):
        raise OutputFailedError(f"{url} is a directory; expected a file's path")
    if target.exists() and not target.is_file():
        raise OutputFailedError(f"{url} is a pipe, socket or device; expected a file's path")


def partial_beside(target: Path) -> Path:
    """A new hidden name beside `target`, for what is to be renamed to it when it is whole."""
    beginning = os.fsencode(target.name)[:_LONGEST_BEGINNING_BYTES].decode(errors="ignore")
    return target.with_name(f".{beginning}.{secrets.token_hex(6)}.partial")


def _sort_key(entry: os.DirEntry[str]) -> bytes:
    """Byte order of whole names: `a.txt` comes before what is in `a/`."""
    return os.fsencode(f"{entry.name}/" if entry.is_dir() else entry.name)


def _is_allowed(path: Path, allowed: Sequence[Path]) -> bool:
    return any(path.is_relative_to(directory) for directory in allowed)


def _not_allowed(url: str) -> AccessDeniedError:
    return AccessDeniedError(f"{url} is not in a directory that was opened to tasks with --allow-dir")


def _described(url: str, path: Path, status: os.stat_result) -> StoredObject:
    return StoredObject(
        url,
        status.st_size,
        "",
        ranged=True,
        version=_version(status),
        location=str(path),
        modified_seconds=status.st_mtime,
    )


def _version(status: os.stat_result) -> str:
    # No ETag, as Funnel tells none; but this changes when the file does, and readings are pinned by it.
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _check_unchanged(found: StoredObject, fd: int) -> None:
    if _version(os.fstat(fd)) != found.version:
        raise TransferIOError(f"{found.url} was changed while it was read; nothing of it is kept")


@dataclass(slots=True)
class LocalUpload:
    """One file in the making; parts are written to it by any number of lanes."""

    url: str
    target: Path
    partial: Path
    fd: int
    """Ours until the upload has ended; who writes meanwhile has a duplicate."""
    size_bytes: int
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def resume_id(self) -> None:
        """See `Upload.resume_id`: a copy is as quickly made anew."""
        return

    def sent_parts(self, connections: Connections) -> Mapping[int, Receipt]:  # noqa: ARG002
        """See `Upload.sent_parts`: there are none."""
        return {}

    def write_part(self, connections: Connections, part: Part, source: FileSlice) -> Receipt:
        """See `Upload.write_part`; there is nothing in a receipt."""
        source.start_over()
        with self._lock:
            self._raise_if_ended()
            try:
                fd = os.dup(self.fd)  # an abort closes the other one, whose number may soon be another file's
            except OSError as error:
                raise _writing_failed(self.url, error) from error
        try:
            _copy(connections, source, FileSlice(fd, part.offset, part.length), self.url)
        finally:
            os.close(fd)
        return Receipt("")

    def complete(self, connections: Connections, receipts: Sequence[Receipt]) -> StoredObject:  # noqa: ARG002
        """See `Upload.complete`."""
        connections.raise_if_aborted()
        with self._lock:
            self._raise_if_ended()
            status = os.fstat(self.fd)
            if status.st_size != self.size_bytes:
                raise TransferIOError(
                    f"{self.url}: wrote {status.st_size} bytes where {self.size_bytes} were due"
                )
            try:
                self.partial.rename(self.target)
                self._end()  # file systems of a network may say only now that there is no room
            except OSError as error:
                raise _writing_failed(self.url, error) from error
        return _described(self.url, self.target, status)

    def abort(self, connections: Connections) -> None:  # noqa: ARG002
        """See `Upload.abort`. A completion at work is waited for; directories made for the file stay."""
        with self._lock:
            if self._ended:
                return
            self._end()
            try:
                self.partial.unlink(missing_ok=True)
            except OSError as error:
                raise _writing_failed(str(self.partial), error) from error

    def _end(self) -> None:
        self._ended = True
        os.close(self.fd)

    def _raise_if_ended(self) -> None:
        if self._ended:
            raise TransferIOError(f"{self.url}: this upload has ended, and takes nothing more")


def _copy(connections: Connections, source: FileSlice, target: FileSlice, url: str) -> None:
    """Copy all of `source`, inside the kernel where that can be and nobody wants to see the bytes."""
    copy = _copy_in_kernel if target.digest is None else _copy_by_hand
    while left := source.left:
        connections.raise_if_aborted()
        try:
            count = copy(source, target, left)
        except OSError as error:
            if copy is _copy_in_kernel and error.errno in _NO_KERNEL_COPY:
                copy = _copy_by_hand
                continue
            raise TransferIOError(f"copying {url} failed: {error.strerror}") from error
        if not count:
            raise TransferIOError(f"{url} became shorter while it was read")
        source.done += count


def _copy_in_kernel(source: FileSlice, target: FileSlice, left: int) -> int:
    count = os.copy_file_range(source.fd, target.fd, min(_STEP_BYTES, left), source.position, target.position)
    target.done += count
    return count


def _copy_by_hand(source: FileSlice, target: FileSlice, left: int) -> int:
    chunk = os.pread(source.fd, min(_CHUNK_BYTES, left), source.position)
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
