"""`storage get`: files from anywhere to this machine.

    sources --look up--> objects --a place for each--> targets --all well?--> download

Everything that can be known beforehand is found out before the first byte: what is missing, two sources with
one target, a target that is no file, too little space. A file appears under its name only when it is whole;
until then it is a hidden file beside it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.cli.naming import local_destination
from taskrunner.cli.places import existing, make_parents, require_replaceable
from taskrunner.cli.transfer_log import TransferLog
from taskrunner.errors import (
    AccessDeniedError,
    ExitCode,
    InputMissingError,
    TaskrunnerError,
    UsageError,
    several,
)
from taskrunner.events import DownloadTotals
from taskrunner.staging.download import Wanted, download
from taskrunner.staging.files import require_space
from taskrunner.staging.flow import Flow
from taskrunner.staging.schedule import Todo
from taskrunner.urls import StoreKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskrunner.cli.naming import Destination, Selection, Source
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject

    _Question = Callable[[Lane], Awaitable[None]]

_LONGEST_NAME_BYTES = 200
"""Of a name, in that of its partial file."""


async def get(
    sources: Sequence[Source], destination: str, selection: Selection, stores: Stores, *, as_json: bool
) -> int:
    """Get every file; the first failure that stays ends it. Raises TaskrunnerError."""
    several_files = len(sources) > 1 or any(source.is_directory for source in sources)
    place = local_destination(destination, several=several_files)
    found = await _LookUp(sources, selection, stores, named=place.is_directory).all_found()
    mode = _mode()
    wanted = [_wanted(one, place, mode) for one in found]
    await asyncio.to_thread(_prepare, wanted, place)
    targets = {one.found.url: one.target for one in wanted}
    with TransferLog({url: str(path) for url, path in targets.items()}, as_json=as_json) as log:
        tally = await download(wanted, stores, stores.settings.transfer, log)
        await log.conclude(tally.totals(DownloadTotals))
    return ExitCode.COMPLETE


class _LookUp:
    """Finds every file to download, asking all stores side by side."""

    def __init__(
        self, sources: Sequence[Source], selection: Selection, stores: Stores, *, named: bool
    ) -> None:
        """`named`: whether a single file is to have the name its source has."""
        transfer = stores.settings.transfer
        self._selection = selection
        self._stores = stores
        self._part_bytes = transfer.part_bytes
        self._flow = Flow(stores, transfer, most_items=transfer.max_connections)
        self._todo: Todo[_Question] = Todo(
            partial(self._look_into, source)
            if source.is_directory
            else partial(self._look_at, source, source.file_name if named else "")
            for source in sources
        )
        self._found: list[StoredObject] = []
        self._errors: list[TaskrunnerError] = []

    async def all_found(self) -> list[StoredObject]:
        """What there is, each with its name below the target. Raises with all failures at once."""
        async with self._flow.watched(lambda: None):
            await self._flow.work_through(self._todo, self._answer)
        if self._errors:
            raise several(self._errors)
        return self._found

    async def _answer(self, lane: Lane, question: _Question) -> None:
        try:
            await question(lane)
        except TaskrunnerError as error:
            self._errors.append(error)

    async def _look_at(self, source: Source, name: str, lane: Lane) -> None:
        try:
            await self._ask(source.url, name, lane)
        except InputMissingError as error:
            if source.kind is StoreKind.S3 and await lane.run(partial(self._is_directory, source.url)):
                raise InputMissingError(
                    f"{source} is a directory; with a slash at its end it stands for everything below it"
                ) from error
            raise

    def _is_directory(self, url: str, lane: Lane) -> bool:
        """In a lane: whether anything is below, as far as that is to be found out."""
        try:
            return any(True for _ in self._stores.store_for(url).list_directory(lane.connections, url))
        except TaskrunnerError:
            return False

    async def _ask(self, url: str, name: str, lane: Lane) -> None:
        found = await self._flow.tries(
            lane, lambda lane: self._stores.store_for(url).stat(lane.connections, url)
        )
        self._found.append(replace(found, name=name))

    async def _look_into(self, source: Source, lane: Lane) -> None:
        """Take what is listed. Listings tell no checksums: large files are asked about one by one."""
        found = await self._flow.tries(lane, partial(self._listed, source))
        if not found and source.pattern is not None:
            raise InputMissingError(f"nothing matches {source}; --no-wildcards takes * and ? literally")
        if not found and source.kind is not StoreKind.LOCAL:
            raise InputMissingError(f"there is nothing below {source.url}")
        for one in found:
            if not self._selection.takes(one.name):
                continue
            one.require_fit()
            if source.kind is StoreKind.LOCAL or (one.size_bytes or 0) <= self._part_bytes:
                self._found.append(one)
            else:
                self._todo.append(partial(self._ask, one.url, one.name))
        self._flow.more_to_take()

    def _listed(self, source: Source, lane: Lane) -> list[StoredObject]:
        all_below = self._stores.store_for(source.url).list_directory(lane.connections, source.url)
        return [found for found in all_below if source.takes(found.name)]


def _wanted(found: StoredObject, place: Destination, mode: int) -> Wanted:
    target = Path(place.place(found.name))
    beginning = os.fsencode(target.name)[:_LONGEST_NAME_BYTES].decode(errors="ignore")
    partial_file = target.with_name(f".{beginning}.{secrets.token_hex(6)}.partial")
    return Wanted(found, target, partial_file, mode=mode)


def _prepare(wanted: Sequence[Wanted], place: Destination) -> None:
    """Blocking: see that every target can be made, and that there is space; make directories. Raises."""
    _refuse_twins(wanted)
    top = os.path.realpath(place.url)
    needed_bytes: dict[Path, int] = {}
    for directory, files in _by_directory(wanted).items():
        if place.is_directory and not Path(os.path.realpath(directory)).is_relative_to(top):
            raise AccessDeniedError(
                f"{directory} leads out of {place.url} by a link; nothing of a directory goes there"
            )
        for one in files:
            require_replaceable(one.target)
        there = existing(directory)
        size_bytes = sum(one.found.size_bytes or 0 for one in files)
        needed_bytes[there] = needed_bytes.get(there, 0) + size_bytes
    require_space(needed_bytes, "make room, or choose another place")
    for directory in _by_directory(wanted):
        make_parents(directory)


def _by_directory(wanted: Sequence[Wanted]) -> dict[Path, list[Wanted]]:
    directories: dict[Path, list[Wanted]] = {}
    for one in wanted:
        directories.setdefault(one.target.parent, []).append(one)
    return directories


def _refuse_twins(wanted: Sequence[Wanted]) -> None:
    """Each file has a place of its own, none where another has its directory."""
    targets: dict[Path, str] = {}
    urls: dict[str, Path] = {}
    for one in wanted:
        url, target = one.found.url, one.target
        if target in targets and targets[target] != url:
            raise UsageError(f"{targets[target]} and {url} would both be {target}; nothing was downloaded")
        if url in urls:
            raise UsageError(f"{url} is named twice, for {urls[url]} and {target}; nothing was downloaded")
        targets[target], urls[url] = url, target
    for directory in {parent for one in wanted for parent in one.target.parents}:
        if directory in targets:
            raise UsageError(
                f"{targets[directory]} would be the file {directory}, which others are to be below"
            )


def _mode() -> int:
    """What this shell gives new files: a task's are open to all users of its containers, a person's are not."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
