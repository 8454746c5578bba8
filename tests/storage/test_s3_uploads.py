"""Uploads to S3 that another attempt goes on with, and those that end otherwise than they should."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession
from taskrunner.errors import AccessDeniedError, TransferIOError, TransientError
from taskrunner.settings import S3Settings
from taskrunner.storage.checksums import Algorithm, Checksum, encoded, new_digest
from taskrunner.storage.network import Network
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Part, Receipt, StoredObject, Upload
from taskrunner.storage.wire import Connections
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
    s3_place,
    send,
    stat,
    web_place,
)

PART_BYTES = 5 * 1024 * 1024
FOUND = StoredObject("s3://bucket/key", 5, '"etag"', ranged=True)
CONTENT = os.urandom(2 * PART_BYTES + 1)


@pytest.fixture
def store() -> S3Store:
    return S3Store(AwsSession(), S3Settings())


@pytest.fixture(params=["moto", "s3"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


def sent_parts(upload: Upload) -> dict[int, Receipt]:
    with lane() as connections:
        return dict(upload.sent_parts(connections))


def crc(content: bytes, algorithm: Algorithm = Algorithm.CRC64NVME) -> Checksum:
    digest = new_digest(algorithm)
    digest.update(content)
    return Checksum(algorithm, digest.digest())


# --- going on


def test_an_upload_goes_on_where_another_attempt_was(server: S3Server, tmp_path: Path) -> None:
    url = f"s3://{server.make_bucket()}/file"
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    parts = cut(len(CONTENT), PART_BYTES)
    dead = begin(S3Store(AwsSession(), S3Settings()), url, parts)
    receipts = dict(zip((1, 3), send(dead, [parts[0], parts[2]], source), strict=True))
    resume_id = json.loads(json.dumps(dead.resume_id))

    store = S3Store(AwsSession(), S3Settings())
    upload = begin(store, url, parts, resume_id)
    sent = sent_parts(upload)
    assert {number: receipt.etag for number, receipt in sent.items()} == {
        number: receipt.etag for number, receipt in receipts.items()
    }
    assert all(receipt.checksum in (None, receipts[number].checksum) for number, receipt in sent.items())
    (second,) = send(upload, [parts[1]], source)
    stored = complete(upload, [receipts[1], second, receipts[3]])

    assert upload.resume_id == resume_id
    assert stored.checksum == crc(CONTENT)
    assert read_whole(store, stat(store, url), tmp_path) == CONTENT


def test_an_upload_that_is_gone_is_begun_anew(server: S3Server, store: S3Store, tmp_path: Path) -> None:
    url = f"s3://{server.make_bucket()}/file"
    parts = cut(len(CONTENT), PART_BYTES)
    gone = begin(store, url, parts)
    abort(gone)

    upload = begin(store, url, parts, gone.resume_id)

    assert upload.resume_id != gone.resume_id
    assert sent_parts(upload) == {}
    abort(upload)


@pytest.mark.parametrize(
    "resume_id",
    ["", "nonsense", "MD4:5242880:upload", ":5242880:upload", "none", "none:5242880:", "none:x:y"]
    + [f"none:5242880:a{odd}b" for odd in ("\n", "\x1b", "\udcff", "\u2028")],
)
def test_what_is_no_upload_of_ours_is_begun_anew(
    moto: S3Server, store: S3Store, tmp_path: Path, resume_id: str
) -> None:
    bucket = moto.make_bucket()
    upload = begin(store, f"s3://{bucket}/file", cut(len(CONTENT), PART_BYTES), resume_id)

    (only,) = moto.client().list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert upload.resume_id == f"CRC64NVME:{PART_BYTES}:{only['UploadId']}"


def test_parts_that_were_cut_otherwise_are_sent_anew(moto: S3Server, store: S3Store, tmp_path: Path) -> None:
    bucket = moto.make_bucket()
    url = f"s3://{bucket}/file"
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    before = cut(len(CONTENT), PART_BYTES)
    dead = begin(store, url, before)
    send(dead, before, source)

    planned = cut(len(CONTENT), PART_BYTES + 1)
    upload = begin(store, url, planned, dead.resume_id)

    assert sent_parts(upload) == {}
    assert len(moto.client().list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    complete(upload, send(upload, planned, source))
    assert read_whole(store, stat(store, url), tmp_path) == CONTENT


def test_one_put_is_not_worth_going_on_with(moto: S3Server, store: S3Store) -> None:
    upload = begin(store, f"s3://{moto.make_bucket()}/file", cut(5, 5), "CRC64NVME:5:x")

    assert upload.resume_id is None
    assert sent_parts(upload) == {}


def test_an_upload_in_the_making_is_taken_back(server: S3Server, store: S3Store, tmp_path: Path) -> None:
    bucket = server.make_bucket()
    (tmp_path / "source").write_bytes(CONTENT)
    parts = cut(len(CONTENT), PART_BYTES)
    upload = begin(store, f"s3://{bucket}/file", parts)
    send(upload, parts[:1], tmp_path / "source")

    abort(upload)
    abort(upload)

    assert not server.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert listed(store, f"s3://{bucket}") == []


# --- a server with its own mind

BEGUN = "<InitiateMultipartUploadResult>{}</InitiateMultipartUploadResult>"


@dataclass
class Uploads:
    """A server of one multipart upload, whose answers a test chooses."""

    parts: list[tuple[int, int, str]] = field(default_factory=list)
    """Number, size and further elements of each part, listed two at a time."""
    list_answer: tuple[int, str] = (200, "")
    """Status and code of a refusal, or 200 and a document other than the listing."""
    begun: str = BEGUN.format("<UploadId>new</UploadId>")
    abort_status: int = 204
    completions: list[tuple[int, str]] = field(default_factory=list)
    """Status and document; without a status the connection is closed."""
    look: dict[str, str] = field(default_factory=dict)
    part_etag: str = '"0cc175b9c0f1b6a831c399e269772661"'
    lengths: list[str | None] = field(default_factory=list)
    """What requests that begin an upload say of their bodies."""
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911  # one a question
        await request.read()
        if request.path == "/bucket":
            return web.Response()
        self.asked.append((request.method, request.rel_url.raw_query_string))
        match request.method:
            case "POST" if "uploads" in request.query:
                self.lengths.append(request.headers.get("Content-Length"))
                return web.Response(text=self.begun)
            case "POST":
                status, body = self.completions.pop(0)
                if not status and request.transport is not None:
                    request.transport.close()
                return web.Response(status=status or 500, text=body)
            case "GET":
                return self._listing(int(request.query["part-number-marker"]))
            case "DELETE":
                return web.Response(status=self.abort_status)
            case "HEAD":
                return web.Response(headers=self.look)
        return web.Response(headers={"ETag": self.part_etag})

    def _listing(self, marker: int) -> web.Response:
        status, code = self.list_answer
        if status != 200:
            return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")
        if code:
            return web.Response(text=code)
        later = [part for part in self.parts if part[0] > marker]
        page, more = later[:2], len(later) > 2
        entries = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>etag-{number}</ETag>{rest}</Part>"
            for number, size, rest in page
        )
        following = f"<NextPartNumberMarker>{page[-1][0]}</NextPartNumberMarker>" if page else ""
        return web.Response(
            text="<ListPartsResult xmlns='urn:x'>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{entries}</ListPartsResult>"
        )


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    uploads = Uploads()
    with s3_place(uploads.handle, monkeypatch):
        yield uploads


def test_sent_parts_are_looked_up_over_pages(uploads: Uploads, store: S3Store) -> None:
    good = "<ChecksumCRC64NVME>M3eFcAZSQlc=</ChecksumCRC64NVME>"
    bad = "<ChecksumCRC64NVME>AAAA</ChecksumCRC64NVME>"
    uploads.parts = [(1, 3, good), (2, 3, ""), (3, 3, bad), (4, 2, good), (5, 1, ""), (9, 3, "")]

    upload = begin(store, "s3://bucket/key", cut(13, 3), "CRC64NVME:3:an:id+/=")

    known = Checksum(Algorithm.CRC64NVME, b"\x33\x77\x85\x70\x06\x52\x42\x57")
    assert sent_parts(upload) == {
        1: Receipt('"etag-1"', known),
        2: Receipt('"etag-2"'),
        3: Receipt('"etag-3"'),
        5: Receipt('"etag-5"'),
    }
    assert [query.split("&")[0] for _, query in uploads.asked] == [
        f"part-number-marker={n}" for n in (0, 2, 4)
    ]
    assert "uploadId=an%3Aid%2B%2F%3D" in uploads.asked[0][1]


@pytest.mark.parametrize("marker", ["1", "0", "-1", "5", "9" * 5000, "x"])
def test_a_listing_of_parts_that_does_not_go_on_ends(uploads: Uploads, store: S3Store, marker: str) -> None:
    more = f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>"
    part = "<Part><PartNumber>1</PartNumber><Size>3</Size><ETag>e</ETag></Part>"
    uploads.list_answer = (200, f"<ListPartsResult>{more}{part}</ListPartsResult>")

    upload = begin(store, "s3://bucket/key", cut(13, 3), "none:3:old")

    assert sent_parts(upload) == {1: Receipt('"e"')}
    assert len(uploads.asked) <= 2


def test_a_part_whose_etag_can_not_be_sent_back_is_sent_anew(uploads: Uploads, store: S3Store) -> None:
    part = "<Part><PartNumber>1</PartNumber><Size>3</Size><ETag>e&#10;</ETag></Part>"
    uploads.list_answer = (200, f"<ListPartsResult>{part}</ListPartsResult>")

    assert sent_parts(begin(store, "s3://bucket/key", cut(5, 3), "none:3:old")) == {}


@pytest.mark.parametrize("upload_id", ["u&#10;1", "u&#127;1", "&#x2028;"])
def test_an_id_that_can_not_be_sent_back_is_none(uploads: Uploads, store: S3Store, upload_id: str) -> None:
    uploads.begun = BEGUN.format(f"<UploadId>{upload_id}</UploadId>")

    with pytest.raises(TransientError, match="an id that can't be sent back"):
        begin(store, "s3://bucket/key", cut(5, 3))


@pytest.mark.parametrize("resume_id", ["none:3:a\nb", "none:3:\udcff", "none:3:\x7f"])
def test_what_can_be_no_id_ends_no_upload(uploads: Uploads, store: S3Store, resume_id: str) -> None:
    with lane() as connections:
        store.abandon_upload(connections, "s3://bucket/key", resume_id, 0)

    assert uploads.asked == []


def test_uploads_that_do_not_tell_when_they_were_begun_are_left_alone(
    uploads: Uploads, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            ended.append(request.query["uploadId"])
            return web.Response(status=204)
        told = {"ours": "2026-01-31T12:00:00Z", "old": "2001-01-01T00:00:00Z", "odd": "soon", "empty": ""}
        entries = "".join(
            f"<Upload><Key>key</Key><UploadId>{name}</UploadId><Initiated>{when}</Initiated></Upload>"
            for name, when in told.items()
        )
        entries += "<Upload><Key>key</Key><UploadId>untold</UploadId></Upload>"
        return web.Response(text=f"<ListMultipartUploadsResult>{entries}</ListMultipartUploadsResult>")

    with web_place({"/{any:.*}": answer}) as url, lane() as connections:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store.abandon_upload(connections, "s3://bucket/key", None, 1_700_000_000)

    assert ended == ["ours"]


@pytest.mark.parametrize("name", ["CRC32", "none"])
def test_an_upload_keeps_what_it_was_begun_with(
    uploads: Uploads, store: S3Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "source").write_bytes(b"hello")
    parts = cut(5, 3)
    upload = begin(store, "s3://bucket/key", parts, f"{name}:3:old")

    (receipt,) = send(upload, parts[:1], tmp_path / "source")

    algorithm = Algorithm.CRC32 if name == "CRC32" else Algorithm.CRC64NVME
    assert receipt.checksum == crc(b"hel", algorithm)
    assert upload.resume_id == f"{name}:3:old"


def test_an_upload_that_can_not_be_looked_up_just_now_is_asked_for_again(
    uploads: Uploads, store: S3Store
) -> None:
    uploads.list_answer = (503, "SlowDown")

    with pytest.raises(TransientError):
        begin(store, "s3://bucket/key", cut(5, 3), "CRC64NVME:3:old")
    assert [method for method, _ in uploads.asked] == ["GET"]


@pytest.mark.parametrize("abort_status", [204, 403])
def test_an_upload_whose_parts_may_not_be_seen_is_ended_and_begun_anew(
    uploads: Uploads, store: S3Store, abort_status: int
) -> None:
    uploads.list_answer, uploads.abort_status = (403, "AccessDenied"), abort_status

    upload = begin(store, "s3://bucket/key", cut(5, 3), "CRC64NVME:3:old")

    assert uploads.asked == [
        ("GET", "part-number-marker=0&uploadId=old"),
        ("DELETE", "uploadId=old"),
        ("POST", "uploads="),
    ]
    assert upload.resume_id == "CRC64NVME:3:new"


def test_an_upload_that_may_not_be_ended_is_told(uploads: Uploads, store: S3Store) -> None:
    upload = begin(store, "s3://bucket/key", cut(5, 3))
    uploads.abort_status = 403

    with pytest.raises(AccessDeniedError, match=r"left open.*s3:AbortMultipartUpload.*lifecycle rule"):
        abort(upload)


def test_an_upload_that_is_gone_needs_no_ending(uploads: Uploads, store: S3Store) -> None:
    upload = begin(store, "s3://bucket/key", cut(5, 3))
    uploads.abort_status = 404

    abort(upload)


def in_parts(store: S3Store, tmp_path: Path) -> tuple[Upload, list[Receipt]]:
    (tmp_path / "source").write_bytes(b"hello")
    upload = begin(store, "s3://bucket/key", cut(5, 3))
    return upload, send(upload, cut(5, 3), tmp_path / "source")


DONE = '<CompleteMultipartUploadResult><ETag>"whole-2"</ETag></CompleteMultipartUploadResult>'
LOST = [(500, "<Error><Code>InternalError</Code></Error>"), (404, "<Error><Code>NoSuchUpload</Code></Error>")]


def test_an_upload_is_begun_without_a_body_and_says_so(uploads: Uploads, store: S3Store) -> None:
    begin(store, "s3://bucket/key", cut(5, 3))

    assert uploads.lengths == ["0"]


def test_a_completion_whose_answer_was_lost_is_not_proven_by_nothing(
    uploads: Uploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions = list(LOST)
    uploads.look = {"Content-Length": "5"}
    uploads.part_etag = '"opaque"'
    upload, receipts = in_parts(store, tmp_path)
    with pytest.raises(TransientError):
        complete(upload, receipts)

    with pytest.raises(TransferIOError, match="not what was uploaded"):
        complete(upload, receipts)


def test_a_completion_is_not_sent_again_behind_our_back_where_its_connection_ends(
    uploads: Uploads, store: S3Store, tmp_path: Path
) -> None:
    """It may have been acted upon: only who knows that it was sent before recognises what it did."""
    uploads.completions = [(0, ""), (404, "<Error><Code>NoSuchUpload</Code></Error>")]
    uploads.look = {
        "Content-Length": "5",
        "ETag": '"9"',
        Algorithm.CRC64NVME.header: encoded(crc(b"hello").value),
    }
    (tmp_path / "source").write_bytes(b"hello")
    parts = cut(5, 3)
    with lane() as connections, opened(tmp_path / "source") as fd:
        upload = store.begin_upload(connections, "s3://bucket/key", parts)
        receipts = [
            upload.write_part(connections, part, FileSlice(fd, part.offset, part.length)) for part in parts
        ]
        with pytest.raises(TransientError):
            upload.complete(connections, receipts)

        assert upload.complete(connections, receipts).etag == '"9"'


@pytest.mark.parametrize("page", ["<html>down</html>", "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"])
def test_a_page_of_a_server_in_between_is_no_answer(
    uploads: Uploads, store: S3Store, tmp_path: Path, page: str
) -> None:
    uploads.completions = [(200, page)]
    upload, receipts = in_parts(store, tmp_path)

    with pytest.raises(TransientError, match="no CompleteMultipartUpload, "):
        complete(upload, receipts)
    uploads.list_answer = (200, page)
    with pytest.raises(TransientError, match="no ListParts, "):
        begin(store, "s3://bucket/key", cut(5, 3), upload.resume_id)
    uploads.begun = page
    with pytest.raises(TransientError, match="no InitiateMultipartUpload, "):
        begin(store, "s3://bucket/key", cut(5, 3))


def test_white_space_before_an_answer_is_no_part_of_it(
    uploads: Uploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions = [(200, f" \n \n<?xml version='1.0'?>\n  \n{DONE}\n")]
    uploads.look = {"Content-Length": "5", "ETag": '"whole-2"'}
    upload, receipts = in_parts(store, tmp_path)

    assert complete(upload, receipts).etag == '"whole-2"'


@pytest.mark.parametrize("body", ["", "<Result>", "<!DOCTYPE r [<!ENTITY e 'x'>]><Result>&e;</Result>"])
def test_an_answer_that_is_no_document_is_none(
    uploads: Uploads, store: S3Store, tmp_path: Path, body: str
) -> None:
    uploads.completions = [(200, body)]
    upload, receipts = in_parts(store, tmp_path)

    with pytest.raises(TransientError, match="no document"):
        complete(upload, receipts)


def test_a_completion_whose_answer_was_lost_is_proven_by_its_checksum(
    uploads: Uploads, store: S3Store, tmp_path: Path
) -> None:
    """Under KMS keys, ETags of parts are no MD5 sums, and that of the whole does not follow from them."""
    uploads.completions = list(LOST)
    uploads.look = {"Content-Length": "5", "ETag": '"opaque-2"'}
    upload, receipts = in_parts(store, tmp_path)
    with pytest.raises(TransientError):
        complete(upload, receipts)
    uploads.look[Algorithm.CRC64NVME.header] = str(crc(b"hello")).partition(" ")[2]

    stored = complete(upload, receipts)

    assert (stored.etag, stored.checksum) == ('"opaque-2"', crc(b"hello"))


def test_a_completion_whose_answer_was_lost_is_not_proven_by_another_objects_checksum(
    uploads: Uploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions = list(LOST)
    other = str(crc(b"jello")).partition(" ")[2]
    uploads.look = {"Content-Length": "5", "ETag": '"opaque-2"', Algorithm.CRC64NVME.header: other}
    upload, receipts = in_parts(store, tmp_path)
    with pytest.raises(TransientError):
        complete(upload, receipts)

    with pytest.raises(TransferIOError, match="not what was uploaded"):
        complete(upload, receipts)


@pytest.mark.parametrize(
    ("code", "error"), [("AccessDenied", AccessDeniedError), ("SlowDown", TransientError)]
)
def test_a_yes_that_turns_out_to_be_a_no_is_that_no(
    uploads: Uploads, store: S3Store, tmp_path: Path, code: str, error: type[Exception]
) -> None:
    uploads.completions = [(200, f"<?xml version='1.0'?>\n  <Error><Code>{code}</Code></Error>")]
    upload, receipts = in_parts(store, tmp_path)

    with pytest.raises(error):
        complete(upload, receipts)


def test_an_upload_without_an_id_was_not_begun(
    uploads: Uploads, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin_nothing(_: web.Request) -> web.StreamResponse:
        return web.Response(text=BEGUN.format(""))

    with web_place({"/{any:.*}": begin_nothing}) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(TransientError, match="no id"):
            begin(store, "s3://bucket/key", cut(5, 3))


# --- stopping


CALLS: dict[str, Callable[[S3Store, Connections, FileSlice], object]] = {
    "check": lambda store, lane, _: store.check(lane, "s3://new/key"),
    "stat": lambda store, lane, _: store.stat(lane, "s3://bucket/key"),
    "list": lambda store, lane, _: list(store.list_directory(lane, "s3://bucket/key")),
    "read": lambda store, lane, piece: store.read(lane, FOUND, piece),
    "begin": lambda store, lane, _: store.begin_upload(lane, "s3://bucket/key", cut(5, 3)),
    "resume": lambda store, lane, _: store.begin_upload(lane, "s3://bucket/key", cut(5, 3), "none:3:x"),
    "write": lambda store, lane, piece: store.begin_upload(lane, "s3://bucket/key", cut(5, 5)).write_part(
        lane, Part(1, 0, 5), piece
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_ends_when_its_lane_is_stopped(
    monkeypatch: pytest.MonkeyPatch, store: S3Store, tmp_path: Path, call: str
) -> None:
    """The server never answers; the question that reaches it has the lane stopped, as the loop would."""
    connections = Connections(Network())
    known, over = threading.Event(), threading.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if known.is_set():
            connections.abort()
            await asyncio.to_thread(over.wait)
        return web.Response()

    (tmp_path / "file").write_bytes(b"hello")
    with web_place({"/{any:.*}": handle}) as url, opened(tmp_path / "file", os.O_RDWR) as fd:
        for name, value in S3Server(url).environment().items():
            monkeypatch.setenv(name, value)
        check(store, "s3://bucket/key")
        known.set()
        with pytest.raises(TransientError, match="stopped"):
            CALLS[call](store, connections, FileSlice(fd, 0, 5))
        over.set()
        connections.close()


def test_a_bucket_that_one_lane_could_not_ask_for_is_asked_for_by_the_next(
    s3: S3Server, store: S3Store, tmp_path: Path
) -> None:
    url = f"s3://{s3.make_bucket()}/file"
    stopped = Connections(Network())
    stopped.abort()
    with pytest.raises(TransientError):
        store.check(stopped, url)

    check(store, url)
    put(store, url, b"content", tmp_path)
