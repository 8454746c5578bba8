"""The lanes' HTTP: what happens when servers, networks and disks misbehave."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskrunner.errors import (
    AccessDeniedError,
    ConnectionCutError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.storage import link
from taskrunner.storage.checksums import Algorithm, new_digest
from taskrunner.storage.network import Endpoint, Network
from taskrunner.storage.pace import Pace
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.streams import Stream, set_patience
from taskrunner.storage.wire import Answer, Connections, Request, retry_after_seconds
from tests.servers import raw_server, read_head


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(Network(read_timeout_seconds=30))
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileSlice]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield FileSlice(fd, 0, None)
    os.close(fd)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileSlice]:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(1024 * 1024) * 32)
    fd = os.open(path, os.O_RDONLY)
    yield FileSlice(fd, 0, None)
    os.close(fd)


def content(target: FileSlice) -> bytes:
    return os.pread(target.fd, os.fstat(target.fd).st_size, 0)


def get(connections: Connections, url: str, target: FileSlice, length: int | None) -> None:
    """Append a body of `length` bytes (None: whatever comes) to what `target` has."""
    target.length = None if length is None else target.done + length
    with connections.exchange(Request("GET", url)) as answer:
        assert answer.status == 200
        answer.receive(target)


def put(connections: Connections, url: str, source: FileSlice, length: int) -> int:
    """The status of the answer to `length` bytes of `source`."""
    source.length = length
    with connections.exchange(Request("PUT", url), source) as answer:
        return answer.status


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """Serve one connection: an answer for each request, then close."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            read_head(connection)
            connection.sendall(answer)

    return serve


def hanging_up(connection: socket.socket) -> None:
    """Read one request and answer nothing."""
    read_head(connection)


def swallowing(connection: socket.socket) -> None:
    """Read whatever comes and answer nothing."""
    while connection.recv(65536):
        pass


def acting(action: Callable[[], None], when: threading.Event) -> threading.Thread:
    """A thread that does it when told."""

    def act() -> None:
        when.wait()
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_body_of_known_length_is_received(connections: Connections, target: FileSlice) -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url:
        get(connections, url, target, 5)

    assert content(target) == b"hello"


def test_half_a_body_is_kept_and_worth_another_try(connections: Connections, target: FileSlice) -> None:
    with (
        raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")) as url,
        pytest.raises(TransientError, match="5 bytes before the end"),
    ):
        get(connections, url, target, 10)

    assert (target.done, content(target)) == (5, b"hello")


@pytest.mark.parametrize("length", [None, 8])
def test_a_chunked_body_is_received(connections: Connections, target: FileSlice, length: int | None) -> None:
    body = b"5\r\nhello\r\n3\r\n ho\r\n0\r\n\r\n"
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)) as url:
        get(connections, url, target, length)

    assert content(target) == b"hello ho"


