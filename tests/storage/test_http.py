"""Web inputs, served well and badly."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from taskrunner.errors import (
    AccessDeniedError,
    DamagedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    ThrottledError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.checksums import Algorithm, Checksum, encoded, new_digest
from taskrunner.storage.http import HttpStore
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from tests.servers import raw_server, read_head
from tests.storage.moving import begin, check, lane, listed, opened, read_whole, received, stat, web_place

CONTENT = bytes(range(256)) * 40

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def store() -> HttpStore:
    return HttpStore()


def serving(
    content: bytes = CONTENT,
    *,
    etag: str | None = '"v1"',
    modified: str | None = None,
    ranges: bool = True,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Handler:
    """A well-behaved server of one file, as far as it is told to be."""
    validators = {"ETag": etag, "Last-Modified": modified}
    told = {name: value for name, value in validators.items() if value} | (headers or {})

    async def handle(request: web.Request) -> web.StreamResponse:
        span = request.http_range
        pinned = request.headers.get("If-Range")
        if span.start is None or not ranges or (pinned and pinned not in (etag, modified)):
            return web.Response(body=content, status=status, headers=told)
        if span.start >= len(content):
            return web.Response(status=416, headers={**told, "Content-Range": f"bytes */{len(content)}"})
        part = content[span]
        end = span.start + len(part) - 1
        told["Content-Range"] = f"bytes {span.start}-{end}/{len(content)}"
        return web.Response(body=part, status=206, headers=told)

    return handle


def answering(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, body=body)

    return handle


def switching(now: list[Handler]) -> Handler:
    """Whatever handler is in the list when a request comes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await now[0](request)

    return handle


def test_a_file_is_found_and_read(store: HttpStore, tmp_path: Path) -> None:
    with web_place({"/file": serving()}) as base:
        found = stat(store, f"{base}/file")

        assert (found.size_bytes, found.etag, found.ranged) == (len(CONTENT), '"v1"', True)
        assert found.location is None
        assert read_whole(store, found, tmp_path) == CONTENT


def test_parts_of_a_file_are_read(store: HttpStore, tmp_path: Path) -> None:
    with web_place({"/file": serving()}) as base:
        found = stat(store, f"{base}/file")

        for start, length in [(0, 1), (17, 1000), (len(CONTENT) - 1, 1)]:
            part = received(store, found, tmp_path / "part", start, length)
            assert part == CONTENT[start : start + length]


