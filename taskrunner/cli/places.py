"""Places on this machine that files are to go to: what may be replaced, what has to be made. All calls block."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from taskrunner.errors import AccessDeniedError, OutputFailedError


def require_replaceable(target: Path) -> None:
    """A new file may take the place of an old one or of a link, never of a directory or a device.

    Raises OutputFailedError.
    """
    try:
        mode = target.stat().st_mode
    except OSError:
        return  # nothing is there, or what is wrong with it shows when the file is made
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise OutputFailedError(f"{target} is a {kind}, not a file, and is left alone")


def existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    return next((one for one in (directory, *directory.parents) if one.is_dir()), Path("/"))


def make_parents(directory: Path) -> None:
    """Make a directory that files are to be in. Raises AccessDeniedError or OutputFailedError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        kind = AccessDeniedError if denied else OutputFailedError
        raise kind(f"can't make the directory {directory}: {error.strerror}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise AccessDeniedError(f"{directory} can't be written to")