def test_a_chunked_body_without_its_end_is_not_whole(connections: Connections, target: FileSlice) -> None:
    with (
        raw_server(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")) as url,
        pytest.raises(TransientError),
    ):
        get(connections, url, target, None)


def test_a_chunked_body_that_lacks_nothing_but_its_end_is_whole_where_the_length_was_told(
    connections: Connections, target: FileSlice
) -> None:
    """Another try would ask for the bytes after the last one."""
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with raw_server(answering(broken)) as url:
        for _ in range(2):  # nor is the broken connection used again
            get(connections, url, target, 5)

    assert content(target) == b"hellohello"


def test_a_chunked_body_longer_than_told_is_refused(connections: Connections, target: FileSlice) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with raw_server(answering(body)) as url, pytest.raises(TransferIOError, match="more than the 3 bytes"):
        get(connections, url, target, 3)


def test_a_body_without_a_length_ends_with_its_connection(
    connections: Connections, target: FileSlice
) -> None:
    with raw_server(answering(b"HTTP/1.0 200 OK\r\n\r\nhello")) as url:
        get(connections, url, target, None)

    assert content(target) == b"hello"


def test_a_connection_serves_many_requests(connections: Connections, target: FileSlice) -> None:
    accepted = []

    def serve(connection: socket.socket) -> None:
        accepted.append(connection)
        answering(*[b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"] * 5)(connection)

    with raw_server(serve) as url:
        for _ in range(5):
            get(connections, url, target, 1)

    assert len(accepted) == 1
    assert content(target) == b"xxxxx"


def test_a_kept_connection_that_the_server_closed_is_replaced(
    connections: Connections, target: FileSlice
) -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")) as url:
        for _ in range(3):
            get(connections, url, target, 1)

    assert content(target) == b"xxx"


def test_a_new_connection_closed_without_an_answer_is_worth_another_try(connections: Connections) -> None:
    with (
        raw_server(hanging_up) as url,
        pytest.raises(TransientError, match="without an answer"),
        connections.exchange(Request("GET", url)),
    ):
        pass


def test_what_is_no_http_is_worth_another_try(connections: Connections) -> None:
    with (
        raw_server(answering(b"SSH-2.0-OpenSSH\r\n\r\n")) as url,
        pytest.raises(TransientError),
        connections.exchange(Request("GET", url)),
    ):
        pass


def test_a_refused_connection_names_its_host(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        pytest.raises(TransientError, match=f"127.0.0.1:{port} failed: Connection refused"),
        connections.exchange(Request("GET", f"http://127.0.0.1:{port}/")),
    ):
        pass


def test_a_silent_server_is_given_up(target: FileSlice) -> None:
    connections = Connections(Network(read_timeout_seconds=0.05))
    silence = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        silence.wait()

    with raw_server(serve) as url:
        with pytest.raises(TransientError, match="silent"):
            get(connections, url, target, 1)
        silence.set()


def test_an_unread_body_costs_the_connection(connections: Connections, target: FileSlice) -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url:
        with connections.exchange(Request("GET", url)):
            pass
        get(connections, url, target, 5)

    assert content(target) == b"hello"


def test_a_small_body_comes_with_its_head_in_one_piece(connections: Connections, target: FileSlice) -> None:
    body = os.urandom(64 * 1024)
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + body)) as url:
        get(connections, url, target, 65536)

    assert content(target) == body


def test_a_large_body_is_put_at_its_place(connections: Connections, target: FileSlice) -> None:
    body = os.urandom(3_000_000)
    target.offset, target.length = 1000, len(body)
    target.compute(Algorithm.CRC64NVME)
    with (
        raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body)) as url,
        connections.exchange(Request("GET", url)) as answer,
    ):
        answer.receive(target)

    expected = new_digest(Algorithm.CRC64NVME)
    expected.update(body)
    assert content(target) == bytes(1000) + body
    assert target.digest is not None
    assert target.digest.digest() == expected.digest()


def test_what_came_before_a_silence_is_kept(target: FileSlice) -> None:
    ours, theirs = socket.socketpair()
    set_patience(ours, 0.05)
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    target.length = 10
    with ours, theirs:
        stream = Stream(ours, memoryview(bytearray(65536 * 2)), lambda: None, None)
        answer = Answer(stream.head(), stream, "GET", "host")
        with pytest.raises(TimeoutError):
            answer.receive(target)

    assert content(target) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhello ho",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n ho\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello ho",
    ],
)
@pytest.mark.parametrize("length", [None, 8])
def test_an_answer_may_come_byte_by_byte(
    connections: Connections, target: FileSlice, answer: bytes, length: int | None
) -> None:
    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read_head(connection)
        for place in range(len(answer)):
            connection.sendall(answer[place : place + 1])

    with raw_server(serve) as url:
        get(connections, url, target, length)

    assert content(target) == b"hello ho"


def reset(connection: socket.socket) -> None:
    """Break the connection, so that the other side hears of an error and not of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def test_a_broken_connection_is_no_end_of_a_body(connections: Connections, target: FileSlice) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        reset(connection)

    with raw_server(serve) as url, pytest.raises(TransientError, match="reset"):
        get(connections, url, target, None)

    assert content(target) == b"hello"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_kept_connection_that_says_something_unasked_is_replaced(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """Else what it said would be taken for the answer to the next request."""
    opened: list[socket.socket] = []
    connect = connections._connected_socket

    def connected(endpoint: Endpoint) -> socket.socket:
        opened.append(connect(endpoint))
        return opened[-1]

    monkeypatch.setattr(connections, "_connected_socket", connected)
    answer, unasked = (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + each for each in (b"y", b"n"))
    kept = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer + unasked if at_once else answer)
        kept.acquire()
        connection.sendall(unasked)

    with raw_server(serve) as url:
        for _ in range(3):
            with connections.exchange(Request("GET", url)) as given:
                assert given.content() == b"y"
            kept.release()
            if not at_once:
                select.select(opened[-1:], [], [])

    assert len(opened) == 3


def test_a_kept_connection_that_says_something_unasked_under_tls_is_replaced(
    certificate: tuple[Path, Path],
) -> None:
    """What comes in one record with a body's end is decrypted with it, and lies where no poll sees it."""
    answer, unasked = (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + each for each in (b"y", b"n"))

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer[:-1])
        connection.sendall(answer[-1:] + unasked)
        read_head(connection)

    connections = Connections(Network(ca_bundle=str(certificate[0])))
    with raw_server(with_tls(certificate, serve)) as url:
        for _ in range(3):
            with connections.exchange(Request("GET", url.replace("http://", "https://"))) as given:
                assert given.content() == b"y"
        connections.close()


