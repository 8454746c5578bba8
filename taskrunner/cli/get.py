"""`storage get`: files from anywhere to this machine.

    sources --look up--> objects --a place for each--> targets --all well?--> download

Everything that can be known beforehand is found out before the first byte: what is missing, two sources with
one target, a target that is no file, too little space. A file appears under its name only when it is whole;
until then it is a hidden file beside it.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
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
from taskrunner.staging.look_up import Question, look_up
from taskrunner.staging.schedule import Todo
from taskrunner.storage.local import partial_beside
from taskrunner.urls import StoreKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrunner.cli.naming import Destination, Selection, Source
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject


async def get(
    sources: Sequence[Source], destination: str, selection: Selection, stores: Stores, *, as_json: bool
) -> int:
    """Get every file; the first failure that stays ends it. Raises TaskrunnerError."""
    several_files = len(sources) > 1 or any(source.is_directory for source in sources)
    place = local_destination(destination, several=several_files)
    found = await _look_up(sources, selection, stores, named=place.is_directory)
    mode = _mode()
    wanted = [_wanted(one, place, mode) for one in found]
    await asyncio.to_thread(_prepare, wanted, place)
    targets = {one.found.url: one.target for one in wanted}
    with TransferLog({url: str(path) for url, path in targets.items()}, as_json=as_json) as log:
        tally = await download(wanted, stores, stores.settings.transfer, log)
        await log.conclude(tally.totals(DownloadTotals))
    return ExitCode.COMPLETE


async def _look_up(
    sources: Sequence[Source], selection: Selection, stores: Stores, *, named: bool
) -> list[StoredObject]:
    """What there is, each with its name below the target; `named`: whether a single file gets one, too.

    Raises with all failures at once.
    """
    names = [source.file_name if named and not source.is_directory else "" for source in sources]
    seen: set[Source] = set()
    questions = [_question(source, selection, seen) for source in sources]
    answers = await look_up(questions, stores, stores.settings.transfer)
    found: list[StoredObject] = []
    errors: list[TaskrunnerError] = []
    for source, name, answered in zip(sources, names, answers, strict=True):
        for _, error in answered.errors:
            errors.append(await _better_told(error, source, stores))
        if source.is_directory and not answered.errors and source not in seen:
            errors += _nothing_there(source)
        if source.is_directory:
            found += answered.found
        else:
            found += [replace(one, name=name) for one in answered.found]
    if errors:
        raise several(errors)
    return found


def _question(source: Source, selection: Selection, seen: set[Source]) -> Question:
    """What to ask about a source, which is `seen` as soon as there is anything of it."""

    def takes(name: str) -> bool:
        if not source.takes(name):
            return False
        seen.add(source)
        return selection.takes(name)

    return Question(source.url, source.is_directory, takes)


def _nothing_there(source: Source) -> list[TaskrunnerError]:
    """An empty local directory is no mistake; the others do not exist."""
    if source.pattern is not None:
        return [InputMissingError(f"nothing matches {source}; --no-wildcards takes * and ? literally")]
    if source.kind is not StoreKind.LOCAL:
        return [InputMissingError(f"there is nothing below {source.url}")]
    return []


async def _better_told(error: TaskrunnerError, source: Source, stores: Stores) -> TaskrunnerError:
    """The error, or what is the matter: a directory in S3 that was named as if it were a file."""
    if not isinstance(error, InputMissingError) or source.kind is not StoreKind.S3 or source.is_directory:
        return error
    below: list[bool] = []

    async def ask(lane: Lane, url: str) -> None:
        below.append(await lane.run(lambda lane: _has_any(stores, url, lane)))

    await Flow(stores, stores.settings.transfer, most_items=1).work_through(Todo([source.url]), ask)
    if not any(below):
        return error
    return InputMissingError(
        f"{source} is a directory; with a slash at its end it stands for everything below it"
    )


def _has_any(stores: Stores, url: str, lane: Lane) -> bool:
    """In a lane: whether anything is below, as far as that is to be found out."""
    try:
        return any(True for _ in stores.store_for(url).list_directory(lane.connections, url))
    except TaskrunnerError:
        return False


def _wanted(found: StoredObject, place: Destination, mode: int) -> Wanted:
    target = Path(place.place(found.name))
    return Wanted(found, target, partial_beside(target), mode=mode)


def _prepare(wanted: Sequence[Wanted], place: Destination) -> None:
    """Blocking: see that every target can be made, and that there is space; make directories. Raises."""
    _refuse_twins(wanted)
    top = os.path.realpath(place.url)
    needed_bytes: dict[Path, int] = {}
    directories = _by_directory(wanted)
    for directory, files in directories.items():
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
    for directory in directories:
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
    nearest = {one.target.parent for one in wanted}
    for directory in {above for parent in nearest for above in (parent, *parent.parents)}:
        if directory in targets:
            raise UsageError(
                f"{targets[directory]} would be the file {directory}, which others are to be below"
            )


def _mode() -> int:
    """What this shell gives new files: a task's are open to all users of its containers, a person's are not."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
