"""Web inputs, served well and badly."""

from __future__ import annotations

import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.http import HttpStore
from taskrunner.storage.network import Network
from tests.servers import raw_server, read_head, web_server
from tests.storage.moving import read_whole, received

CONTENT = bytes(range(256)) * 40

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def store() -> AsyncIterator[HttpStore]:
    made = HttpStore(Network())
    yield made
    await made.close()


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


async def test_a_file_is_found_and_read(store: HttpStore, tmp_path: Path) -> None:
    async with web_server({"/file": serving()}) as base:
        found = await store.stat(f"{base}/file")

        assert (found.size_bytes, found.etag, found.ranged) == (len(CONTENT), '"v1"', True)
        assert found.location is None
        assert await read_whole(store, found, tmp_path) == CONTENT


async def test_parts_of_a_file_are_read(store: HttpStore, tmp_path: Path) -> None:
    async with web_server({"/file": serving()}) as base:
        found = await store.stat(f"{base}/file")

        for start, length in [(0, 1), (17, 1000), (len(CONTENT) - 1, 1)]:
            part = await received(await store.read(found, start, length), tmp_path / "part")
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
async def test_parts_are_asked_for_only_where_they_can_be_pinned(
    store: HttpStore, tmp_path: Path, validators: dict[str, str], ranged: bool
) -> None:
    async with web_server({"/file": serving(**validators)}) as base:  # type: ignore[arg-type]
        found = await store.stat(f"{base}/file")

        assert (found.size_bytes, found.ranged) == (len(CONTENT), ranged)
        assert await read_whole(store, found, tmp_path) == CONTENT
        if ranged:
            assert await received(await store.read(found, 5, 9), tmp_path / "p") == CONTENT[5:14]


async def test_a_file_without_a_length_is_read_to_its_end(store: HttpStore, tmp_path: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(CONTENT), 1000):
            await response.write(CONTENT[start : start + 1000])
        return response

    async with web_server({"/file": handle}) as base:
        found = await store.stat(f"{base}/file")

        assert (found.size_bytes, found.ranged) == (None, False)
        assert await read_whole(store, found, tmp_path) == CONTENT


