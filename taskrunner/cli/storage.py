"""`storage`: files of S3, the web and this machine, moved and looked at by hand, by the engine tasks have.

These are the words of whoever types them, not of a task: local paths need no --allow-dir. A signal ends a
transfer as it ends a task: nothing half-made stays, and the exit code is that of what is worth a retry.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskrunner.cli.naming import Selection, Source, local_text, source_of
from taskrunner.cli.options import S3, TRANSFER, settings_from
from taskrunner.cli.telling import tell_line
from taskrunner.errors import ExitCode, UsageError, one_line
from taskrunner.stopping import until_stopped
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskrunner.settings import Settings
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject

T = TypeVar("T")

_RECURSIVE = click.Option(["-r", "--recursive"], is_flag=True, help="Everything below each URL.")
_INCLUDE = click.Option(
    ["--include"],
    multiple=True,
    metavar="PATTERN",
    help="Of directories and patterns take only files whose path below matches; * also matches slashes.",
)
_EXCLUDE = click.Option(
    ["--exclude"],
    multiple=True,
    metavar="PATTERN",
    help="Leave out files whose path below matches, whatever --include says.",
)
_NO_WILDCARDS = click.Option(
    ["--no-wildcards"], is_flag=True, help="Take * and ? in S3 URLs as characters of the key."
)
_JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="Tell each file on standard output, a JSON object a line."
)


def _run(parameters: Sequence[click.Parameter], values: dict[str, Any], work: _Work) -> int:
    settings = settings_from(parameters, values)
    # Whoever types the command may read and write here what the system lets them.
    settings = replace(settings, work=replace(settings.work, allowed_dirs=(Path("/"),)))
    return asyncio.run(until_stopped(_with_stores(settings, work)))


async def _with_stores(settings: Settings, work: _Work) -> int:
    from taskrunner.storage.opening import Stores  # noqa: PLC0415  # `--help` loads no HTTP library

    async with Stores(settings) as stores:
        return await work(stores)


def _get(**values: Any) -> int:
    from taskrunner.cli.get import get  # noqa: PLC0415  # as above

    wildcards = not values["no_wildcards"]
    sources = [source_of(text, recursive=values["recursive"], wildcards=wildcards) for text in values["url"]]
    selection = Selection(values["include"], values["exclude"])
    return _run(
        GET.params,
        values,
        lambda stores: get(sources, values["destination"], selection, stores, as_json=values["as_json"]),
    )


def _put(**values: Any) -> int:
    from taskrunner.cli.put import put  # noqa: PLC0415  # as above

    paths = [_local_source(text) for text in values["source"]]
    selection = Selection(values["include"], values["exclude"])
    return _run(
        PUT.params,
        values,
        lambda stores: put(paths, values["destination"], selection, stores, as_json=values["as_json"]),
    )


def _local_source(text: str) -> Path:
    if not text or ("://" in text and store_kind(text) is not StoreKind.LOCAL):
        raise UsageError(f"can't put {text!r}: expected a file or directory of this machine")
    return Path(local_text(text))


def _list(**values: Any) -> int:
    source = source_of(values["url"], recursive=True, wildcards=not values["no_wildcards"])
    line = _as_json if values["as_json"] else _as_text
    return _run(LIST.params, values, lambda stores: _list_below(source, line, stores))


def _stat(**values: Any) -> int:
    source = source_of(values["url"], wildcards=False)
    return _run(STAT.params, values, lambda stores: _tell_stat(source, stores))


async def _list_below(source: Source, line: Callable[[StoredObject], str], stores: Stores) -> int:
    """Tell what is below a directory as its pages come. A reader who has seen enough ends it."""
    told = 0

    def tell(lane: Lane) -> bool:
        """On another try, go on after what was told before the connection broke."""
        nonlocal told
        listed = stores.store_for(source.url).list_directory(lane.connections, source.url)
        for found in islice((one for one in listed if source.takes(one.name)), told, None):
            try:
                tell_line(line(found))
            except BrokenPipeError:
                return False
            told += 1
        return True

    return ExitCode.COMPLETE if await _in_a_lane(stores, tell) else ExitCode.IO_ERROR


async def _tell_stat(source: Source, stores: Stores) -> int:
    found = await _in_a_lane(
        stores, lambda lane: stores.store_for(source.url).stat(lane.connections, source.url)
    )
    checksum = None
    if found.checksum is not None:
        checksum = {
            "algorithm": found.checksum.algorithm.value,
            "value": b64encode(found.checksum.value).decode(),
            **({"part_bytes": found.checksum.part_bytes} if found.checksum.part_bytes else {}),
        }
    version = found.version if source.kind is StoreKind.S3 else None  # others' are for our own use
    about = {**_described(found), "version": version, "ranged": found.ranged, "checksum": checksum}
    tell_line(json.dumps(about, ensure_ascii=False))
    return ExitCode.COMPLETE


async def _in_a_lane(stores: Stores, job: Callable[[Lane], T]) -> T:
    """Run one blocking job with patience; it is cut off when cancelled. Raises what it raises in the end."""
    from taskrunner.staging.flow import Flow  # noqa: PLC0415  # as above
    from taskrunner.staging.schedule import Todo  # noqa: PLC0415

    flow = Flow(stores, stores.settings.transfer, most_items=1)
    results: list[T] = []

    async def work(lane: Lane, job: Callable[[Lane], T]) -> None:
        results.append(await flow.tries(lane, job))

    await flow.work_through(Todo([job]), work)
    return results[0]


def _as_text(found: StoredObject) -> str:
    """Size, time and URL, tab-separated, one line whatever the key holds."""
    size = "-" if found.size_bytes is None else str(found.size_bytes)
    return f"{size}\t{_rfc3339(found.modified_seconds) or '-'}\t{one_line(found.url)}"


def _as_json(found: StoredObject) -> str:
    return json.dumps(_described(found), ensure_ascii=False)


def _described(found: StoredObject) -> dict[str, object]:
    from taskrunner.cli.transfer_log import shown_url  # noqa: PLC0415  # as above

    return {
        "url": shown_url(found.url),
        "size_bytes": found.size_bytes,
        "modified": _rfc3339(found.modified_seconds),
        "etag": found.etag or None,
    }


def _rfc3339(seconds: float | None) -> str | None:
    """In UTC and whole seconds, which is all that most stores tell."""
    return None if seconds is None else f"{datetime.fromtimestamp(int(seconds), tz=UTC):%Y-%m-%dT%H:%M:%SZ}"


GET = click.Command(
    "get",
    short_help="Files to this machine, from S3, the web or a path.",
    callback=_get,
    params=[
        click.Argument(["url"], nargs=-1, required=True, metavar="URL..."),
        click.Argument(["destination"], metavar="DEST"),
        _RECURSIVE,
        _INCLUDE,
        _EXCLUDE,
        _NO_WILDCARDS,
        _JSON,
        *TRANSFER,
        *S3,
    ],
    help=(
        "Get files: each URL is s3://, http(s)://, file:// or a path. One that ends with a slash brings "
        "everything below it, one with * or ? in its S3 key all that match. DEST is a file's path, or a "
        "directory when it ends with a slash, is one, or several files may come. Each file appears when it is "
        "whole and verified."
    ),
)
PUT = click.Command(
    "put",
    short_help="Files of this machine to S3, or another path.",
    callback=_put,
    params=[
        click.Argument(["source"], nargs=-1, required=True, metavar="SRC..."),
        click.Argument(["destination"], metavar="URL"),
        _INCLUDE,
        _EXCLUDE,
        _JSON,
        *TRANSFER,
        *S3,
    ],
    help=(
        "Put files, and everything below directories, to URL: s3://, file:// or a path. URL is a directory when "
        "it ends with a slash, is one, or several files may go. A file that fails does not stop the others."
    ),
)
LIST = click.Command(
    "list",
    short_help="What is below a URL.",
    callback=_list,
    params=[click.Argument(["url"], metavar="URL"), _NO_WILDCARDS, _JSON, *S3],
    help="List everything below URL (s3://, file:// or a path): size, time and URL of each file.",
)
STAT = click.Command(
    "stat",
    short_help="What is known of one file.",
    callback=_stat,
    params=[click.Argument(["url"], metavar="URL"), *S3],
    help="Tell what is known of the file at URL, as one JSON object.",
)
STORAGE = click.Group(
    "storage",
    commands=[GET, PUT, LIST, STAT],
    help="Move and look at files by hand: S3, HTTP and local ones.",
)

if TYPE_CHECKING:
    _Work = Callable[[Stores], Awaitable[int]]
