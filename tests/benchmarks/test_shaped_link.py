"""The link: its rates and its latency, by a clock of ours, and bytes through the real program."""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.content import Ground, MiB
from benchmarks.servers import shaped, source_server
from benchmarks.shaped_link import TICK_SECONDS, Link, Shape, TokenBucket

SHAPE = Shape(latency_seconds=0.03, connection_bytes_per_second=1_000_000, link_bytes_per_second=3_000_000)


def test_a_bucket_gives_what_came_together_and_no_more() -> None:
    bucket = TokenBucket(1000, 0.5, now=10)
    assert bucket.available(10) == 0
    assert bucket.available(10.125) == 125
    bucket.take(60)
    assert bucket.available(10.125) == 65
    assert bucket.available(10.25) == 190


def test_a_bucket_that_waited_long_is_only_full() -> None:
    bucket = TokenBucket(1000, 0.5, now=0)
    assert bucket.available(3600) == 500


def test_a_link_knows_the_best_time() -> None:
    assert Shape(link_bytes_per_second=200e6).least_seconds(1_000_000_000) == 5


class Ends:
    """A link of which both ends of each connection are ours, and whose clock we turn."""

    def __init__(self, shape: Shape, connections: int) -> None:
        self._stack = ExitStack()
        self.now = 1000.0
        self.link = Link(shape, self.now)
        self.clients: list[socket.socket] = []
        self.servers: list[socket.socket] = []
        for _ in range(connections):
            client, near = self._pair()
            far, server = self._pair()
            self.link.join(near, far)
            self.clients.append(client)
            self.servers.append(server)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = self._stack.enter_context(socket.create_connection(listener.getsockname()))
            other = self._stack.enter_context(listener.accept()[0])
        one.setblocking(False)
        return one, other

    def turn(self, seconds: float) -> None:
        """So many ticks."""
        for _ in range(round(seconds / TICK_SECONDS)):
            self.now += TICK_SECONDS
            sockets = [end for pair in self.link.pairs for end in (pair.near, pair.far)]
            readable = {end.fileno() for end in select.select(sockets, [], [], 0)[0]}
            self.link.tick(self.now, readable)

    def close(self) -> None:
        for pair in self.link.pairs:
            pair.close()
        self._stack.close()


@pytest.fixture
def one() -> Iterator[Ends]:
    ends = Ends(SHAPE, 1)
    yield ends
    ends.close()


def received(end: socket.socket) -> int:
    """How many bytes have arrived at a socket."""
    total = 0
    try:
        while chunk := end.recv(1024 * 1024):
            total += len(chunk)
    except BlockingIOError:
        pass
    return total


def fed(end: socket.socket, data: bytes = bytes(64 * 1024)) -> int:
    """Give a socket as much as it takes now."""
    total = 0
    end.setblocking(False)
    try:
        while total < 4 * MiB:
            total += end.send(data)
    except BlockingIOError:
        pass
    return total


@pytest.mark.parametrize("upwards", [True, False], ids=["requests", "answers"])
def test_a_connection_carries_its_rate_and_no_more(one: Ends, upwards: bool) -> None:
    source, sink = (one.clients[0], one.servers[0]) if upwards else (one.servers[0], one.clients[0])
    sink.setblocking(False)
    carried = 0
    for _ in range(10):
        fed(source)
        one.turn(0.1)
        carried += received(sink)
    assert 0.8e6 <= carried <= 1.04e6


def test_all_connections_together_carry_the_links_rate_and_share_it() -> None:
    ends = Ends(SHAPE, 6)
    carried = [0] * 6
    for _ in range(10):
        for server in ends.servers:
            fed(server)
        ends.turn(0.1)
        for number, client in enumerate(ends.clients):
            carried[number] += received(client)
    ends.close()
    assert 2.4e6 <= sum(carried) <= 3.1e6
    assert min(carried) > 0.6 * max(carried)


def test_the_first_byte_of_an_answer_waits_for_the_latency(one: Ends) -> None:
    client, server = one.clients[0], one.servers[0]
    client.sendall(b"request")
    one.turn(TICK_SECONDS)
    server.setblocking(True)
    assert server.recv(100) == b"request"
    server.sendall(b"answer")
    one.turn(0.02)
    assert received(client) == 0
    one.turn(0.02)
    assert received(client) == len(b"answer")
    server.sendall(b"more of it")
    one.turn(TICK_SECONDS)
    assert received(client) == len(b"more of it")


def test_each_answer_waits_anew(one: Ends) -> None:
    client, server = one.clients[0], one.servers[0]
    for _ in range(3):
        client.sendall(b"?")
        one.turn(TICK_SECONDS)
        server.sendall(b"!")
        one.turn(0.02)
        assert received(client) == 0
        one.turn(0.02)
        assert received(client) == 1


def test_the_end_of_both_directions_ends_the_connection(one: Ends) -> None:
    client, server = one.clients[0], one.servers[0]
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    one.turn(0.05)
    server.setblocking(True)
    assert server.recv(100) == b"last words"
    assert server.recv(100) == b""
    assert len(one.link.pairs) == 1
    server.sendall(b"answer")
    server.shutdown(socket.SHUT_WR)
    one.turn(0.05)
    assert one.link.pairs == []
    client.setblocking(True)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


def test_a_peer_that_vanishes_ends_its_connection_only() -> None:
    ends = Ends(SHAPE, 2)
    ends.clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    ends.clients[0].close()
    fed(ends.servers[0])
    ends.turn(0.1)
    ends.servers[0].close()
    ends.turn(0.1)
    assert len(ends.link.pairs) == 1
    ends.close()


def test_bytes_come_through_the_program_as_they_were(tmp_path: Path) -> None:
    ground = Ground()
    fast = Shape(0.001, 500e6, 500e6)
    with (
        source_server(tmp_path, {"data": {"f": 5 * MiB}}) as server,
        shaped(server, fast) as far,
    ):
        assert far.url != server.url
        connection = http.client.HTTPConnection(far.address)
        connection.request("GET", "/data/f")
        content = connection.getresponse().read()
        connection.request("PUT", "/kept/g", content)
        assert connection.getresponse().status == 200
        connection.close()
        (tmp_path / "got").write_bytes(content)
        assert ground.first_difference(tmp_path / "got", "f", 5 * MiB) is None
        assert ground.first_difference(tmp_path / "kept" / "g", "f", 5 * MiB) is None
