"""`storage put`: files of this machine to S3, or to another place here.

    sources --walk--> files --a URL for each--> sendables --upload--> objects

A directory's files go below the target, links in it followed; what is no file (a pipe, a device) is left out
with a warning. What was typed wrong is told before the first byte; a file that fails later does not stop the
others.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskrunner.cli.naming import destination_of
from taskrunner.cli.places import existing, require_replaceable
from taskrunner.cli.telling import tell_error
from taskrunner.cli.transfer_log import TransferLog
from taskrunner.errors import (
    AccessDeniedError,
    ExitCode,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
    UsageError,
    one_line,
    several,
)
from taskrunner.events import UploadTotals
from taskrunner.staging.files import require_space
from taskrunner.staging.upload import Sendable, upload
from taskrunner.storage.opening import check_store
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskrunner.cli.naming import Destination, Selection
    from taskrunner.storage.opening import Stores


async def put(
    sources: Sequence[Path], destination: str, selection: Selection, stores: Stores, *, as_json: bool
) -> int:
    """Put every file; gives the exit code of all failures together. Raises TaskrunnerError for wrong words.

    `sources` are absolute.
    """
    walk = await asyncio.to_thread(_walked, sources, selection)
    place = destination_of(destination, several=len(sources) > 1 or walk.any_directory)
    files = [Sendable(place.place(one.name), str(one.path), one.source, one.size_bytes) for one in walk.files]
    _refuse_twins(files)
    await _check(place, files, stores)
    for warning in walk.warnings:
        click.echo(f"warning: {one_line(warning)}", err=True)
    for error in walk.errors:
        tell_error(error)
    paths = {file.url: file.path for file in files}
    with TransferLog(paths, as_json=as_json, failed=len(walk.errors)) as log:
        sent, tally = await upload(files, stores, stores.settings.transfer, log)
        await log.conclude(tally.totals(UploadTotals))
    errors = [*walk.errors, *(one.error for one in sent if one.error is not None)]
    return several(errors).exit_code if errors else ExitCode.COMPLETE


def _refuse_twins(files: Iterable[Sendable]) -> None:
    paths: dict[str, str] = {}
    for file in files:
        if file.url in paths:
            raise UsageError(
                f"{paths[file.url]} and {file.path} would both be {file.url}; nothing was uploaded"
            )
        paths[file.url] = file.path


async def _check(place: Destination, files: Sequence[Sendable], stores: Stores) -> None:
    """Fail before the first byte where nothing could be put. Raises TaskrunnerError."""
    if store_kind(place.url) is StoreKind.LOCAL:
        await asyncio.to_thread(_check_local, place, files)
        return
    try:
        await check_store(stores, place.url)
    except InputMissingError as error:
        raise OutputFailedError(str(error)) from error


def _check_local(place: Destination, files: Sequence[Sendable]) -> None:
    """Blocking: see that no device is replaced, and that there is space. Raises TaskrunnerError."""
    for file in files:
        require_replaceable(Path(file.url))
    needed_bytes = sum(file.size_bytes for file in files)
    require_space({existing(Path(place.url)): needed_bytes}, "make room, or choose another place")


@dataclass(frozen=True, slots=True)
class _File:
    """One file that was found."""

    name: str
    """Below the target: a file's own name, or its path below the directory that was named."""
    path: Path
    """As it is told."""
    source: Path
    """Where it really is, no link in it."""
    size_bytes: int

    @classmethod
    def at(cls, path: Path, name: str, status: os.stat_result) -> _File:
        """Raises UnicodeEncodeError where its name can't be part of a URL."""
        name.encode()
        return cls(name, path, path.resolve(), status.st_size)


@dataclass(slots=True)
class _Walk:
    """What the sources came to."""

    files: list[_File] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[TaskrunnerError] = field(default_factory=list)
    """Of what is below directories; the others may well be put."""
    any_directory: bool = False


def _walked(sources: Sequence[Path], selection: Selection) -> _Walk:
    """Blocking: all files that `sources` name. Raises for what was named itself and can't be put."""
    walk = _Walk()
    wrong: list[TaskrunnerError] = []
    for path in sources:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                walk.any_directory = True
                _walk_directory(walk, path, selection)
            elif stat.S_ISREG(status.st_mode):
                walk.files.append(_File.at(path, path.name, status))
            else:
                wrong.append(TransferIOError(f"{_shown(path)} is a pipe, socket or device, not a file"))
        except (OSError, UnicodeEncodeError) as error:
            wrong.append(_cant_put(path, error))
    if wrong:
        raise several(wrong)
    return walk


def _walk_directory(walk: _Walk, top: Path, selection: Selection) -> None:
    """Every file below a directory, in byte order of the names in each. Directories in circles are left out."""
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while todo:
        below, above = todo.pop()
        here = top / below
        try:
            status = here.stat()
            names = sorted(os.listdir(here), key=os.fsencode)  # noqa: PTH208  # names, not paths
        except OSError as error:
            walk.errors.append(_cant_put(here, error))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            walk.warnings.append(f"{_shown(here)} is a link to a directory that it is in, and is left out")
            continue
        directories = [name for name in names if _take(walk, top, f"{below}{name}", selection)]
        todo.extend((f"{below}{name}/", (*above, identity)) for name in reversed(directories))


def _take(walk: _Walk, top: Path, name: str, selection: Selection) -> bool:
    """Take one entry of a directory if it is a file; True if it is a directory itself."""
    path = top / name
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return True
        if not selection.takes(name):
            return False
        if stat.S_ISREG(status.st_mode):
            walk.files.append(_File.at(path, name, status))
        else:
            walk.warnings.append(f"{_shown(path)} is a pipe, socket or device, and is left out")
    except (OSError, UnicodeEncodeError) as error:
        walk.errors.append(_cant_put(path, error))
    return False


def _cant_put(path: Path, error: OSError | UnicodeEncodeError) -> TaskrunnerError:
    if isinstance(error, UnicodeEncodeError):
        return OutputFailedError(f"{_shown(path)}: its name is not UTF-8, so it can't be part of a URL")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        what = "is a link to nothing" if path.is_symlink() else "does not exist"
        return InputMissingError(f"{_shown(path)} {what}")
    kind = AccessDeniedError if isinstance(error, PermissionError) else TransferIOError
    return kind(f"can't read {_shown(path)}: {error.strerror}")


def _shown(path: Path) -> str:
    return str(path).encode(errors="replace").decode()