def ask_twice(connections: Connections, method: str) -> int:
    """Ask a server twice, which hears the second question and closes; how many it heard in all."""
    heard = []

    def serve(connection: socket.socket) -> None:
        while True:
            heard.append(read_head(connection))
            if len(heard) == 2:
                return
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with raw_server(serve) as url:
        try:
            for _ in range(2):
                with connections.exchange(Request(method, url)) as answer:
                    assert answer.status == 204
        except TransientError:
            assert len(heard) == 2
            raise
        finally:
            connections.close()
    return len(heard)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_what_may_be_asked_twice_is_asked_again_where_a_kept_connection_ends(
    connections: Connections, method: str
) -> None:
    assert ask_twice(connections, method) == 3


def test_what_may_not_be_asked_twice_is_told_to_be_lost(connections: Connections) -> None:
    with pytest.raises(TransientError, match="without an answer"):
        ask_twice(connections, "POST")


def test_a_body_without_an_end_that_is_said_is_not_whole_under_tls(
    certificate: tuple[Path, Path], target: FileSlice
) -> None:
    connections = Connections(Network(ca_bundle=str(certificate[0])))
    with (
        raw_server(with_tls(certificate, answering(b"HTTP/1.1 200 OK\r\n\r\nhello"))) as url,
        pytest.raises(TransientError, match="without saying so"),
    ):
        get(connections, url.replace("http://", "https://"), target, None)

    assert content(target) == b"hello"


