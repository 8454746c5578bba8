"""Where the task document comes from: a path, `-`, a URL, or the command line itself.

There may be many tasks (a list, JSON Lines, a directory or prefix); the index of an array job's child picks one.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskrunner.batch.placeholders import filled_in
from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    InvalidTaskError,
    TransferIOError,
    UsageError,
)
from taskrunner.shielded import in_daemon_thread
from taskrunner.urls import StoreKind, local_path, store_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from taskrunner.batch.job import Job
    from taskrunner.collection import Picked
    from taskrunner.document import LoadedTask
    from taskrunner.settings import Settings
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
"""TASK, and its alternative. TASK is a path, `-` (standard input), or an s3://, http(s):// or file:// URL; a
directory (a path or file:// URL) or an s3:// URL that ends with a slash stands for its tasks."""


async def read_task(
    values: Mapping[str, Any],
    settings: Settings,
    stores: Stores,
    job: Job,
    *,
    new_id: Callable[[], str] | None = None,
    makes_containers: bool = True,
) -> LoadedTask:
    """The task that TASK or --task-base64 names; of many the one that the job's array index picks.

    `new_id` names a task that has no id; by default it is named after the job, so that another attempt finds what
    this one leaves, or anew. Who makes no containers does not judge what the task wants of them. Where the
    operator wants it, placeholders in its URLs are filled in.

    Raises:
        click.UsageError: neither TASK nor --task-base64 are given, or both.
        InvalidTaskError: the document is wrong, or --task-base64 is no base64.
        UsageError: the index fits no task, or a placeholder has no value.
        TaskrunnerError: it could not be read (missing, no access, too large).
    """
    from taskrunner.document import parse_task  # noqa: PLC0415  # pydantic comes with it

    picked = await _picked(values, stores, job.array_index)
    try:
        return parse_task(
            picked.document,
            new_id=new_id or (lambda: task_id_for(job)),
            containers=settings.containers if makes_containers else None,
            fill_in=(lambda task: filled_in(task, job)) if settings.fill_in_urls else (lambda task: task),
        )
    except InvalidTaskError as error:
        if picked.name is None:
            raise
        raise InvalidTaskError(error.mistakes, picked.name) from error


def task_id_for(job: Job) -> str:
    """The id of a task whose document has none."""
    from taskrunner.identity import new_task_id  # noqa: PLC0415  # `--help` needs none

    return job.default_task_id or new_task_id()


async def _picked(values: Mapping[str, Any], stores: Stores, index: int | None) -> Picked:
    source, encoded = values["task"], values["task_base64"]
    if bool(source) == bool(encoded):
        raise click.UsageError("give either TASK (a path, - or a URL) or --task-base64")
    from taskrunner.collection import pick_document  # noqa: PLC0415  # pydantic comes with it

    if encoded:
        from taskrunner.document import decode_base64  # noqa: PLC0415  # as above

        return pick_document(decode_base64(encoded), index, "--task-base64")
    if source == "-":
        return await in_daemon_thread(lambda: _from_standard_input(index), name="standard input")
    kind = store_kind(source)
    if kind is StoreKind.S3 and source.endswith("/"):
        return await _from_prefix(source, index, stores)
    if kind in (StoreKind.S3, StoreKind.HTTP):
        from taskrunner.storage.opening import fetch_bytes  # noqa: PLC0415  # HTTP libraries

        document = await fetch_bytes(stores, source, MOST_BYTES)
        return await in_daemon_thread(lambda: pick_document(document, index, source), name="task document")
    path = _path_of(source)
    return await in_daemon_thread(lambda: _from_path(path, index), name="task document")


async def _from_prefix(prefix: str, index: int | None, stores: Stores) -> Picked:
    """The task of one object right below a prefix; no other is read."""
    from taskrunner.collection import Picked, is_task_name, nth  # noqa: PLC0415  # pydantic comes with it
    from taskrunner.storage.opening import fetch_bytes, list_files  # noqa: PLC0415  # HTTP libraries

    found = nth(await list_files(stores, prefix, is_task_name), index, f"{prefix} (*.json)")
    found.require_fit()
    return Picked(await fetch_bytes(stores, found.url, MOST_BYTES), found.url)


def _from_standard_input(index: int | None) -> Picked:
    from taskrunner.collection import pick_document  # noqa: PLC0415  # pydantic comes with it

    document = _within_limit(_read_standard_input(), "standard input")
    return pick_document(document, index, "standard input")


def _from_path(path: Path, index: int | None) -> Picked:
    from taskrunner.collection import Picked, nth, pick_document  # noqa: PLC0415  # as above

    with _unread(path):
        files = _task_files(path) if path.is_dir() else None
    if files is not None:
        file = nth(files, index, f"{path} (*.json)")
        return Picked(_read_file(file), str(file))
    return pick_document(_read_file(path), index, str(path))


def _task_files(directory: Path) -> list[Path]:
    """The tasks of a directory, in byte order of their names. Raises OSError.

    Links count wherever they lead: one that is broken is its own child's trouble and shifts no other's index.
    """
    from taskrunner.collection import is_task_name  # noqa: PLC0415  # as above

    with os.scandir(directory) as entries:
        files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    return [directory / name for name in sorted(filter(is_task_name, files), key=os.fsencode)]


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
    with _unread(path), path.open("rb") as file:
        return _within_limit(file.read(MOST_BYTES + 1), str(path))


@contextmanager
def _unread(path: Path) -> Iterator[None]:
    """Our errors for what the file system has against reading a document, or a directory of them."""
    try:
        yield
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
