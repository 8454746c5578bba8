"""Stage in: every input on scratch disk, whole, under the place its container path has there.

    plan.downloads --look up--> one Transfer a file --cut--> parts --lanes--> partial files --rename--> inputs

First every URL is looked up (all missing inputs are told at once, before the first byte), directories being
listed page by page, and the disk is asked whether there is room for all of it. Then lanes take parts, largest
files first, so that the end of the phase is many short requests rather than one long one. The first failure
stops the phase; what was partial is discarded.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import TaskrunnerError, TransferIOError, TransientError, several
from taskrunner.events import (
    DownloadDirectoryEmpty,
    DownloadFailed,
    DownloadFinished,
    DownloadProgress,
    DownloadStarted,
    Reporter,
)
from taskrunner.staging.files import (
    PartialFile,
    disk_trouble,
    make_placeholder,
    require_space,
    try_link,
    write_content,
)
from taskrunner.staging.lanes import Lane, open_lanes, work_through
from taskrunner.staging.parts import download_parts
from taskrunner.staging.progress import Tally, told
from taskrunner.storage.slices import FileSlice
from taskrunner.task import FileType
from taskrunner.urls import StoreKind, store_kind
from taskrunner.workdir import WorkDir, make_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskrunner.plan import Download, Plan
    from taskrunner.settings import TransferSettings
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import Part, StoredObject


@dataclass(slots=True)
class _Transfer:
    """One file on its way; only the loop changes it."""

    found: StoredObject
    target: Path
    file: PartialFile
    parts: tuple[Part, ...]
    original: Path | None
    """A local file that may be linked instead of copied."""
    told: bool
    """Whether its start was told; a file named by itself is told before it is looked up."""
    failed: bool = False
    parts_left: int = field(init=False)
    received_bytes: int = 0

    def __post_init__(self) -> None:
        self.parts_left = len(self.parts)


async def stage_in(
    plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """Make the task's directories, write its `content` inputs, download all others.

    Raises:
        TaskrunnerError: the first failure, or a `SeveralError` with every input that was not found. The disk's
            being too small for all of them is found out before the first byte.
    """
    await asyncio.to_thread(_prepare, plan, workdir)
    downloads = _Downloads(plan, workdir, stores, transfer, reporter)
    transfers = await downloads.look_up()
    needed_bytes = sum(one.found.size_bytes or 0 for one in transfers if one.original is None)
    await asyncio.to_thread(require_space, workdir.root, needed_bytes)
    await downloads.carry(transfers)


def _prepare(plan: Plan, workdir: WorkDir) -> None:
    try:
        for directory in plan.directories:
            make_directory(directory)
    except OSError as error:
        raise disk_trouble(Path(error.filename or plan.root), error) from error
    for upload in plan.uploads:
        if upload.placeholder:
            make_placeholder(upload.source)
    for item in plan.contents:
        write_content(workdir.partial_path(), item.target, item.content)


class _Downloads:
    """The downloads of one task, sharing lanes, retries and a tally."""

    def __init__(
        self, plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
    ) -> None:
        self._plan = plan
        self._workdir = workdir
        self._stores = stores
        self._settings = transfer
        self._reporter = reporter
        self._tally = Tally()
        # Places that inputs name one by one; a directory's file of the same place gives way to them.
        self._named = frozenset(
            [
                *(item.target for item in plan.downloads if item.type is FileType.FILE),
                *(item.target for item in plan.contents),
            ]
        )

    async def look_up(self) -> list[_Transfer]:
        """Find every file to download. Raises with all failures at once; nothing has been moved then."""
        found: dict[int, list[_Transfer]] = {}
        errors: dict[int, TaskrunnerError] = {}
        todo = iter(enumerate(self._plan.downloads))

        async def worker() -> None:
            for number, download in todo:
                try:
                    found[number] = await self._look_up_one(download)
                except TaskrunnerError as error:
                    errors[number] = error
                    self._reporter.report(DownloadFailed(url=download.url, error=str(error)))

        async with asyncio.TaskGroup() as group:
            for number in range(min(self._settings.max_connections, len(self._plan.downloads))):
                group.create_task(worker(), name=f"look-up-{number}")
        if errors:
            raise several([errors[number] for number in sorted(errors)])
        # Where two directories bring a file to one place, the one that names the place more closely wins.
        closest = sorted(found, key=lambda number: (len(self._plan.downloads[number].path), number))
        return list({one.target: one for number in closest for one in found[number]}.values())

    async def _look_up_one(self, download: Download) -> list[_Transfer]:
        if download.type is FileType.FILE:
            self._reporter.report(DownloadStarted(url=download.url))
            return [self._transfer(download, await self._stat(download.url), download.target)]
        found = await self._list(download.url)
        if not found:
            self._reporter.report(DownloadDirectoryEmpty(url=download.url))
        targets = [(one, download.target / one.name) for one in found]
        return [self._transfer(download, one, target) for one, target in targets if target not in self._named]

    async def _stat(self, url: str) -> StoredObject:
        async for attempt in self._settings.patience.tries():
            with attempt:
                return await self._stores.store_for(url).stat(url)
        raise AssertionError("the last try either returns or raises")

    async def _list(self, url: str) -> list[StoredObject]:
        async for attempt in self._settings.patience.tries():
            with attempt:
                return [one async for one in self._stores.store_for(url).list_directory(url)]
        raise AssertionError("the last try either returns or raises")

    def _transfer(self, download: Download, found: StoredObject, target: Path) -> _Transfer:
        linkable = download.shareable and store_kind(found.url) is StoreKind.LOCAL and found.location
        return _Transfer(
            found=found,
            target=target,
            file=PartialFile(self._workdir.partial_path(), target, found.size_bytes),
            parts=download_parts(
                found.size_bytes, self._settings.part_bytes, ranged=found.ranged and not linkable
            ),
            original=Path(found.location) if linkable and found.location else None,
            told=download.type is FileType.FILE,
        )

    async def carry(self, transfers: Sequence[_Transfer]) -> None:
        """Move everything. Whatever happens, no partial file and no lane is left."""
        if not transfers:
            return
        self._tally.files_total = len(transfers)
        self._tally.bytes_total = sum(one.found.size_bytes or 0 for one in transfers)
        order = sorted(transfers, key=lambda one: one.found.size_bytes or 0, reverse=True)
        lane_count = min(self._settings.max_connections, sum(len(one.parts) for one in order))
        try:
            async with (
                open_lanes(lane_count, self._stores.connections) as lanes,
                told(self._tally, DownloadProgress, self._reporter),
            ):
                await work_through(_schedule(order), lanes, self._fetch)
        finally:
            for one in transfers:
                one.file.discard()

    async def _fetch(self, lane: Lane, item: tuple[_Transfer, Part]) -> None:
        transfer, part = item
        url = transfer.found.url
        if not transfer.told:
            transfer.told = True
            self._reporter.report(DownloadStarted(url=url))
        try:
            size_bytes = await self._fetch_part(lane, transfer, part)
            if size_bytes is not None:
                self._tally.files_done += 1
                told_bytes = -1 if transfer.found.size_bytes is None else size_bytes
                self._reporter.report(DownloadFinished(url=url, size=told_bytes, etag=transfer.found.etag))
        except TaskrunnerError as error:
            if not transfer.failed:
                transfer.failed = True
                self._reporter.report(DownloadFailed(url=url, error=str(error)))
            raise

    async def _fetch_part(self, lane: Lane, transfer: _Transfer, part: Part) -> int | None:
        """Move one part; returns the file's size when it was the last one and the file is in its place."""
        if transfer.original is not None:
            original, partial = transfer.original, self._workdir.partial_path()
            if await lane.run(lambda _: try_link(original, partial, transfer.target)):
                return transfer.found.size_bytes
        known = transfer.found.size_bytes is not None
        piece = FileSlice(
            await lane.run(lambda _: transfer.file.open()), part.offset, part.length if known else None
        )
        async with self._tally.watching(piece):
            await self._receive(lane, transfer.found, piece)
        transfer.received_bytes += piece.done
        transfer.parts_left -= 1
        if transfer.parts_left:
            return None
        await lane.run(lambda _: transfer.file.put_in_place(transfer.received_bytes))
        return transfer.received_bytes

    async def _receive(self, lane: Lane, found: StoredObject, piece: FileSlice) -> None:
        """Fill one slice, going on after a dropped connection at the byte where it stopped.

        Tries are counted anew whenever a connection brought something, so that only one that brings nothing,
        again and again, is given up.
        """
        while piece.done != piece.length:
            before_bytes = piece.done
            try:
                async for attempt in self._settings.patience.tries():
                    with attempt:
                        await self._receive_once(lane, found, piece)
            except TransientError:
                if not found.ranged or piece.done == before_bytes:
                    raise
            else:
                break
        if piece.length is not None and piece.done != piece.length:
            raise TransferIOError(f"{found.url}: got {piece.done} bytes of a range of {piece.length}")

    async def _receive_once(self, lane: Lane, found: StoredObject, piece: FileSlice) -> None:
        if piece.done and not found.ranged:
            piece.done = 0
            await lane.run(lambda _: os.ftruncate(piece.fd, 0))
        left = None if piece.length is None else piece.length - piece.done
        if left == 0:
            return  # the last connection broke after the last byte
        reading = await self._stores.store_for(found.url).read(found, piece.offset + piece.done, left)
        await lane.run(lambda connections: reading.run(connections, piece))


def _schedule(transfers: Sequence[_Transfer]) -> Iterator[tuple[_Transfer, Part]]:
    """Parts in the order lanes take them."""
    for transfer in transfers:
        for part in transfer.parts:
            yield transfer, part
