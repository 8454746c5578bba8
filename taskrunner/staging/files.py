"""Files in the making: opened once, filled by several lanes at their own places, put in place when whole.

A partial file lives in the task's staging directory, which no container sees, and is renamed to its final name
only when every byte of it is there. All calls here block and are made from lanes.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from taskrunner.errors import TransferIOError
from taskrunner.workdir import is_only_ours, make_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DOWNLOADED_MODE = 0o666
"""As Funnel's: an executor of any user may use it."""
_CONTENT_MODE = 0o775  # clients run a `content` script directly
_LEAST_ALLOCATED_BYTES = 1024 * 1024
_CAN_NOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class PartialFile:
    """A file on its way to `target`; safe to use from several lanes."""

    def __init__(
        self,
        partial: Path,
        target: Path,
        size_bytes: int | None,
        *,
        mode: int = DOWNLOADED_MODE,
        kept: bool = False,
    ) -> None:
        """`kept`: a later attempt may go on with the partial file, so it outlives `target` and `close`."""
        self._partial = partial
        self._target = target
        self._size_bytes = size_bytes
        self._mode = mode
        self._kept = kept
        self._opening = threading.Lock()
        self._fd: int | None = None
        self._placed = False

    def has_beginning(self) -> bool:
        """Whether an earlier attempt left this very file in the making, in its full size."""
        try:
            status = self._partial.lstat()
        except OSError:
            return False
        return is_only_ours(status) and status.st_size == self._size_bytes

    def open(self) -> int:
        """The file's descriptor; the first call makes the file and, where it is large, allocates its space.

        Whoever comes meanwhile need not wait for the latter, which takes its time on some file systems.
        """
        with self._opening:
            if self._fd is not None:
                return self._fd
            fd = self._fd = self._opened()
        self._allocate(fd)
        return fd

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if self._kept:
                if self.has_beginning():
                    return os.open(self._partial, flags | os.O_NONBLOCK)
                self._partial.unlink(missing_ok=True)
            return os.open(self._partial, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise disk_trouble(self._target, error) from error

    def _allocate(self, fd: int) -> None:
        size_bytes = self._size_bytes or 0
        if size_bytes < _LEAST_ALLOCATED_BYTES:
            return
        try:
            os.truncate(fd, size_bytes)
            allocate(fd, size_bytes)
        except OSError as error:
            raise disk_trouble(self._target, error) from error

    def put_in_place(self, size_bytes: int) -> None:
        """Give the file its final name. Raises TransferIOError where `size_bytes`, which came, are not all."""
        fd = self.open()
        try:
            there_bytes = os.fstat(fd).st_size if self._size_bytes is None else self._size_bytes
            if there_bytes != size_bytes:
                raise TransferIOError(
                    f"{self._target} has {there_bytes} bytes where {size_bytes} were expected"
                )
            os.fchmod(fd, self._mode)
            if self._kept:
                _link(self._partial, self._target)
            else:
                _rename(self._partial, self._target)
            self._placed = True
        except OSError as error:
            raise disk_trouble(self._target, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; a partial one stays only where it is to be kept. Safe to call more than once."""
        with self._opening:
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            if not (self._kept or self._placed):
                self._partial.unlink(missing_ok=True)


def write_content(partial: Path, target: Path, content: str) -> None:
    """Make the executable file `target` with an input's own content, in UTF-8."""
    try:
        partial.write_bytes(content.encode())
        partial.chmod(_CONTENT_MODE)
        _rename(partial, target)
    except OSError as error:
        raise disk_trouble(target, error) from error


def require_space(needed_bytes: Mapping[Path, int], remedy: str) -> None:
    """Whether each directory's disk has room for so many bytes; directories on one disk count together.

    Raises TransferIOError, with both numbers and `remedy`.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for directory, count in needed_bytes.items():
        try:
            device = directory.stat().st_dev
        except OSError as error:
            raise disk_trouble(directory, error) from error
        first, before = disks.get(device, (directory, 0))
        disks[device] = first, before + count
    for directory, count in disks.values():
        try:
            status = os.statvfs(directory)
        except OSError as error:
            raise disk_trouble(directory, error) from error
        free_bytes = status.f_bavail * status.f_frsize
        if count > free_bytes:
            raise TransferIOError(
                f"{count:,} bytes are to come to the disk of {directory}, which has {free_bytes:,} free; {remedy}"
            )


def make_placeholder(path: Path) -> None:
    """Make the empty file that stands for an output directly under `/`, so that it can be mounted.

    Its time tells later whether an executor has written to it (`outputs`).
    """
    try:
        path.touch()
        path.chmod(DOWNLOADED_MODE)
        os.utime(path, ns=(0, 0))
    except OSError as error:
        raise disk_trouble(path, error) from error


def try_link(original: Path, partial: Path, target: Path) -> bool:
    """Put a hard link to a local original at `target`; False where the file system or the owner forbids it.

    Only for inputs that containers see read-only, and only by root: a runner that is not root takes over the
    ownership of all the task's files in the end, and an original's owner and group are not ours to change.
    """
    if os.geteuid() != 0:
        return False
    try:
        partial.hardlink_to(original)
        _rename(partial, target)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True


def allocate(fd: int, size_bytes: int) -> None:
    """Reserve space on disk for a file, at once and in one piece where that can be.

    Nothing happens where the file system can't do so without writing (NFS, FUSE): the emulation in
    posix_fallocate(3) would write to every block, so fallocate(2) itself is called.

    Raises OSError where there is not enough space.
    """
    from ctypes import CDLL, c_int, c_long, get_errno  # noqa: PLC0415  # for large files only

    fallocate = CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (c_int, c_int, c_long, c_long)
    if fallocate(fd, 0, 0, size_bytes) and get_errno() not in _CAN_NOT_ALLOCATE:
        raise OSError(get_errno(), os.strerror(get_errno()))


def _link(partial: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no such thing, a new one instead."""
    make_directory(target.parent)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(partial)
    except OSError:
        partial.rename(target)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except FileNotFoundError:  # most targets' directories are there already
        make_directory(target.parent)
        partial.rename(target)


def disk_trouble(path: Path, error: OSError) -> TransferIOError:
    """What to tell when a file of the task's own can't be made or written."""
    return TransferIOError(
        f"can't write {path}: {error.strerror}; is there enough space on that disk, and may we write there?"
    )
