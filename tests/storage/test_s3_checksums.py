"""Checksums in S3: which are told by servers, which can be believed, and which go with what is sent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession
from taskrunner.errors import AccessDeniedError, DamagedError, OutputFailedError, TransientError
from taskrunner.settings import S3Settings
from taskrunner.storage.checksums import Algorithm, Checksum, composite, encoded, new_digest
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Receipt, StoredObject
from tests.servers import S3Server
from tests.storage.moving import (
    begin,
    complete,
    cut,
    lane,
    listed,
    opened,
    put,
    read_whole,
    received,
    s3_place,
    send,
    stat,
)

PART_BYTES = 5 * 1024 * 1024
CRCS = [Algorithm.CRC64NVME, Algorithm.CRC32C, Algorithm.CRC32]


@pytest.fixture
def store() -> S3Store:
    return S3Store(AwsSession(), S3Settings())


@pytest.fixture
def bucket(moto: S3Server) -> str:
    return moto.make_bucket()


def value_of(algorithm: Algorithm, content: bytes) -> bytes:
    digest = new_digest(algorithm)
    digest.update(content)
    return digest.digest()


def checksum_of(algorithm: Algorithm, content: bytes) -> Checksum:
    return Checksum(algorithm, value_of(algorithm, content))


def told(algorithm: Algorithm, content: bytes) -> str:
    return encoded(value_of(algorithm, content))


def expected_of(
    store: S3Store, found: StoredObject, path: Path, length: int | None = None
) -> Checksum | None:
    """What a reading is told to expect, besides what `found` says."""
    with lane() as connections, opened(path, os.O_RDWR | os.O_CREAT) as fd:
        piece = FileSlice(fd, 0, found.size_bytes if length is None else length)
        store.read(connections, found, piece)
        piece.verify(found.url)
        return piece.expected


# --- what real servers tell


@pytest.mark.parametrize("algorithm", [*CRCS, Algorithm.SHA256, Algorithm.SHA1])
def test_the_checksum_an_object_was_stored_with_is_told(
    moto: S3Server, bucket: str, store: S3Store, algorithm: Algorithm
) -> None:
    moto.client().put_object(
        Bucket=bucket,
        Key="file",
        Body=b"content",
        ChecksumAlgorithm=algorithm.value,
        **{f"Checksum{algorithm}": told(algorithm, b"content")},
    )

    assert stat(store, f"s3://{bucket}/file").checksum == checksum_of(algorithm, b"content")


@pytest.mark.parametrize("server", ["moto", "s3"])
def test_an_etag_of_one_piece_is_an_md5(
    request: pytest.FixtureRequest, store: S3Store, server: str, tmp_path: Path
) -> None:
    served: S3Server = request.getfixturevalue(server)
    bucket = served.make_bucket()
    served.client().put_object(Bucket=bucket, Key="file", Body=b"content")

    found = stat(store, f"s3://{bucket}/file")
    (entry,) = listed(store, f"s3://{bucket}")

    assert found.checksum == checksum_of(Algorithm.MD5, b"content")
    assert entry.checksum is None
    assert expected_of(store, entry, tmp_path / "file") == found.checksum


def test_an_etag_under_a_kms_key_is_no_md5(
    moto: S3Server, bucket: str, store: S3Store, tmp_path: Path
) -> None:
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    moto.client().put_object(Bucket=bucket, Key="file", Body=b"content", **encryption)

    found = stat(store, f"s3://{bucket}/file")

    assert found.checksum is None
    assert expected_of(store, found, tmp_path / "file") is None


@pytest.mark.parametrize("server", ["moto", "s3"])
@pytest.mark.parametrize("size_bytes", [0, 10, PART_BYTES, 2 * PART_BYTES + 1])
def test_what_was_put_is_read_and_believed(
    request: pytest.FixtureRequest, store: S3Store, server: str, tmp_path: Path, size_bytes: int
) -> None:
    bucket = request.getfixturevalue(server).make_bucket()
    content = os.urandom(size_bytes)

    stored = put(store, f"s3://{bucket}/file", content, tmp_path, PART_BYTES)

    assert stored.checksum == checksum_of(Algorithm.CRC64NVME, content)
    assert read_whole(store, stat(store, f"s3://{bucket}/file"), tmp_path) == content
    assert read_whole(store, listed(store, f"s3://{bucket}")[0], tmp_path) == content


def test_when_an_object_was_changed_is_told_alike_by_looking_and_listing(
    s3: S3Server, store: S3Store, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    assert s3.root is not None
    (s3.root / bucket / "file").write_bytes(b"content")
    os.utime(s3.root / bucket / "file", (1_700_000_000, 1_700_000_000))

    assert stat(store, f"s3://{bucket}/file").modified_seconds == 1_700_000_000.0
    assert listed(store, f"s3://{bucket}")[0].modified_seconds == 1_700_000_000.0


@pytest.mark.parametrize(
    ("algorithm", "kind", "expected"),
    [
        (Algorithm.CRC64NVME, None, True),
        (Algorithm.CRC32, "FULL_OBJECT", True),
        (Algorithm.CRC32, None, False),
        (Algorithm.SHA256, None, False),
    ],
)
def test_of_an_object_in_parts_a_checksum_is_of_the_whole_only_where_it_must_be(
    teller: Teller, store: S3Store, algorithm: Algorithm, kind: str | None, expected: bool
) -> None:
    teller.headers = {"ETag": '"etag-2"', algorithm.header: told(algorithm, b"hello")}
    if kind:
        teller.headers["x-amz-checksum-type"] = kind

    found = stat(store, "s3://bucket/key")

    assert found.checksum == (checksum_of(algorithm, b"hello") if expected else None)


# --- what a server may tell


@dataclass
class Teller:
    """A server of one object, which tells of it what a test wants, and of its parts."""

    content: bytes = b"hello"
    headers: dict[str, str] = field(default_factory=dict)
    part_sizes: list[int] = field(default_factory=list)
    """Empty: parts are not known to it, and it tells of the whole."""
    part_status: int = 206
    requests: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        number = int(request.query.get("partNumber", 0))
        if number and self.part_sizes:
            headers = {"x-amz-mp-parts-count": str(len(self.part_sizes)), "ETag": '"etag"'}
            size = str(self.part_sizes[number - 1])
            return web.Response(status=self.part_status, headers={**headers, "Content-Length": size})
        headers = {"ETag": '"etag"', **self.headers}
        if request.headers.get("x-amz-checksum-mode") != "ENABLED":
            headers = {name: value for name, value in headers.items() if "checksum" not in name}
        start, _, end = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if request.method == "GET" and start:
            piece = self.content[int(start) : int(end) + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(self.content)}"
            return web.Response(status=206, body=piece, headers=headers)
        return web.Response(body=self.content, headers=headers)


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Teller]:
    teller = Teller()
    with s3_place(teller.handle, monkeypatch):
        yield teller


def test_the_best_of_several_checksums_is_taken(teller: Teller, store: S3Store) -> None:
    for algorithm in (Algorithm.SHA1, Algorithm.CRC32, Algorithm.CRC64NVME):
        teller.headers[algorithm.header] = told(algorithm, teller.content)

    assert stat(store, "s3://bucket/key").checksum == checksum_of(Algorithm.CRC64NVME, teller.content)


@pytest.mark.parametrize("malformed", ["", "AAAA", "not base64", "AAAAAAAAAAAAAAAAAAAAAA==", "é"])
def test_a_value_no_algorithm_could_give_is_as_if_untold(
    teller: Teller, store: S3Store, tmp_path: Path, malformed: str
) -> None:
    teller.headers = {Algorithm.CRC64NVME.header: malformed}
    assert stat(store, "s3://bucket/key").checksum is None
    assert expected_of(store, stat(store, "s3://bucket/key"), tmp_path / "file") is None

    teller.headers[Algorithm.CRC32.header] = told(Algorithm.CRC32, teller.content)
    assert stat(store, "s3://bucket/key").checksum == checksum_of(Algorithm.CRC32, teller.content)


@pytest.mark.parametrize(
    ("headers", "believed"),
    [
        ({}, True),
        ({"x-amz-server-side-encryption": "AES256"}, True),
        ({"x-amz-server-side-encryption": "aws:kms"}, False),
        ({"x-amz-server-side-encryption": "aws:kms:dsse"}, False),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
        ({"ETag": f'"{hashlib.md5(b"hello").hexdigest()}-1"'}, False),
        ({"ETag": '"0123456789"'}, False),
    ],
)
def test_an_etag_is_an_md5_unless_encryption_says_otherwise(
    teller: Teller, store: S3Store, tmp_path: Path, headers: dict[str, str], believed: bool
) -> None:
    teller.headers = {"ETag": f'"{hashlib.md5(b"hello").hexdigest()}"', **headers}

    found = stat(store, "s3://bucket/key")

    assert found.checksum == (checksum_of(Algorithm.MD5, b"hello") if believed else None)


def test_a_whole_reading_expects_what_its_answer_tells(
    teller: Teller, store: S3Store, tmp_path: Path
) -> None:
    teller.headers = {Algorithm.CRC32.header: told(Algorithm.CRC32, b"hello")}
    found = StoredObject("s3://bucket/key", 5, '"etag"', ranged=True)

    assert expected_of(store, found, tmp_path / "file") == checksum_of(Algorithm.CRC32, b"hello")


def test_damaged_bytes_are_found_out(teller: Teller, store: S3Store, tmp_path: Path) -> None:
    teller.headers = {Algorithm.CRC32.header: told(Algorithm.CRC32, b"jello")}

    with pytest.raises(DamagedError, match="arrived damaged"):
        read_whole(store, StoredObject("s3://bucket/key", 5, '"etag"', ranged=True), tmp_path)


def test_what_was_told_first_counts(teller: Teller, store: S3Store, tmp_path: Path) -> None:
    teller.headers = {Algorithm.CRC32.header: told(Algorithm.CRC32, b"hello")}
    known = checksum_of(Algorithm.SHA1, b"hello")
    found = StoredObject("s3://bucket/key", 5, '"etag"', ranged=True, checksum=known)

    assert expected_of(store, found, tmp_path / "file") is None


def test_a_range_is_never_told_the_checksum_of_the_whole(
    teller: Teller, store: S3Store, tmp_path: Path
) -> None:
    teller.headers = {Algorithm.CRC32.header: told(Algorithm.CRC32, b"hello")}
    found = StoredObject("s3://bucket/key", 5, '"etag"', ranged=True)

    assert expected_of(store, found, tmp_path / "file", 4) is None
    assert received(store, found, tmp_path / "file", 1, 4) == b"ello"
    assert [request.headers["If-Match"] for request in teller.requests[1:]] == ['"etag"'] * 2


def test_an_etag_of_a_directory_bucket_is_no_md5(teller: Teller, store: S3Store, tmp_path: Path) -> None:
    teller.headers = {"ETag": f'"{hashlib.md5(b"hello").hexdigest()}"'}

    found = stat(store, "s3://data--use1-az4--x-s3/key")

    assert found.checksum is None
    assert "/s3express/aws4_request" in teller.requests[-1].headers["Authorization"]


# --- composites


def as_parts(content: bytes, sizes: list[int]) -> list[bytes]:
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    return [content[at : at + size] for at, size in zip(offsets, sizes, strict=True)]


@pytest.mark.parametrize(
    ("sizes", "part_bytes"),
    [([4, 4, 1], 4), ([4, 4, 4], 4), ([9], 9), ([4, 3, 4], None), ([1, 4, 4], None), ([4, 5], None)],
)
def test_a_composite_is_told_with_the_size_of_its_parts(
    teller: Teller, store: S3Store, sizes: list[int], part_bytes: int | None
) -> None:
    teller.content, teller.part_sizes = os.urandom(sum(sizes)), sizes
    parts = as_parts(teller.content, sizes)
    value = composite(Algorithm.SHA256, [value_of(Algorithm.SHA256, part) for part in parts])
    teller.headers = {
        Algorithm.SHA256.header: f"{encoded(value)}-{len(sizes)}",
        "x-amz-checksum-type": "COMPOSITE",
    }

    found = stat(store, "s3://bucket/key?versionId=one")

    expected = None if part_bytes is None else Checksum(Algorithm.SHA256, value, part_bytes)
    assert found.checksum == expected
    about_parts = [request for request in teller.requests if "partNumber" in request.query]
    assert about_parts
    for request in about_parts:
        assert request.headers["If-Match"] == '"etag"'
        assert request.query["versionId"] == "one"


def test_a_composite_that_does_not_say_of_how_many_parts_is_asked_for_it(
    teller: Teller, store: S3Store
) -> None:
    teller.content, teller.part_sizes = b"abcde", [3, 2]
    value = composite(Algorithm.CRC32, [value_of(Algorithm.CRC32, part) for part in (b"abc", b"de")])
    teller.headers = {Algorithm.CRC32.header: encoded(value), "x-amz-checksum-type": "COMPOSITE"}

    assert stat(store, "s3://bucket/key").checksum == Checksum(Algorithm.CRC32, value, 3)


def test_a_number_of_parts_that_no_object_has_is_untold(teller: Teller, store: S3Store) -> None:
    teller.content, teller.part_sizes = b"abcde", [3, 2]
    value = composite(Algorithm.CRC32, [value_of(Algorithm.CRC32, part) for part in (b"abc", b"de")])
    teller.headers = {Algorithm.CRC32.header: f"{encoded(value)}-{'9' * 5000}"}

    assert stat(store, "s3://bucket/key").checksum == Checksum(Algorithm.CRC32, value, 3)


@pytest.mark.parametrize("part_status", [200, 400, 501])
def test_a_server_that_knows_no_parts_tells_no_composite(
    teller: Teller, store: S3Store, part_status: int
) -> None:
    teller.headers = {Algorithm.SHA256.header: f"{told(Algorithm.SHA256, b'x')}-2"}
    teller.part_sizes = [] if part_status == 200 else [3, 2]
    teller.part_status = part_status

    assert stat(store, "s3://bucket/key").checksum is None


def test_a_server_that_can_not_tell_of_parts_just_now_is_asked_again(teller: Teller, store: S3Store) -> None:
    teller.headers = {Algorithm.SHA256.header: f"{told(Algorithm.SHA256, b'x')}-2"}
    teller.part_sizes, teller.part_status = [3, 2], 503

    with pytest.raises(TransientError):
        stat(store, "s3://bucket/key")


def test_a_composite_of_a_real_server_is_told_or_not_but_never_wrongly(
    moto: S3Server, bucket: str, store: S3Store
) -> None:
    client = moto.client()
    begun = client.create_multipart_upload(Bucket=bucket, Key="file", ChecksumAlgorithm="SHA256")
    which = {"Bucket": bucket, "Key": "file", "UploadId": begun["UploadId"]}
    contents = [os.urandom(PART_BYTES), os.urandom(7)]
    parts = []
    for number, content in enumerate(contents, start=1):
        sent = client.upload_part(**which, PartNumber=number, Body=content, ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]})
    client.complete_multipart_upload(**which, MultipartUpload={"Parts": parts})

    value = composite(Algorithm.SHA256, [value_of(Algorithm.SHA256, content) for content in contents])
    assert stat(store, f"s3://{bucket}/file").checksum in (
        None,
        Checksum(Algorithm.SHA256, value, PART_BYTES),
    )


# --- what is sent


@dataclass
class Taker:
    """A server that takes objects, and knows some checksums or refuses them as others do."""

    known: tuple[Algorithm, ...] = tuple(Algorithm)
    refusal: tuple[int, str, str] = (400, "InvalidArgument", "Unsupported header '{}' received")
    stored: dict[str, str] = field(default_factory=dict)
    """Headers of answers to PUT."""
    refuses_at: frozenset[str] = frozenset({"PUT", "POST"})
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    completion: str = '<ETag>"whole-2"</ETag>'
    look: dict[str, str] = field(default_factory=dict)
    """Headers of answers to HEAD."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path in ("/bucket", "/another"):
            return web.Response()
        self.requests.append(request)
        self.bodies.append(body)
        for algorithm in Algorithm:
            told = algorithm.header in request.headers
            told = told or request.headers.get("x-amz-checksum-algorithm") == algorithm
            if told and algorithm not in self.known and request.method in self.refuses_at:
                status, code, message = self.refusal
                message = message.format(algorithm.header)
                return web.Response(
                    status=status, text=f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                )
        match request.method:
            case "POST" if "uploads" in request.query:
                begun = "<UploadId>the:upload</UploadId>"
                return web.Response(
                    text=f"<InitiateMultipartUploadResult>{begun}</InitiateMultipartUploadResult>"
                )
            case "POST":
                return web.Response(
                    text=f"<CompleteMultipartUploadResult>{self.completion}</CompleteMultipartUploadResult>"
                )
            case "HEAD":
                return web.Response(headers={"ETag": '"whole-2"', **self.look})
        return web.Response(headers={"ETag": '"etag"', **self.stored})


