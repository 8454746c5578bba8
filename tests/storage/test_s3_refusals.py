"""What S3 may say no to, or take back: spoken by a small server that says just that."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession
from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    ThrottledError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.settings import S3Settings
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.s3_refusals import Action, Asked, Refusal, explained
from taskrunner.storage.store import Receipt, StoredObject, Upload
from tests.storage.moving import (
    begin,
    check,
    complete,
    cut,
    listed,
    put,
    read_whole,
    received,
    s3_place,
    send,
    stat,
    web_place,
)

PART_BYTES = 5  # this server does not mind


def xml(code: str, message: str = "said so", **more: str) -> str:
    elements = "".join(f"<{name}>{text}</{name}>" for name, text in more.items())
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{elements}</Error>"


@dataclass
class FakeS3:
    """An endpoint that answers every question about a bucket's keys alike, and remembers what it was asked."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status_of_head: int | None = None
    bucket_status: int = 200
    bucket_headers: dict[str, str] = field(default_factory=dict)
    home_region: str | None = None
    """Where the bucket is: signatures for other regions are redirected."""
    requests: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        await request.read()  # an answer before the end of a body is another story
        signed_for = request.headers.get("Authorization", "").partition("Credential=")[2].split("/")
        if self.home_region and len(signed_for) > 2 and signed_for[2] != self.home_region:
            headers = {"x-amz-bucket-region": self.home_region}
            return web.Response(status=301, text=xml("PermanentRedirect"), headers=headers)
        if request.path.strip("/").count("/") == 0 and request.method == "HEAD":
            return web.Response(status=self.bucket_status, headers=self.bucket_headers)
        status = self.status_of_head if request.method == "HEAD" and self.status_of_head else self.status
        return web.Response(status=status, text=self.body, headers=self.headers)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    fake = FakeS3()
    with s3_place(fake.handle, monkeypatch):
        yield fake


@pytest.fixture
def aws() -> AwsSession:
    return AwsSession()


@pytest.fixture
def store(aws: AwsSession) -> S3Store:
    return S3Store(aws, S3Settings())


FOUND = StoredObject("s3://bucket/key", 5, '"etag"', ranged=True)

READ_REFUSALS: list[tuple[int, str, type[TaskrunnerError], str]] = [
    (403, "AccessDenied", AccessDeniedError, r"lack s3:GetObject .*without s3:ListBucket"),
    (403, "InvalidAccessKeyId", AccessDeniedError, "does not know this AWS access key id"),
    (403, "SignatureDoesNotMatch", AccessDeniedError, "secret key does not fit"),
    (403, "RequestTimeTooSkewed", AccessDeniedError, "clock"),
    (400, "ExpiredToken", AccessDeniedError, "have expired"),
    (400, "InvalidToken", AccessDeniedError, "session token"),
    (403, "InvalidObjectState", TransferIOError, "restore-object"),
    (404, "NoSuchKey", InputMissingError, "does not exist"),
    (404, "NoSuchVersion", InputMissingError, "does not exist"),
    (404, "NoSuchBucket", InputMissingError, "there is no bucket bucket"),
    (301, "PermanentRedirect", UsageError, "in region eu-north-1.*set AWS_REGION"),
    (400, "AuthorizationHeaderMalformed", UsageError, "in region eu-north-1, and us-east-1 was asked"),
    (307, "TemporaryRedirect", TransientError, "not settled"),
    (503, "SlowDown", TransientError, "just now"),
    (500, "InternalError", TransientError, "just now"),
    (429, "TooManyRequestsException", TransientError, "just now"),
    (400, "RequestTimeout", TransientError, "just now"),
    (412, "PreconditionFailed", TransferIOError, "changed"),
    (416, "InvalidRange", TransferIOError, "changed"),
    (400, "SomethingNew", TransferIOError, "400 SomethingNew said so"),
]


