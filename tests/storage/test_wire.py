"""The lanes' HTTP: what happens when servers, networks and disks misbehave."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskrunner.errors import AccessDeniedError, TransferIOError, TransientError, UsageError
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.wire import Connections, Request, retry_after_seconds
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
    with connections.exchange(Request("GET", url)) as answer:
        assert answer.status == 200
        answer.receive(target, length)


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


def aborting(connections: Connections, when: threading.Event) -> threading.Thread:
    """A thread that aborts when told."""

    def abort() -> None:
        when.wait()
        connections.abort()

    thread = threading.Thread(target=abort)
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
        stopper = aborting(connections, blocked)
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
        stopper = aborting(connections, blocked)
        with (
            pytest.raises(TransientError, match="stopped"),
            connections.exchange(Request("PUT", url), source, 32 * 1024 * 1024),
        ):
            pass
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
        stopper = aborting(connections, blocked)
        with pytest.raises(TransientError, match="stopped"):
            get(connections, url, target, None)
        stopper.join()


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

    source.offset = 1234
    with (
        raw_server(serve) as url,
        connections.exchange(Request("PUT", f"{url}/key?a=1"), source, 5_000_000) as answer,
    ):
        assert answer.status == 200

    assert heads[0].startswith(b"PUT /key?a=1 HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 5000000\r\n" in heads[0]
    assert bodies == [os.pread(source.fd, 5_000_000, 1234)]
    assert source.done == 5_000_000


@pytest.mark.parametrize("reads", [0, 100_000])
def test_an_early_refusal_is_heard_while_we_still_send(
    connections: Connections, source: FileSlice, reads: int
) -> None:
    def serve(connection: socket.socket) -> None:
        read_head(connection)
        receive_body(connection, reads)
        connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwait")

    with (
        raw_server(serve) as url,
        connections.exchange(Request("PUT", url), source, 32 * 1024 * 1024) as answer,
    ):
        assert answer.status == 503


def test_an_early_yes_is_not_believed(connections: Connections, source: FileSlice) -> None:
    with (
        raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as url,
        pytest.raises(TransientError),
        connections.exchange(Request("PUT", url), source, 32 * 1024 * 1024),
    ):
        pass


def test_a_file_that_became_shorter_is_told_as_such(connections: Connections, source: FileSlice) -> None:
    with (
        raw_server(swallowing) as url,
        pytest.raises(TransferIOError, match="source became shorter"),
        connections.exchange(Request("PUT", url), source, 32 * 1024 * 1024 + 1),
    ):
        pass


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
        with connections.exchange(Request("PUT", address), source, 3_000_000) as answer:
            assert answer.status == 200
    connections.close()

    assert content(target) == b"hello"
    assert received == [os.pread(source.fd, 3_000_000, 0)]


def test_an_early_refusal_is_heard_under_tls(certificate: tuple[Path, Path], source: FileSlice) -> None:
    connections = Connections(Network(ca_bundle=str(certificate[0])))
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with (
        raw_server(with_tls(certificate, answering(refusal))) as url,
        connections.exchange(
            Request("PUT", url.replace("http://", "https://")), source, 32 * 1024 * 1024
        ) as answer,
    ):
        assert answer.status == 403


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
