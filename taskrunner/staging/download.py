"""Downloads: files that were found in a store, whole and verified, each under its final name.

    wanted files --cut--> parts --schedule--> lanes --> partial files --verify, rename--> targets

Large files are moved part by part, each part a job of its own with patience of its own; small ones whole,
several in one job, and only what fails of them is looked at again one by one. The first failure that stays
stops everything. Whatever happens, nothing partial has a final name; what a later attempt can go on with
stays beside its journal, everything else partial is removed.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.errors import DamagedError, TaskrunnerError, TransferIOError, TransientError
from taskrunner.events import DownloadFailed, DownloadFinished, DownloadProgress, DownloadStarted, Reporter
from taskrunner.staging.files import DOWNLOADED_MODE, PartialFile, try_link
from taskrunner.staging.flow import Flow
from taskrunner.staging.parts import Cut, download_parts
from taskrunner.staging.schedule import scheduled
from taskrunner.storage.checksums import Algorithm, Checksum, combined, composite
from taskrunner.storage.slices import FileSlice, require_same
from taskrunner.storage.store import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from taskrunner.settings import TransferSettings
    from taskrunner.staging.journal import Journal
    from taskrunner.staging.lanes import Lane
    from taskrunner.staging.progress import Tally
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import Part, StoredObject


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to download."""

    found: StoredObject
    target: Path
    partial: Path
    """Where it is while it is not whole; on the same file system as `target`."""
    journal: Journal | None = None
    """What an earlier attempt brought of it; None where nobody could go on with it."""
    original: Path | None = None
    """A local file that may be linked instead of copied."""
    told: bool = False
    """Whether its start was told already."""
    mode: int = DOWNLOADED_MODE


async def download(
    wanted: Sequence[Wanted], stores: Stores, settings: TransferSettings, reporter: Reporter
) -> Tally:
    """Bring every file. Whatever happens, no lane is left, and no partial file without a journal.

    Raises TaskrunnerError: the first failure that neither patience nor a second try mended.
    """
    transfers = await asyncio.to_thread(_transfers_of, wanted, settings.part_bytes)
    flow = Flow(stores, settings, most_items=sum(len(one.cut) for one in transfers))
    downloads = _Downloads(flow, transfers, reporter)
    flow.tally.files_total = len(transfers)
    flow.tally.bytes_total = sum(one.size_bytes for one in transfers)
    try:
        async with flow.watched(lambda: reporter.report(flow.tally.progress(DownloadProgress))):
            await flow.work_through(downloads.schedule, downloads.work)
    finally:
        for one in transfers:
            one.file.close()
    return flow.tally


@dataclass(slots=True, eq=False)
class _Transfer:
    """One file on its way; but for what is said otherwise only the loop changes it."""

    wanted: Wanted
    cut: Cut
    checksum: Checksum | None
    """What the whole is to come to, as far as it can be computed from the parts of this cut."""
    file: PartialFile
    recorded: dict[int, Receipt] = field(default_factory=dict)
    """Parts that an earlier attempt says are there."""
    is_small: bool = False
    """Whether it is moved in one go, beside others."""
    told: bool = False
    failed: bool = False
    damaged: bool = False
    """Whether it arrived damaged once already."""
    parts_left: int = 0
    received_bytes: int = 0
    resumed_bytes: int = 0
    """Of these, how many were there before."""
    digests: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """By part: its value and length."""

    @classmethod
    def of(cls, wanted: Wanted, part_bytes: int) -> _Transfer:
        found = wanted.found
        checksum = found.checksum
        if checksum is not None and checksum.algorithm is Algorithm.MD5 and found.size_bytes != 0:
            # MD5 is slow and can't be put together from parts: it verifies what comes in one part anyhow.
            checksum = checksum if (found.size_bytes or 0) <= part_bytes else None
        cut = download_parts(
            found.size_bytes, part_bytes, ranged=found.ranged and not wanted.original, checksum=checksum
        )
        kept = wanted.journal is not None and len(cut) > 1
        file = PartialFile(wanted.partial, wanted.target, found.size_bytes, mode=wanted.mode, kept=kept)
        in_one_stretch = checksum is None or checksum.part_bytes is None
        small = found.size_bytes is not None and found.size_bytes <= part_bytes and wanted.original is None
        return cls(
            wanted,
            cut,
            checksum,
            file,
            is_small=small and in_one_stretch,
            told=wanted.told,
            parts_left=len(cut),
        )

    @property
    def found(self) -> StoredObject:
        return self.wanted.found

    @property
    def size_bytes(self) -> int:
        return self.wanted.found.size_bytes or 0

    @property
    def journal(self) -> Journal | None:
        return self.wanted.journal if len(self.cut) > 1 else None

    def piece(self, part: Part) -> FileSlice:
        """The stretch of the file that a part fills; its file is opened by the lane."""
        known = self.found.size_bytes is not None
        piece = FileSlice(-1, part.offset, part.length if known else None)
        if self.checksum is not None and self.checksum.part_bytes is None and len(self.cut) == 1:
            piece.expect(self.checksum)
        elif self.algorithm is not None:
            piece.compute(self.algorithm)
        return piece

    @property
    def algorithm(self) -> Algorithm | None:
        """What is computed of each part: what the store tells of the whole, else what the journal needs."""
        if self.checksum is not None:
            return self.checksum.algorithm
        return Algorithm.CRC64NVME if self.journal is not None else None

    def start_over(self) -> Iterator[tuple[_Transfer, Part]]:
        """Forget all that came; every part is to be moved again."""
        self.recorded.clear()
        self.digests.clear()
        self.parts_left, self.received_bytes, self.resumed_bytes = len(self.cut), 0, 0
        return ((self, part) for part in self.cut)

    def verify(self) -> None:
        """Compare the whole with what the store tells of it. Raises DamagedError."""
        if self.checksum is None or not self.digests or len(self.digests) != len(self.cut):
            return
        parts = [self.digests[number] for number in sorted(self.digests)]
        require_same(self.found.url, _value_of(self.checksum, self.cut, parts), self.checksum)