def test_the_next_address_is_tried(
    connections: Connections, target: FileSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]

    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url:
        port = int(url.rpartition(":")[2])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in (closed, port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        for _ in range(4):
            get(connections, "http://large.example", target, 5)

    assert content(target) == b"hello" * 4


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:1/a b", ()),
        ("http://127.0.0.1:1/\u00e9", ()),
        ("http://127.0.0.1:1/\x7f", ()),
        ("http://127.0.0.1:1/", (("X-A", "a\r\nX-B: b"),)),
        ("http://127.0.0.1:1/", (("X-A", "a\nX-B: b"),)),
        ("http://127.0.0.1:1/", (("X-A", "\u20ac"),)),
    ],
)
def test_what_would_be_another_request_is_not_sent(
    connections: Connections, url: str, headers: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(connections, "_connected_socket", lambda _: ours)
    with pytest.raises(TransferIOError, match="can't be asked for"):
        put_nothing(connections, Request("GET", url, headers))

    assert theirs.recv(1) == b""
    theirs.close()


def put_nothing(connections: Connections, request: Request) -> int:
    """The status of the answer to a request as it is."""
    with connections.exchange(request) as answer:
        return answer.status


@pytest.mark.parametrize(
    ("address", "proxies"),
    [
        ("169.254.169.254", {}),
        ("169.254.170.2", {}),
        ("[fe80::1]", {}),
        ("[fd00:ec2::254]", {}),
        ("[::ffff:169.254.169.254]", {}),
        ("2852039166", {}),
        ("0xa9fea9fe", {}),
        ("169.254.169.254", {"http": "http://127.0.0.1:1"}),
    ],
)
def test_metadata_services_are_out_of_reach(address: str, proxies: dict[str, str]) -> None:
    connections = Connections(Network(proxies=proxies))
    with (
        pytest.raises(AccessDeniedError, match="link-local"),
        connections.exchange(Request("GET", f"http://{address}/latest/meta-data/")),
    ):
        pass


# --- stopping


def test_abort_frees_a_blocked_read_at_once(connections: Connections, target: FileSlice) -> None:
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        blocked.set()
        connection.recv(1)

    with raw_server(serve) as url:
        stopper = acting(connections.abort, blocked)
        with pytest.raises(TransientError, match="stopped"):
            get(connections, url, target, 10)
        stopper.join()


def test_abort_frees_a_blocked_send_at_once(connections: Connections, source: FileSlice) -> None:
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        blocked.set()
        connection.getpeername()
        idle.wait()

    idle = threading.Event()
    with raw_server(serve) as url:
        stopper = acting(connections.abort, blocked)
        with (
            pytest.raises(TransientError, match="stopped"),
        ):
            put(connections, url, source, 32 * 1024 * 1024)
        idle.set()
        stopper.join()


def test_after_abort_nothing_runs_any_more(connections: Connections) -> None:
    connections.abort()

    with (
        pytest.raises(TransientError, match="stopped"),
        connections.exchange(Request("GET", "http://127.0.0.1:1/")),
    ):
        pass


def test_a_stopped_body_without_a_length_is_not_whole(connections: Connections, target: FileSlice) -> None:
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        blocked.set()
        connection.recv(1)

    with raw_server(serve) as url:
        stopper = acting(connections.abort, blocked)
        with pytest.raises(TransientError, match="stopped"):
            get(connections, url, target, None)
        stopper.join()


def test_a_cut_ends_the_running_exchange_and_no_other(connections: Connections, target: FileSlice) -> None:
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        if not blocked.is_set():
            blocked.set()
            connection.recv(1)
        connection.sendall(b"hello")

    with raw_server(serve) as url:
        cutter = acting(connections.cut, blocked)
        with pytest.raises(ConnectionCutError):
            get(connections, url, target, 10)
        cutter.join()
        target.done = 0
        get(connections, url, target, 10)

    assert content(target) == b"hellohello"


def test_a_body_without_a_length_that_was_cut_is_not_whole(
    connections: Connections, target: FileSlice
) -> None:
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
        blocked.set()
        connection.recv(1)

    whole: list[bytes] = []

    def receive(url: str) -> None:
        with connections.exchange(Request("GET", url)) as answer:
            answer.receive(target)
            whole.append(content(target))

    with raw_server(serve) as url:
        cutter = acting(connections.cut, blocked)
        with pytest.raises(ConnectionCutError):
            receive(url)
        cutter.join()

    assert not whole


def test_a_cut_frees_a_blocked_send(connections: Connections, source: FileSlice) -> None:
    blocked, idle = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        blocked.set()
        idle.wait()

    with raw_server(serve) as url:
        cutter = acting(connections.cut, blocked)
        with pytest.raises(ConnectionCutError):
            put(connections, url, source, 32 * 1024 * 1024)
        idle.set()
        cutter.join()


def test_a_cut_between_exchanges_does_no_harm(connections: Connections, target: FileSlice) -> None:
    connections.cut()
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"] * 5
    with raw_server(answering(*answers)) as url:
        for _ in range(3):
            get(connections, url, target, 1)
            connections.cut()

    assert content(target) == b"xxx"


def test_a_cut_ends_an_exchange_under_tls(certificate: tuple[Path, Path], target: FileSlice) -> None:
    connections = Connections(Network(ca_bundle=str(certificate[0])))
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        blocked.set()
        connection.recv(1)

    with raw_server(with_tls(certificate, serve)) as url:
        cutter = acting(connections.cut, blocked)
        with pytest.raises(ConnectionCutError):
            get(connections, url.replace("http://", "https://"), target, 10)
        cutter.join()


# --- sending


def receive_body(connection: socket.socket, length: int) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.read(length)


def test_a_stretch_of_a_file_is_sent(connections: Connections, source: FileSlice) -> None:
    heads, bodies = [], []

    def serve(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        bodies.append(receive_body(connection, 5_000_000))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    source.offset, source.length = 1234, 5_000_000
    with (
        raw_server(serve) as url,
        connections.exchange(Request("PUT", f"{url}/key?a=1"), source) as answer,
    ):
        assert answer.status == 200

    assert heads[0].startswith(b"PUT /key?a=1 HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 5000000\r\n" in heads[0]
    assert bodies == [os.pread(source.fd, 5_000_000, 1234)]
    assert source.done == 5_000_000


def test_a_body_that_is_sent_again_starts_from_its_beginning(
    connections: Connections, source: FileSlice
) -> None:
    bodies = []

    def serve(connection: socket.socket) -> None:
        for _ in range(2):
            read_head(connection)
            bodies.append(receive_exactly(connection, 300))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    source.done = 17
    with raw_server(serve) as url:
        for _ in range(2):
            assert put(connections, url, source, 300) == 200

    assert bodies == [os.pread(source.fd, 300, 0)] * 2
    assert source.done == 300


def receive_exactly(connection: socket.socket, length: int) -> bytes:
    """As `receive_body`, but nothing beyond is taken from the connection."""
    return connection.recv(length, socket.MSG_WAITALL)


@pytest.mark.parametrize("body", [b"", b"<Complete/>", b"<a/>" * 100_000])
def test_a_document_is_sent(connections: Connections, body: bytes) -> None:
    received = []

    def serve(connection: socket.socket) -> None:
        head = read_head(connection)
        received.append((head.splitlines()[-2], receive_exactly(connection, len(body)) if body else b""))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with (
        raw_server(serve) as url,
        connections.exchange(Request("POST", url, (("A", "b"),), body=body)) as answer,
    ):
        assert answer.content() == b"ok"

    assert received == [(b"Content-Length: %d" % len(body), body)]


@pytest.mark.parametrize("reads", [0, 100_000])
def test_an_early_refusal_is_heard_while_we_still_send(
    connections: Connections, source: FileSlice, reads: int
) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        receive_body(connection, reads)
        connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwait")

    with raw_server(serve) as url:
        assert put(connections, url, source, 32 * 1024 * 1024) == 503


def test_interim_answers_do_not_stop_an_upload(connections: Connections, source: FileSlice) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        for interim in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"):
            connection.sendall(interim)
            receive_exactly(connection, 16 * 1024 * 1024)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with raw_server(serve) as url:
        assert put(connections, url, source, 32 * 1024 * 1024) == 200
        assert source.left == 0


def test_a_refusal_after_an_interim_answer_is_heard(connections: Connections, source: FileSlice) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
        )
        while connection.recv(65536):
            pass

    with raw_server(serve) as url:
        assert put(connections, url, source, 32 * 1024 * 1024) == 403


def test_an_early_yes_is_not_believed(connections: Connections, source: FileSlice) -> None:
    with (
        raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url,
        pytest.raises(TransientError),
    ):
        put(connections, url, source, 32 * 1024 * 1024)


@pytest.mark.parametrize("as_document", [True, False])
def test_a_server_that_takes_no_bytes_is_given_up(
    source: FileSlice, monkeypatch: pytest.MonkeyPatch, *, as_document: bool
) -> None:
    monkeypatch.setattr(link, "_EARLY_ANSWER_SECONDS", 0.05)
    connections = Connections(Network(read_timeout_seconds=0.05))
    silence = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        silence.wait()

    body = bytes(32 * 1024 * 1024) if as_document else None
    source.length = 32 * 1024 * 1024
    with raw_server(serve) as url:
        with (
            pytest.raises(TransientError, match="silent"),
            connections.exchange(Request("PUT", url, body=body), None if as_document else source),
        ):
            pass
        silence.set()


def test_a_file_that_became_shorter_is_told_as_such(connections: Connections, source: FileSlice) -> None:
    with (
        raw_server(swallowing) as url,
        pytest.raises(TransferIOError, match="source became shorter"),
    ):
        put(connections, url, source, 32 * 1024 * 1024 + 1)


def test_a_small_file_that_became_shorter_is_told_as_such(
    connections: Connections, source: FileSlice
) -> None:
    os.truncate(f"/proc/self/fd/{source.fd}", 99)
    with raw_server(swallowing) as url, pytest.raises(TransferIOError, match="source became shorter"):
        put(connections, url, source, 100)


# --- checksums of files


@pytest.mark.parametrize("length", [0, 1, 700_000])
def test_a_stretch_of_a_file_has_its_digest(connections: Connections, source: FileSlice, length: int) -> None:
    source.offset, source.length, source.done = 77, length, 3
    expected = new_digest(Algorithm.SHA256)
    expected.update(os.pread(source.fd, length, 77))

    assert connections.digest_of(source, Algorithm.SHA256) == expected.digest()
    assert source.done == 3


def test_a_digest_is_of_all_bytes_or_none(connections: Connections, source: FileSlice) -> None:
    source.length = 32 * 1024 * 1024 + 1
    with pytest.raises(TransferIOError, match="source became shorter"):
        connections.digest_of(source, Algorithm.CRC32)


def test_a_digest_ends_with_abort(connections: Connections, source: FileSlice) -> None:
    source.length = 1
    connections.abort()

    with pytest.raises(TransientError, match="stopped"):
        connections.digest_of(source, Algorithm.CRC32)


# --- pace


class CountingPace(Pace):
    """Asks nobody to wait, and notes what was moved."""

    def __init__(self, bytes_per_second: int) -> None:
        super().__init__(bytes_per_second)
        self.spent: list[int] = []

    def spend(self, count_bytes: int) -> float:
        self.spent.append(count_bytes)
        return 0.0


def test_time_is_owed_for_bytes() -> None:
    now = [0.0]
    pace = Pace(1000, lambda: now[0])

    assert pace.spend(500) == 0.5
    assert pace.spend(500) == 1.0  # another lane's
    now[0] = 1.0
    assert pace.spend(100) == pytest.approx(0.1)


def test_idle_time_is_no_credit_for_a_burst() -> None:
    now = [0.0]
    pace = Pace(1000, lambda: now[0])
    now[0] = 1000.0

    assert pace.spend(100) == 0.0
    assert pace.spend(1000) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bytes_per_second", "chunk"), [(1, 1024), (100_000, 5000), (1_000_000, 50_000), (10**9, 65536)]
)
def test_slow_paces_go_in_small_steps(bytes_per_second: int, chunk: int) -> None:
    assert Pace(bytes_per_second).chunk_bytes == chunk


@pytest.mark.parametrize("encrypted", [False, True])
def test_every_byte_of_a_body_is_counted(
    certificate: tuple[Path, Path], source: FileSlice, target: FileSlice, *, encrypted: bool
) -> None:
    pace = CountingPace(100_000)
    connections = Connections(Network(ca_bundle=str(certificate[0]), pace=pace))
    body = os.urandom(200_000)

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body)
        read_head(connection)
        receive_body(connection, 300_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with raw_server(with_tls(certificate, serve) if encrypted else serve) as url:
        address = url.replace("http://", "https://") if encrypted else url
        get(connections, address, target, 200_000)
        assert (sum(pace.spent), max(pace.spent)) == (200_000, 5000)
        pace.spent.clear()
        assert put(connections, address, source, 300_000) == 200
        assert (sum(pace.spent), max(pace.spent)) == (300_000, 5000)
    connections.close()

    assert content(target) == body


def test_abort_ends_waiting_for_the_pace(target: FileSlice) -> None:
    connections = Connections(Network(pace=Pace(1)))
    blocked = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
        blocked.set()
        connection.recv(1)

    with raw_server(serve) as url:
        stopper = acting(connections.abort, blocked)
        with pytest.raises(TransientError, match="stopped"):
            get(connections, url, target, 5000)
        stopper.join()


# --- disks


def test_a_full_disk_is_no_network_failure(connections: Connections) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url,
            pytest.raises(TransferIOError, match="No space left on device"),
        ):
            get(connections, url, FileSlice(fd, 0, 5), 5)
    finally:
        os.close(fd)