@pytest.fixture
def taker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taker]:
    taker = Taker()
    with s3_place(taker.handle, monkeypatch):
        yield taker


def told_with(request: web.Request) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower().startswith("x-amz-checksum") or name.lower() == "x-amz-mp-object-size"
    }


def test_an_object_is_sent_with_its_checksum(taker: Taker, store: S3Store, tmp_path: Path) -> None:
    stored = put(store, "s3://bucket/key", b"hello", tmp_path)

    (request,) = taker.requests
    assert told_with(request) == {"x-amz-checksum-crc64nvme": told(Algorithm.CRC64NVME, b"hello")}
    assert "x-amz-checksum-crc64nvme" in request.headers["Authorization"]
    assert taker.bodies == [b"hello"]
    assert stored.checksum == checksum_of(Algorithm.CRC64NVME, b"hello")


def test_parts_are_sent_with_theirs_and_completed_with_that_of_the_whole(
    taker: Taker, store: S3Store, tmp_path: Path
) -> None:
    taker.look = {"Content-Length": "5"}
    stored = put(store, "s3://bucket/key", b"hello", tmp_path, 3)

    begun, first, second, completed, looked = taker.requests
    assert told_with(begun) == {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"}
    assert told_with(first) == {"x-amz-checksum-crc64nvme": told(Algorithm.CRC64NVME, b"hel")}
    assert told_with(second) == {"x-amz-checksum-crc64nvme": told(Algorithm.CRC64NVME, b"lo")}
    assert told_with(completed) == {
        "x-amz-checksum-crc64nvme": told(Algorithm.CRC64NVME, b"hello"),
        "x-amz-checksum-type": "FULL_OBJECT",
        "x-amz-mp-object-size": "5",
    }
    assert told_with(looked) == {"x-amz-checksum-mode": "ENABLED"}
    document = taker.bodies[3].decode()
    for number, piece in ((1, b"hel"), (2, b"lo")):
        checksum = f"<ChecksumCRC64NVME>{told(Algorithm.CRC64NVME, piece)}</ChecksumCRC64NVME>"
        assert f'<Part><PartNumber>{number}</PartNumber><ETag>"etag"</ETag>{checksum}</Part>' in document
    assert stored.checksum == checksum_of(Algorithm.CRC64NVME, b"hello")


REFUSALS = [
    (400, "InvalidArgument", "Unsupported header '{}' received for this API call."),
    (501, "NotImplemented", "Header '{}' with value 'x' not implemented"),
    (400, "InvalidRequest", "Checksum algorithm provided is unsupported."),
    (400, "InvalidChecksum", "no"),
    (501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize(
    ("known", "sent"), [((Algorithm.CRC32,), Algorithm.CRC32), ((Algorithm.SHA1,), None), ((), None)]
)
@pytest.mark.parametrize("part_bytes", [5, 3])
def test_a_checksum_the_server_does_not_know_is_replaced_at_once(
    *,
    taker: Taker,
    store: S3Store,
    tmp_path: Path,
    refusal: tuple[int, str, str],
    known: tuple[Algorithm, ...],
    sent: Algorithm | None,
    part_bytes: int,
) -> None:
    taker.known, taker.refusal, taker.look = known, refusal, {"Content-Length": "5"}
    stored = put(store, "s3://bucket/key", b"hello", tmp_path, part_bytes)

    assert stored.checksum == checksum_of(sent or Algorithm.CRC64NVME, b"hello")
    last = told_with([request for request in taker.requests if request.method != "HEAD"][-1])
    assert {name for name in last if name.startswith("x-amz-checksum-crc")} == (
        {sent.header} if sent else set()
    )
    assert sent is None or last[sent.header] == told(sent, b"hello")

    taker.requests.clear()
    put(store, "s3://bucket/other", b"hello", tmp_path, part_bytes)
    assert len(taker.requests) == (1 if part_bytes == 5 else 5)  # what it refuses is remembered


def test_what_one_buckets_server_refuses_is_sent_to_others(
    taker: Taker, store: S3Store, tmp_path: Path
) -> None:
    taker.known = (Algorithm.CRC32,)
    put(store, "s3://bucket/key", b"hello", tmp_path)
    taker.known = tuple(Algorithm)
    put(store, "s3://another/key", b"hello", tmp_path)

    assert told_with(taker.requests[-1]) == {"x-amz-checksum-crc64nvme": told(Algorithm.CRC64NVME, b"hello")}


@pytest.mark.parametrize("at", ["PUT", "POST"])
def test_an_upload_whose_server_changes_its_mind_goes_on_without_checksums(
    taker: Taker, store: S3Store, tmp_path: Path, at: str
) -> None:
    (tmp_path / "source").write_bytes(b"hello")
    parts = cut(5, 3)
    taker.look = {"Content-Length": "5"}
    upload = begin(store, "s3://bucket/key", parts)
    taker.known, taker.refuses_at = (), frozenset({at})

    stored = complete(upload, send(upload, parts, tmp_path / "source"))

    assert stored.checksum == checksum_of(Algorithm.CRC64NVME, b"hello")
    assert "x-amz-checksum-crc64nvme" not in told_with(taker.requests[-2])


def test_other_refusals_are_told_at_once(taker: Taker, store: S3Store, tmp_path: Path) -> None:
    taker.known, taker.refusal = (), (400, "InvalidArgument", "no such thing as {:.0}that")

    with pytest.raises(OutputFailedError, match="400 InvalidArgument"):
        put(store, "s3://bucket/key", b"hello", tmp_path)
    assert len(taker.requests) == 1


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentChecksumMismatch"])
def test_what_was_damaged_on_its_way_is_sent_again(
    taker: Taker, store: S3Store, tmp_path: Path, code: str
) -> None:
    taker.known, taker.refusal = (), (400, code, "The {} you specified did not match what we received.")

    with pytest.raises(TransientError, match=code):
        put(store, "s3://bucket/key", b"hello", tmp_path)
    assert len(taker.requests) == 1


@pytest.mark.parametrize("part_bytes", [5, 3])
def test_a_server_that_has_something_else_than_was_sent_is_found_out(
    taker: Taker, store: S3Store, tmp_path: Path, part_bytes: int
) -> None:
    taker.stored = {Algorithm.CRC64NVME.header: told(Algorithm.CRC64NVME, b"jello")}

    with pytest.raises(DamagedError, match="damaged on its way"):
        put(store, "s3://bucket/key", b"hello", tmp_path, part_bytes)


@pytest.mark.parametrize("value", ["", "AAAA", "nonsense", f"{told(Algorithm.CRC64NVME, b'x')}-2"])
def test_answers_that_tell_nonsense_are_not_believed(
    taker: Taker, store: S3Store, tmp_path: Path, value: str
) -> None:
    taker.stored = {Algorithm.CRC64NVME.header: value}
    taker.look = {"Content-Length": "5", Algorithm.CRC64NVME.header: value}
    taker.completion = f'<ETag>"whole-2"</ETag><ChecksumCRC64NVME>{value}</ChecksumCRC64NVME>'

    assert put(store, "s3://bucket/key", b"hello", tmp_path, 3).etag == '"whole-2"'


def test_a_completed_object_that_is_something_else_is_found_out_by_the_answer(
    taker: Taker, store: S3Store, tmp_path: Path
) -> None:
    other = told(Algorithm.CRC64NVME, b"jello")
    taker.completion = f'<ETag>"whole-2"</ETag><ChecksumCRC64NVME>{other}</ChecksumCRC64NVME>'

    with pytest.raises(DamagedError, match="damaged on its way"):
        put(store, "s3://bucket/key", b"hello", tmp_path, 3)


def test_a_completed_object_that_is_something_else_is_found_out_by_looking(
    taker: Taker, store: S3Store, tmp_path: Path
) -> None:
    taker.look = {"Content-Length": "5", Algorithm.CRC64NVME.header: told(Algorithm.CRC64NVME, b"jello")}

    with pytest.raises(DamagedError, match="damaged on its way"):
        put(store, "s3://bucket/key", b"hello", tmp_path, 3)


def test_parts_that_come_to_something_else_are_a_damage(taker: Taker, store: S3Store, tmp_path: Path) -> None:
    parts = cut(5, 3)
    (tmp_path / "source").write_bytes(b"hello")
    upload = begin(store, "s3://bucket/key", parts)
    receipts = send(upload, parts, tmp_path / "source")
    taker.known, taker.refusal = (), (400, "BadDigest", "did not match")

    with pytest.raises(DamagedError, match="BadDigest"):
        complete(upload, receipts)


def test_a_part_whose_checksum_nobody_knows_leaves_the_whole_untold(
    taker: Taker, store: S3Store, tmp_path: Path
) -> None:
    parts = cut(5, 3)
    taker.look = {"Content-Length": "5"}
    upload = begin(store, "s3://bucket/key", parts)
    known = checksum_of(Algorithm.CRC64NVME, b"lo")

    stored = complete(upload, [Receipt('"one"'), Receipt('"two"', known)])

    assert stored.checksum is None
    assert told_with(taker.requests[-2]) == {}
    assert '<ETag>"one"</ETag></Part>' in taker.bodies[-2].decode()


def test_denied_is_not_about_checksums(taker: Taker, store: S3Store, tmp_path: Path) -> None:
    taker.known, taker.refusal = (), (403, "AccessDenied", "{} needs kms:Decrypt")

    with pytest.raises(AccessDeniedError, match="kms:Decrypt"):
        put(store, "s3://bucket/key", b"hello", tmp_path)
    assert len(taker.requests) == 1