@pytest.mark.parametrize(
    ("validators", "ranged"),
    [
        ({"etag": '"strong"'}, True),
        ({"etag": None, "modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, True),
        ({"etag": 'W/"weak"'}, False),
        ({"etag": 'W/"weak"', "modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, True),
        ({"etag": None}, False),
        ({"etag": '"strong"', "ranges": False}, False),
    ],
)
def test_parts_are_asked_for_only_where_they_can_be_pinned(
    store: HttpStore, tmp_path: Path, validators: dict[str, str], ranged: bool
) -> None:
    with web_place({"/file": serving(**validators)}) as base:  # type: ignore[arg-type]
        found = stat(store, f"{base}/file")

        assert (found.size_bytes, found.ranged) == (len(CONTENT), ranged)
        assert read_whole(store, found, tmp_path) == CONTENT
        if ranged:
            assert received(store, found, tmp_path / "p", 5, 9) == CONTENT[5:14]


def test_a_file_without_a_length_is_read_to_its_end(store: HttpStore, tmp_path: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(CONTENT), 1000):
            await response.write(CONTENT[start : start + 1000])
        return response

    with web_place({"/file": handle}) as base:
        found = stat(store, f"{base}/file")

        assert (found.size_bytes, found.ranged) == (None, False)
        assert read_whole(store, found, tmp_path) == CONTENT


def test_an_answer_that_ends_early_is_worth_another_try(store: HttpStore, tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    with raw_server(serve) as base:
        found = stat(store, f"{base}/file")
        with pytest.raises(TransientError, match="5 bytes before the end"):
            read_whole(store, found, tmp_path)


@pytest.mark.parametrize("content", [b"", b"x"])
def test_tiny_files_are_read(store: HttpStore, tmp_path: Path, content: bytes) -> None:
    with web_place({"/file": serving(content), "/plain": serving(content, ranges=False)}) as base:
        for path in ("/file", "/plain"):
            found = stat(store, base + path)

            assert found.size_bytes == len(content)
            assert read_whole(store, found, tmp_path) == content


def test_packed_bytes_are_kept_as_they_are_served(store: HttpStore, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    with web_place({"/file": serving(packed, headers={"Content-Encoding": "gzip"})}) as base:
        found = stat(store, f"{base}/file")

        assert found.size_bytes == len(packed)
        assert read_whole(store, found, tmp_path) == packed


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"content": CONTENT + b"x"}])
@pytest.mark.parametrize(("start", "length"), [(0, len(CONTENT)), (100, 50)])
def test_a_change_midway_is_an_error(
    store: HttpStore, tmp_path: Path, change: dict[str, bytes], start: int, length: int
) -> None:
    before, after = serving(etag='"v1"'), serving(**{"etag": '"v1"', **change})  # type: ignore[arg-type]
    now = [before]
    with web_place({"/file": switching(now)}) as base:
        found = stat(store, f"{base}/file")
        now[0] = after

        with pytest.raises(TransferIOError, match=r"changed|bytes, expected"):
            received(store, found, tmp_path / "part", start, length)


def test_a_file_of_another_date_is_another_file(store: HttpStore, tmp_path: Path) -> None:
    dates = ["Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"]
    now = [serving(etag=None, modified=dates[0])]
    with web_place({"/file": switching(now)}) as base:
        found = stat(store, f"{base}/file")
        now[0] = serving(etag=None, modified=dates[1])
        for start, length in [(0, len(CONTENT)), (3, 4)]:
            with pytest.raises(TransferIOError, match="changed"):
                received(store, found, tmp_path / "part", start, length)


def test_a_server_that_begins_to_ignore_ranges_is_not_believed(store: HttpStore, tmp_path: Path) -> None:
    now = [serving()]
    with web_place({"/file": switching(now)}) as base:
        found = stat(store, f"{base}/file")
        now[0] = serving(ranges=False)

        with pytest.raises(TransferIOError, match="no longer sends the range"):
            received(store, found, tmp_path / "part", 10, 10)


@pytest.mark.parametrize("status", [400, 405, 416])
def test_a_server_that_hates_ranges_is_asked_without(store: HttpStore, status: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            return web.Response(status=status)
        return web.Response(body=CONTENT)

    with web_place({"/file": handle}) as base:
        found = stat(store, f"{base}/file")

        assert (found.size_bytes, found.ranged) == (len(CONTENT), False)


def test_probing_a_large_file_does_not_bring_it(store: HttpStore) -> None:
    given_up = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nthe beginning")
        if not connection.recv(1):
            given_up.set()

    with raw_server(serve) as base:
        assert stat(store, f"{base}/file").size_bytes == 1_000_000_000
        assert given_up.wait(60)


def test_a_probe_and_the_readings_after_it_share_a_connection(store: HttpStore, tmp_path: Path) -> None:
    peers = []

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return await serving()(request)

    with web_place({"/a": to("/file"), "/file": handle}) as base, lane() as connections:
        found = store.stat(connections, f"{base}/a")
        with opened(tmp_path / "part", os.O_RDWR | os.O_CREAT) as fd:
            for start in (0, 100):
                store.read(connections, found, FileSlice(fd, start, 100))

    assert (len(peers), len(set(peers))) == (3, 1)


def test_a_slice_is_gone_on_with_where_it_stopped(store: HttpStore, tmp_path: Path) -> None:
    with web_place({"/file": serving()}) as base, opened(tmp_path / "part", os.O_RDWR | os.O_CREAT) as fd:
        piece = FileSlice(fd, 100, 1000)
        piece.append(memoryview(CONTENT[100:350]))
        with lane() as connections:
            store.read(connections, stat(store, f"{base}/file"), piece)

        assert (piece.done, os.pread(fd, 1000, 100)) == (1000, CONTENT[100:1100])


def test_the_whole_is_taken_from_a_server_that_answers_with_a_range(store: HttpStore, tmp_path: Path) -> None:
    span = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": '"v1"'}
    now = [serving()]
    with web_place({"/file": switching(now)}) as base:
        found = stat(store, f"{base}/file")
        now[0] = answering(206, span, CONTENT)

        assert read_whole(store, found, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("modified", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 60.0),
        ("yesterday", None),
        ("Thu, 01 Jan 999999 00:00:00 GMT", None),
        (None, None),
    ],
)
def test_the_date_of_a_file_is_told(store: HttpStore, modified: str | None, seconds: float | None) -> None:
    with web_place({"/file": serving(modified=modified)}) as base:
        assert stat(store, f"{base}/file").modified_seconds == seconds


# --- checksums


def value_of(algorithm: Algorithm, content: bytes = CONTENT) -> bytes:
    digest = new_digest(algorithm)
    digest.update(content)
    return digest.digest()


def told(algorithm: Algorithm, content: bytes = CONTENT) -> str:
    return encoded(value_of(algorithm, content))


CRC32C, CRC64, MD5, SHA256 = (
    told(one) for one in (Algorithm.CRC32C, Algorithm.CRC64NVME, Algorithm.MD5, Algorithm.SHA256)
)
OF_THE_FILE = [
    ({"x-goog-hash": f"crc32c={CRC32C},md5={MD5}"}, Algorithm.CRC32C),
    ({"x-goog-hash": f"md5={MD5}", "x-goog-stored-content-encoding": "identity"}, Algorithm.MD5),
    ({"Repr-Digest": f"sha-512=:eA==:, sha-256=:{SHA256}:"}, Algorithm.SHA256),
]
OF_THE_ANSWER = [
    ({"Content-Digest": f"sha-256=:{SHA256}:"}, Algorithm.SHA256),
    ({"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-type": "FULL_OBJECT"}, Algorithm.CRC64NVME),
    ({"x-amz-checksum-sha256": SHA256, "Content-MD5": MD5}, Algorithm.SHA256),
    ({"Content-MD5": MD5}, Algorithm.MD5),
]
NOT_BELIEVED = [
    {"x-goog-hash": f"crc32c={CRC32C}", "x-goog-stored-content-encoding": "gzip"},
    {"x-goog-hash": "crc32c=AAAA"},
    {"Repr-Digest": f"sha-256={SHA256}"},
    {"Repr-Digest": "sha-256=:AAAA:"},
    {"Content-Digest": "sha-512=:eA==:"},
    {"x-amz-checksum-crc32c": f"{CRC32C}-3"},
    {"x-amz-checksum-crc32c": CRC32C, "x-amz-checksum-type": "COMPOSITE"},
    {"Content-MD5": MD5, "Content-Encoding": "gzip"},
    {"Content-MD5": "not base64"},
]


@pytest.mark.parametrize(("headers", "algorithm"), OF_THE_FILE)
def test_a_checksum_of_the_file_is_told_by_any_answer(
    store: HttpStore, headers: dict[str, str], algorithm: Algorithm
) -> None:
    with web_place({"/file": serving(headers=headers)}) as base:
        assert stat(store, f"{base}/file").checksum == Checksum(algorithm, value_of(algorithm))


@pytest.mark.parametrize(("headers", "algorithm"), [*OF_THE_FILE, *OF_THE_ANSWER])
def test_the_whole_comes_with_its_checksum_and_is_held_to_it(
    store: HttpStore, tmp_path: Path, headers: dict[str, str], algorithm: Algorithm
) -> None:
    damaged = b"X" + CONTENT[1:]
    now = [serving()]
    with web_place({"/file": switching(now)}) as base, opened(tmp_path / "f", os.O_RDWR | os.O_CREAT) as fd:
        found = stat(store, f"{base}/file")
        now[0] = serving(headers=headers)
        with lane() as connections:
            store.read(connections, found, whole := FileSlice(fd, 0, found.size_bytes))
            store.read(connections, found, part := FileSlice(fd, 0, 100))
        now[0] = serving(damaged, headers=headers)

        whole.verify(found.url)
        assert whole.expected == Checksum(algorithm, value_of(algorithm))
        assert part.expected is None
        with pytest.raises(DamagedError, match=rf"/file arrived damaged: its {algorithm} is"):
            read_whole(store, found, tmp_path)


@pytest.mark.parametrize("headers", [headers for headers, _ in OF_THE_ANSWER])
def test_a_checksum_of_one_byte_is_not_taken_for_the_files(store: HttpStore, headers: dict[str, str]) -> None:
    with web_place(
        {"/ranges": serving(headers=headers), "/none": serving(headers=headers, ranges=False)}
    ) as base:
        assert stat(store, f"{base}/ranges").checksum is None
        assert stat(store, f"{base}/none").checksum is not None


@pytest.mark.parametrize("headers", NOT_BELIEVED)
def test_a_checksum_that_makes_no_sense_is_none(
    store: HttpStore, tmp_path: Path, headers: dict[str, str]
) -> None:
    with web_place({"/file": serving(headers=headers, ranges=False)}) as base:
        found = stat(store, f"{base}/file")

        assert found.checksum is None
        assert read_whole(store, found, tmp_path) == CONTENT


# --- redirects


def to(location: str, status: int = 302) -> Handler:
    return answering(status, {"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_remembered(store: HttpStore, tmp_path: Path, status: int) -> None:
    with web_place({"/a": to("/b", status), "/b": to("c/file?x=1"), "/c/file": serving()}) as base:
        found = stat(store, f"{base}/a")

        assert (found.url, found.location) == (f"{base}/a", f"{base}/c/file?x=1")
        assert read_whole(store, found, tmp_path) == CONTENT


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_redirect_in_raw_bytes_leads_to_these(store: HttpStore, encoding: str) -> None:
    raw = "données".encode(encoding)
    heads = []

    def serve(connection: socket.socket) -> None:
        heads.append(read_head(connection).splitlines()[0])
        if len(heads) == 1:
            connection.sendall(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /%s?%s\r\n\r\n" % (raw, raw)
            )
            heads.append(read_head(connection).splitlines()[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    with raw_server(serve) as base:
        stat(store, f"{base}/a")

    name = quote(raw).encode()
    assert heads[1] == b"GET /%s?%s HTTP/1.1" % (name, name)


def test_a_signed_place_that_has_expired_is_asked_for_anew(store: HttpStore, tmp_path: Path) -> None:
    valid = ["1"]

    async def door(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"/signed?by={valid[0]}")

    async def signed(request: web.Request) -> web.StreamResponse:
        return await (serving() if request.query["by"] == valid[0] else answering(403))(request)

    with web_place({"/door": door, "/signed": signed}) as base:
        found = stat(store, f"{base}/door")
        valid[0] = "2"

        assert read_whole(store, found, tmp_path) == CONTENT


def test_circles_end(store: HttpStore) -> None:
    with (
        web_place({"/a": to("/b"), "/b": to("/a")}) as base,
        pytest.raises(TransferIOError, match="more than 10 times"),
    ):
        stat(store, f"{base}/a")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/x", ""])
def test_redirects_lead_to_the_web_only(store: HttpStore, location: str) -> None:
    with web_place({"/a": to(location)}) as base, pytest.raises(TransferIOError, match="not a web address"):
        stat(store, f"{base}/a")


def test_passwords_stay_with_their_host(store: HttpStore, tmp_path: Path) -> None:
    seen: dict[str, str | None] = {}

    def noting(name: str, then: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            seen[name] = request.headers.get("Authorization")
            return await then(request)

        return handle

    with (
        web_place({"/file": noting("other", serving())}) as other,
        web_place({"/a": noting("first", to("/b")), "/b": noting("second", to(f"{other}/file"))}) as base,
    ):
        found = stat(store, base.replace("://", "://user:p%40ss@") + "/a")
        assert seen == {"first": "Basic dXNlcjpwQHNz", "second": "Basic dXNlcjpwQHNz", "other": None}
        seen.clear()

        assert read_whole(store, found, tmp_path) == CONTENT
        assert seen == {"other": None}


# --- refusals


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, InputMissingError),
        (410, InputMissingError),
        (408, TransientError),
        (429, ThrottledError),
        (500, TransientError),
        (502, TransientError),
        (503, ThrottledError),
        (400, TransferIOError),
        (451, TransferIOError),
    ],
)
def test_every_refusal_has_its_own_error(
    store: HttpStore, tmp_path: Path, status: int, error: type[TaskrunnerError]
) -> None:
    with web_place({"/no": answering(status), "/file": serving()}) as base:
        found = stat(store, f"{base}/file")
        with pytest.raises(error, match="/no"):
            stat(store, f"{base}/no")
    with web_place({"/file": answering(status)}) as base:
        url = f"{base}/file"
        moved = type(found)(url, found.size_bytes, found.etag, ranged=True)
        with pytest.raises(error, match="/file"):
            read_whole(store, moved, tmp_path)


def test_a_server_says_when_to_come_back(store: HttpStore) -> None:
    with (
        web_place({"/busy": answering(503, {"Retry-After": "7"})}) as base,
        pytest.raises(TransientError) as caught,
    ):
        stat(store, f"{base}/busy")

    assert caught.value.retry_after_seconds == 7.0


def test_an_unknown_host_has_no_files(store: HttpStore) -> None:
    with pytest.raises((InputMissingError, TransientError), match=r"no-such-host\.invalid"):
        stat(store, "http://no-such-host.invalid/file")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (socket.EAI_NONAME, InputMissingError),
        (socket.EAI_NODATA, InputMissingError),
        (socket.EAI_AGAIN, TransientError),
        (socket.EAI_FAIL, TransientError),
    ],
)
def test_a_name_service_that_fails_is_no_missing_host(
    store: HttpStore, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no address just now")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(error, match=r"some-host\.example"):
        stat(store, "http://some-host.example/file")


def test_a_server_that_is_down_is_worth_another_try(store: HttpStore) -> None:
    with web_place({}) as base:
        pass
    with pytest.raises(TransientError, match=r"connection to 127\.0\.0\.1:"):
        stat(store, f"{base}/file")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "http://0xa9fea9fe/"]
)
def test_metadata_services_are_out_of_reach(store: HttpStore, url: str) -> None:
    with pytest.raises(AccessDeniedError, match="link-local"):
        stat(store, url)


def test_no_redirect_leads_to_a_metadata_service(store: HttpStore) -> None:
    with (
        web_place({"/a": to("http://169.254.170.2/v2/credentials")}) as base,
        pytest.raises(AccessDeniedError, match="link-local"),
    ):
        stat(store, f"{base}/a")


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://host:port/",
        "http:///path",
        "http://a..b/x",
        "http://.a/x",
        "http://a b/x",
        f"http://{'a' * 64}/x",
        f"http://{'ü' * 60}.org/x",
        f"http://{'a.' * 130}b/x",
        "http://[::1/x",
    ],
)
def test_what_is_no_address_is_said_to_be_none(store: HttpStore, url: str) -> None:
    with pytest.raises(TransferIOError, match="expected"):
        stat(store, url)
    with pytest.raises(TransferIOError, match="expected"):
        check(store, url)