# --- TLS and proxies


def with_tls(certificate: tuple[Path, Path], serve: Callable[[socket.socket], None]) -> Callable[..., None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def wrapped(connection: socket.socket) -> None:
        # Else an answer may wait behind the session tickets, and be lost when the connection is reset.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(connection, server_side=True) as encrypted:
            serve(encrypted)

    return wrapped


def test_a_trusted_certificate_is_taken(
    certificate: tuple[Path, Path], target: FileSlice, source: FileSlice
) -> None:
    received = []

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        read_head(connection)
        received.append(receive_body(connection, 3_000_000))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    connections = Connections(Network(ca_bundle=str(certificate[0])))
    with raw_server(with_tls(certificate, serve)) as url:
        address = url.replace("http://", "https://")
        get(connections, address, target, 5)
        assert put(connections, address, source, 3_000_000) == 200
    connections.close()

    assert content(target) == b"hello"
    assert received == [os.pread(source.fd, 3_000_000, 0)]


def test_an_early_refusal_is_heard_under_tls(certificate: tuple[Path, Path], source: FileSlice) -> None:
    connections = Connections(Network(ca_bundle=str(certificate[0])))
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with raw_server(with_tls(certificate, answering(refusal))) as url:
        assert put(connections, url.replace("http://", "https://"), source, 32 * 1024 * 1024) == 403


def test_an_untrusted_certificate_is_refused_for_good(
    connections: Connections, certificate: tuple[Path, Path]
) -> None:
    with (
        raw_server(with_tls(certificate, lambda _: None)) as url,
        pytest.raises(TransferIOError, match=r"not trusted.*AWS_CA_BUNDLE"),
        connections.exchange(Request("GET", url.replace("http://", "https://"))),
    ):
        pass


def test_a_missing_ca_bundle_is_named() -> None:
    connections = Connections(Network(ca_bundle="/nonexistent.pem"))
    with (
        raw_server(lambda _: None) as url,
        pytest.raises(UsageError, match=r"/nonexistent\.pem \(No such file"),
        connections.exchange(Request("GET", url.replace("http://", "https://"))),
    ):
        pass


def test_a_proxy_is_asked_by_the_whole_url(target: FileSlice) -> None:
    heads = []

    def serve(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with raw_server(serve) as proxy:
        proxies = {"http": proxy.replace("://", "://user:p%40ss@")}
        connections = Connections(Network(proxies=proxies))
        get(connections, "http://far.example/a?b", target, 5)
        connections.close()

    assert heads[0].startswith(b"GET http://far.example/a?b HTTP/1.1\r\nHost: far.example\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in heads[0]


def test_tls_goes_through_a_proxys_tunnel(certificate: tuple[Path, Path], target: FileSlice) -> None:
    heads = []
    inside = with_tls(certificate, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))

    def serve(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inside(connection)

    with raw_server(serve) as proxy:
        network = Network(proxies={"https": proxy}, ca_bundle=str(certificate[0]))
        connections = Connections(network)
        get(connections, "https://127.0.0.1:9443/a", target, 5)
        connections.close()

    assert heads[0].startswith(b"CONNECT 127.0.0.1:9443 HTTP/1.1\r\n")
    assert content(target) == b"hello"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno",
            "127.0.0.1 answered 407",
        ),
        (b"HTTP/1.1 200 Established\r\n\r\nand more", "of its own into the tunnel"),
        (b"", "without an answer"),
        (b"SOCKS", "no HTTP"),
    ],
)
def test_a_proxy_that_gives_no_tunnel_is_told_as_such(answer: bytes, reason: str) -> None:
    with raw_server(answering(answer)) as proxy:
        connections = Connections(Network(proxies={"https": proxy}))
        with (
            pytest.raises(TransientError, match=reason),
            connections.exchange(Request("GET", "https://127.0.0.1:9443/a")),
        ):
            pass


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "socks5", "socks5h"])
@pytest.mark.parametrize("address", ["user:p%40ss@127.0.0.1:{}", "user:p/ss@127.0.0.1:{}"])
def test_a_proxy_that_is_not_spoken_to_in_http_is_sent_nothing(scheme: str, address: str) -> None:
    heard: list[bytes] = []
    with raw_server(lambda connection: heard.append(connection.recv(1))) as url:
        port = url.rpartition(":")[2]
        connections = Connections(Network(proxies={"https": f"{scheme}://{address.format(port)}"}))
        with (
            pytest.raises(UsageError, match=rf"proxy 127\.0\.0\.1:{port} .*HTTPS_PROXY") as told,
            connections.exchange(Request("GET", "https://far.example/")),
        ):
            pass

    assert heard == []
    assert "user" not in str(told.value)
    assert "ss@" not in str(told.value)


def test_hosts_that_want_no_proxy_get_none(target: FileSlice) -> None:
    with raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url:
        network = Network(proxies={"http": "http://127.0.0.1:1", "no": "127.0.0.1"})
        connections = Connections(network)
        get(connections, url, target, 5)
        connections.close()

    assert content(target) == b"hello"


# --- Retry-After


def test_retry_after_is_read_in_seconds_and_dates() -> None:
    assert retry_after_seconds("7") == 7.0
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("soon") is None