@pytest.mark.parametrize(("status", "code", "error", "sentence"), READ_REFUSALS)
def test_every_refusal_to_read_has_its_own_sentence(
    *,
    fake: FakeS3,
    store: S3Store,
    tmp_path: Path,
    status: int,
    code: str,
    error: type[TaskrunnerError],
    sentence: str,
) -> None:
    fake.status, fake.body = status, xml(code, Region="eu-north-1")

    with pytest.raises(error, match=sentence):
        read_whole(store, FOUND, tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "error", "sentence"),
    [
        row
        for row in READ_REFUSALS
        if row[1] not in ("NoSuchBucket", "NoSuchVersion") and row[0] not in (301, 307)
    ],
)
def test_looking_gives_the_same_sentence_though_head_has_no_words(
    *, fake: FakeS3, store: S3Store, status: int, code: str, error: type[TaskrunnerError], sentence: str
) -> None:
    fake.status, fake.body = status, xml(code, Region="eu-north-1")
    fake.headers = {"x-amz-bucket-region": "eu-north-1"} if error is UsageError else {}

    with pytest.raises(error, match=sentence if error is not UsageError else "eu-north-1"):
        stat(store, "s3://bucket/key")


@pytest.mark.parametrize(
    ("status", "code", "error", "sentence"),
    [
        (403, "AccessDenied", AccessDeniedError, "lack s3:PutObject; S3 said: said so"),
        (404, "NoSuchBucket", OutputFailedError, "there is no bucket bucket"),
        (404, "NoSuchUpload", TransferIOError, "lifecycle rule"),
        (400, "BadDigest", TransientError, "just now"),
        (400, "XAmzContentChecksumMismatch", TransientError, "just now"),
        (503, "SlowDown", TransientError, "just now"),
        (400, "EntityTooLarge", OutputFailedError, "400 EntityTooLarge"),
        (400, "KMS.DisabledException", OutputFailedError, "KMS.DisabledException"),
    ],
)
@pytest.mark.parametrize("size_bytes", [5, PART_BYTES + 1])
def test_every_refusal_to_write_has_its_own_sentence(
    *,
    fake: FakeS3,
    store: S3Store,
    tmp_path: Path,
    status: int,
    code: str,
    error: type[TaskrunnerError],
    sentence: str,
    size_bytes: int,
) -> None:
    fake.status, fake.body = status, xml(code)

    with pytest.raises(error, match=sentence):
        put(store, "s3://bucket/key", b"x" * size_bytes, tmp_path, PART_BYTES)


def test_a_refused_listing_names_the_permission(fake: FakeS3, store: S3Store) -> None:
    fake.status, fake.body = 403, xml("AccessDenied")

    with pytest.raises(AccessDeniedError, match="lack s3:ListBucket; S3 said"):
        listed(store, "s3://bucket/dir")


def test_s3_says_when_to_come_back(fake: FakeS3, store: S3Store, tmp_path: Path) -> None:
    fake.status, fake.body, fake.headers = 503, xml("SlowDown"), {"Retry-After": "3"}

    with pytest.raises(TransientError) as reading:
        read_whole(store, FOUND, tmp_path)
    with pytest.raises(TransientError) as looking:
        stat(store, "s3://bucket/key")

    assert (reading.value.retry_after_seconds, looking.value.retry_after_seconds) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("status", "code", "throttled"),
    [
        (503, "SlowDown", True),
        (400, "Throttling", True),
        (400, "RequestThrottled", True),
        (429, "TooManyRequestsException", True),
        (503, "", True),
        (503, "ServiceUnavailable", False),
        (500, "InternalError", False),
        (400, "RequestTimeout", False),
    ],
)
def test_fewer_requests_are_sent_to_who_asks_for_fewer(
    *, fake: FakeS3, store: S3Store, tmp_path: Path, status: int, code: str, throttled: bool
) -> None:
    fake.status, fake.body = status, xml(code) if code else ""

    with pytest.raises(TransientError) as reading:
        read_whole(store, FOUND, tmp_path)
    with pytest.raises(TransientError) as writing:
        put(store, "s3://bucket/key", b"x", tmp_path)

    assert isinstance(reading.value, ThrottledError) is throttled
    assert isinstance(writing.value, ThrottledError) is throttled


