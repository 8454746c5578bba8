"""Stage out: every output that exists at its URL, whole or not at all.

    plan.uploads --find_outputs--> files --cut--> parts --lanes--> objects in the making --complete--> outputs

Lanes take parts from all files alike; the lane that sends the last part of a file completes it. A file that
fails does not stop the others; what was begun for it is aborted, so that no multipart upload stays open. The
same holds when the whole phase is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.errors import OutputFailedError, TaskrunnerError
from taskrunner.events import (
    OutputLog,
    OutputMissing,
    OutputSkipped,
    Reporter,
    UploadDirectoryEmpty,
    UploadFailed,
    UploadFinished,
    UploadProgress,
    UploadStarted,
)
from taskrunner.shielded import in_daemon_thread, to_the_end
from taskrunner.staging.lanes import Lane, open_lanes, work_through
from taskrunner.staging.outputs import FoundOutputs, OutputFile, find_outputs
from taskrunner.staging.parts import upload_parts
from taskrunner.staging.progress import Tally, told
from taskrunner.storage.slices import FileSlice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taskrunner.plan import Plan
    from taskrunner.plan import Upload as UploadRule
    from taskrunner.settings import TransferSettings
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import Part, StoredObject, Upload, Writing
    from taskrunner.storage.wire import Connections
    from taskrunner.workdir import WorkDir

_ABORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class StagedOut:
    """How the phase ended."""

    outputs: tuple[OutputLog, ...]
    """Every uploaded file, in the document's order, a directory's in byte order of their paths."""
    errors: tuple[TaskrunnerError, ...]


@dataclass(slots=True)
class _Transfer:
    """One file on its way; only the loop changes it."""

    file: OutputFile
    parts: tuple[Part, ...]
    upload: Upload | None = None
    beginning: asyncio.Lock = field(default_factory=asyncio.Lock)
    receipts: dict[int, str] = field(default_factory=dict)
    stored: StoredObject | None = None
    error: TaskrunnerError | None = None
    settled: bool = False
    """Whether what was begun and not completed has been withdrawn, or told as left behind."""


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
    uploads = _Uploads(stores, transfer, reporter, on_uploaded)
    transfers = [uploads.transfer(file) for file in found.files]
    await uploads.carry(transfers)
    outputs = [_log_of(one.file) for one in transfers if one.stored is not None]
    failed = [one.error for one in transfers if one.error is not None]
    return StagedOut(tuple(outputs), (*errors, *failed))


async def _find(plan: Plan, workdir: WorkDir) -> FoundOutputs:
    stopped = threading.Event()
    try:
        return await in_daemon_thread(
            lambda: find_outputs(plan.uploads, workdir, stopped), name="find outputs"
        )
    finally:
        stopped.set()  # where we are cancelled, the thread ends as well


def _log_of(file: OutputFile) -> OutputLog:
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


class _Uploads:
    """The uploads of one task, sharing lanes, retries and a tally."""

    def __init__(
        self,
        stores: Stores,
        transfer: TransferSettings,
        reporter: Reporter,
        on_uploaded: Callable[[OutputLog], None],
    ) -> None:
        self._stores = stores
        self._on_uploaded = on_uploaded
        self._settings = transfer
        self._reporter = reporter
        self._tally = Tally()

    def transfer(self, file: OutputFile) -> _Transfer:
        self._tally.files_total += 1
        self._tally.bytes_total += file.size_bytes
        return _Transfer(file, upload_parts(file.size_bytes, self._settings.part_bytes))

    async def carry(self, transfers: Sequence[_Transfer]) -> None:
        """Move everything. Whatever happens, nothing half-made is left at any URL."""
        if not transfers:
            return
        order = sorted(transfers, key=lambda one: one.file.size_bytes, reverse=True)
        lane_count = min(self._settings.max_connections, sum(len(one.parts) for one in order))
        try:
            async with (
                open_lanes(lane_count, self._stores.connections) as lanes,
                told(self._tally, UploadProgress, self._reporter),
            ):
                await work_through(_schedule(order), lanes, self._send)
        finally:
            await self._abort([one for one in transfers if one.upload is not None and one.stored is None])

    async def _send(self, lane: Lane, item: tuple[_Transfer, Part]) -> None:
        transfer, part = item
        url = transfer.file.url
        try:
            upload = await self._begun(transfer)
            transfer.receipts[part.number] = await self._send_part(lane, transfer, upload, part)
            if len(transfer.receipts) < len(transfer.parts) or transfer.error:
                return
            receipts = [transfer.receipts[number] for number in sorted(transfer.receipts)]
            stored = await self._complete(upload, receipts)
        except TaskrunnerError as error:
            if transfer.error is None:
                transfer.error = error
                self._reporter.report(UploadFailed(url=url, error=str(error)))
            return
        transfer.stored = stored
        self._tally.files_done += 1
        self._on_uploaded(_log_of(transfer.file))
        self._reporter.report(UploadFinished(url=url, size=transfer.file.size_bytes, etag=stored.etag))

    async def _begun(self, transfer: _Transfer) -> Upload:
        """The upload that all parts of a file share; whichever lane comes first begins it."""
        async with transfer.beginning:
            if transfer.upload is None:
                if transfer.error is not None:
                    raise transfer.error
                self._reporter.report(UploadStarted(url=transfer.file.url))
                store = self._stores.store_for(transfer.file.url)
                async for attempt in self._settings.patience.tries():
                    with attempt:
                        transfer.upload = await store.begin_upload(transfer.file.url, transfer.parts)
            assert transfer.upload is not None  # noqa: S101  # the last try returns or raises
            return transfer.upload

    async def _send_part(self, lane: Lane, transfer: _Transfer, upload: Upload, part: Part) -> str:
        piece = FileSlice(-1, part.offset, part.length)
        async with self._tally.watching(piece):
            async for attempt in self._settings.patience.tries():
                with attempt:
                    send = partial(_send, await upload.write_part(part), transfer.file, piece)
                    return await lane.run(send)
        raise AssertionError("the last try either returns or raises")

    async def _complete(self, upload: Upload, receipts: Sequence[str]) -> StoredObject:
        async for attempt in self._settings.patience.tries():
            with attempt:
                return await upload.complete(receipts)
        raise AssertionError("the last try either returns or raises")

    async def _abort(self, transfers: Sequence[_Transfer]) -> None:
        """Withdraw what was begun; when cancelled, within a time limit. What could not be withdrawn is told."""
        if not transfers:
            return
        todo = iter(transfers)

        async def worker() -> None:
            for one in todo:
                assert one.upload is not None  # noqa: S101  # chosen so
                try:
                    await one.upload.abort()
                except TaskrunnerError as error:
                    self._tell_not_withdrawn(one, str(error))
                one.settled = True

        async def all_workers() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(min(self._settings.max_connections, len(transfers))):
                    group.create_task(worker(), name=f"abort-{number}")

        try:
            await to_the_end(all_workers(), name="abort-uploads", limit_seconds=_ABORT_SECONDS)
        finally:
            for one in transfers:
                if not one.settled:
                    self._tell_not_withdrawn(one, "there was no time left")

    def _tell_not_withdrawn(self, transfer: _Transfer, reason: str) -> None:
        url = transfer.file.url
        error = f"the upload begun for {url} could not be withdrawn: {reason}; remove it by hand"
        self._reporter.report(UploadFailed(url=url, error=error))


def _schedule(transfers: Sequence[_Transfer]) -> Iterator[tuple[_Transfer, Part]]:
    """Parts in the order lanes take them; of a file that has failed no more."""
    for transfer in transfers:
        for part in transfer.parts:
            if transfer.error is not None:
                break
            yield transfer, part


def _send(writing: Writing, file: OutputFile, piece: FileSlice, connections: Connections) -> str:
    """One try of one part, in a lane: the output's own bytes, never a link's, never waiting for a pipe's end."""
    try:
        fd = os.open(file.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OutputFailedError(f"can't read output {file.path}: {error.strerror}") from error
    try:
        piece.fd, piece.done = fd, 0
        return writing.run(connections, piece)
    finally:
        os.close(fd)
