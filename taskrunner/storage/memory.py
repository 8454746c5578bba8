"""A store in memory, for tests and benchmarks: as slow and as faulty as one wants, and always the same.

URLs are `memory://BUCKET/KEY`. Every request takes `latency_seconds`, then bytes flow at `bytes_per_second` on
each connection, and at `total_bytes_per_second` on all of them together. Faults are served in order, one per
read (or per part), before all goes well again. What goes well is counted. Calls come from many lanes at once,
so everything here is guarded by one lock.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from taskrunner.errors import (
    DamagedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
)
from taskrunner.storage.checksums import Algorithm, Checksum, composite, new_digest
from taskrunner.storage.store import Part, Receipt, StoredObject
from taskrunner.storage.wire import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections

_CHUNK_BYTES = 256 * 1024
_STEPS_PER_SECOND = 20  # so that a slow flow can be watched


@dataclass(frozen=True, slots=True)
class Fault:
    """One read or one part fails: after so many bytes, with this error."""

    error: TaskrunnerError
    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """One byte of a read or a part arrives changed, and nobody says so."""

    at_byte: int = 0
    """Counted from the first byte of this very read or part."""


@dataclass(frozen=True, slots=True)
class Stall:
    """One read or one part falls silent after so many bytes, until the lane is stopped or its connection cut.

    Where neither happens the network's own read timeout ends it.
    """

    after_bytes: int = 0


Trouble = Fault | Damage | Stall
"""What can go wrong with one read or one part."""


@dataclass(slots=True)
class OpenUpload:
    """What the store has of an object in the making, whoever began it."""

    url: str
    received: dict[int, bytes] = field(default_factory=dict)
    """By part number."""


@dataclass(slots=True)
class MemoryStore:
    """Objects by URL, the knobs, and the counts."""

    latency_seconds: float = 0.0
    bytes_per_second: float | None = None
    total_bytes_per_second: float | None = None
    page_size: int = 1000
    algorithm: Algorithm | None = None
    """By which checksums are kept. `stat` tells them, listings don't, and readings of whole objects do."""
    resumable: bool = False
    """Whether a later attempt may go on with an upload."""
    read_faults: deque[Trouble | None] = field(default_factory=deque)
    """The next reads' faults, in the order in which the reads run; None: this one goes well."""
    write_faults: deque[Trouble | None] = field(default_factory=deque)
    missing_buckets: set[str] = field(default_factory=set)
    uploads: dict[str, OpenUpload] = field(default_factory=dict)
    """Those begun, neither completed nor aborted, by their ids."""
    reads_begun: int = 0
    bytes_served: int = 0
    parts_begun: int = 0
    bytes_taken: int = 0
    _objects: dict[str, tuple[StoredObject, bytes]] = field(default_factory=dict)
    _changes: int = 0
    _uploads_begun: int = 0
    _busy_until_seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def open_uploads(self) -> int:
        """Uploads begun, neither completed nor aborted."""
        return len(self.uploads)

    def put(self, url: str, content: bytes, part_bytes: int | None = None) -> StoredObject:
        """Make or replace an object; a reading pinned to an older version then fails.

        With `part_bytes` it is as if it had been sent in parts of this size: its checksum is a composite.
        """
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        checksum = None if self.algorithm is None else _checksum(self.algorithm, content, part_bytes)
        with self._lock:
            self._changes += 1  # the clock of this store
            modified_seconds = float(self._changes)
            stored = StoredObject(
                url, len(content), etag, ranged=True, checksum=checksum, modified_seconds=modified_seconds
            )
            self._objects[url] = stored, content
        return stored

    def get(self, url: str) -> bytes:
        """An object's bytes. Raises KeyError."""
        with self._lock:
            return self._objects[url][1]

    def urls(self) -> list[str]:
        """Every object's URL, sorted."""
        with self._lock:
            return sorted(self._objects)

    def check(self, connections: Connections, url: str) -> None:
        """See `Store.check`."""
        connections.pause(self.latency_seconds)
        if _bucket(url) in self.missing_buckets:
            raise InputMissingError(f"{url}: there is no bucket {_bucket(url)}")

    def stat(self, connections: Connections, url: str) -> StoredObject:
        """See `Store.stat`."""
        self.check(connections, url)
        return self._found(url)[0]

    def _found(self, url: str) -> tuple[StoredObject, bytes]:
        with self._lock:
            if url not in self._objects:
                raise InputMissingError(f"{url} does not exist")
            return self._objects[url]

    def list_directory(
        self, connections: Connections, url: str, *, deep: bool = True
    ) -> Iterator[StoredObject]:
        """See `Store.list_directory`."""
        prefix = url.rstrip("/") + "/"
        with self._lock:
            below = [stored for stored, _ in self._objects.values() if stored.url.startswith(prefix)]
        if not deep:
            below = [stored for stored in below if "/" not in stored.url.removeprefix(prefix)]
        below.sort(key=lambda stored: stored.url.encode())
        for start in range(0, max(len(below), 1), self.page_size):
            self.check(connections, url)
            for stored in below[start : start + self.page_size]:
                yield replace(stored, name=stored.url.removeprefix(prefix), checksum=None)

    def read(self, connections: Connections, found: StoredObject, target: FileSlice) -> None:
        """See `Store.read`."""
        connections.pause(self.latency_seconds)
        with self._lock:
            self.reads_begun += 1
            trouble = self.read_faults.popleft() if self.read_faults else None
        stored, content = self._found(found.url)
        if stored.etag != found.etag:
            raise TransferIOError(f"{found.url} was changed while it was downloaded")
        start = target.position
        length = len(content) - start if target.left is None else target.left
        told = stored.checksum
        if (start, length) == (0, len(content)) and found.checksum is None and told and not told.part_bytes:
            target.expect(told)
        wanted = memoryview(content)[start : start + length]
        for offset, count in self.flow(connections, len(wanted), trouble):
            target.append(memoryview(_arriving(wanted[offset : offset + count], offset, trouble)))
            with self._lock:
                self.bytes_served += count

    def begin_upload(
        self, connections: Connections, url: str, parts: Sequence[Part], resume_id: str | None = None
    ) -> MemoryUpload:
        """See `Store.begin_upload`."""
        connections.pause(self.latency_seconds)
        if _bucket(url) in self.missing_buckets:
            raise OutputFailedError(f"{url}: there is no bucket {_bucket(url)}")
        with self._lock:
            known = self.uploads.get(resume_id or "")
            if resume_id is None or known is None or known.url != url:
                self._uploads_begun += 1
                resume_id = f"upload-{self._uploads_begun}"
                self.uploads[resume_id] = OpenUpload(url)
        return MemoryUpload(self, url, parts, resume_id)

    def abandon_upload(
        self,
        connections: Connections,
        url: str,
        resume_id: str | None,
        since_seconds: float,  # noqa: ARG002  # whatever is open here was begun since
    ) -> None:
        """See `Store.abandon_upload`."""
        connections.pause(self.latency_seconds)
        for upload_id, upload in list(self.uploads.items()):
            if upload_id == resume_id or (resume_id is None and upload.url == url):
                self.forget(upload_id)

    def take_part(self, connections: Connections, part: Part, source: FileSlice) -> tuple[bytes, Receipt]:
        """Receive one part; what arrived, and the receipt of what was sent."""
        connections.pause(self.latency_seconds)
        with self._lock:
            self.parts_begun += 1
            trouble = self.write_faults.popleft() if self.write_faults else None
        source.start_over()
        digest = None if self.algorithm is None else new_digest(self.algorithm)
        pieces = []
        for offset, count in self.flow(connections, part.length, trouble):
            piece = os.pread(source.fd, count, source.position)
            if len(piece) < count:
                raise TransferIOError(f"the source of part {part.number} became shorter")
            if digest is not None:
                digest.update(piece)
            pieces.append(_arriving(piece, offset, trouble))
            source.done += count
            with self._lock:
                self.bytes_taken += count
        arrived = b"".join(pieces)
        etag = hashlib.md5(arrived, usedforsecurity=False).hexdigest()
        if self.algorithm is None or digest is None:
            return arrived, Receipt(etag)
        return arrived, Receipt(etag, Checksum(self.algorithm, digest.digest()))

    def flow(
        self, connections: Connections, length: int, trouble: Trouble | None
    ) -> Iterator[tuple[int, int]]:
        """The stretches in which so many bytes pass, each (offset, count) when its time has come."""
        end = min(length, trouble.after_bytes) if isinstance(trouble, (Fault, Stall)) else length
        paces = [pace for pace in (self.bytes_per_second, self.total_bytes_per_second) if pace is not None]
        step_bytes = max(1, min([_CHUNK_BYTES, *(int(pace / _STEPS_PER_SECOND) for pace in paces)]))
        for offset in range(0, end, step_bytes):
            count = min(step_bytes, end - offset)
            connections.pause(self._seconds(count))
            yield offset, count
        if isinstance(trouble, Fault):
            raise trouble.error
        if isinstance(trouble, Stall):
            _stay_silent(connections)

    def _seconds(self, byte_count: int) -> float:
        """How long so many bytes take now, on one connection of those that are busy."""
        own = 0.0 if self.bytes_per_second is None else byte_count / self.bytes_per_second
        if self.total_bytes_per_second is None:
            return own
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._busy_until_seconds)
            self._busy_until_seconds = begins + byte_count / self.total_bytes_per_second
            return max(own, self._busy_until_seconds - now)

    def show(self, upload_id: str, parts: Sequence[Part], receipts: Sequence[Receipt]) -> StoredObject:
        """Make an object of an upload's parts. Raises as `Upload.complete` does."""
        with self._lock:
            upload = self.uploads.get(upload_id)
        if upload is None:
            raise TransferIOError(f"there is no upload {upload_id}; was it aborted?")
        pieces = [upload.received.get(part.number) for part in parts]
        for part, piece, receipt in zip(parts, pieces, receipts, strict=True):
            if piece is None or receipt.etag != hashlib.md5(piece, usedforsecurity=False).hexdigest():
                raise TransferIOError(f"{upload.url}: the receipt is not that of part {part.number}")
            told = receipt.checksum
            if told is not None and _checksum(told.algorithm, piece, None) != told:
                raise DamagedError(f"{upload.url}: part {part.number} arrived damaged")
        in_parts = len(parts) > 1 and self.algorithm is not None and not self.algorithm.combinable
        content = b"".join(piece for piece in pieces if piece is not None)
        stored = self.put(upload.url, content, parts[0].length if in_parts else None)
        self.forget(upload_id)
        return stored

    def forget(self, upload_id: str) -> None:
        """End an upload, if it has not ended yet."""
        with self._lock:
            self.uploads.pop(upload_id, None)