def test_looking_is_throttled_by_a_number_alone(fake: FakeS3, store: S3Store) -> None:
    fake.status = 503

    with pytest.raises(ThrottledError):
        stat(store, "s3://bucket/key")


def test_what_may_be_read_and_not_looked_at_is_told_by_the_number(fake: FakeS3, store: S3Store) -> None:
    """A HEAD with checksums may need rights that a plain GET of a byte does not."""
    fake.status_of_head, fake.status = 403, 206

    with pytest.raises(AccessDeniedError, match="S3 said: 403"):
        stat(store, "s3://bucket/key")


def test_an_empty_object_that_may_not_be_looked_at_was_not_changed(fake: FakeS3, store: S3Store) -> None:
    """It has no first byte that a GET could be asked for."""
    fake.status_of_head, fake.status, fake.body = 403, 416, xml("InvalidRange")

    with pytest.raises(AccessDeniedError, match="S3 said: 403"):
        stat(store, "s3://bucket/key")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("SignatureDoesNotMatch", AccessDeniedError),
        ("ExpiredToken", TransientError),
        ("TokenRefreshRequired", TransientError),
    ],
)
def test_only_keys_that_have_expired_are_waited_for(code: str, error: type[TaskrunnerError]) -> None:
    asked = Asked(Action.READ, "s3://bucket/expired", "bucket", "us-east-1", signed=True, renewable=True)

    assert type(explained(Refusal(403, code, "", None, None), asked)) is error


# --- answers that are not what was asked for


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"ETag": '"other"'}, "changed"),
        ({"ETag": '"etag"'}, "sends 9 bytes where 5"),
    ],
)
def test_other_bytes_than_those_found_are_refused(
    fake: FakeS3, store: S3Store, tmp_path: Path, headers: dict[str, str], sentence: str
) -> None:
    fake.body, fake.headers = "nine byte", headers

    with pytest.raises(TransferIOError, match=sentence):
        read_whole(store, FOUND, tmp_path)


@pytest.mark.parametrize("span", [None, "bytes 0-1/5", "bytes 1-2/6"])
def test_another_range_than_asked_for_is_refused(
    fake: FakeS3, store: S3Store, tmp_path: Path, span: str | None
) -> None:
    fake.status, fake.body, fake.headers = 206, "ab", {"Content-Range": span} if span else {}

    with pytest.raises(TransferIOError, match=r"other bytes than the range|changed"):
        received(store, FOUND, tmp_path / "part", 1, 2)


# --- listings that are not what they should be


