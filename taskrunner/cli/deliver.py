"""Where `--result` and `--events` go: a path of the operator's own, or an s3:// URL.

These are the operator's words, not the task's, so a path needs no `--allow-dir`. A destination is looked at
before the task begins, so that hours of work don't end with a result that can't be written.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, OutputFailedError, UsageError
from taskrunner.urls import S3Url, StoreKind, local_path, store_kind

if TYPE_CHECKING:
    from taskrunner.storage.opening import Stores


def path_of(destination: str) -> Path | None:
    """The local path that a destination names; None for a URL of a store. Raises UsageError for a bad one."""
    if store_kind(destination) is StoreKind.LOCAL:
        try:
            return local_path(destination)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return None if "://" in destination else Path(destination)


async def check_destination(option: str, destination: str, stores: Stores) -> None:
    """Fail before the task begins where nothing could be written.

    Raises UsageError for a URL that can't be written to, OutputFailedError for a missing directory or bucket.
    """
    path = path_of(destination)
    if path is not None:
        _check_path(option, path)
        return
    if not _is_s3_object(destination):
        raise UsageError(f"{option} {destination}: expected a path or s3://BUCKET/KEY")
    from taskrunner.storage.opening import check_store  # noqa: PLC0415  # AWS libraries

    try:
        await check_store(stores, destination)
    except InputMissingError as error:
        raise OutputFailedError(f"{option} {destination}: {error}") from error


def _check_path(option: str, path: Path) -> None:
    folder = path.absolute().parent
    try:
        fits = not path.is_dir() and folder.is_dir() and os.access(folder, os.W_OK)
    except OSError as error:
        raise OutputFailedError(f"{option} {path}: no file can be written there: {error.strerror}") from error
    if not fits:
        raise OutputFailedError(
            f"{option} {path}: expected a file's path in a directory that is there and can be written"
        )


def _is_s3_object(url: str) -> bool:
    try:
        return store_kind(url) is StoreKind.S3 and bool(S3Url.parse(url, versioned=False).key)
    except ValueError:
        return False


async def deliver(destination: str, content: bytes, stores: Stores) -> None:
    """Write `content` to a destination, whole or not at all.

    Raises TaskrunnerError: OutputFailedError and those of the store.
    """
    path = path_of(destination)
    if path is not None:
        await asyncio.to_thread(_write, path, content)
        return
    try:
        with tempfile.NamedTemporaryFile(prefix="taskrunner-") as file:
            await asyncio.to_thread(Path(file.name).write_bytes, content)
            await deliver_file(destination, Path(file.name), stores)
    except OSError as error:
        raise OutputFailedError(f"can't prepare {destination} on the local disk: {error.strerror}") from error


async def deliver_file(url: str, path: Path, stores: Stores) -> None:
    """Put the file at `path` to a URL. Raises TaskrunnerError."""
    from taskrunner.storage.opening import put_file  # noqa: PLC0415  # AWS libraries

    await put_file(stores, url, path)


def _write(path: Path, content: bytes) -> None:
    partial = path.parent / f".{secrets.token_hex(8)}.partial"  # `/` has no name to change
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # what went wrong first is what to tell
            partial.unlink()
        raise OutputFailedError(f"can't write {path}: {os.strerror(error.errno or 0)}") from error
