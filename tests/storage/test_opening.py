"""From URLs to stores, and the small files of the run itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.errors import (
    AccessDeniedError,
    DamagedError,
    InputMissingError,
    OutputFailedError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.retrying import Patience
from taskrunner.settings import Settings, TransferSettings, WorkSettings
from taskrunner.storage.checksums import Algorithm
from taskrunner.storage.http import HttpStore
from taskrunner.storage.local import LocalStore
from taskrunner.storage.memory import Damage, Fault, MemoryStore, MemoryUpload, Stall
from taskrunner.storage.opening import Stores, check_store, fetch_bytes, put_file
from taskrunner.storage.pace import Pace
from taskrunner.storage.s3 import S3Store
from taskrunner.urls import StoreKind
from tests.servers import S3Server, web_server
from tests.storage.test_http import serving

URL = "memory://bucket/file"


@dataclass
class Opened:
    stores: Stores
    memory: MemoryStore


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    memory = MemoryStore()
    settings = Settings(
        work=WorkSettings(allowed_dirs=(tmp_path,)),
        transfer=TransferSettings(patience=Patience(attempts=2)),
    )
    async with Stores(settings, {StoreKind.MEMORY: memory}) as stores:
        yield Opened(stores, memory)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://b/k", S3Store),
        ("http://h/f", HttpStore),
        ("https://h/f", HttpStore),
        ("file:///f", LocalStore),
        ("/f", LocalStore),
        (URL, MemoryStore),
    ],
)
async def test_each_kind_has_one_store(opened: Opened, url: str, kind: type) -> None:
    store = opened.stores.store_for(url)

    assert type(store) is kind
    assert opened.stores.store_for(url) is store


@pytest.mark.parametrize("url", ["gs://bucket/key", "relative/path", "ftp://host/file", ""])
async def test_an_unknown_scheme_is_a_usage_error(opened: Opened, url: str) -> None:
    with pytest.raises(UsageError, match="expected an s3://"):
        opened.stores.store_for(url)


async def test_no_task_reaches_the_store_in_memory() -> None:
    async with Stores(Settings()) as stores:
        with pytest.raises(UsageError):
            stores.store_for(URL)


async def test_a_small_file_goes_there_and_back_again(opened: Opened, s3: S3Server, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    for url in (URL, f"s3://{s3.make_bucket()}/dir/file", f"file://{tmp_path}/dir/file"):
        await put_file(opened.stores, url, path)

        assert await fetch_bytes(opened.stores, url, 7) == b"content"


async def test_a_small_file_is_tried_again(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    opened.memory.write_faults.append(Fault(TransientError("busy", retry_after_seconds=0.01), after_bytes=1))
    opened.memory.read_faults.append(Fault(TransientError("busy", retry_after_seconds=0.01), after_bytes=3))

    await put_file(opened.stores, URL, path)

    assert await fetch_bytes(opened.stores, URL, 100) == b"content"
    assert opened.memory.open_uploads == 0


async def test_what_is_missing_is_not_tried_again(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        await fetch_bytes(opened.stores, URL, 100)
    with pytest.raises(OutputFailedError, match="can't read"):
        await put_file(opened.stores, URL, tmp_path / "nothing")


async def test_more_than_the_limit_is_never_held(opened: Opened) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        except ConnectionError:
            return response

    opened.memory.put(URL, b"x" * 101)
    with pytest.raises(TransferIOError, match="larger than the 100 bytes"):
        await fetch_bytes(opened.stores, URL, 100)
    async with web_server({"/endless": endless}) as base:
        with pytest.raises(TransferIOError, match="larger than the 100000 bytes"):
            await fetch_bytes(opened.stores, f"{base}/endless", 100_000)


async def test_a_cancelled_fetch_leaves_no_thread(opened: Opened) -> None:
    begun = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            return web.Response(body=b"x", headers={"Content-Range": "bytes 0-0/5"}, status=206)
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with web_server({"/silent": silent}) as base:
        fetching = asyncio.create_task(fetch_bytes(opened.stores, f"{base}/silent", 100))
        await begun.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching

    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "small-transfer"] == []


def wait_for_a_part(memory: MemoryStore) -> None:
    while not memory.parts_begun:
        time.sleep(0.001)


async def test_a_cancelled_put_leaves_nothing(opened: Opened, tmp_path: Path) -> None:
    opened.memory.write_faults.append(Stall())
    path = tmp_path / "source"
    path.write_bytes(b"content")
    putting = asyncio.create_task(put_file(opened.stores, URL, path))
    await asyncio.to_thread(wait_for_a_part, opened.memory)
    assert opened.memory.open_uploads == 1

    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert (opened.memory.open_uploads, opened.memory.urls()) == (0, [])


async def test_a_cancelled_put_that_can_not_be_taken_back_is_cancelled_still(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AccessDeniedError("may not be taken back")

    monkeypatch.setattr(MemoryUpload, "abort", refuse)
    opened.memory.write_faults.append(Stall())
    path = tmp_path / "source"
    path.write_bytes(b"content")
    putting = asyncio.create_task(put_file(opened.stores, URL, path))
    await asyncio.to_thread(wait_for_a_part, opened.memory)

    putting.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await putting

    assert str(caught.value.__cause__) == "may not be taken back"


async def test_a_put_that_fails_leaves_nothing(opened: Opened, tmp_path: Path) -> None:
    opened.memory.write_faults.append(Fault(AccessDeniedError("no"), after_bytes=3))
    path = tmp_path / "source"
    path.write_bytes(b"content")

    with pytest.raises(AccessDeniedError, match="no"):
        await put_file(opened.stores, URL, path)

    assert (opened.memory.open_uploads, opened.memory.urls()) == (0, [])


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_small_file_is_held_to_its_checksum(opened: Opened, algorithm: Algorithm) -> None:
    opened.memory.algorithm = algorithm
    opened.memory.put(URL, b"content")
    opened.memory.read_faults.extend([None, Damage(at_byte=3)])

    assert await fetch_bytes(opened.stores, URL, 100) == b"content"
    with pytest.raises(DamagedError, match=f"{URL} arrived damaged"):
        await fetch_bytes(opened.stores, URL, 100)


async def test_a_composite_checksum_is_no_word_on_the_whole(opened: Opened) -> None:
    opened.memory.algorithm = Algorithm.SHA256
    opened.memory.put(URL, b"content", part_bytes=3)

    assert await fetch_bytes(opened.stores, URL, 100) == b"content"


async def test_a_place_is_checked(opened: Opened) -> None:
    await check_store(opened.stores, URL)
    opened.memory.missing_buckets.add("bucket")
    with pytest.raises(InputMissingError, match="no bucket"):
        await check_store(opened.stores, URL)
    with pytest.raises(UsageError):
        await check_store(opened.stores, "gs://bucket/key")


async def test_all_bytes_are_counted_where_the_bandwidth_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def spend(_: Pace, count_bytes: int) -> float:
        counted.append(count_bytes)
        return 0.0

    monkeypatch.setattr(Pace, "spend", spend)
    settings = Settings(transfer=TransferSettings(bandwidth_bytes_per_second=1000))

    async with web_server({"/file": serving(b"x" * 12_345)}) as base, Stores(settings) as stores:
        await fetch_bytes(stores, f"{base}/file", 20_000)

    assert sum(counted) == 12_345 + 1  # the byte that was asked for to look


def test_threads_that_ask_at_once_get_one_store() -> None:
    stores = Stores(Settings())
    together = threading.Barrier(8)

    def ask() -> int:
        together.wait(60)
        return id(stores.store_for("https://h/f"))

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask) for _ in range(8)]
        assert len({one.result(60) for one in asked}) == 1


def test_opening_stores_loads_no_aws_and_no_web_library() -> None:
    program = (
        "import sys, taskrunner.storage.opening as opening; from taskrunner.settings import Settings\n"
        "stores = opening.Stores(Settings()); stores.store_for('s3://b/k'); stores.store_for('http://h/f')\n"
        "print({'aioboto3', 'botocore', 'aiohttp', 'awscrt'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert said.stdout == "set()\n"