def listing(*keys: str, more: str = "", encoding: str = "url") -> str:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag><LastModified>soon</LastModified></Contents>"
        for key in keys
    )
    return f"<ListBucketResult><EncodingType>{encoding}</EncodingType>{more}{entries}</ListBucketResult>"


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("url", "a b c+d\x01é"), ("", "a+b%20c%2Bd%01%C3%A9"), ("URL", "a+b%20c%2Bd%01%C3%A9")],
)
def test_names_are_decoded_only_where_the_listing_says_that_they_are_encoded(
    fake: FakeS3, store: S3Store, encoding: str, name: str
) -> None:
    fake.body = listing("dir/a+b%20c%2Bd%01%C3%A9", encoding=encoding)

    (found,) = listed(store, "s3://bucket/dir")

    assert (found.name, found.url) == (name, f"s3://bucket/dir/{name}")
    assert (found.etag, found.modified_seconds) == ('"e"', None)
    assert fake.requests[-1].query["encoding-type"] == "url"


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        (listing("dir/a", more="<IsTruncated>true</IsTruncated>"), TransferIOError, "breaks its listing off"),
        (
            listing(
                "dir/a",
                more="<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>",
            ),
            TransferIOError,
            "does not come to an end",
        ),
        (
            "<ListBucketResult><Contents><Key>dir/a</Key></Contents></ListBucketResult>",
            TransientError,
            "without its key or its size",
        ),
        (listing("dir/a").replace("<Size>1<", "<Size>?<"), TransientError, "without its key or its size"),
        *(
            (listing("dir/a").replace("<Size>1<", f"<Size>{size}<"), TransientError, "key or its size")
            for size in ("9" * 5000, str(2**63), "\u0665", "-1", "")
        ),
        ("<a>" * 21 + "</a>" * 21, TransientError, "too many elements"),
        (f"<a>{'<b/>' * 50_000}</a>", TransientError, "too many elements"),
        (
            "<a " + " ".join(f"a{n}='x'" for n in range(10_000)) + "/>",
            TransientError,
            "an element without end",
        ),
        ("<ListBucketResult>", TransientError, "no document"),
        ("", TransientError, "no document"),
        ("<html><body>Please log in</body></html>", TransientError, "no ListBucket, as .* but html"),
        (xml("InternalError"), TransientError, "200 InternalError"),
        (xml("AccessDenied"), AccessDeniedError, "lack s3:ListBucket"),
        ("<?xml version='1.0' encoding='x-unknown'?><ListBucketResult/>", TransientError, "no document"),
        (
            "<!DOCTYPE x [<!ENTITY a 'dir/a'>]><ListBucketResult>&a;</ListBucketResult>",
            TransientError,
            "document type",
        ),
    ],
)
def test_a_listing_that_can_not_be_believed_is_no_listing(
    fake: FakeS3, store: S3Store, body: str, error: type[TaskrunnerError], sentence: str
) -> None:
    fake.body = body

    with pytest.raises(error, match=sentence):
        listed(store, "s3://bucket/dir")


def test_a_listing_whose_pages_lead_in_a_circle_is_none(
    store: S3Store, fake: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def circle(request: web.Request) -> web.StreamResponse:
        following = {"": "A", "A": "B", "B": "A"}[request.query.get("continuation-token", "")]
        token = f"<NextContinuationToken>{following}</NextContinuationToken>"
        return web.Response(text=listing("dir/a", more=f"<IsTruncated>true</IsTruncated>{token}"))

    with web_place({"/{any:.*}": circle}) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(TransferIOError, match="does not come to an end"):
            listed(store, "s3://bucket/dir")


def test_a_large_page_is_read(fake: FakeS3, store: S3Store) -> None:
    fake.body = listing(*(f"dir/{number}" for number in range(1000))).replace(
        "</Contents>",
        f"<Owner><ID>x</ID></Owner>{'<ChecksumAlgorithm>CRC32</ChecksumAlgorithm>' * 6}</Contents>",
    )

    assert len(listed(store, "s3://bucket/dir")) == 1000


@pytest.mark.parametrize(
    "etag", ["&quot;x&#13;&#10;X-Evil: 1&quot;", "&quot;\u20ac&quot;", "\u00e9", "a&#9;b"]
)
def test_a_listed_etag_that_no_header_can_have_is_none(fake: FakeS3, store: S3Store, etag: str) -> None:
    fake.body = listing("dir/a").replace("<ETag>e<", f"<ETag>{etag}<")

    assert listed(store, "s3://bucket/dir")[0].etag == ""


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01"])
def test_a_time_at_the_edge_of_all_time_is_no_mistake(fake: FakeS3, store: S3Store, time: str) -> None:
    fake.body = listing("dir/a").replace("soon", time)

    modified_seconds = listed(store, "s3://bucket/dir")[0].modified_seconds

    assert modified_seconds == (-62135596800 if time == "0001-01-01" else None)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (301, "PermanentRedirect"), (400, "New&#27;")]
)
def test_what_a_server_says_stays_in_its_line(
    fake: FakeS3, store: S3Store, tmp_path: Path, status: int, code: str
) -> None:
    fake.status, fake.body = status, xml(code, "so&#13;&#10;2026 all is well\n\x9b31m", Region="a&#10;b")

    with pytest.raises(TaskrunnerError) as raised:
        read_whole(store, FOUND, tmp_path)
    assert str(raised.value).isprintable()