async def test_an_answer_that_ends_early_is_worth_another_try(store: HttpStore, tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    with raw_server(serve) as base:
        found = await store.stat(f"{base}/file")
        with pytest.raises(TransientError, match="5 bytes before the end"):
            await read_whole(store, found, tmp_path)


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_tiny_files_are_read(store: HttpStore, tmp_path: Path, content: bytes) -> None:
    async with web_server({"/file": serving(content), "/plain": serving(content, ranges=False)}) as base:
        for path in ("/file", "/plain"):
            found = await store.stat(base + path)

            assert found.size_bytes == len(content)
            assert await read_whole(store, found, tmp_path) == content


async def test_packed_bytes_are_kept_as_they_are_served(store: HttpStore, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    async with web_server({"/file": serving(packed, headers={"Content-Encoding": "gzip"})}) as base:
        found = await store.stat(f"{base}/file")

        assert found.size_bytes == len(packed)
        assert await read_whole(store, found, tmp_path) == packed


@pytest.mark.parametrize("change", [{"etag": '"v2"'}, {"content": CONTENT + b"x"}])
@pytest.mark.parametrize(("start", "length"), [(0, len(CONTENT)), (100, 50)])
async def test_a_change_midway_is_an_error(
    store: HttpStore, tmp_path: Path, change: dict[str, bytes], start: int, length: int
) -> None:
    before, after = serving(etag='"v1"'), serving(**{"etag": '"v1"', **change})  # type: ignore[arg-type]
    now = [before]
    async with web_server({"/file": switching(now)}) as base:
        found = await store.stat(f"{base}/file")
        now[0] = after
        reading = await store.read(found, start, length)

        with pytest.raises(TransferIOError, match=r"changed|bytes, expected"):
            await received(reading, tmp_path / "part")


async def test_a_file_of_another_date_is_another_file(store: HttpStore, tmp_path: Path) -> None:
    dates = ["Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"]
    now = [serving(etag=None, modified=dates[0])]
    async with web_server({"/file": switching(now)}) as base:
        found = await store.stat(f"{base}/file")
        now[0] = serving(etag=None, modified=dates[1])
        for start, length in [(0, len(CONTENT)), (3, 4)]:
            reading = await store.read(found, start, length)
            with pytest.raises(TransferIOError, match="changed"):
                await received(reading, tmp_path / "part")


async def test_a_server_that_begins_to_ignore_ranges_is_not_believed(
    store: HttpStore, tmp_path: Path
) -> None:
    now = [serving()]
    async with web_server({"/file": switching(now)}) as base:
        found = await store.stat(f"{base}/file")
        now[0] = serving(ranges=False)
        reading = await store.read(found, 10, 10)

        with pytest.raises(TransferIOError, match="no longer sends the range"):
            await received(reading, tmp_path / "part")


@pytest.mark.parametrize("status", [400, 405, 416])
async def test_a_server_that_hates_ranges_is_asked_without(store: HttpStore, status: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if "Range" in request.headers:
            return web.Response(status=status)
        return web.Response(body=CONTENT)

    async with web_server({"/file": handle}) as base:
        found = await store.stat(f"{base}/file")

        assert (found.size_bytes, found.ranged) == (len(CONTENT), False)


# --- redirects


def to(location: str, status: int = 302) -> Handler:
    return answering(status, {"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_and_remembered(store: HttpStore, tmp_path: Path, status: int) -> None:
    async with web_server({"/a": to("/b", status), "/b": to("c/file?x=1"), "/c/file": serving()}) as base:
        found = await store.stat(f"{base}/a")

        assert (found.url, found.location) == (f"{base}/a", f"{base}/c/file?x=1")
        assert await read_whole(store, found, tmp_path) == CONTENT


async def test_a_signed_place_that_has_expired_is_asked_for_anew(store: HttpStore, tmp_path: Path) -> None:
    valid = ["1"]

    async def door(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"/signed?by={valid[0]}")

    async def signed(request: web.Request) -> web.StreamResponse:
        return await (serving() if request.query["by"] == valid[0] else answering(403))(request)

    async with web_server({"/door": door, "/signed": signed}) as base:
        found = await store.stat(f"{base}/door")
        valid[0] = "2"

        assert await read_whole(store, found, tmp_path) == CONTENT


async def test_circles_end(store: HttpStore) -> None:
    async with web_server({"/a": to("/b"), "/b": to("/a")}) as base:
        with pytest.raises(TransferIOError, match="more than 10 times"):
            await store.stat(f"{base}/a")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/x", ""])
async def test_redirects_lead_to_the_web_only(store: HttpStore, location: str) -> None:
    async with web_server({"/a": to(location)}) as base:
        with pytest.raises(TransferIOError, match="not a web address"):
            await store.stat(f"{base}/a")


async def test_passwords_stay_with_their_host(store: HttpStore, tmp_path: Path) -> None:
    seen: dict[str, str | None] = {}

    def noting(name: str, then: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            seen[name] = request.headers.get("Authorization")
            return await then(request)

        return handle

    async with (
        web_server({"/file": noting("other", serving())}) as other,
        web_server({"/a": noting("first", to("/b")), "/b": noting("second", to(f"{other}/file"))}) as base,
    ):
        found = await store.stat(base.replace("://", "://user:p%40ss@") + "/a")
        assert seen == {"first": "Basic dXNlcjpwQHNz", "second": "Basic dXNlcjpwQHNz", "other": None}
        seen.clear()

        assert await read_whole(store, found, tmp_path) == CONTENT
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
        (429, TransientError),
        (500, TransientError),
        (502, TransientError),
        (503, TransientError),
        (400, TransferIOError),
        (451, TransferIOError),
    ],
)
async def test_every_refusal_has_its_own_error(
    store: HttpStore, tmp_path: Path, status: int, error: type[TaskrunnerError]
) -> None:
    async with web_server({"/no": answering(status), "/file": serving()}) as base:
        with pytest.raises(error, match="/no"):
            await store.stat(f"{base}/no")
        found = await store.stat(f"{base}/file")
    async with web_server({"/file": answering(status)}) as base:
        url = f"{base}/file"
        moved = type(found)(url, found.size_bytes, found.etag, ranged=True)
        with pytest.raises(error, match="/file"):
            await read_whole(store, moved, tmp_path)


async def test_a_server_says_when_to_come_back(store: HttpStore) -> None:
    async with web_server({"/busy": answering(503, {"Retry-After": "7"})}) as base:
        with pytest.raises(TransientError) as caught:
            await store.stat(f"{base}/busy")

    assert caught.value.retry_after_seconds == 7.0


async def test_an_unknown_host_has_no_files(store: HttpStore) -> None:
    with pytest.raises((InputMissingError, TransientError), match=r"no-such-host\.invalid"):
        await store.stat("http://no-such-host.invalid/file")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (socket.EAI_NONAME, InputMissingError),
        (socket.EAI_NODATA, InputMissingError),
        (socket.EAI_AGAIN, TransientError),
        (socket.EAI_FAIL, TransientError),
    ],
)
async def test_a_name_service_that_fails_is_no_missing_host(
    store: HttpStore, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no address just now")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(error, match=r"some-host\.example"):
        await store.stat("http://some-host.example/file")


async def test_a_server_that_is_down_is_worth_another_try(store: HttpStore) -> None:
    async with web_server({}) as base:
        pass
    with pytest.raises(TransientError, match=r"connection to 127\.0\.0\.1:"):
        await store.stat(f"{base}/file")


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "http://0xa9fea9fe/"]
)
async def test_metadata_services_are_out_of_reach(store: HttpStore, url: str) -> None:
    with pytest.raises(AccessDeniedError, match="link-local"):
        await store.stat(url)


async def test_no_redirect_leads_to_a_metadata_service(store: HttpStore) -> None:
    async with web_server({"/a": to("http://169.254.170.2/v2/credentials")}) as base:
        with pytest.raises(AccessDeniedError, match="link-local"):
            await store.stat(f"{base}/a")


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
async def test_what_is_no_address_is_said_to_be_none(store: HttpStore, url: str) -> None:
    with pytest.raises(TransferIOError, match="expected"):
        await store.stat(url)
    with pytest.raises(TransferIOError, match="expected"):
        await store.check(url)


async def test_hosts_of_other_alphabets_are_found(
    store: HttpStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    found_by = socket.getaddrinfo

    def noting(host: Any, *more: Any, **named: Any) -> Any:
        asked.add(host)
        return found_by("127.0.0.1", *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    async with web_server({"/file": serving()}) as base:
        found = await store.stat(base.replace("127.0.0.1", "Bücher.example") + "/file")
        assert await read_whole(store, found, tmp_path) == CONTENT

    assert asked == {"xn--bcher-kva.example"}


async def test_the_web_has_no_directories_and_takes_no_files(store: HttpStore) -> None:
    with pytest.raises(TransferIOError, match="can't be listed"):
        store.list_directory("http://host/dir/")
    with pytest.raises(OutputFailedError, match="can't be written"):
        await store.begin_upload("http://host/file", [])


@pytest.mark.parametrize("path", ["/with space", "/with%20space", "/ünï", "/a%2Fb", "/plus+plus", "/a,b;c=d"])
async def test_addresses_are_sent_as_they_are_meant(store: HttpStore, tmp_path: Path, path: str) -> None:
    seen = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        return await serving()(request)

    async with web_server({"/{any:.*}": handle}) as base:
        found = await store.stat(f"{base}{path}?q=a b&r=%41#fragment")
        assert await read_whole(store, found, tmp_path) == CONTENT

    expected = {"/with space": "/with%20space", "/ünï": "/%C3%BCn%C3%AF"}.get(path, path)
    assert seen == [f"{expected}?q=a%20b&r=%41"] * 2


async def test_tls_is_verified(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with web_server({"/file": serving()}, context) as base:
        store = HttpStore(Network())
        with pytest.raises(TransferIOError, match="not trusted"):
            await store.stat(f"{base}/file")
        await store.close()

        network = Network(ca_bundle=str(certificate[0]))
        store = HttpStore(network)
        found = await store.stat(f"{base}/file")
        reading = await store.read(found, 0, found.size_bytes)
        assert await received(reading, tmp_path / "whole", network) == CONTENT
        await store.close()


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
async def test_an_answer_that_makes_no_sense_is_told_in_a_sentence(
    store: HttpStore, status: int, headers: dict[str, str], expected: type[Exception]
) -> None:
    async with web_server({"/file": answering(status, headers)}) as base:
        with pytest.raises(expected, match=r"127\.0\.0\.1|http"):
            await store.stat(f"{base}/file")


@pytest.mark.parametrize("length", ["9" * 5000, str(10**30)])
async def test_a_length_that_no_file_has_is_no_length(store: HttpStore, length: str) -> None:
    headers = {"Content-Range": f"bytes 0-0/{length}", "ETag": '"v1"'}
    async with web_server({"/file": answering(206, headers, b"x")}) as base:
        found = await store.stat(f"{base}/file")
        assert not found.ranged


async def test_an_etag_that_cannot_be_sent_back_pins_nothing(store: HttpStore, tmp_path: Path) -> None:
    async with web_server({"/file": serving(etag='"\u20ac"')}) as base:
        found = await store.stat(f"{base}/file")
        assert (found.etag, found.ranged) == ("", False)
        assert await read_whole(store, found, tmp_path) == CONTENT


async def test_a_part_that_nobody_asked_for_is_not_taken_for_the_whole(
    store: HttpStore, tmp_path: Path
) -> None:
    half = answering(206, {"ETag": '"v1"', "Content-Range": "bytes 5-9/10"}, b"WRONG")
    now = [serving(b"0123456789", ranges=False)]
    async with web_server({"/file": switching(now)}) as base:
        found = await store.stat(f"{base}/file")
        now[0] = half
        reading = await store.read(found, 0, found.size_bytes)
        with pytest.raises(TransferIOError, match=r"range|bytes, expected"):
            await received(reading, tmp_path / "part")
