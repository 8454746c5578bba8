"""Stage out: every output that exists at its URL, whole or not at all.

    plan.uploads --find_outputs--> files --upload--> outputs

A file that fails does not stop the others. Uploads that a killed attempt of the same task left open are gone
on with where the output is the same again, and taken back where it is not.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.errors import OutputFailedError, TaskrunnerError, TransferIOError
from taskrunner.events import (
    OutputLog,
    OutputMissing,
    OutputSkipped,
    Reporter,
    UploadDirectoryEmpty,
    UploadFailed,
    UploadStarted,
    UploadTotals,
)
from taskrunner.shielded import in_daemon_thread
from taskrunner.staging.flow import Flow
from taskrunner.staging.journal import Journal, abandoned_upload, journal_name
from taskrunner.staging.outputs import FoundOutputs, OutputFile, find_outputs
from taskrunner.staging.schedule import Todo
from taskrunner.staging.upload import Sendable, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

    from taskrunner.plan import Plan
    from taskrunner.plan import Upload as UploadRule
    from taskrunner.settings import TransferSettings
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import WorkDir


@dataclass(frozen=True, slots=True)
class StagedOut:
    """How the phase ended."""

    outputs: tuple[OutputLog, ...]
    """Every uploaded file, in the document's order, a directory's in byte order of their paths."""
    errors: tuple[TaskrunnerError, ...]


async def stage_out(
    plan: Plan,
    workdir: WorkDir,
    stores: Stores,
    transfer: TransferSettings,
    reporter: Reporter,
    *,
    succeeded: bool,
    on_uploaded: Callable[[OutputLog], None] = lambda _log: None,
) -> StagedOut:
    """Upload what the task's rules find. Failures are told in the result, not raised.

    After success a missing output is an error; after an executor's failure it is a warning. `on_uploaded` is
    told each file as it arrives, so that it is known also when the phase is cancelled.
    """
    found = await _find(plan, workdir)
    errors = _tell_what_is_not_there(found, reporter, succeeded=succeeded)
    files = [_sendable(file, workdir, transfer) for file in found.files]
    wanted = {file.journal.path for file in files if file.journal is not None}
    await take_back_uploads(workdir, stores, transfer, reporter, but_not=wanted)
    if not files:
        return StagedOut((), tuple(errors))
    sent, tally = await upload(
        files, stores, transfer, reporter, on_uploaded=lambda file: on_uploaded(_log_of(file))
    )
    reporter.report(tally.totals(UploadTotals))
    outputs = [_log_of(one.file) for one in sent if one.stored is not None]
    failed = [one.error for one in sent if one.error is not None]
    return StagedOut(tuple(outputs), (*errors, *failed))


async def _find(plan: Plan, workdir: WorkDir) -> FoundOutputs:
    stopped = threading.Event()
    try:
        return await in_daemon_thread(
            lambda: find_outputs(plan.uploads, workdir, stopped), name="find outputs"
        )
    finally:
        stopped.set()  # where we are cancelled, the thread ends as well


def _sendable(file: OutputFile, workdir: WorkDir, transfer: TransferSettings) -> Sendable:
    about: dict[str, str | int] = {
        "url": file.url,
        "size_bytes": file.size_bytes,
        "part_bytes": transfer.part_bytes,
    }
    name = journal_name(*(str(value) for value in about.values()))
    journal = Journal(workdir.resumable_outputs / f"{name}.journal", about)
    return Sendable(file.url, file.path, file.source, file.size_bytes, journal)


async def take_back_uploads(
    workdir: WorkDir,
    stores: Stores,
    transfer: TransferSettings,
    reporter: Reporter,
    *,
    but_not: Container[Path] = (),
) -> None:
    """End the uploads that a killed attempt left open and that nobody goes on with; what can't be ended is told.

    `but_not`: journals of those that are gone on with. Raises TransferIOError where the journals can't be read.
    """
    journals = [path for path in await asyncio.to_thread(_journals, workdir) if path not in but_not]
    if not journals:
        return
    flow = Flow(stores, transfer, most_items=len(journals))

    async def work(lane: Lane, path: Path) -> None:
        try:
            await flow.tries(lane, partial(_take_back, stores, path))
        except TaskrunnerError as error:
            reporter.report(
                UploadFailed(url=str(path), error=f"an earlier attempt's upload stays open: {error}")
            )

    await flow.work_through(Todo(journals), work)


def _journals(workdir: WorkDir) -> list[Path]:
    try:
        workdir.resumable_outputs.mkdir(mode=0o700, exist_ok=True)
        return sorted(workdir.resumable_outputs.glob("*.journal"))
    except OSError as error:
        raise TransferIOError(f"can't use {workdir.resumable_outputs}: {error.strerror}") from error


def _take_back(stores: Stores, path: Path, lane: Lane) -> None:
    abandoned = abandoned_upload(path)
    if abandoned is not None:
        url, resume_id, begun_seconds = abandoned
        stores.store_for(url).abandon_upload(lane.connections, url, resume_id, begun_seconds)
    Journal(path, {}).remove()


def _log_of(file: Sendable) -> OutputLog:
    return OutputLog(url=file.url, path=file.path, size_bytes=file.size_bytes)


def _tell_what_is_not_there(
    found: FoundOutputs, reporter: Reporter, *, succeeded: bool
) -> list[TaskrunnerError]:
    """Events for all that will not be uploaded, and the errors among them."""
    for rule in found.empty:
        reporter.report(UploadDirectoryEmpty(url=rule.url))
    for path, kind in found.skipped:
        reporter.report(OutputSkipped(path=path, reason=f"it is {kind}"))
    lenient = [*found.unmatched, *(() if succeeded else found.missing)]
    for rule in lenient:
        reporter.report(OutputMissing(url=rule.url, path=rule.path))
    missing = [(rule.url, _missing(rule)) for rule in found.missing] if succeeded else []
    errors = [*missing, *found.refused]
    for url, error in errors:
        reporter.report(UploadStarted(url=url))
        reporter.report(UploadFailed(url=url, error=str(error)))
    return [error for _, error in errors]


def _missing(rule: UploadRule) -> OutputFailedError:
    return OutputFailedError(
        f"output {rule.path} is missing: the executors succeeded but did not make it; nothing is at {rule.url}"
    )
