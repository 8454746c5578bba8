"""Reading and writing through a store the way lanes do, for tests: a thread, its connections, a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, Reading, Store, StoredObject, Upload
from taskrunner.storage.wire import Connections


def cut(size_bytes: int, part_bytes: int) -> list[Part]:
    """A file of so many bytes in parts."""
    offsets = range(0, max(size_bytes, 1), part_bytes)
    return [Part(n, at, min(part_bytes, size_bytes - at)) for n, at in enumerate(offsets, start=1)]


async def received(reading: Reading, target: Path, network: Network | None = None) -> bytes:
    """Run one reading into a new file; its bytes."""
    connections = Connections(network or Network())
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        await asyncio.to_thread(reading.run, connections, FileSlice(fd, 0, None))
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        connections.close()
        os.close(fd)


async def read_whole(store: Store, found: StoredObject, directory: Path) -> bytes:
    """The whole object by one reading."""
    return await received(await store.read(found, 0, found.size_bytes), directory / "whole")


async def send(upload: Upload, parts: Sequence[Part], source: Path) -> list[str]:
    """Send all parts of a file, one after another; their receipts."""
    connections = Connections(Network())
    fd = os.open(source, os.O_RDONLY)
    try:
        receipts = []
        for part in parts:
            writing = await upload.write_part(part)
            piece = FileSlice(fd, part.offset, part.length)
            receipts.append(await asyncio.to_thread(writing.run, connections, piece))
            assert piece.done == part.length
        return receipts
    finally:
        connections.close()
        os.close(fd)


async def put(
    store: Store, url: str, content: bytes, directory: Path, part_bytes: int = 2**30
) -> StoredObject:
    """Put bytes at a URL through the store."""
    source = directory / "source"
    source.write_bytes(content)
    parts = cut(len(content), part_bytes)
    upload = await store.begin_upload(url, parts)
    return await upload.complete(await send(upload, parts, source))
