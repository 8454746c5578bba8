"""Reading and writing through a store the way lanes do, for tests: connections of one's own, a file, one try.

These helpers block, as stores do. A test that needs a loop calls them by `asyncio.to_thread`; most need none,
since `web_place` serves from a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, Receipt, Store, StoredObject, Upload
from taskrunner.storage.wire import Connections
from tests.servers import S3Server, WebHandler, web_server


@contextmanager
def lane(network: Network | None = None) -> Iterator[Connections]:
    """Connections for the calling thread."""
    connections = Connections(network or Network())
    try:
        yield connections
    finally:
        connections.close()


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A file, open."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def cut(size_bytes: int, part_bytes: int) -> list[Part]:
    """A file of so many bytes in parts."""
    offsets = range(0, max(size_bytes, 1), part_bytes)
    return [Part(n, at, min(part_bytes, size_bytes - at)) for n, at in enumerate(offsets, start=1)]


def check(store: Store, url: str) -> None:
    """Look whether there is such a place."""
    with lane() as connections:
        store.check(connections, url)


def stat(store: Store, url: str, network: Network | None = None) -> StoredObject:
    """Look one object up."""
    with lane(network) as connections:
        return store.stat(connections, url)


def listed(store: Store, url: str) -> list[StoredObject]:
    """Everything below a directory."""
    with lane() as connections:
        return list(store.list_directory(connections, url))


def received(
    store: Store,
    found: StoredObject,
    target: Path,
    start: int = 0,
    length: int | None = None,
    *,
    network: Network | None = None,
) -> bytes:
    """Read a stretch of an object (to its end, where no length is given) at its place in a new file; its bytes."""
    with lane(network) as connections, opened(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
        piece = FileSlice(fd, start, length)
        store.read(connections, found, piece)
        piece.verify(found.url)
        return os.pread(fd, piece.done, start)


def read_whole(store: Store, found: StoredObject, directory: Path, network: Network | None = None) -> bytes:
    """The whole object by one reading, its length given where it is known."""
    return received(store, found, directory / "whole", 0, found.size_bytes, network=network)


def begin(store: Store, url: str, parts: Sequence[Part], resume_id: str | None = None) -> Upload:
    """Begin an upload."""
    with lane() as connections:
        return store.begin_upload(connections, url, parts, resume_id)


def send(upload: Upload, parts: Sequence[Part], source: Path) -> list[Receipt]:
    """Send these parts of a file, one after another; their receipts."""
    receipts = []
    with lane() as connections, opened(source) as fd:
        for part in parts:
            piece = FileSlice(fd, part.offset, part.length)
            receipts.append(upload.write_part(connections, part, piece))
            assert piece.done == part.length
    return receipts


def complete(upload: Upload, receipts: Sequence[Receipt]) -> StoredObject:
    """Make an upload's object visible."""
    with lane() as connections:
        return upload.complete(connections, receipts)


def abort(upload: Upload) -> None:
    """Take an upload back."""
    with lane() as connections:
        upload.abort(connections)


def put(store: Store, url: str, content: bytes, directory: Path, part_bytes: int = 2**30) -> StoredObject:
    """Put bytes at a URL through the store."""
    source = directory / "source"
    source.write_bytes(content)
    parts = cut(len(content), part_bytes)
    upload = begin(store, url, parts)
    return complete(upload, send(upload, parts, source))


@contextmanager
def web_place(handlers: Mapping[str, WebHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """`web_server` in a thread of its own, with its own loop, for tests that block theirs."""
    serving: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        over = asyncio.Event()
        async with web_server(handlers, tls) as base:
            serving.set_result((base, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="web-place", daemon=True)
    thread.start()
    base, loop, over = serving.result(timeout=60)
    try:
        yield base
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@contextmanager
def s3_place(handle: WebHandler, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that answers every question by `handle`, to which the AWS environment leads."""
    with web_place({"/{any:.*}": handle}) as url:
        for name, value in S3Server(url).environment().items():
            monkeypatch.setenv(name, value)
        yield