def test_hosts_of_other_alphabets_are_found(
    store: HttpStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    found_by = socket.getaddrinfo

    def noting(host: Any, *more: Any, **named: Any) -> Any:
        asked.add(host)
        return found_by("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    with web_place({"/file": serving()}) as base:
        found = stat(store, base.replace("127.0.0.1", "Bücher.example") + "/file")
        assert read_whole(store, found, tmp_path) == CONTENT

    assert asked == {"xn--bcher-kva.example"}


def test_the_web_has_no_directories_and_takes_no_files(store: HttpStore) -> None:
    with pytest.raises(TransferIOError, match="can't be listed"):
        listed(store, "http://host/dir/")
    with pytest.raises(OutputFailedError, match="can't be written"):
        begin(store, "http://host/file", [])


@pytest.mark.parametrize("path", ["/with space", "/with%20space", "/ünï", "/a%2Fb", "/plus+plus", "/a,b;c=d"])
def test_addresses_are_sent_as_they_are_meant(store: HttpStore, tmp_path: Path, path: str) -> None:
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        return await serving()(request)

    with web_place({"/{any:.*}": handle}) as base:
        found = stat(store, f"{base}{path}?q=a b&r=%41#fragment")
        assert read_whole(store, found, tmp_path) == CONTENT

    expected = {"/with space": "/with%20space", "/ünï": "/%C3%BCn%C3%AF"}.get(path, path)
    assert seen == [f"{expected}?q=a%20b&r=%41"] * 2


def test_tls_is_verified(store: HttpStore, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    network = Network(ca_bundle=str(certificate[0]))
    with web_place({"/file": serving()}, context) as base:
        with pytest.raises(TransferIOError, match="not trusted"):
            stat(store, f"{base}/file")

        found = stat(store, f"{base}/file", network)
        assert read_whole(store, found, tmp_path, network) == CONTENT


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (503, {"Retry-After": "\u00b2"}, TransientError),
        (503, {"Retry-After": "9" * 400}, TransientError),
        (302, {"Location": "http://[evil/"}, TransferIOError),
        (302, {"Location": "http://a..b/"}, TransferIOError),
        (302, {"Location": "http://h:0/"}, TransferIOError),
    ],
)
def test_an_answer_that_makes_no_sense_is_told_in_a_sentence(
    store: HttpStore, status: int, headers: dict[str, str], expected: type[Exception]
) -> None:
    with (
        web_place({"/file": answering(status, headers)}) as base,
        pytest.raises(expected, match=r"127\.0\.0\.1|http"),
    ):
        stat(store, f"{base}/file")


@pytest.mark.parametrize("length", ["9" * 5000, str(10**30)])
def test_a_length_that_no_file_has_is_no_length(store: HttpStore, length: str) -> None:
    headers = {"Content-Range": f"bytes 0-0/{length}", "ETag": '"v1"'}
    with web_place({"/file": answering(206, headers, b"x")}) as base:
        found = stat(store, f"{base}/file")
        assert not found.ranged


@pytest.mark.parametrize("span", ["bytes 0-0/0", "bytes 5-2/2", "bytes 0-3/3"])
def test_a_byte_beyond_the_end_is_a_contradiction(store: HttpStore, span: str) -> None:
    headers = {"Content-Range": span, "ETag": '"v1"'}
    with (
        web_place({"/file": answering(206, headers, b"x")}) as base,
        pytest.raises(TransferIOError, match="where there is none"),
    ):
        stat(store, f"{base}/file")


def test_an_etag_that_cannot_be_sent_back_pins_nothing(store: HttpStore, tmp_path: Path) -> None:
    with web_place({"/file": serving(etag='"\u20ac"')}) as base:
        found = stat(store, f"{base}/file")
        assert (found.etag, found.ranged) == ("", False)
        assert read_whole(store, found, tmp_path) == CONTENT


def test_a_part_that_nobody_asked_for_is_not_taken_for_the_whole(store: HttpStore, tmp_path: Path) -> None:
    half = answering(206, {"ETag": '"v1"', "Content-Range": "bytes 5-9/10"}, b"WRONG")
    now = [serving(b"0123456789", ranges=False)]
    with web_place({"/file": switching(now)}) as base:
        found = stat(store, f"{base}/file")
        now[0] = half
        with pytest.raises(TransferIOError, match=r"range|bytes, expected"):
            read_whole(store, found, tmp_path)
