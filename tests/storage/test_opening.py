"""From URLs to stores, and the small files of the run itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.errors import (
    InputMissingError,
    OutputFailedError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.retrying import Patience
from taskrunner.settings import Settings, TransferSettings, WorkSettings
from taskrunner.storage.http import HttpStore
from taskrunner.storage.local import LocalStore
from taskrunner.storage.memory import Fault, MemoryStore
from taskrunner.storage.opening import Stores, fetch_bytes, put_file
from taskrunner.storage.s3 import S3Store
from taskrunner.urls import StoreKind
from tests.servers import S3Server, web_server

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


def test_opening_stores_loads_no_aws_and_no_web_library() -> None:
    program = (
        "import sys, taskrunner.storage.opening as opening; from taskrunner.settings import Settings\n"
        "stores = opening.Stores(Settings()); stores.store_for('s3://b/k'); stores.store_for('http://h/f')\n"
        "print({'aioboto3', 'botocore', 'aiohttp'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert said.stdout == "set()\n"
