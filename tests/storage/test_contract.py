"""What every store must do, asked of each of them: S3 on two servers, local files, memory; the web, if only read."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession
from taskrunner.errors import DamagedError, InputMissingError, TransferIOError, TransientError
from taskrunner.settings import S3Settings
from taskrunner.storage.checksums import Algorithm, Checksum, new_digest
from taskrunner.storage.http import HttpStore
from taskrunner.storage.local import LocalStore
from taskrunner.storage.memory import MemoryStore
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Store, StoredObject
from tests.servers import S3Server
from tests.storage.moving import (
    abort,
    begin,
    check,
    complete,
    cut,
    lane,
    listed,
    opened,
    put,
    read_whole,
    received,
    send,
    stat,
    web_place,
)
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
    tells: bool = False
    """Whether it always says what an object's bytes come to."""

    def url(self, key: str) -> str:
        return f"{self.base}/{key}"

    def stat(self, key: str) -> StoredObject:
        return stat(self.store, self.url(key))

    def put(self, key: str, content: bytes, part_bytes: int = 2**30) -> StoredObject:
        return put(self.store, self.url(key), content, self.scratch, part_bytes)

    def names(self, key: str) -> list[str]:
        return [found.name for found in listed(self.store, self.url(key))]

    def content(self, key: str) -> bytes:
        return read_whole(self.store, self.stat(key), self.scratch)


@dataclass
class WebPlace(Place):
    """Files on a web server, which are put there past the store, since it only reads."""

    served: dict[str, bytes] = field(default_factory=dict)

    def url(self, key: str) -> str:
        return f"{self.base}/{quote(key)}"

    def put(self, key: str, content: bytes, part_bytes: int = 0) -> StoredObject:  # noqa: ARG002  # one request
        self.served[key] = content
        return self.stat(key)


