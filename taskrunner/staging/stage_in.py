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
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import several
from taskrunner.events import (
    DownloadDirectoryEmpty,
    DownloadFailed,
    DownloadStarted,
    DownloadTotals,
    Reporter,
)
from taskrunner.staging.download import Wanted, download
from taskrunner.staging.files import disk_trouble, make_placeholder, require_space, write_content
from taskrunner.staging.journal import Journal, journal_name
from taskrunner.staging.look_up import Answered, Question, look_up
from taskrunner.task import FileType
from taskrunner.urls import StoreKind, store_kind
from taskrunner.workdir import WorkDir, make_directory, remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrunner.plan import Download, Plan
    from taskrunner.settings import TransferSettings
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject


async def stage_in(
    plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """Make the task's directories, write its `content` inputs, download all others.

    Raises:
        TaskrunnerError: the first failure, or a `SeveralError` with every input that was not found. The disk's
            being too small for all of them is found out before the first byte.
    """
    await asyncio.to_thread(_prepare, plan, workdir)
    wanted = await _look_up(plan, workdir, stores, transfer, reporter)
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
    """Blocking: whether there is room for what is still to come; what nobody goes on with is removed first."""
    needed_bytes = sum(one.found.size_bytes or 0 for one in wanted if one.original is None)
    names = {name for one in wanted for name in (one.partial.name, f"{one.partial.name}.journal")}
    try:
        for entry in list(os.scandir(workdir.resumable_inputs)):
            if entry.name in names:
                needed_bytes -= entry.stat(follow_symlinks=False).st_blocks * 512
            else:
                remove_tree(Path(entry.path), lambda _path, _error: None)
    except OSError as error:
        raise disk_trouble(workdir.resumable_inputs, error) from error
    require_space({workdir.root: max(0, needed_bytes)}, "choose a larger one with --work-dir")


async def _look_up(
    plan: Plan, workdir: WorkDir, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> list[Wanted]:
    """Every file to download. Raises with all failures at once; nothing has been moved then."""
    # Places that inputs name one by one; a directory's file of the same place gives way to them.
    named = frozenset(
        [
            *(item.target for item in plan.downloads if item.type is FileType.FILE),
            *(item.target for item in plan.contents),
        ]
    )
    for wish in plan.downloads:
        if wish.type is FileType.FILE:
            reporter.report(DownloadStarted(url=wish.url))
    questions = [_question(wish, named) for wish in plan.downloads]
    answers = await look_up(questions, stores, transfer)
    errors = []
    for wish, answered in zip(plan.downloads, answers, strict=True):
        for url, error in answered.errors:
            errors.append(error)
            reporter.report(DownloadFailed(url=url, error=str(error)))
        if wish.type is FileType.DIRECTORY and not answered.listed_count and not answered.errors:
            reporter.report(DownloadDirectoryEmpty(url=wish.url))
    if errors:
        raise several(errors)
    return await asyncio.to_thread(_all_wanted, plan.downloads, answers, workdir, transfer.part_bytes)


def _question(wish: Download, named: frozenset[Path]) -> Question:
    is_directory = wish.type is FileType.DIRECTORY
    return Question(wish.url, is_directory, lambda name: wish.target / name not in named)


def _all_wanted(
    wishes: Sequence[Download], answers: Sequence[Answered], workdir: WorkDir, part_bytes: int
) -> list[Wanted]:
    """One file for each place. Where two directories bring one, the one that names it more closely wins."""
    closest = sorted(range(len(wishes)), key=lambda number: (len(wishes[number].path), number))
    places = {}
    for number in closest:
        wish = wishes[number]
        for found in answers[number].found:
            target = wish.target / found.name if wish.type is FileType.DIRECTORY else wish.target
            places[target] = _wanted(wish, found, target, workdir, part_bytes)
    return list(places.values())


def _wanted(wish: Download, found: StoredObject, target: Path, workdir: WorkDir, part_bytes: int) -> Wanted:
    told = wish.type is FileType.FILE
    local = store_kind(found.url) is StoreKind.LOCAL
    if local or not (found.etag or found.version) or (found.size_bytes or 0) <= part_bytes:
        linkable = local and wish.shareable and os.geteuid() == 0
        original = Path(found.location) if linkable and found.location else None
        return Wanted(found, target, workdir.partial_path(), original=original, told=told)
    # The same version of the same object for the same place has the same name in every attempt.
    about: dict[str, str | int] = {
        "url": sha256(found.url.encode(errors="surrogateescape")).hexdigest(),  # it may hold a secret
        "etag": found.etag,
        "version": found.version or "",
        "size_bytes": found.size_bytes or 0,
        "part_bytes": part_bytes,
        "checksum": str(found.checksum or ""),
        "target": str(target),
    }
    partial = workdir.resumable_inputs / journal_name(*(str(value) for value in about.values()))
    return Wanted(found, target, partial, Journal(partial.with_suffix(".journal"), about), told=told)