@dataclass(frozen=True, slots=True)
class MemoryUpload:
    """One attempt at an object in the making."""

    store: MemoryStore
    url: str
    parts: Sequence[Part]
    upload_id: str

    @property
    def resume_id(self) -> str | None:
        """See `Upload.resume_id`."""
        return self.upload_id if self.store.resumable else None

    def sent_parts(self, connections: Connections) -> Mapping[int, Receipt]:
        """See `Upload.sent_parts`. Parts of another size than ours are none of ours."""
        connections.pause(self.store.latency_seconds)
        received = self._received()
        return {
            part.number: _receipt(self.store.algorithm, received[part.number])
            for part in self.parts
            if part.number in received and len(received[part.number]) == part.length
        }

    def write_part(self, connections: Connections, part: Part, source: FileSlice) -> Receipt:
        """See `Upload.write_part`."""
        arrived, receipt = self.store.take_part(connections, part, source)
        self._received()[part.number] = arrived
        return receipt

    def complete(self, connections: Connections, receipts: Sequence[Receipt]) -> StoredObject:
        """See `Upload.complete`."""
        connections.pause(self.store.latency_seconds)
        return self.store.show(self.upload_id, self.parts, receipts)

    def abort(self, connections: Connections) -> None:
        """See `Upload.abort`."""
        connections.pause(self.store.latency_seconds)
        self.store.forget(self.upload_id)

    def _received(self) -> dict[int, bytes]:
        upload = self.store.uploads.get(self.upload_id)
        if upload is None:
            raise TransferIOError(f"{self.url}: this upload has ended, and takes nothing more")
        return upload.received


