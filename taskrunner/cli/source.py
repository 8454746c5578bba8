"""Where the task document comes from: a path, `-`, a URL, or the command line itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskrunner.errors import AccessDeniedError, InputMissingError, TransferIOError, UsageError
from taskrunner.shielded import in_daemon_thread
from taskrunner.urls import StoreKind, local_path, store_kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskrunner.storage.opening import Stores

MOST_BYTES = 64 * 1024 * 1024
"""The largest document that is read."""

PARAMETERS: tuple[click.Parameter, ...] = (
    click.Argument(["task"], required=False, envvar="TASKRUNNER_TASK", metavar="TASK"),
    click.Option(
        ["--task-base64"],
        envvar="TASKRUNNER_TASK_BASE64",
        show_envvar=True,
        metavar="TEXT",
        help="The document itself, base64-encoded, plain or gzipped; instead of TASK.",
    ),
)
"""TASK, and its alternative. TASK is a path, `-` (standard input), or an s3://, http(s):// or file:// URL."""


async def read_document(values: Mapping[str, Any], stores: Stores) -> bytes:
    """The bytes of the task document that TASK or --task-base64 names.

    Raises:
        click.UsageError: neither or both are given.
        InvalidTaskError: --task-base64 is no base64.
        TaskrunnerError: it could not be read (missing, no access, too large).
    """
    source, encoded = values["task"], values["task_base64"]
    if bool(source) == bool(encoded):
        raise click.UsageError("give either TASK (a path, - or a URL) or --task-base64")
    if encoded:
        from taskrunner.document import decode_base64  # noqa: PLC0415  # pydantic comes with it

        return decode_base64(encoded)
    if source == "-":
        document = await in_daemon_thread(_read_standard_input, name="standard input")
        return _within_limit(document, "standard input")
    if store_kind(source) in (StoreKind.S3, StoreKind.HTTP):
        from taskrunner.storage.opening import fetch_bytes  # noqa: PLC0415  # HTTP libraries

        return await fetch_bytes(stores, source, MOST_BYTES)
    path = _path_of(source)
    return await in_daemon_thread(lambda: _read_file(path), name="task document")


def _read_standard_input() -> bytes:
    # Unbuffered: a buffer's lock, held by a thread that waits, would not let the interpreter end.
    pieces: list[bytes] = []
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
        while sum(len(piece) for piece in pieces) <= MOST_BYTES and (piece := stream.read(1024 * 1024)):
            pieces.append(piece)
    return b"".join(pieces)


def _path_of(source: str) -> Path:
    if "://" not in source:
        return Path(source)
    if store_kind(source) is not StoreKind.LOCAL:
        raise UsageError(f"can't read {source}: expected a path, -, s3://, http(s):// or file:// URL")
    try:
        return local_path(source)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _within_limit(file.read(MOST_BYTES + 1), str(path))
    except FileNotFoundError as error:
        raise InputMissingError(f"there is no task document at {path}") from error
    except PermissionError as error:
        raise AccessDeniedError(f"the task document {path} may not be read: {error.strerror}") from error
    except OSError as error:
        raise TransferIOError(f"can't read the task document {path}: {error.strerror}") from error


def _within_limit(document: bytes, source: str) -> bytes:
    if len(document) > MOST_BYTES:
        raise TransferIOError(f"the task document from {source} is larger than {MOST_BYTES} bytes")
    return document
