"""Files in the making: opened once, filled by several lanes at their own places, put in place when whole.

A partial file lives in the task's staging directory, which no container sees, and is renamed to its final name
only when every byte of it is there. All calls here block and are made from lanes.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from taskrunner.errors import TransferIOError
from taskrunner.workdir import make_directory

if TYPE_CHECKING:
    from pathlib import Path

_DOWNLOADED_MODE = 0o666  # as Funnel's: an executor of any user may use it
_CONTENT_MODE = 0o775  # clients run a `content` script directly


class PartialFile:
    """A file on its way to `target`; safe to use from several lanes."""

    def __init__(self, partial: Path, target: Path, size_bytes: int | None) -> None:
        self._partial = partial
        self._target = target
        self._size_bytes = size_bytes
        self._opening = threading.Lock()
        self._fd: int | None = None

    def open(self) -> int:
        """The file's descriptor; the first call makes the file, in its full size."""
        with self._opening:
            if self._fd is None:
                self._fd = self._create()
            return self._fd

    def _create(self) -> int:
        try:
            fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_trouble(self._target, error) from error
        try:
            os.truncate(fd, self._size_bytes or 0)
        except OSError as error:
            os.close(fd)
            self._partial.unlink()
            raise disk_trouble(self._target, error) from error
        return fd

    def put_in_place(self, size_bytes: int) -> None:
        """Give the whole file its final name. Raises TransferIOError where its size is not `size_bytes`."""
        fd = self.open()
        try:
            there_bytes = os.fstat(fd).st_size
            if there_bytes != size_bytes:
                raise TransferIOError(
                    f"{self._target} has {there_bytes} bytes where {size_bytes} were expected"
                )
            os.fchmod(fd, _DOWNLOADED_MODE)
            _rename(self._partial, self._target)
        except OSError as error:
            raise disk_trouble(self._target, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the file, and remove it if it is still partial. Safe to call more than once."""
        with self._opening:
            if self._fd is None:
                return
            os.close(self._fd)
            self._fd = None
        self._partial.unlink(missing_ok=True)


def write_content(partial: Path, target: Path, content: str) -> None:
    """Make the executable file `target` with an input's own content, in UTF-8."""
    try:
        partial.write_bytes(content.encode())
        partial.chmod(_CONTENT_MODE)
        _rename(partial, target)
    except OSError as error:
        raise disk_trouble(target, error) from error


def require_space(directory: Path, needed_bytes: int) -> None:
    """Whether the disk of `directory` has room for `needed_bytes`. Raises TransferIOError, with both numbers."""
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise disk_trouble(directory, error) from error
    free_bytes = status.f_bavail * status.f_frsize
    if needed_bytes > free_bytes:
        raise TransferIOError(
            f"the inputs have {needed_bytes:,} bytes and the disk of {directory} has {free_bytes:,} free; "
            "choose a larger one with --work-dir"
        )


def make_placeholder(path: Path) -> None:
    """Make the empty file that stands for an output directly under `/`, so that it can be mounted.

    Its time tells later whether an executor has written to it (`outputs`).
    """
    try:
        path.touch()
        path.chmod(_DOWNLOADED_MODE)
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
        return False
    return True


def _rename(partial: Path, target: Path) -> None:
    make_directory(target.parent)
    partial.rename(target)


def disk_trouble(path: Path, error: OSError) -> TransferIOError:
    """What to tell when a file of the task's own can't be made or written."""
    return TransferIOError(
        f"can't write {path}: {error.strerror}; is the disk of --work-dir large enough and writable?"
    )
