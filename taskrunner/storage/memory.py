"""A store in memory, for tests and benchmarks: as slow and as faulty as one wants, and always the same.

URLs are `memory://BUCKET/KEY`. Every read and every part takes `latency_seconds`, then bytes flow at
`bytes_per_second`. Faults are served in order, one per read (or per part), before all goes well again. Bytes
are moved in lanes like any other store's, so everything here that a lane touches is guarded by a lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, OutputFailedError, TaskrunnerError, TransferIOError
from taskrunner.storage.store import Part, StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections

_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one read or one part: after so many bytes, this error."""

    error: TaskrunnerError
    after_bytes: int = 0


@dataclass(slots=True)
class MemoryStore:
    """Objects by URL, and the knobs."""

    latency_seconds: float = 0.0
    bytes_per_second: float | None = None
    page_size: int = 1000
    read_faults: deque[Fault | None] = field(default_factory=deque)
    """The next reads' faults, in the order in which the reads run; None: this one goes well."""
    write_faults: deque[Fault | None] = field(default_factory=deque)
    missing_buckets: set[str] = field(default_factory=set)
    open_uploads: int = 0
    """Uploads begun, neither completed nor aborted."""
    _objects: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, url: str, content: bytes) -> None:
        """Make or replace an object; a reading pinned to an older version then fails."""
        with self._lock:
            self._objects[url] = content

    def get(self, url: str) -> bytes:
        """An object's bytes. Raises KeyError."""
        with self._lock:
            return self._objects[url]

    def urls(self) -> list[str]:
        """Every object's URL, sorted."""
        with self._lock:
            return sorted(self._objects)

    async def check(self, url: str) -> None:
        """See `Store.check`."""
        bucket = url.partition("://")[2].partition("/")[0]
        if bucket in self.missing_buckets:
            raise InputMissingError(f"{url}: there is no bucket {bucket}")

    async def stat(self, url: str) -> StoredObject:
        """See `Store.stat`."""
        await self.check(url)
        with self._lock:
            content = self._objects.get(url)
        if content is None:
            raise InputMissingError(f"{url} does not exist")
        return _described(url, content)

    async def list_directory(self, url: str) -> AsyncIterator[StoredObject]:
        """See `Store.list_directory`."""
        await self.check(url)
        prefix = url.rstrip("/") + "/"
        with self._lock:
            found = [(key, content) for key, content in self._objects.items() if key.startswith(prefix)]
        for key, content in sorted(found, key=lambda pair: pair[0].encode()):
            yield _described(key, content, name=key.removeprefix(prefix))

    async def read(self, found: StoredObject, start: int, length: int | None) -> MemoryReading:
        """See `Store.read`."""
        return MemoryReading(self, found, start, length)

    async def begin_upload(self, url: str, parts: Sequence[Part]) -> MemoryUpload:
        """See `Store.begin_upload`."""
        bucket = url.partition("://")[2].partition("/")[0]
        if bucket in self.missing_buckets:
            raise OutputFailedError(f"{url}: there is no bucket {bucket}")
        self.open_uploads += 1
        return MemoryUpload(self, url, parts)

    def next_fault(self, faults: deque[Fault | None]) -> Fault | None:
        """The fault of the request that begins now."""
        with self._lock:
            return faults.popleft() if faults else None

    def flow(self, connections: Connections, byte_count: int) -> None:
        """Take the time that so many bytes need."""
        connections.raise_if_aborted()
        if self.bytes_per_second is not None:
            connections.pause(byte_count / self.bytes_per_second)


def _described(url: str, content: bytes, name: str = "") -> StoredObject:
    etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
    return StoredObject(url, len(content), etag, ranged=True, name=name)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """One ranged read."""

    store: MemoryStore
    found: StoredObject
    start: int
    length: int | None

    def run(self, connections: Connections, target: FileSlice) -> None:
        """See `Reading.run`."""
        connections.pause(self.store.latency_seconds)
        fault = self.store.next_fault(self.store.read_faults)
        try:
            content = self.store.get(self.found.url)
        except KeyError:
            raise InputMissingError(f"{self.found.url} does not exist") from None
        if _described(self.found.url, content).etag != self.found.etag:
            raise TransferIOError(f"{self.found.url} was changed while it was downloaded")
        end = len(content) if self.length is None else self.start + self.length
        wanted = memoryview(content)[self.start : end]
        if fault is not None:
            wanted = wanted[: fault.after_bytes]
        for offset in range(0, len(wanted), _CHUNK_BYTES):
            chunk = wanted[offset : offset + _CHUNK_BYTES]
            self.store.flow(connections, len(chunk))
            target.append(chunk)
        if fault is not None:
            raise fault.error


@dataclass(frozen=True, slots=True)
class MemoryWriting:
    """One part on its way."""

    store: MemoryStore
    part: Part
    received: dict[int, bytes]

    def run(self, connections: Connections, source: FileSlice) -> str:
        """See `Writing.run`."""
        connections.pause(self.store.latency_seconds)
        fault = self.store.next_fault(self.store.write_faults)
        source.done = 0
        pieces = []
        while source.done < self.part.length:
            if fault is not None and source.done >= fault.after_bytes:
                break
            wanted = min(_CHUNK_BYTES, self.part.length - source.done)
            piece = os.pread(source.fd, wanted, source.offset + source.done)
            if not piece:
                raise TransferIOError(f"the source of part {self.part.number} became shorter")
            self.store.flow(connections, len(piece))
            pieces.append(piece)
            source.done += len(piece)
        if fault is not None:
            raise fault.error
        content = b"".join(pieces)
        self.received[self.part.number] = content
        return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class MemoryUpload:
    """One object in the making."""

    store: MemoryStore
    url: str
    parts: Sequence[Part]
    _received: dict[int, bytes] = field(default_factory=dict)
    _ended: bool = False

    async def write_part(self, part: Part) -> MemoryWriting:
        """See `Upload.write_part`."""
        return MemoryWriting(self.store, part, self._received)

    async def complete(self, receipts: Sequence[str]) -> StoredObject:
        """See `Upload.complete`."""
        pieces = [self._received[part.number] for part in self.parts]
        if [hashlib.md5(piece, usedforsecurity=False).hexdigest() for piece in pieces] != list(receipts):
            raise TransferIOError(f"{self.url}: the receipts are not those of the parts")
        content = b"".join(pieces)
        self.store.put(self.url, content)
        self._end()
        return _described(self.url, content)

    async def abort(self) -> None:
        """See `Upload.abort`."""
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.store.open_uploads -= 1
