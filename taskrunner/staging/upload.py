"""Uploads: local files, each at its URL, whole and verified, or not at all.

    files --cut--> parts --schedule--> lanes --> objects in the making --complete--> objects

Lanes take parts from all files alike; the lane that sends the last part of a file completes it. Small files
are begun, sent and completed in one go, several in one job. A file that fails does not stop the others; what
was begun for it is aborted, so that no multipart upload stays open, also when everything is cancelled. Where
the process is killed instead, a journal lets a later attempt go on, or at least take back what was begun.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.errors import (
    DamagedError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.events import Reporter, UploadFailed, UploadFinished, UploadProgress, UploadStarted
from taskrunner.shielded import to_the_end
from taskrunner.staging.flow import Flow
from taskrunner.staging.journal import Recalled
from taskrunner.staging.parts import Cut, upload_parts
from taskrunner.staging.schedule import Todo, scheduled
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from taskrunner.settings import TransferSettings
    from taskrunner.staging.journal import Journal
    from taskrunner.staging.lanes import Lane
    from taskrunner.staging.progress import Tally
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import Part, Store, StoredObject, Upload

_BEGIN_SECONDS = 10.0
_ABORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sendable:
    """One local file to upload."""

    url: str
    path: str
    """As the person who asked for it calls it (in the container, for an output)."""
    source: Path
    """Where its bytes are; no link in it."""
    size_bytes: int
    journal: Journal | None = None
    """For files of several parts: what an earlier attempt sent; None where nobody could go on with it."""


@dataclass(slots=True, eq=False)
class Sent:
    """One file on its way, and in the end how it went; but for what is said otherwise only the loop changes it."""

    file: Sendable
    cut: Cut
    stored: StoredObject | None = None
    error: TaskrunnerError | None = None
    upload: Upload | None = None
    """Set in the lane that began it, so that it is known also when nobody waits for that lane any more."""
    beginning: asyncio.Lock = field(default_factory=asyncio.Lock)
    there_before: dict[int, Receipt] = field(default_factory=dict)
    """Parts that the store has from an earlier attempt."""
    identity: tuple[int, int, int, int] | None = None
    """Device, inode, size and time of the file when its first part was read."""
    in_doubt_since: float | None = None
    """Since when a request to begin may have been heard although nobody learned of it; since the epoch."""
    receipts: dict[int, Receipt] = field(default_factory=dict)
    told: bool = False
    damaged: bool = False
    settled: bool = False
    """Whether what was begun and not completed has been withdrawn, or told as left behind."""

    @property
    def is_small(self) -> bool:
        """Whether it is sent in one go, beside others."""
        return len(self.cut) == 1

    @property
    def is_open(self) -> bool:
        """Whether something was begun, or may have been, that is neither completed nor ended."""
        return self.in_doubt_since is not None or (self.upload is not None and self.stored is None)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.file.size_bytes


async def upload(
    files: Sequence[Sendable],
    stores: Stores,
    settings: TransferSettings,
    reporter: Reporter,
    *,
    on_uploaded: Callable[[Sendable], None] = lambda _file: None,
) -> tuple[tuple[Sent, ...], Tally]:
    """Send every file. Failures are told in the result, in the files' order, not raised.

    Whatever happens, no lane is left and nothing half-made is at any URL. `on_uploaded` is told each file as it
    arrives, so that it is known also when all is cancelled.
    """
    sent = await asyncio.to_thread(_cut_up, files, settings.part_bytes)
    flow = Flow(stores, settings, most_items=sum(len(one.cut) for one in sent))
    flow.tally.files_total = len(sent)
    flow.tally.bytes_total = sum(one.file.size_bytes for one in sent)
    uploads = _Uploads(flow, sent, reporter, on_uploaded)
    try:
        async with flow.watched(lambda: reporter.report(flow.tally.progress(UploadProgress))):
            await flow.work_through(uploads.schedule, uploads.work)
    finally:
        await uploads.withdraw([one for one in sent if one.is_open])
    return sent, flow.tally


def _cut_up(files: Sequence[Sendable], part_bytes: int) -> tuple[Sent, ...]:
    return tuple(Sent(file, upload_parts(file.size_bytes, part_bytes)) for file in files)


class _Uploads:
    """The uploads of one phase."""

    def __init__(
        self, flow: Flow, sent: Sequence[Sent], reporter: Reporter, on_uploaded: Callable[[Sendable], None]
    ) -> None:
        self._flow = flow
        self._reporter = reporter
        self._on_uploaded = on_uploaded
        self.schedule = scheduled(sent)

    async def work(self, lane: Lane, item: tuple[Sent, Part] | list[Sent]) -> None:
        """Do what a lane took from the schedule."""
        if isinstance(item, tuple):
            await self._send(lane, *item)
            return
        for one in item:
            self._tell_start(one)
        outcomes = await self._flow.once(lane, [partial(self._send_whole, one) for one in item])
        for one, outcome in zip(item, outcomes, strict=True):
            if isinstance(outcome, TaskrunnerError):
                await self._send_small(lane, one, outcome)
            else:
                self._arrived(one, outcome)

    async def _send_small(self, lane: Lane, one: Sent, failed: TaskrunnerError) -> None:
        """Send a file of one part whose first try `failed`."""
        try:
            try:
                stored = await self._flow.tries(lane, partial(self._send_whole, one), failed)
            except DamagedError:
                stored = await self._flow.tries(lane, partial(self._send_whole, one))
        except TaskrunnerError as error:
            self._fail(one, error)
        else:
            self._arrived(one, stored)

    def _send_whole(self, one: Sent, lane: Lane) -> StoredObject:
        """In a lane: begin, send and complete a file of one part, or leave nothing of it."""
        store = self._flow.stores.store_for(one.file.url)
        upload = store.begin_upload(lane.connections, one.file.url, one.cut)
        try:
            part = one.cut[0]
            piece = FileSlice(-1, part.offset, part.length)
            with self._flow.tally.watching(piece):
                receipt = self._send_piece(lane, one, upload, part, piece)
            return upload.complete(lane.connections, [receipt])
        except BaseException:
            upload.abort(lane.connections)
            raise

    def _send_part(self, lane: Lane, one: Sent, upload: Upload, part: Part, piece: FileSlice) -> Receipt:
        """In a lane: one try of one part among others; one that arrives damaged is sent again by itself."""
        try:
            return self._send_piece(lane, one, upload, part, piece)
        except DamagedError as error:
            raise TransientError(str(error)) from error

    def _send_piece(self, lane: Lane, one: Sent, upload: Upload, part: Part, piece: FileSlice) -> Receipt:
        """In a lane: one try of one part."""
        there = one.there_before.get(part.number)
        if there is not None:
            piece.done = part.length
            self._flow.tally.resumed(part.length)
            return there
        with _opened(one) as piece.fd, lane.carrying(piece, restarts=True):
            piece.done = 0
            receipt = upload.write_part(lane.connections, part, piece)
            self._flow.moved(lane, piece)
        if one.file.journal is not None and not one.is_small:
            one.file.journal.record(part.number, receipt)
        return receipt

    async def _send(self, lane: Lane, one: Sent, part: Part) -> None:
        """Send one part, and with the last one complete the file."""
        if one.error is not None:
            return
        self._tell_start(one)
        try:
            stored = await self._send_and_complete(lane, one, part)
        except DamagedError as error:
            if one.damaged:
                self._fail(one, error)
            else:
                await self._send_again(lane, one)
        except TaskrunnerError as error:
            self._fail(one, error)
        else:
            if stored is not None:
                self._arrived(one, stored)
                await lane.run(lambda _: _forget_journal(one))

    async def _send_and_complete(self, lane: Lane, one: Sent, part: Part) -> StoredObject | None:
        upload = await self._begun(lane, one)
        piece = FileSlice(-1, part.offset, part.length)
        with self._flow.tally.watching(piece):
            one.receipts[part.number] = await self._flow.tries(
                lane, lambda lane: self._send_part(lane, one, upload, part, piece)
            )
        if len(one.receipts) < len(one.cut) or one.error is not None:
            return None
        receipts = [one.receipts[number] for number in sorted(one.receipts)]
        return await self._flow.tries(lane, lambda lane: upload.complete(lane.connections, receipts))

    async def _send_again(self, lane: Lane, one: Sent) -> None:
        """What the store put together of all the parts is not what was sent: all of it is sent once more."""
        one.damaged = True
        upload = one.upload
        try:
            if upload is not None:
                await self._flow.tries(lane, lambda lane: upload.abort(lane.connections))
            await lane.run(lambda _: _forget_journal(one))
        except TaskrunnerError as error:
            self._fail(one, error)
            return
        one.upload = None
        self._flow.tally.forget(one.file.size_bytes)
        one.receipts.clear()
        one.there_before.clear()
        self.schedule.put_back([(one, part) for part in one.cut])
        self._flow.more_to_take()

    async def _begun(self, lane: Lane, one: Sent) -> Upload:
        """The upload that all parts of a file share; whichever lane comes first begins it."""
        async with one.beginning:
            if one.upload is None:
                if one.error is not None:
                    raise one.error
                # A request to begin that is cut off may have begun something all the same.
                begin = self._flow.tries(lane, partial(self._begin, one))
                await to_the_end(begin, name=f"begin {one.file.url}", limit_seconds=_BEGIN_SECONDS)
            assert one.upload is not None  # noqa: S101  # begun, or raised
            return one.upload

    def _begin(self, one: Sent, lane: Lane) -> None:
        """In a lane: begin an upload, or go on with the one an earlier attempt began."""
        url, journal = one.file.url, one.file.journal
        recalled = Recalled({}) if journal is None else journal.recall()
        if recalled.resume_id is None and one.in_doubt_since is None:
            one.in_doubt_since = recalled.begun_seconds
        begun_seconds = recalled.begun_seconds or one.in_doubt_since or time.time()
        if journal is not None and recalled.resume_id is None:
            journal.begin(begun_seconds=begun_seconds)
        store = self._flow.stores.store_for(url)
        upload = _begun_at(store, one, lane, recalled.resume_id)
        if upload.resume_id is not None and upload.resume_id == recalled.resume_id:
            fitting = self._fitting(one, lane, upload, recalled)
            if fitting is None:
                upload.abort(lane.connections)
                upload = _begun_at(store, one, lane, None)
            else:
                one.there_before = fitting
        one.upload = upload
        if journal is not None and upload.resume_id != recalled.resume_id:
            journal.begin(resume_id=upload.resume_id, begun_seconds=begun_seconds)

    def _fitting(
        self, one: Sent, lane: Lane, upload: Upload, recalled: Recalled
    ) -> dict[int, Receipt] | None:
        """In a lane: the parts the store has already; None where one of them is of other bytes than the file's.

        What the store tells of a part counts; where it tells nothing, the journal's word for the same ETag.
        """
        fitting: dict[int, Receipt] = {}
        with _opened(one) as fd:
            for number, there in upload.sent_parts(lane.connections).items():
                recorded = recalled.parts.get(number)
                known = there.checksum
                if known is None and recorded is not None and recorded.etag == there.etag:
                    known = recorded.checksum
                if known is None:
                    continue
                part = one.cut[number - 1]
                piece = FileSlice(fd, part.offset, part.length)
                if lane.connections.digest_of(piece, known.algorithm) != known.value:
                    return None
                fitting[number] = Receipt(there.etag, known)
        return fitting

    def _tell_start(self, one: Sent) -> None:
        if not one.told:
            one.told = True
            self._reporter.report(UploadStarted(url=one.file.url))

    def _arrived(self, one: Sent, stored: StoredObject) -> None:
        one.stored = stored
        self._flow.tally.files_done += 1
        self._on_uploaded(one.file)
        self._reporter.report(UploadFinished(url=one.file.url, size=one.file.size_bytes, etag=stored.etag))

    def _fail(self, one: Sent, error: TaskrunnerError) -> None:
        if one.error is None:
            one.error = error
            self._reporter.report(UploadFailed(url=one.file.url, error=str(error)))

    async def withdraw(self, begun: Sequence[Sent]) -> None:
        """Take back what was begun; when cancelled, within a time limit. What could not be withdrawn is told."""
        if not begun:
            return
        flow = Flow(self._flow.stores, self._flow.settings, most_items=len(begun))
        withdrawing = flow.work_through(Todo(begun), partial(self._withdraw, flow))
        try:
            await to_the_end(withdrawing, name="withdraw-uploads", limit_seconds=_ABORT_SECONDS)
        finally:
            for one in begun:
                if not one.settled:
                    self._tell_not_withdrawn(one, "there was no time left")

    async def _withdraw(self, flow: Flow, lane: Lane, one: Sent) -> None:
        try:
            await flow.tries(lane, partial(self._end, one))
            await lane.run(lambda _: _forget_journal(one))
        except TaskrunnerError as error:
            self._tell_not_withdrawn(one, str(error))
        one.settled = True

    def _end(self, one: Sent, lane: Lane) -> None:
        """In a lane: end what was begun for a file, also what was begun without our learning of it."""
        if one.upload is not None and one.stored is None:
            one.upload.abort(lane.connections)
        if one.in_doubt_since is not None:
            # What we know of has ended by now: whatever is open still is what we don't.
            store = self._flow.stores.store_for(one.file.url)
            store.abandon_upload(lane.connections, one.file.url, None, one.in_doubt_since)
            one.in_doubt_since = None

    def _tell_not_withdrawn(self, one: Sent, reason: str) -> None:
        url = one.file.url
        error = f"the upload begun for {url} could not be withdrawn: {reason}; remove it by hand"
        self._reporter.report(UploadFailed(url=url, error=error))


def _begun_at(store: Store, one: Sent, lane: Lane, resume_id: str | None) -> Upload:
    """In a lane: begin; as long as nobody knows how that went, it is in doubt."""
    before, one.in_doubt_since = one.in_doubt_since, one.in_doubt_since or time.time()
    try:
        upload = store.begin_upload(lane.connections, one.file.url, one.cut, resume_id)
    except TransientError:
        raise
    except TaskrunnerError:
        one.in_doubt_since = before  # a clear no
        raise
    one.in_doubt_since = before
    return upload


@contextmanager
def _opened(one: Sent) -> Iterator[int]:
    """The file's own bytes, never a link's, never waiting for a pipe's end; the same file from first to last.

    Raises OutputFailedError where it can't be read, TransferIOError where it is another than before.
    """
    try:
        fd = os.open(one.file.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OutputFailedError(f"can't read {one.file.path}: {error.strerror}") from error
    try:
        _require_unchanged(one, fd)
        yield fd
        _require_unchanged(one, fd)
    finally:
        os.close(fd)


def _require_unchanged(one: Sent, fd: int) -> None:
    status = os.fstat(fd)
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if one.identity is None:
        one.identity = identity
    if one.identity != identity or status.st_size != one.file.size_bytes:
        raise TransferIOError(
            f"{one.file.path} was changed while it was sent; nothing of it is at {one.file.url}"
        )


def _forget_journal(one: Sent) -> None:
    if one.file.journal is not None:
        one.file.journal.remove()
