"""Stage in: every input on scratch disk, whole, under the place its container path has there.

    plan.downloads --look up--> one file each --space on disk?--> download --> inputs

First every URL is looked up (all missing inputs are told at once, before the first byte), directories being
listed page by page, and the disk is asked whether there is room for all of it. Then everything is downloaded.
What an earlier attempt of the same task on the same disk has brought already stays where it is, as long as the
object is still the same; once all inputs are there, the traces for a later attempt are removed, since from
then on executors may change the files.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import TaskrunnerError, several
from taskrunner.events import (
    DownloadDirectoryEmpty,
    DownloadFailed,
    DownloadStarted,
    DownloadTotals,
    Reporter,
)
from taskrunner.staging.download import Wanted, download
from taskrunner.staging.files import disk_trouble, make_placeholder, require_space, write_content
from taskrunner.staging.flow import Flow
from taskrunner.staging.journal import Journal, journal_name
from taskrunner.staging.schedule import Todo
from taskrunner.task import FileType
from taskrunner.urls import StoreKind, store_kind
from taskrunner.workdir import WorkDir, make_directory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from taskrunner.plan import Download, Plan
    from taskrunner.settings import TransferSettings
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject

    _Question = Callable[[Lane], Awaitable[None]]


async def stage_in(
    plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """Make the task's directories, write its `content` inputs, download all others.

    Raises:
        TaskrunnerError: the first failure, or a `SeveralError` with every input that was not found. The disk's
            being too small for all of them is found out before the first byte.
    """
    await asyncio.to_thread(_prepare, plan, workdir)
    wanted = await _LookUp(plan, workdir, stores, transfer, reporter).all_wanted()
    if wanted:
        await asyncio.to_thread(_require_space, wanted, workdir)
        tally = await download(wanted, stores, transfer, reporter)
        reporter.report(tally.totals(DownloadTotals))
    await asyncio.to_thread(shutil.rmtree, workdir.resumable_inputs, ignore_errors=True)


def _prepare(plan: Plan, workdir: WorkDir) -> None:
    try:
        for directory in plan.directories:
            make_directory(directory)
        workdir.resumable_inputs.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise disk_trouble(Path(error.filename or plan.root), error) from error
    for upload in plan.uploads:
        if upload.placeholder:
            make_placeholder(upload.source)
    for item in plan.contents:
        write_content(workdir.partial_path(), item.target, item.content)


def _require_space(wanted: Sequence[Wanted], workdir: WorkDir) -> None:
    needed_bytes = sum(one.found.size_bytes or 0 for one in wanted if one.original is None)
    names = {one.partial.name for one in wanted}
    there_bytes = 0
    for entry in os.scandir(workdir.resumable_inputs):
        if entry.name in names:
            there_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
        elif not entry.name.endswith(".journal") or entry.name.removesuffix(".journal") not in names:
            Path(entry.path).unlink()  # of an object that has changed, or is no input any more
    require_space({workdir.root: max(0, needed_bytes - there_bytes)}, "choose a larger one with --work-dir")


class _LookUp:
    """Finds every file to download."""

    def __init__(
        self, plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
    ) -> None:
        self._plan = plan
        self._workdir = workdir
        self._stores = stores
        self._settings = transfer
        self._reporter = reporter
        self._flow = Flow(stores, transfer, most_items=len(plan.downloads))
        self._todo: Todo[_Question] = Todo(
            partial(self._look_up, number, wish) for number, wish in enumerate(plan.downloads)
        )
        self._found: dict[int, list[Wanted]] = {}
        self._errors: dict[int, TaskrunnerError] = {}
        # Places that inputs name one by one; a directory's file of the same place gives way to them.
        self._named = frozenset(
            [
                *(item.target for item in plan.downloads if item.type is FileType.FILE),
                *(item.target for item in plan.contents),
            ]
        )

    async def all_wanted(self) -> list[Wanted]:
        """Every file to download. Raises with all failures at once; nothing has been moved then."""
        async with self._flow.watched(lambda: None):
            await self._flow.work_through(self._todo, lambda lane, question: question(lane))
        if self._errors:
            raise several([self._errors[number] for number in sorted(self._errors)])
        # Where two directories bring a file to one place, the one that names the place more closely wins.
        closest = sorted(self._found, key=lambda number: (len(self._plan.downloads[number].path), number))
        return list({one.target: one for number in closest for one in self._found[number]}.values())

    async def _look_up(self, number: int, wish: Download, lane: Lane) -> None:
        with self._noting(number, wish.url):
            if wish.type is FileType.FILE:
                self._reporter.report(DownloadStarted(url=wish.url))
                found = await self._stat(lane, wish.url)
                self._found[number] = [self._wanted(wish, found, wish.target)]
                return
            listed = await self._flow.tries(lane, lambda lane: list(self._listed(lane, wish.url)))
            if not listed:
                self._reporter.report(DownloadDirectoryEmpty(url=wish.url))
            self._found[number] = []
            for found in listed:
                self._take_listed(number, wish, found)

    def _take_listed(self, number: int, wish: Download, found: StoredObject) -> None:
        """Want one file of a directory. Listings tell no checksums: large files are asked about one by one."""
        found.require_fit()
        if wish.target / found.name in self._named:
            return
        if (
            found.checksum is None
            and (found.size_bytes or 0) > self._settings.part_bytes
            and not _local(found)
        ):
            self._todo.append(partial(self._look_closer, number, wish, found))
            self._flow.more_to_take()
        else:
            self._found[number].append(self._wanted(wish, found, wish.target / found.name))

    async def _look_closer(self, number: int, wish: Download, listed: StoredObject, lane: Lane) -> None:
        with self._noting(number, listed.url):
            found = replace(await self._stat(lane, listed.url), name=listed.name)
            self._found[number].append(self._wanted(wish, found, wish.target / found.name))

    @contextmanager
    def _noting(self, number: int, url: str) -> Iterator[None]:
        """Keep what goes wrong for later: all that is missing is told together."""
        try:
            yield
        except TaskrunnerError as error:
            self._errors.setdefault(number, error)
            self._reporter.report(DownloadFailed(url=url, error=str(error)))

    async def _stat(self, lane: Lane, url: str) -> StoredObject:
        return await self._flow.tries(
            lane, lambda lane: self._stores.store_for(url).stat(lane.connections, url)
        )

    def _listed(self, lane: Lane, url: str) -> Iterator[StoredObject]:
        return self._stores.store_for(url).list_directory(lane.connections, url)

    def _wanted(self, wish: Download, found: StoredObject, target: Path) -> Wanted:
        local = _local(found)
        told = wish.type is FileType.FILE
        if local or not (found.etag or found.version) or (found.size_bytes or 0) <= self._settings.part_bytes:
            original = Path(found.location) if local and wish.shareable and found.location else None
            return Wanted(found, target, self._workdir.partial_path(), original=original, told=told)
        # The same version of the same object for the same place has the same name in every attempt.
        about: dict[str, str | int] = {
            "url": sha256(found.url.encode(errors="surrogateescape")).hexdigest(),  # it may hold a secret
            "etag": found.etag,
            "version": found.version or "",
            "size_bytes": found.size_bytes or 0,
            "part_bytes": self._settings.part_bytes,
            "checksum": str(found.checksum or ""),
            "target": str(target),
        }
        name = journal_name(*(str(value) for value in about.values()))
        partial = self._workdir.resumable_inputs / name
        return Wanted(found, target, partial, Journal(partial.with_suffix(".journal"), about), told=told)


def _local(found: StoredObject) -> bool:
    return store_kind(found.url) is StoreKind.LOCAL