def _value_of(checksum: Checksum, cut: Cut, parts: list[tuple[bytes, int]]) -> bytes:
    """What the parts come to, the way `checksum` was made."""
    algorithm = checksum.algorithm
    if checksum.part_bytes is None:
        return combined(algorithm, parts) if algorithm.combinable else parts[0][0]
    shares = checksum.part_bytes // cut.part_bytes
    if shares <= 1:
        return composite(algorithm, [value for value, _ in parts])
    groups = [parts[at : at + shares] for at in range(0, len(parts), shares)]
    return composite(algorithm, [combined(algorithm, group) for group in groups])


def _transfers_of(wanted: Sequence[Wanted], part_bytes: int) -> list[_Transfer]:
    """Blocking: all files, with what an earlier attempt brought of them; the journals of the others begun."""
    transfers = [_Transfer.of(one, part_bytes) for one in wanted]
    for one in transfers:
        if one.journal is not None:
            recalled = one.journal.recall()
            if recalled.parts and one.file.has_beginning():
                one.recorded = recalled.parts
            else:
                one.journal.begin()
    return transfers


class _Downloads:
    """The downloads of one phase."""

    def __init__(self, flow: Flow, transfers: Sequence[_Transfer], reporter: Reporter) -> None:
        self._flow = flow
        self._reporter = reporter
        self.schedule = scheduled(transfers)

    async def work(self, lane: Lane, item: tuple[_Transfer, Part] | list[_Transfer]) -> None:
        """Do what a lane took from the schedule."""
        if isinstance(item, tuple):
            await self._carry(lane, *item)
            return
        for transfer in item:
            self._tell_start(transfer)
        outcomes = await self._flow.once(lane, [partial(self._receive_whole, one) for one in item])
        for transfer, outcome in zip(item, outcomes, strict=True):
            if isinstance(outcome, TaskrunnerError):
                await self._carry(lane, transfer, transfer.cut[0], outcome)
            else:
                self._tell_end(transfer, outcome)

    def _receive_whole(self, transfer: _Transfer, lane: Lane) -> int:
        """In a lane: one try of a small file, from its first byte to its place; its size."""
        piece = transfer.piece(transfer.cut[0])
        try:
            with self._flow.tally.watching(piece):
                self._receive(lane, transfer, transfer.cut[0], piece)
                transfer.file.put_in_place(piece.done)
        except TaskrunnerError:
            transfer.file.close()  # open files are as many as lanes, however many have failed
            raise
        return piece.done

    def _tell_start(self, transfer: _Transfer) -> None:
        if not transfer.told:
            transfer.told = True
            self._reporter.report(DownloadStarted(url=transfer.found.url))

    def _tell_end(self, transfer: _Transfer, size_bytes: int) -> None:
        self._flow.tally.files_done += 1
        told_bytes = -1 if transfer.found.size_bytes is None else size_bytes
        found = transfer.found
        self._reporter.report(DownloadFinished(url=found.url, size=told_bytes, etag=found.etag))

    async def _carry(
        self, lane: Lane, transfer: _Transfer, part: Part, failed: TaskrunnerError | None = None
    ) -> None:
        """Bring one part, and with the last one the file to its place; `failed` is how a first try ended."""
        self._tell_start(transfer)
        try:
            size_bytes = await self._bring(lane, transfer, part, failed)
        except DamagedError as error:
            if transfer.damaged:
                self._fail(transfer, error)
                raise
            await self._bring_again(lane, transfer)
        except TaskrunnerError as error:
            self._fail(transfer, error)
            raise
        else:
            if size_bytes is not None:
                self._tell_end(transfer, size_bytes)

    def _fail(self, transfer: _Transfer, error: TaskrunnerError) -> None:
        if not transfer.failed:
            transfer.failed = True
            self._reporter.report(DownloadFailed(url=transfer.found.url, error=str(error)))

    async def _bring_again(self, lane: Lane, transfer: _Transfer) -> None:
        """It arrived damaged: all of it is brought once more, by all lanes."""
        transfer.damaged = True
        self._flow.tally.forget(transfer.received_bytes, transfer.resumed_bytes)
        journal = transfer.journal
        if journal is not None:
            try:
                await lane.run(lambda _: journal.begin())
            except TaskrunnerError as error:
                self._fail(transfer, error)
                raise
        self.schedule.put_back(list(transfer.start_over()))
        self._flow.more_to_take()

    async def _bring(
        self, lane: Lane, transfer: _Transfer, part: Part, failed: TaskrunnerError | None
    ) -> int | None:
        """Move one part; returns the file's size when it was the last one and the file is in its place."""
        wanted = transfer.wanted
        if wanted.original is not None:
            original = wanted.original
            if await lane.run(lambda _: try_link(original, wanted.partial, wanted.target)):
                self._flow.tally.bytes_total -= transfer.size_bytes  # nothing of it is moved
                return transfer.found.size_bytes
        piece = transfer.piece(part)
        with self._flow.tally.watching(piece):
            await self._receive_patiently(lane, transfer, part, piece, failed)
        if piece.digest is not None and piece.expected is None:
            transfer.digests[part.number] = piece.digest.digest(), piece.done
        transfer.received_bytes += piece.done
        transfer.parts_left -= 1
        if transfer.parts_left:
            return None
        await lane.run(lambda _: _finish(transfer))
        return transfer.received_bytes

    async def _receive_patiently(
        self, lane: Lane, transfer: _Transfer, part: Part, piece: FileSlice, failed: TaskrunnerError | None
    ) -> None:
        """Fill one slice, going on after a dropped connection at the byte where it stopped.

        Tries are counted anew whenever a connection brought something, so that only one that brings nothing,
        again and again, is given up.
        """
        while True:
            before_bytes = piece.done
            try:
                await self._flow.tries(lane, lambda lane: self._receive(lane, transfer, part, piece), failed)
            except TransientError:
                failed = None
                went_on = transfer.found.ranged and piece.done > before_bytes
                if not went_on or not self._flow.allowance.take():
                    raise
            else:
                return

    def _receive(self, lane: Lane, transfer: _Transfer, part: Part, piece: FileSlice) -> None:
        """In a lane: one request for what a slice still lacks."""
        # A descriptor of its own: a lane that hangs in a write outlives the phase, and the number another file's.
        piece.fd = os.dup(transfer.file.open())
        try:
            if not piece.done and self._is_there(lane, transfer, part, piece):
                return
            self._fill(lane, transfer, piece)
        finally:
            os.close(piece.fd)
        if piece.left:
            raise TransferIOError(
                f"{transfer.found.url}: got {piece.done} bytes of a range of {piece.length}"
            )
        piece.verify(transfer.found.url)
        if transfer.journal is not None and piece.digest is not None and piece.algorithm is not None:
            checksum = Checksum(piece.algorithm, piece.digest.digest())
            transfer.journal.record(part.number, Receipt("", checksum))

    def _fill(self, lane: Lane, transfer: _Transfer, piece: FileSlice) -> None:
        found = transfer.found
        if piece.done and not found.ranged:
            piece.start_over()
            os.ftruncate(piece.fd, 0)
        if piece.left != 0:  # an empty file, or the last connection broke after the last byte
            with lane.carrying(piece, restarts=not found.ranged):
                self._flow.stores.store_for(found.url).read(lane.connections, found, piece)
                self._flow.moved(lane, piece)

    def _is_there(self, lane: Lane, transfer: _Transfer, part: Part, piece: FileSlice) -> bool:
        """In a lane: whether an earlier attempt brought this part, and it is still what it was then."""
        receipt = transfer.recorded.get(part.number)
        if receipt is None or receipt.checksum is None or receipt.checksum.algorithm is not piece.algorithm:
            return False
        there = FileSlice(piece.fd, part.offset, part.length)
        value = lane.connections.digest_of(there, receipt.checksum.algorithm)
        if value != receipt.checksum.value:
            return False
        piece.recall(value)
        transfer.resumed_bytes += piece.done
        self._flow.tally.resumed(piece.done)
        return True


def _finish(transfer: _Transfer) -> None:
    transfer.verify()
    transfer.file.put_in_place(transfer.received_bytes)