@pytest.fixture(params=["rclone", "moto", "local", "memory"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with _place(request.param, request, tmp_path, tmp_path_factory.mktemp("scratch")) as made:
        yield made


@pytest.fixture(params=["rclone", "moto", "local", "memory", "web"])
def readable(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """For the half of the contract that a store without directories and uploads keeps, too."""
    with _place(request.param, request, tmp_path, tmp_path_factory.mktemp("scratch")) as made:
        yield made


@contextmanager
def _place(kind: str, request: pytest.FixtureRequest, directory: Path, scratch: Path) -> Iterator[Place]:
    match kind:
        case "local":
            store = LocalStore([directory])
            yield Place(store, f"file://{directory}", scratch, lambda: _partial_files(directory))
        case "memory":
            memory = MemoryStore(algorithm=Algorithm.CRC64NVME, resumable=True)
            yield Place(memory, "memory://bucket", scratch, lambda: list(memory.uploads), tells=True)
        case "web":
            with _web_place(scratch) as web_place:
                yield web_place
        case _:
            server: S3Server = request.getfixturevalue("s3" if kind == "rclone" else "moto")
            bucket = server.make_bucket()
            client = server.client()
            yield Place(
                S3Store(AwsSession(), S3Settings()),
                f"s3://{bucket}",
                scratch,
                lambda: [
                    one["Key"] for one in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
                ],
            )


@contextmanager
def _web_place(scratch: Path) -> Iterator[Place]:
    served: dict[str, bytes] = {}

    async def serve(request: web.Request) -> web.StreamResponse:
        content = served.get(unquote(request.raw_path.removeprefix("/")))
        if content is None:
            return web.Response(status=404)
        digest = hashlib.sha256(content)
        headers = {"Repr-Digest": f"sha-256=:{b64encode(digest.digest()).decode()}:"}
        return await serving(content, etag=f'"{digest.hexdigest()}"', headers=headers)(request)

    with web_place({"/{any:.*}": serve}) as base:
        yield WebPlace(HttpStore(), base, scratch, list, served=served, tells=True)


def _partial_files(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*.partial")]


@pytest.mark.parametrize("key", AWKWARD_KEYS)
def test_an_object_is_found_and_read_under_its_very_key(readable: Place, key: str) -> None:
    readable.put(key, b"content of " + key.encode())

    found = readable.stat(key)

    assert found.url == readable.url(key)
    assert found.size_bytes == len(b"content of " + key.encode())
    assert readable.content(key) == b"content of " + key.encode()


def test_awkward_keys_are_listed_by_their_names(place: Place) -> None:
    for key in AWKWARD_KEYS:
        place.put(f"dir/{key}", key.encode())

    everything = listed(place.store, place.url("dir"))

    assert {found.name for found in everything} == set(AWKWARD_KEYS)
    assert {found.url for found in everything} == {place.url(f"dir/{key}") for key in AWKWARD_KEYS}
    for found in everything:
        assert read_whole(place.store, found, place.scratch) == found.name.encode()


def test_a_listed_key_that_ends_like_a_version_is_read_as_a_key(place: Place) -> None:
    place.put("dir/a?versionId=x", b"content")

    (found,) = listed(place.store, place.url("dir"))

    assert found.name == "a?versionId=x"
    assert read_whole(place.store, found, place.scratch) == b"content"


def test_what_was_stored_is_what_is_found(readable: Place) -> None:
    stored = readable.put("file", b"x" * 1000)

    found = readable.stat("file")

    assert (stored.url, stored.size_bytes, stored.etag) == (found.url, 1000, found.etag)


def test_a_missing_object_is_missing(readable: Place) -> None:
    with pytest.raises(InputMissingError, match="nowhere"):
        readable.stat("nowhere")


def test_a_directory_is_no_object(readable: Place) -> None:
    readable.put("dir/file", b"")

    with pytest.raises(InputMissingError, match="dir"):
        readable.stat("dir")


def test_any_range_is_read(readable: Place) -> None:
    content = bytes(range(256)) * 16
    readable.put("file", content)
    found = readable.stat("file")

    for start, length in [(0, 1), (0, 10), (1, 4000), (4095, 1), (0, 4096), (100, 3996)]:
        part = received(readable.store, found, readable.scratch / "part", start, length)
        assert part == content[start : start + length]
    assert received(readable.store, found, readable.scratch / "part", 4000) == content[4000:]


def test_an_empty_object_is_found_and_read(readable: Place) -> None:
    stored = readable.put("empty", b"")

    found = readable.stat("empty")

    assert (stored.size_bytes, found.size_bytes) == (0, 0)
    assert readable.content("empty") == b""


def test_an_empty_object_is_listed(place: Place) -> None:
    place.put("empty", b"")

    assert place.names("") == ["empty"]


def test_an_object_in_many_parts_is_whole(place: Place) -> None:
    content = os.urandom(2 * PART_BYTES + 12345)

    stored = place.put("large", content, PART_BYTES)

    assert stored.size_bytes == len(content)
    assert (place.stat("large")).etag == stored.etag
    assert place.content("large") == content
    assert place.leftovers() == []


def test_an_upload_is_invisible_until_it_is_complete(place: Place) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = begin(place.store, place.url("dir/file"), parts)
    receipts = send(upload, parts, source)

    with pytest.raises(InputMissingError):
        place.stat("dir/file")

    complete(upload, receipts)
    assert (place.stat("dir/file")).size_bytes == PART_BYTES + 1


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_an_aborted_upload_leaves_nothing(place: Place, sent: int) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = begin(place.store, place.url("file"), parts)
    send(upload, parts[:sent], source)

    abort(upload)
    abort(upload)

    assert place.leftovers() == []
    with pytest.raises(InputMissingError):
        place.stat("file")


def test_an_aborted_upload_leaves_the_older_object(place: Place) -> None:
    place.put("file", b"older")
    upload = begin(place.store, place.url("file"), cut(PART_BYTES + 1, PART_BYTES))

    abort(upload)

    assert place.content("file") == b"older"


def test_abort_after_complete_takes_nothing_back(place: Place) -> None:
    source = place.scratch / "source"
    source.write_bytes(b"y" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = begin(place.store, place.url("file"), parts)
    complete(upload, send(upload, parts, source))

    abort(upload)

    assert (place.stat("file")).size_bytes == PART_BYTES + 1


def test_a_shorter_object_replaces_a_longer_one_wholly(place: Place) -> None:
    place.put("file", b"long" * 1000)
    place.put("file", b"short")

    assert place.content("file") == b"short"


def test_parts_may_be_sent_in_any_order_and_again(place: Place) -> None:
    content = os.urandom(PART_BYTES + 1)
    source = place.scratch / "source"
    source.write_bytes(content)
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = begin(place.store, place.url("file"), parts)
    send(upload, parts[1:], source)

    complete(upload, send(upload, parts, source))

    assert place.content("file") == content


def test_a_change_midway_is_an_error_and_not_a_mixed_file(readable: Place) -> None:
    readable.put("file", b"a" * 1000)
    found = readable.stat("file")
    assert received(readable.store, found, readable.scratch / "part", 0, 500) == b"a" * 500
    readable.put("file", b"b" * 1000)

    with pytest.raises(TransferIOError, match="changed"):
        received(readable.store, found, readable.scratch / "part", 500, 500)


def test_a_listing_has_everything_below_in_byte_order(place: Place) -> None:
    names = ["B", "a", "a.txt", "b/c/d", "b/c.txt", "z/é"]
    for name in names:
        place.put(f"dir/{name}", name.encode())

    assert place.names("dir") == sorted(names, key=str.encode)
    assert place.names("dir/") == sorted(names, key=str.encode)
    assert place.names("dir/b") == ["c.txt", "c/d"]


def test_a_prefix_never_brings_its_look_alike(place: Place) -> None:
    for key in ["data/a/1", "data/ab", "data/a.txt", "data/abc/2"]:
        place.put(key, b"")

    assert place.names("data/a") == ["1"]


def test_sizes_and_etags_of_a_listing_are_those_of_the_objects(place: Place) -> None:
    place.put("dir/one", b"1")
    place.put("dir/three", b"333")

    by_name = {found.name: found for found in listed(place.store, place.url("dir"))}

    for name, size in [("one", 1), ("three", 3)]:
        assert by_name[name].size_bytes == size
        assert by_name[name].etag == (place.stat(f"dir/{name}")).etag


def test_a_place_that_exists_passes_the_check(readable: Place) -> None:
    check(readable.store, readable.url("any/key"))


# --- checksums


def value_of(algorithm: Algorithm, content: bytes) -> bytes:
    digest = new_digest(algorithm)
    digest.update(content)
    return digest.digest()


def test_what_a_store_says_of_an_objects_bytes_is_true(readable: Place) -> None:
    content = os.urandom(100_000)
    readable.put("file", content)
    found = readable.stat("file")
    unsaid = replace(found, checksum=None)
    with lane() as connections, opened(readable.scratch / "target", os.O_RDWR | os.O_CREAT) as fd:
        whole = FileSlice(fd, 0, len(content))
        readable.store.read(connections, unsaid, whole)

    assert (found.checksum is not None and whole.expected is not None) or not readable.tells
    for told in (found.checksum, whole.expected):
        assert told is None or told == Checksum(told.algorithm, value_of(told.algorithm, content))
    whole.verify(found.url)


def test_no_reading_of_a_part_is_told_the_checksum_of_the_whole(readable: Place) -> None:
    content = os.urandom(1000)
    readable.put("file", content)
    unsaid = replace(readable.stat("file"), checksum=None)
    with lane() as connections, opened(readable.scratch / "target", os.O_RDWR | os.O_CREAT) as fd:
        for start, length in [(0, 999), (1, 999)]:
            part = FileSlice(fd, start, length)
            readable.store.read(connections, unsaid, part)
            assert part.expected is None


@pytest.mark.parametrize("algorithm", [Algorithm.CRC64NVME, Algorithm.SHA256])
@pytest.mark.parametrize("start", [0, 100])
def test_damaged_bytes_are_noticed(readable: Place, algorithm: Algorithm, start: int) -> None:
    content = os.urandom(3 * MIB)
    readable.put("file", content)
    found = readable.stat("file")
    with lane() as connections, opened(readable.scratch / "target", os.O_RDWR | os.O_CREAT) as fd:
        for expected, good in [(content[start:], True), (content[start + 1 :] + b"x", False)]:
            piece = FileSlice(fd, start, len(content) - start)
            piece.expect(Checksum(algorithm, value_of(algorithm, expected)))
            readable.store.read(connections, found, piece)
            if good:
                piece.verify(found.url)
            else:
                with pytest.raises(DamagedError, match=f"arrived damaged: its {algorithm} is"):
                    piece.verify(found.url)


def test_a_large_object_keeps_a_true_checksum(place: Place) -> None:
    content = os.urandom(PART_BYTES + 12345)

    stored = place.put("large", content, PART_BYTES)

    for told in (stored.checksum, place.stat("large").checksum):
        if told is not None and told.part_bytes is None:
            assert told.value == value_of(told.algorithm, content)
    assert place.content("large") == content


# --- slices


def test_a_reading_goes_on_where_the_slice_stands(readable: Place) -> None:
    content = os.urandom(10_000)
    readable.put("file", content)
    found = readable.stat("file")
    with lane() as connections, opened(readable.scratch / "target", os.O_RDWR | os.O_CREAT) as fd:
        piece = FileSlice(fd, 1000, 5000)
        piece.compute(Algorithm.CRC32C)
        piece.append(memoryview(content[1000:1700]))
        readable.store.read(connections, found, piece)

        assert (piece.done, os.pread(fd, 5000, 1000)) == (5000, content[1000:6000])
        assert piece.digest is not None
        assert piece.digest.digest() == value_of(Algorithm.CRC32C, content[1000:6000])


def test_a_part_is_sent_from_the_beginning_of_its_slice(place: Place) -> None:
    content = os.urandom(1000)
    (place.scratch / "source").write_bytes(b"before" + content)
    (part,) = cut(1000, 1000)
    upload = begin(place.store, place.url("file"), [part])
    with lane() as connections, opened(place.scratch / "source") as fd:
        source = FileSlice(fd, 6, 1000, done=400)
        receipt = upload.write_part(connections, part, source)
        upload.complete(connections, [receipt])

    assert (source.done, place.content("file")) == (1000, content)


# --- uploads that go on


def test_an_upload_goes_on_where_it_was_or_begins_anew(place: Place) -> None:
    content = os.urandom(2 * PART_BYTES + 1)
    source = place.scratch / "source"
    source.write_bytes(content)
    parts = cut(len(content), PART_BYTES)
    first = begin(place.store, place.url("file"), parts)
    (receipt,) = send(first, parts[1:2], source)

    again = begin(place.store, place.url("file"), parts, first.resume_id)
    with lane() as connections:
        sent = dict(again.sent_parts(connections))
    for part in parts:
        if part.number not in sent:
            sent[part.number] = send(again, [part], source)[0]
        else:
            assert (part.number, first.resume_id) == (2, again.resume_id)
            assert sent[2].etag == receipt.etag
    complete(again, [sent[part.number] for part in parts])
    if first.resume_id is None:
        abort(first)

    assert (place.content("file"), place.leftovers()) == (content, [])


def test_an_upload_that_has_ended_is_begun_anew(place: Place) -> None:
    content = os.urandom(PART_BYTES + 1)
    source = place.scratch / "source"
    source.write_bytes(content)
    parts = cut(len(content), PART_BYTES)
    first = begin(place.store, place.url("file"), parts)
    send(first, parts[:1], source)
    abort(first)

    again = begin(place.store, place.url("file"), parts, first.resume_id)
    with lane() as connections:
        assert dict(again.sent_parts(connections)) == {}
    complete(again, send(again, parts, source))

    assert (place.content("file"), place.leftovers()) == (content, [])


# --- lanes that are stopped


def test_every_reading_call_ends_when_its_lane_is_stopped(readable: Place) -> None:
    found = readable.put("file", b"content")
    with lane() as connections, opened(readable.scratch / "target", os.O_RDWR | os.O_CREAT) as fd:
        connections.abort()
        piece = FileSlice(fd, 0, 7)
        with pytest.raises(TransientError, match="stopped"):
            readable.store.stat(connections, readable.url("file"))
        with pytest.raises(TransientError, match="stopped"):
            readable.store.read(connections, found, piece)

    assert piece.done == 0


def test_a_listing_that_is_not_deep_has_only_what_is_right_below(place: Place) -> None:
    for name in ("dir/b", "dir/a", "dir/b.d/c", "dir/0/1/2", "dirt"):
        place.put(name, b"x")
    with lane() as connections:
        found = place.store.list_directory(connections, place.url("dir"), deep=False)
        assert [one.name for one in found] == ["a", "b"]


def test_every_writing_call_ends_when_its_lane_is_stopped_and_nothing_is_left(place: Place) -> None:
    place.put("dir/file", b"older")
    source = place.scratch / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    parts = cut(PART_BYTES + 1, PART_BYTES)
    upload = begin(place.store, place.url("dir/file"), parts)
    receipts = send(upload, parts, source)
    with lane() as connections, opened(source) as fd:
        connections.abort()
        with pytest.raises(TransientError, match="stopped"):
            list(place.store.list_directory(connections, place.url("dir")))
        with pytest.raises(TransientError, match="stopped"):
            place.store.begin_upload(connections, place.url("dir/other"), parts)
        with pytest.raises(TransientError, match="stopped"):
            upload.write_part(connections, parts[1], FileSlice(fd, PART_BYTES, 1))
        with pytest.raises(TransientError, match="stopped"):
            upload.complete(connections, receipts)
    abort(upload)

    assert (place.leftovers(), place.names("dir")) == ([], ["file"])
    assert place.content("dir/file") == b"older"


def test_what_is_written_later_is_not_older(readable: Place) -> None:
    before = [readable.put(key, b"x") and readable.stat(key).modified_seconds for key in ("a", "a")]

    assert all(time is not None for time in before) or isinstance(readable, WebPlace)
    assert before == sorted(before, key=lambda time: time or 0)
