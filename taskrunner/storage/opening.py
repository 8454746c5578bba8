"""From a URL to the store that has it, for as long as a task lasts.

This is the only module that knows every kind of store. Stores are made when first asked for, so that a task
without S3 never waits for the AWS SDK. Small files that belong to the run itself (the task document, the
result, the copy of the events) are fetched and put whole, each by one blocking job in a thread with connections
of its own, as lanes do it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from taskrunner.aws import AwsSession
from taskrunner.errors import OutputFailedError, TaskrunnerError, TransferIOError, UsageError
from taskrunner.retrying import Allowance
from taskrunner.shielded import in_daemon_thread, to_the_end
from taskrunner.storage.network import Network
from taskrunner.storage.pace import Pace
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, Store, Upload
from taskrunner.storage.wire import Connections
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from taskrunner.settings import Settings, TransferSettings
    from taskrunner.storage.store import StoredObject

T = TypeVar("T")

_CUT_OFF_SECONDS = 3.0
_ABORT_SECONDS = 5.0


class Stores:
    """Every store a task may name; an async context manager, for as long as they are used."""

    def __init__(self, settings: Settings, extra: Mapping[StoreKind, Store] | None = None) -> None:
        """`extra` adds kinds of store, or replaces them: the one in memory, for tests and benchmarks."""
        self.settings = settings
        self.aws = AwsSession(
            unsigned=settings.s3.unsigned, max_connections=settings.transfer.max_connections
        )
        self.allowance = Allowance()
        """How many tries all transfers of the task may cost together."""
        self._network = _network(settings.transfer)
        self._stores: dict[StoreKind, Store] = dict(extra or {})
        self._making = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open between calls."""

    def store_for(self, url: str) -> Store:
        """The store that has `url`; from any thread. Raises UsageError for a scheme nobody here knows."""
        kind = store_kind(url)
        with self._making:
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

            return HttpStore()
        from taskrunner.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(self.aws, self.settings.s3)

    def connections(self) -> Connections:
        """New connections, for one lane. All of them share the bandwidth, where it is limited."""
        return Connections(self._network)


def _network(transfer: TransferSettings) -> Network:
    limit = transfer.bandwidth_bytes_per_second
    return Network.from_environment(
        read_timeout_seconds=transfer.read_timeout_seconds, pace=None if limit is None else Pace(limit)
    )


async def check_store(stores: Stores, url: str) -> None:
    """Whether anything could ever be read or written at `url`, with patience. Raises as `Store.check` does."""
    await _patiently(stores, lambda connections: stores.store_for(url).check(connections, url))


async def fetch_bytes(stores: Stores, url: str, limit_bytes: int) -> bytes:
    """A small file as bytes.

    Raises TransferIOError where it is larger than `limit_bytes`, DamagedError where it is not what the store
    says, and as `Store.stat` and `Store.read` do.
    """
    return await _patiently(
        stores, lambda connections: _fetch(connections, stores.store_for(url), url, limit_bytes)
    )


async def list_files(stores: Stores, url: str, takes: Callable[[str], bool]) -> list[StoredObject]:
    """The files right below the directory `url` whose names `takes` wants, in byte order of these.

    Asked with patience. Raises as `Store.list_directory` does.
    """

    def listed(connections: Connections) -> list[StoredObject]:
        below = stores.store_for(url).list_directory(connections, url, deep=False)
        return sorted((found for found in below if takes(found.name)), key=lambda found: found.name.encode())

    return await _patiently(stores, listed)


def _fetch(connections: Connections, store: Store, url: str, limit_bytes: int) -> bytes:
    found = store.stat(connections, url)
    if found.size_bytes is not None and found.size_bytes > limit_bytes:
        raise _too_large(url, limit_bytes)
    fd = os.memfd_create("taskrunner-fetch", os.MFD_CLOEXEC)
    try:
        target = _LimitedSlice(fd, 0, found.size_bytes, url=url, limit_bytes=limit_bytes)
        if found.checksum is not None and found.checksum.part_bytes is None:
            target.expect(found.checksum)
        store.read(connections, found, target)
        target.verify(url)
        return os.pread(fd, target.done, 0)
    finally:
        os.close(fd)


async def put_file(stores: Stores, url: str, path: Path) -> None:
    """Put a whole file at `url`; when that fails or is cancelled, nothing is left there.

    Raises OutputFailedError where the file can't be read, and as `Store.begin_upload` and `Upload` do.
    """
    async for attempt in stores.settings.transfer.patience.tries():
        with attempt:
            await _put(stores, url, path)


async def _put(stores: Stores, url: str, path: Path) -> None:
    begun: list[Upload] = []
    try:
        await _in_thread(
            stores, lambda connections: _send(connections, stores.store_for(url), url, path, begun)
        )
    except BaseException as failure:
        for upload in begun:
            taking_back = _in_thread(stores, upload.abort)
            try:
                await to_the_end(taking_back, name="abort-upload", limit_seconds=_ABORT_SECONDS)
            except TaskrunnerError as left_behind:
                raise failure from left_behind  # a cancellation must stay one
        raise


def _send(connections: Connections, store: Store, url: str, path: Path, begun: list[Upload]) -> None:
    """Put a whole file; its upload is added to `begun` at once, for whoever has to take it back."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputFailedError(f"can't read {path}: {error.strerror}") from error
    try:
        part = Part(1, 0, os.fstat(fd).st_size)
        upload = store.begin_upload(connections, url, [part])
        begun.append(upload)
        receipt = upload.write_part(connections, part, FileSlice(fd, 0, part.length))
        upload.complete(connections, [receipt])
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


async def _patiently(stores: Stores, job: Callable[[Connections], T]) -> T:
    async for attempt in stores.settings.transfer.patience.tries():
        with attempt:
            return await _in_thread(stores, job)
    raise AssertionError("the last try either returns or raises")


async def _in_thread(stores: Stores, job: Callable[[Connections], T]) -> T:
    """Run `job` in a thread with connections of its own; when cancelled, it is cut off and waited for.

    Only a look-up of a host name can't be cut short: after a while it is left to itself, as lanes do.
    """
    connections = stores.connections()

    def work() -> T:
        with closing(connections):
            return job(connections)

    running = asyncio.create_task(in_daemon_thread(work, name="small-transfer"), name="small-transfer")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        connections.abort()
        await asyncio.wait([running], timeout=_CUT_OFF_SECONDS)
        if running.done() and not running.cancelled():
            running.exception()  # its end was our doing; nobody else will ask for it
        running.cancel()
        raise
