"""What every store must do, asked of each of them: S3 on two servers, local files, memory; the web, if only read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession
from taskrunner.errors import InputMissingError, TransferIOError
from taskrunner.settings import S3Settings
from taskrunner.storage.http import HttpStore
from taskrunner.storage.local import LocalStore
from taskrunner.storage.memory import MemoryStore
from taskrunner.storage.network import Network
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.store import Store, StoredObject
from tests.servers import S3Server, web_server
from tests.storage.moving import cut, put, read_whole, received, send
from tests.storage.test_http import serving

MIB = 1024 * 1024
# 5 MiB is the least S3 takes for a part that is not the last.
PART_BYTES = 5 * MIB

AWKWARD_KEYS = [
    "plain.txt",
    "with space",
    "a+b",
    "hash#tag",
    "percent%41",
    "percent%2Fslash",
    "question?mark=1&x",
    "quote'\"<>&",
    "semi;colon:@=,",
    "ünïcödé-日本-😀",
    "tilde~(1)*!$",
    "back\\slash",
    ".hidden",
    "deep/er/and deeper/x",
]


@dataclass
class Place:
    """Somewhere to keep files in one kind of store, and a way to look at it from outside."""

    store: Store
    base: str
    scratch: Path
    leftovers: Callable[[], list[str]]
    """What is there beside whole objects."""

    def url(self, key: str) -> str:
        return f"{self.base}/{key}"

    async def put(self, key: str, content: bytes, part_bytes: int = 2**30) -> StoredObject:
        return await put(self.store, self.url(key), content, self.scratch, part_bytes)

    async def names(self, key: str) -> list[str]:
        return [found.name async for found in self.store.list_directory(self.url(key))]

    async def content(self, key: str) -> bytes:
        return await read_whole(self.store, await self.store.stat(self.url(key)), self.scratch)


@dataclass
class WebPlace(Place):
    """Files on a web server, which are put there past the store, since it only reads."""

    served: dict[str, bytes] = field(default_factory=dict)

    def url(self, key: str) -> str:
        return f"{self.base}/{quote(key)}"

    async def put(self, key: str, content: bytes, part_bytes: int = 0) -> StoredObject:  # noqa: ARG002  # one request
        self.served[key] = content
        return await self.store.stat(self.url(key))


@pytest.fixture(params=["rclone", "moto", "local", "memory"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with _place(request.param, request, tmp_path, tmp_path_factory.mktemp("scratch")) as made:
        yield made


@pytest.fixture(params=["rclone", "moto", "local", "memory", "web"])
async def readable(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """For the half of the contract that a store without directories and uploads keeps, too."""
    async with _place(request.param, request, tmp_path, tmp_path_factory.mktemp("scratch")) as made:
        yield made


@asynccontextmanager
async def _place(
    kind: str, request: pytest.FixtureRequest, directory: Path, scratch: Path
) -> AsyncIterator[Place]:
    match kind:
        case "local":
            store = LocalStore([directory])
            yield Place(store, f"file://{directory}", scratch, lambda: _partial_files(directory))
        case "memory":
            memory = MemoryStore()
            yield Place(memory, "memory://bucket", scratch, lambda: ["upload"] * memory.open_uploads)
        case "web":
            async with _web_place(scratch) as web_place:
                yield web_place
        case _:
            server: S3Server = request.getfixturevalue("s3" if kind == "rclone" else "moto")
            bucket = server.make_bucket()
            client = server.client()
            async with AwsSession() as aws:
                yield Place(
                    S3Store(aws, S3Settings()),
                    f"s3://{bucket}",
                    scratch,
                    lambda: [
                        one["Key"] for one in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
                    ],
                )


@asynccontextmanager
async def _web_place(scratch: Path) -> AsyncIterator[Place]:
    served: dict[str, bytes] = {}

    async def serve(request: web.Request) -> web.StreamResponse:
        content = served.get(unquote(request.raw_path.removeprefix("/")))
        if content is None:
            return web.Response(status=404)
        return await serving(content, etag=f'"{hashlib.sha256(content).hexdigest()}"')(request)

    store = HttpStore(Network())
    async with web_server({"/{any:.*}": serve}) as base:
        yield WebPlace(store, base, scratch, list, served)
        await store.close()


def _partial_files(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*.partial")]


@pytest.mark.parametrize("key", AWKWARD_KEYS)
async def test_an_object_is_found_and_read_under_its_very_key(readable: Place, key: str) -> None:
    await readable.put(key, b"content of " + key.encode())

    found = await readable.store.stat(readable.url(key))

    assert found.url == readable.url(key)
    assert found.size_bytes == len(b"content of " + key.encode())
    assert await readable.content(key) == b"content of " + key.encode()


async def test_awkward_keys_are_listed_by_their_names(place: Place) -> None:
    for key in AWKWARD_KEYS:
        await place.put(f"dir/{key}", key.encode())

    listed = [found async for found in place.store.list_directory(place.url("dir"))]

    assert {found.name for found in listed} == set(AWKWARD_KEYS)
    assert {found.url for found in listed} == {place.url(f"dir/{key}") for key in AWKWARD_KEYS}
    for found in listed:
        assert await read_whole(place.store, found, place.scratch) == found.name.encode()


async def test_a_listed_key_that_ends_like_a_version_is_read_as_a_key(place: Place) -> None:
    await place.put("dir/a?versionId=x", b"content")

    (found,) = [found async for found in place.store.list_directory(place.url("dir"))]

    assert found.name == "a?versionId=x"
    assert await read_whole(place.store, found, place.scratch) == b"content"


async def test_what_was_stored_is_what_is_found(readable: Place) -> None:
    stored = await readable.put("file", b"x" * 1000)

    found = await readable.store.stat(readable.url("file"))

    assert (stored.url, stored.size_bytes, stored.etag) == (found.url, 1000, found.etag)


async def test_a_missing_object_is_missing(readable: Place) -> None:
    with pytest.raises(InputMissingError, match="nowhere"):
        await readable.store.stat(readable.url("nowhere"))


async def test_a_directory_is_no_object(readable: Place) -> None:
    await readable.put("dir/file", b"")

    with pytest.raises(InputMissingError, match="dir"):
        await readable.store.stat(readable.url("dir"))


async def test_any_range_is_read(readable: Place) -> None:
    content = bytes(range(256)) * 16
    await readable.put("file", content)
    found = await readable.store.stat(readable.url("file"))

    for start, length in [(0, 1), (0, 10), (1, 4000), (4095, 1), (0, 4096), (100, 3996)]:
        reading = await readable.store.read(found, start, length)
        assert await received(reading, readable.scratch / "part") == content[start : start + length]


async def test_an_empty_object_is_found_and_read(readable: Place) -> None:
    stored = await readable.put("empty", b"")

    found = await readable.store.stat(readable.url("empty"))

    assert (stored.size_bytes, found.size_bytes) == (0, 0)
    assert await readable.content("empty") == b""


async def test_an_empty_object_is_listed(place: Place) -> None:
    await place.put("empty", b"")

    assert await place.names("") == ["empty"]


async def test_an_object_in_many_parts_is_whole(place: Place) -> None:
    content = os.urandom(2 * PART_BYTES + 12345)

    stored = await place.put("large", content, PART_BYTES)

    assert stored.size_bytes == len(content)
    assert (await place.store.stat(place.url("large"))).etag == stored.etag
    assert await place.content("large") == content
    assert place.leftovers() == []


async def test_an_upload_is_invisible_until_it_is_complete(place: Place) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = await place.store.begin_upload(place.url("dir/file"), parts)
    receipts = await send(upload, parts, source)

    with pytest.raises(InputMissingError):
        await place.store.stat(place.url("dir/file"))

    await upload.complete(receipts)
    assert (await place.store.stat(place.url("dir/file"))).size_bytes == PART_BYTES + 1


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_an_aborted_upload_leaves_nothing(place: Place, sent: int) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = await place.store.begin_upload(place.url("file"), parts)
    await send(upload, parts[:sent], source)

    await upload.abort()
    await upload.abort()

    assert place.leftovers() == []
    with pytest.raises(InputMissingError):
        await place.store.stat(place.url("file"))


async def test_an_aborted_upload_leaves_the_older_object(place: Place) -> None:
    await place.put("file", b"older")
    upload = await place.store.begin_upload(place.url("file"), cut(PART_BYTES + 1, PART_BYTES))

    await upload.abort()

    assert await place.content("file") == b"older"


async def test_abort_after_complete_takes_nothing_back(place: Place) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"y" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = await place.store.begin_upload(place.url("file"), parts)
    await upload.complete(await send(upload, parts, source))

    await upload.abort()

    assert (await place.store.stat(place.url("file"))).size_bytes == PART_BYTES + 1


async def test_a_shorter_object_replaces_a_longer_one_wholly(place: Place) -> None:
    await place.put("file", b"long" * 1000)
    await place.put("file", b"short")

    assert await place.content("file") == b"short"


async def test_parts_may_be_sent_in_any_order_and_again(place: Place) -> None:
    content = os.urandom(PART_BYTES + 1)
    source = place.scratch / "source"
    source.write_bytes(content)
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = await place.store.begin_upload(place.url("file"), parts)
    await send(upload, parts[1:], source)

    await upload.complete(await send(upload, parts, source))

    assert await place.content("file") == content


async def test_a_change_midway_is_an_error_and_not_a_mixed_file(readable: Place) -> None:
    await readable.put("file", b"a" * 1000)
    found = await readable.store.stat(readable.url("file"))
    first = await readable.store.read(found, 0, 500)
    assert await received(first, readable.scratch / "part") == b"a" * 500
    await readable.put("file", b"b" * 1000)

    second = await readable.store.read(found, 500, 500)

    with pytest.raises(TransferIOError, match="changed"):
        await received(second, readable.scratch / "part")


async def test_a_listing_has_everything_below_in_byte_order(place: Place) -> None:
    names = ["B", "a", "a.txt", "b/c/d", "b/c.txt", "z/é"]
    for name in names:
        await place.put(f"dir/{name}", name.encode())

    assert await place.names("dir") == sorted(names, key=str.encode)
    assert await place.names("dir/") == sorted(names, key=str.encode)
    assert await place.names("dir/b") == ["c.txt", "c/d"]


async def test_a_prefix_never_brings_its_look_alike(place: Place) -> None:
    for key in ["data/a/1", "data/ab", "data/a.txt", "data/abc/2"]:
        await place.put(key, b"")

    assert await place.names("data/a") == ["1"]


async def test_sizes_and_etags_of_a_listing_are_those_of_the_objects(place: Place) -> None:
    await place.put("dir/one", b"1")
    await place.put("dir/three", b"333")

    listed = {found.name: found async for found in place.store.list_directory(place.url("dir"))}

    for name, size in [("one", 1), ("three", 3)]:
        assert listed[name].size_bytes == size
        assert listed[name].etag == (await place.store.stat(place.url(f"dir/{name}"))).etag


async def test_a_place_that_exists_passes_the_check(readable: Place) -> None:
    await readable.store.check(readable.url("any/key"))