# --- regions and rights of a bucket


def test_a_wrong_region_mends_itself(fake: FakeS3, store: S3Store, tmp_path: Path) -> None:
    fake.home_region, fake.bucket_headers = "eu-west-1", {"x-amz-bucket-region": "eu-west-1"}
    fake.body, fake.headers = "hello", {"ETag": '"etag"'}

    assert read_whole(store, FOUND, tmp_path) == b"hello"

    assert "/eu-west-1/s3/aws4_request" in fake.requests[-1].headers["Authorization"]


def test_a_region_that_is_none_is_not_followed(fake: FakeS3, store: S3Store) -> None:
    fake.bucket_status, fake.bucket_headers = 301, {"x-amz-bucket-region": "evil.example/?"}

    with pytest.raises(UsageError, match="evil"):
        check(store, "s3://bucket/key")


def test_a_bucket_is_asked_for_once(fake: FakeS3, store: S3Store) -> None:
    with ThreadPoolExecutor(20) as lanes:
        list(lanes.map(lambda number: check(store, f"s3://bucket/key-{number}"), range(20)))

    assert len(fake.requests) == 1


def test_a_role_that_may_not_ask_for_the_bucket_may_read(
    fake: FakeS3, store: S3Store, tmp_path: Path
) -> None:
    fake.bucket_status, fake.body = 403, "hello"

    assert read_whole(store, FOUND, tmp_path) == b"hello"


def test_a_bucket_that_can_not_be_asked_for_now_is_asked_for_again(fake: FakeS3, store: S3Store) -> None:
    fake.bucket_status = 503
    with pytest.raises(TransientError):
        check(store, "s3://bucket/key")

    fake.bucket_status = 200
    check(store, "s3://bucket/key")


def test_what_was_wanted_of_a_bucket_that_refuses_itself_is_told(fake: FakeS3, store: S3Store) -> None:
    fake.bucket_status = 501

    with pytest.raises(OutputFailedError, match="s3://bucket/key can't be written: S3 said 501"):
        begin(store, "s3://bucket/key", cut(1, 1))


def test_unsigned_requests_have_no_signature(fake: FakeS3, tmp_path: Path) -> None:
    fake.body = "hello"
    store = S3Store(AwsSession(unsigned=True), S3Settings(unsigned=True))
    assert read_whole(store, FOUND, tmp_path) == b"hello"
    fake.status, fake.body = 403, xml("AccessDenied")
    with pytest.raises(AccessDeniedError, match="not public"):
        stat(store, "s3://bucket/key")

    assert all("Authorization" not in request.headers for request in fake.requests)


def test_who_pays_is_told_on_every_request(fake: FakeS3, aws: AwsSession, tmp_path: Path) -> None:
    store = S3Store(aws, S3Settings(requester_pays=True))
    fake.body = "hello"
    read_whole(store, FOUND, tmp_path)
    stat(store, "s3://bucket/key")
    fake.headers, fake.body = {"ETag": '"e"'}, ""
    put(store, "s3://bucket/key", b"x", tmp_path)

    about_keys = [request for request in fake.requests if request.path == "/bucket/key"]
    assert [request.method for request in about_keys] == ["GET", "HEAD", "PUT"]
    for request in about_keys:
        assert request.headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in request.headers["Authorization"]


