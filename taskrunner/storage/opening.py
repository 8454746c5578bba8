"""From a URL to the store that has it, for as long as a task lasts.

This is the only module that knows every kind of store. Stores are made when first asked for, so that a task
without S3 never waits for the AWS SDK. Small files that belong to the run itself (the task document, the
result, the copy of the events) are fetched and put whole, by the same requests that lanes run.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from taskrunner.aws import AwsSession
from taskrunner.errors import OutputFailedError, TransferIOError, UsageError
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, Store
from taskrunner.storage.wire import Connections
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from taskrunner.settings import Settings

T = TypeVar("T")


class Stores:
    """Every store a task may name; an async context manager that closes what it opened."""

    def __init__(self, settings: Settings, extra: Mapping[StoreKind, Store] | None = None) -> None:
        """`extra` adds kinds of store, or replaces them: the one in memory, for tests and benchmarks."""
        self.settings = settings
        self.aws = AwsSession(
            unsigned=settings.s3.unsigned, max_connections=settings.transfer.max_connections
        )
        self._network = Network.from_environment(read_timeout_seconds=settings.transfer.read_timeout_seconds)
        self._stores: dict[StoreKind, Store] = dict(extra or {})
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.aws)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def store_for(self, url: str) -> Store:
        """The store that has `url`. Raises UsageError for a scheme nobody here knows."""
        kind = store_kind(url)
        if kind is None or (kind is StoreKind.MEMORY and kind not in self._stores):
            raise UsageError(f"{url}: expected an s3://, http(s):// or file:// URL, or an absolute path")
        if kind not in self._stores:
            self._stores[kind] = self._made(kind)
        return self._stores[kind]

    def _made(self, kind: StoreKind) -> Store:
        if kind is StoreKind.LOCAL:
            from taskrunner.storage.local import LocalStore  # noqa: PLC0415  # each kind when it is needed

            return LocalStore(self.settings.work.allowed_dirs)
        if kind is StoreKind.HTTP:
            from taskrunner.storage.http import HttpStore  # noqa: PLC0415

            http = HttpStore(self._network)
            self._stack.push_async_callback(http.close)
            return http
        from taskrunner.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(self.aws, self.settings.s3)

    def connections(self) -> Connections:
        """New connections, for one lane."""
        return Connections(self._network)


async def check_store(stores: Stores, url: str) -> None:
    """Whether anything could ever be read or written at `url`, with patience. Raises as `Store.check` does."""
    async for attempt in stores.settings.transfer.patience.tries():
        with attempt:
            await stores.store_for(url).check(url)


async def fetch_bytes(stores: Stores, url: str, limit_bytes: int) -> bytes:
    """A small file as bytes.

    Raises TransferIOError where it is larger than `limit_bytes`, and as `Store.stat` and `Reading.run` do.
    """
    async for attempt in stores.settings.transfer.patience.tries():
        with attempt:
            return await _fetch(stores, url, limit_bytes)
    raise AssertionError("the last try either returns or raises")


async def _fetch(stores: Stores, url: str, limit_bytes: int) -> bytes:
    store = stores.store_for(url)
    found = await store.stat(url)
    if found.size_bytes is not None and found.size_bytes > limit_bytes:
        raise _too_large(url, limit_bytes)
    reading = await store.read(found, 0, found.size_bytes)
    fd = os.memfd_create("taskrunner-fetch", os.MFD_CLOEXEC)
    try:
        target = _LimitedSlice(fd, 0, found.size_bytes, url=url, limit_bytes=limit_bytes)
        await _in_thread(stores, lambda connections: reading.run(connections, target))
        return os.pread(fd, target.done, 0)
    finally:
        os.close(fd)


async def put_file(stores: Stores, url: str, path: Path) -> None:
    """Put a whole file at `url`.

    Raises OutputFailedError where the file can't be read, and as `Store.begin_upload` and `Writing.run` do.
    """
    async for attempt in stores.settings.transfer.patience.tries():
        with attempt:
            await _put(stores, url, path)


async def _put(stores: Stores, url: str, path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputFailedError(f"can't read {path}: {error.strerror}") from error
    try:
        part = Part(1, 0, os.fstat(fd).st_size)
        upload = await stores.store_for(url).begin_upload(url, [part])
        try:
            writing = await upload.write_part(part)
            source = FileSlice(fd, 0, part.length)
            receipt = await _in_thread(stores, lambda connections: writing.run(connections, source))
            await upload.complete([receipt])
        except BaseException:
            await upload.abort()
            raise
    finally:
        os.close(fd)


@dataclass(slots=True)
class _LimitedSlice(FileSlice):
    """A slice that takes only so many bytes, for files whose length nobody tells."""

    url: str = ""
    limit_bytes: int = 0

    def append(self, chunk: memoryview) -> None:
        if self.done + len(chunk) > self.limit_bytes:
            raise _too_large(self.url, self.limit_bytes)
        FileSlice.append(self, chunk)


def _too_large(url: str, limit_bytes: int) -> TransferIOError:
    return TransferIOError(f"{url} is larger than the {limit_bytes} bytes that are taken here")


async def _in_thread(stores: Stores, job: Callable[[Connections], T]) -> T:
    """Run `job` in a thread with connections of its own; when cancelled, it is cut off and waited for."""
    connections = stores.connections()
    running = asyncio.create_task(asyncio.to_thread(job, connections), name="small-transfer")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        connections.abort()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
    finally:
        connections.close()
