"""The link does to requests what it was told to, and nothing to all others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientError, ClientResponse, ClientSession, web

from tests.faulty_link import (
    Act,
    Exchange,
    FaultyLink,
    anything,
    asks,
    cut_answer,
    damage,
    damage_sent,
    every_other_time,
    faulty_link,
    hang_up,
    hang_up_while_sent,
    instead,
    lose_answer,
    refuse,
)
from tests.servers import web_server

BODY = bytes(range(200))


class Echo:
    """A server that says what it was told."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.hosts: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        self.heard.append(await request.read())
        self.hosts.append(request.headers["Host"])
        return web.Response(body=self.heard[-1] or BODY, headers={"ETag": '"e"'})


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def link(echo: Echo) -> AsyncIterator[FaultyLink]:
    async with web_server({"/a": echo.serve}) as base:
        with faulty_link(base) as link:
            yield link
            await asyncio.to_thread(link.close)


async def ask(link: FaultyLink, method: str = "GET", body: bytes = b"") -> tuple[ClientResponse, bytes]:
    async with ClientSession() as session, session.request(method, f"{link.url}/a", data=body) as answer:
        return answer, await answer.read()


async def test_without_trouble_all_is_passed_on_and_counted(link: FaultyLink, echo: Echo) -> None:
    answer, came = await ask(link, "PUT", BODY * 2)
    head, nothing = await ask(link, "HEAD")
    assert (answer.status, answer.headers["ETag"], came) == (200, '"e"', BODY * 2)
    assert (head.headers["Content-Length"], nothing) == (str(len(BODY)), b"")
    assert set(echo.hosts) == {urlsplit(link.url).netloc}
    put, _ = link.exchanges
    assert (put.number, put.method, put.status, put.sent_bytes, put.received_bytes) == (
        1,
        "PUT",
        200,
        400,
        400,
    )
    assert (link.sent_bytes(asks("PUT")), link.received_bytes(asks("HEAD"))) == (400, 0)


async def test_trouble_befalls_the_requests_it_is_meant_for_so_often_and_no_others(link: FaultyLink) -> None:
    link.trouble(asks("PUT"), refuse(503, "SlowDown"), after=1, times=2)
    methods = ["PUT", "GET", "PUT", "GET", "PUT", "PUT"]
    statuses = [(await ask(link, method))[0].status for method in methods]
    assert statuses == [200, 200, 503, 200, 503, 200]


async def test_every_other_time_counts_each_question_by_itself(link: FaultyLink) -> None:
    link.trouble(every_other_time(), refuse(503), times=None)
    statuses = [(await ask(link, method))[0].status for method in ("GET", "PUT", "GET", "PUT", "GET")]
    assert statuses == [503, 503, 200, 200, 503]


@pytest.mark.parametrize(
    ("act", "heard"),
    [
        (hang_up, 0),
        (hang_up_while_sent(10), 0),
        (lose_answer, 1),
        (cut_answer(10), 1),
        (cut_answer(0, rudely=True), 1),
    ],
)
async def test_what_breaks_a_connection_is_an_error_to_the_client(
    link: FaultyLink, echo: Echo, act: Act, heard: int
) -> None:
    link.trouble(anything, act, times=None)
    with pytest.raises(ClientError):
        await ask(link, "PUT", BODY)
    assert len(echo.heard) >= heard
    assert bool(echo.heard) is bool(heard)


async def test_bytes_are_damaged_both_ways_and_a_checksum_tells(link: FaultyLink, echo: Echo) -> None:
    link.trouble(asks("GET"), damage(at=3))
    link.trouble(asks("PUT"), damage_sent(at=3))
    _, came = await ask(link)
    await ask(link, "PUT", BODY)
    damaged = BODY[:3] + b"\xfc" + BODY[4:]
    assert (came, echo.heard[-1]) == (damaged, damaged)

    link.trouble(asks("PUT"), damage_sent(at=3))
    headers = {"x-amz-checksum-crc32": "AAAAAA=="}
    async with ClientSession() as session, session.put(f"{link.url}/a", data=BODY, headers=headers) as answer:
        assert (answer.status, b"BadDigest" in await answer.read()) == (400, True)


async def test_an_answer_of_our_own_never_reaches_the_server(link: FaultyLink, echo: Echo) -> None:
    link.trouble(anything, instead(206, b"abc", [("Content-Range", "bytes 0-2/3")]))
    answer, came = await ask(link)
    assert (answer.status, came, answer.headers["Content-Range"], echo.heard) == (
        206,
        b"abc",
        "bytes 0-2/3",
        [],
    )


def blunder(_exchange: Exchange) -> None:
    raise LookupError("a test's own mistake")


async def test_a_mistake_in_a_test_s_own_trouble_is_told_at_the_end(echo: Echo) -> None:
    async def use_it(base: str) -> None:
        with faulty_link(base) as link:
            link.trouble(anything, blunder, times=None)
            with pytest.raises(ClientError):
                await ask(link)

    async with web_server({"/a": echo.serve}) as base:
        with pytest.raises(ExceptionGroup, match="the link itself failed"):
            await use_it(base)


def test_the_link_s_end_ends_connections_that_are_kept_alive() -> None:
    with faulty_link("http://127.0.0.1:9") as link:
        link.trouble(anything, instead(200, b""))
        client = socket.create_connection(("127.0.0.1", urlsplit(link.url).port or 0))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    with client:
        assert client.recv(1) == b""