def test_a_session_token_is_sent_and_signed(
    fake: FakeS3, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    fake.body = "hello"
    read_whole(store, FOUND, tmp_path)

    assert fake.requests[-1].headers["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in fake.requests[-1].headers["Authorization"]


def test_a_part_without_a_receipt_is_no_part(fake: FakeS3, store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="no ETag"):
        put(store, "s3://bucket/key", b"x", tmp_path)


# --- multipart uploads whose course is not smooth


@dataclass
class FakeUploads(FakeS3):
    """A server of one multipart upload, with a say in each of its steps."""

    completions: list[tuple[int, str]] = field(default_factory=list)
    size: int = PART_BYTES + 1
    head_status: int = 200
    etag: str = '"whole-2"'
    aborted: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        match request.method, sorted(request.query):
            case "POST", ["uploads"]:
                begun = "<UploadId>the-upload</UploadId>"
                return web.Response(
                    text=f"<InitiateMultipartUploadResult>{begun}</InitiateMultipartUploadResult>"
                )
            case "PUT", ["partNumber", "uploadId"]:
                await request.read()
                return web.Response(headers={"ETag": '"0cc175b9c0f1b6a831c399e269772661"'})
            case "POST", ["uploadId"]:
                await request.read()
                status, body = self.completions.pop(0)
                return web.Response(status=status, text=body)
            case "DELETE", ["uploadId"]:
                self.aborted.append(request.query["uploadId"])
                return web.Response(status=204)
            case "HEAD", _ if request.path == "/bucket/key":
                headers = {"Content-Length": str(self.size), "ETag": self.etag}
                return web.Response(status=self.head_status, headers=headers)
        return web.Response()


COMPLETED = '<CompleteMultipartUploadResult><ETag>"whole-2"</ETag></CompleteMultipartUploadResult>'


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUploads]:
    uploads = FakeUploads()
    with s3_place(uploads.handle, monkeypatch):
        yield uploads


def sent(store: S3Store, tmp_path: Path) -> tuple[Upload, list[Receipt]]:
    parts = cut(PART_BYTES + 1, PART_BYTES)
    source = tmp_path / "source"
    source.write_bytes(b"x" * (PART_BYTES + 1))
    upload = begin(store, "s3://bucket/key", parts)
    return upload, send(upload, parts, source)


def test_a_yes_with_an_error_in_it_is_a_no(uploads: FakeUploads, store: S3Store, tmp_path: Path) -> None:
    uploads.completions = [(200, xml("InternalError"))]
    upload, receipts = sent(store, tmp_path)

    with pytest.raises(TransientError):
        complete(upload, receipts)


def test_a_completion_whose_answer_was_lost_is_recognised(
    uploads: FakeUploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions = [(500, xml("InternalError")), (404, xml("NoSuchUpload"))]
    parts = bytes.fromhex("0cc175b9c0f1b6a831c399e269772661") * 2
    uploads.etag = f'"{md5(parts).hexdigest()}-2"'
    upload, receipts = sent(store, tmp_path)
    with pytest.raises(TransientError):
        complete(upload, receipts)

    stored = complete(upload, receipts)

    assert stored.etag == uploads.etag


def test_an_upload_that_somebody_ended_is_not_mistaken_for_complete(
    uploads: FakeUploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions = [(500, xml("InternalError")), (404, xml("NoSuchUpload"))]
    upload, receipts = sent(store, tmp_path)
    with pytest.raises(TransientError):
        complete(upload, receipts)

    with pytest.raises(TransferIOError, match="not what was uploaded"):
        complete(upload, receipts)


def test_an_object_that_is_not_there_yet_is_waited_for(
    uploads: FakeUploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions, uploads.head_status = [(200, COMPLETED)], 404
    upload, receipts = sent(store, tmp_path)
    with pytest.raises(TransientError, match="not there yet"):
        complete(upload, receipts)

    uploads.head_status = 200
    stored = complete(upload, receipts)

    assert stored.size_bytes == PART_BYTES + 1


def test_an_object_of_another_size_is_not_what_was_uploaded(
    uploads: FakeUploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions, uploads.size = [(200, COMPLETED)], 7
    upload, receipts = sent(store, tmp_path)

    with pytest.raises(TransferIOError, match=f"expected {PART_BYTES + 1} bytes, found 7"):
        complete(upload, receipts)


def test_a_role_that_may_only_write_need_not_look(
    uploads: FakeUploads, store: S3Store, tmp_path: Path
) -> None:
    uploads.completions, uploads.head_status = [(200, COMPLETED)], 403
    upload, receipts = sent(store, tmp_path)

    stored = complete(upload, receipts)

    assert stored.etag == '"whole-2"'
