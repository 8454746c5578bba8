"""The knobs of the store in memory, which other tests turn."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from taskrunner.errors import InputMissingError, OutputFailedError, TransientError
from taskrunner.storage.memory import Fault, MemoryStore
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.wire import Connections
from tests.storage.moving import cut, put, read_whole, send

URL = "memory://bucket/file"


async def test_faults_come_in_their_order_and_end(tmp_path: Path) -> None:
    store = MemoryStore()
    store.put(URL, b"content")
    store.read_faults.extend(
        [Fault(TransientError("first"), after_bytes=3), None, Fault(TransientError("third"))]
    )
    found = await store.stat(URL)

    with pytest.raises(TransientError, match="first"):
        await read_whole(store, found, tmp_path)
    assert (tmp_path / "whole").read_bytes() == b"con"
    assert await read_whole(store, found, tmp_path) == b"content"
    with pytest.raises(TransientError, match="third"):
        await read_whole(store, found, tmp_path)
    assert await read_whole(store, found, tmp_path) == b"content"


async def test_parts_may_fail_and_be_sent_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.write_faults.append(Fault(TransientError("first"), after_bytes=1))
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    parts = cut(10, 4)
    upload = await store.begin_upload(URL, parts)
    with pytest.raises(TransientError, match="first"):
        await send(upload, parts, source)

    await upload.complete(await send(upload, parts, source))

    assert store.get(URL) == b"0123456789"
    assert (store.urls(), store.open_uploads) == ([URL], 0)


async def test_a_missing_bucket_is_missing(tmp_path: Path) -> None:
    store = MemoryStore(missing_buckets={"bucket"})

    with pytest.raises(InputMissingError, match="no bucket bucket"):
        await store.check(URL)
    with pytest.raises(OutputFailedError, match="no bucket bucket"):
        await put(store, URL, b"", tmp_path)


async def test_a_slow_read_can_be_stopped() -> None:
    store = MemoryStore(bytes_per_second=1e-3)
    store.put(URL, b"content")
    reading = await store.read(await store.stat(URL), 0, 7)
    connections = Connections(Network())
    fd = os.memfd_create("target")
    running = asyncio.create_task(asyncio.to_thread(reading.run, connections, FileSlice(fd, 0, 7)))

    connections.abort()

    with pytest.raises(TransientError, match="stopped"):
        await running
    os.close(fd)