def _stay_silent(connections: Connections) -> None:
    """Wait for a server that never answers: a lane can leave that behind in all the ways it has."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with connections.exchange(Request("GET", f"http://{host}:{port}/")):
            raise AssertionError("nobody answers here")


def _bucket(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _arriving(chunk: bytes | memoryview, offset: int, trouble: Trouble | None) -> bytes | memoryview:
    """The chunk that lies at `offset` of a read or part, as it comes through."""
    if not isinstance(trouble, Damage) or not 0 <= trouble.at_byte - offset < len(chunk):
        return chunk
    damaged = bytearray(chunk)
    damaged[trouble.at_byte - offset] ^= 0xFF
    return bytes(damaged)


def _checksum(algorithm: Algorithm, content: bytes, part_bytes: int | None) -> Checksum:
    if part_bytes is None:
        return Checksum(algorithm, _value(algorithm, content))
    parts = [content[start : start + part_bytes] for start in range(0, max(len(content), 1), part_bytes)]
    values = [_value(algorithm, part) for part in parts]
    return Checksum(algorithm, composite(algorithm, values), part_bytes)


def _value(algorithm: Algorithm, content: bytes) -> bytes:
    digest = new_digest(algorithm)
    digest.update(content)
    return digest.digest()


def _receipt(algorithm: Algorithm | None, content: bytes) -> Receipt:
    etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Receipt(etag, None if algorithm is None else _checksum(algorithm, content, None))
