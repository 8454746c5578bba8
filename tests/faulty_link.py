"""A link to a real server that goes wrong where it is told to, for tests of what must not break then.

    client --> FaultyLink --> server
                  |
              troubles: which request, what happens to it, how often

It is an HTTP proxy in the way of a mirror: clients take it for the server, and what they ask is passed on as
it came, Host header and all, so signatures hold. Every request is written down with the bytes that went either
way, so tests can count. Each connection is a thread; nothing sleeps: what stalls waits for the client to go.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from io import BufferedReader
from typing import cast
from urllib.parse import parse_qs, urlsplit

from taskrunner.storage.checksums import Algorithm, new_digest

_CHUNK_BYTES = 64 * 1024
_SERVER_SECONDS = 60
_SMALL_QUEUE_BYTES = 64 * 1024
"""What the kernel takes in for us while we don't read: little, so that who sends to us is held up soon."""
_NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class HangUpError(Exception):
    """This connection is to end here and now."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and what became of it."""

    number: int
    """Of all requests over this link, from 1."""
    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name."""
    sent_bytes: int = 0
    """Of the request's body, as far as it came from the client."""
    received_bytes: int = 0
    """Of the answer's body, as far as it was handed to the client."""
    status: int | None = None
    """What the client was answered."""
    _near: socket.socket = field(kw_only=True)
    _reader: BufferedReader = field(kw_only=True)
    _link: FaultyLink = field(kw_only=True)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {
            name: values[0]
            for name, values in parse_qs(urlsplit(self.target).query, keep_blank_values=True).items()
        }

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def unread_bytes(self) -> int:
        return self.length - self.sent_bytes

    def body(self, most: int | None = None) -> Iterator[bytes]:
        """The request's body, or the next `most` bytes of it, as it comes."""
        left = self.unread_bytes if most is None else min(most, self.unread_bytes)
        while left:
            chunk = self._reader.read1(min(left, _CHUNK_BYTES))
            if not chunk:
                raise HangUpError
            left -= len(chunk)
            self.sent_bytes += len(chunk)
            yield chunk

    def read_body(self) -> bytes:
        return b"".join(self.body())

    @contextmanager
    def asked(self, body: Iterable[bytes] | None = None) -> Iterator[HTTPResponse]:
        """The server's answer to this very request."""
        connection = self._link.connection_to_the_server()
        try:
            connection.putrequest(self.method, self.target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            with suppress(ConnectionError):  # a server that has said no does not read the rest
                for chunk in self.body() if body is None else body:
                    connection.send(chunk)
            self.read_body()
            yield connection.getresponse()
        finally:
            self._link.forget(connection)

    def answer(
        self, status: int, headers: Iterable[tuple[str, str]], body: Iterable[bytes], length: int
    ) -> None:
        """Send an answer of `length` bytes; of its body what `body` gives, whether that is so much or not."""
        self.status = status
        kept = [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]
        lines = [f"HTTP/1.1 {status} As it is", f"Content-Length: {length}", *map(": ".join, kept)]
        self._near.sendall("\r\n".join([*lines, "\r\n"]).encode("latin-1"))
        for chunk in body:
            # Counted first: who has got the last byte may look at once.
            self.received_bytes += len(chunk)
            try:
                self._near.sendall(chunk)
            except OSError:
                self.received_bytes -= len(chunk)
                raise

    def pass_on(self, came: HTTPResponse) -> None:
        """Give the client the server's answer, as it comes."""
        told = came.getheader("Content-Length")
        if told is None:  # in chunks: no matter here, so it is told in one piece
            self.pass_on_as(came, came.read())
        else:
            self.answer(came.status, came.getheaders(), _chunks(came), int(told))

    def pass_on_as(self, came: HTTPResponse, whole: bytes, body: bytes | None = None) -> None:
        """Give the client the server's answer, whose body is `whole`, with the body `body` and the same length."""
        length = int(came.getheader("Content-Length") or len(whole))
        self.answer(came.status, came.getheaders(), [whole if body is None else body], length)

    def forward(self) -> None:
        """What happens without any trouble."""
        with self.asked() as came:
            self.pass_on(came)

    def reset(self) -> None:
        """End the connection at once and rudely: the client may lose even what is on its way to it."""
        self._near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise HangUpError

    def await_the_client_going(self, *, or_readable: int | None = None) -> None:
        """Stay silent until the client closes the connection (or the link is closed), then do the same.

        Returns once there is something to be read from the descriptor `or_readable`.
        """
        poll = select.poll()
        poll.register(self._near, select.POLLRDHUP | select.POLLHUP)
        if or_readable is not None:
            poll.register(or_readable, select.POLLIN)
        if any(descriptor != or_readable for descriptor, _ in poll.poll()):
            raise HangUpError


def _chunks(came: HTTPResponse) -> Iterator[bytes]:
    while chunk := came.read(_CHUNK_BYTES):
        yield chunk


When = Callable[[Exchange], bool]
Act = Callable[[Exchange], None]


@dataclass(slots=True)
class Trouble:
    """Something that goes wrong with some requests."""

    when: When
    act: Act
    times: int | None = 1
    """How often it does; None for always."""
    after: int = 0
    """So many requests of the kind go well before."""
    met: int = 0
    done: int = 0

    def takes(self, exchange: Exchange) -> bool:
        """Whether this request is one that it befalls; counts it."""
        if not self.when(exchange):
            return False
        self.met += 1
        if self.met <= self.after or (self.times is not None and self.done >= self.times):
            return False
        self.done += 1
        return True


class FaultyLink:
    """See the module. `url` is the server's address for the client."""

    def __init__(self, server_url: str) -> None:
        server = urlsplit(server_url)
        self._server = (server.hostname or "", server.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_QUEUE_BYTES)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.exchanges: list[Exchange] = []
        self.troubles: list[Trouble] = []
        self.failures: list[BaseException] = []
        """What went wrong here without being told to: a test's own mistake, or the server's end."""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def trouble(self, when: When, act: Act, *, times: int | None = 1, after: int = 0) -> Trouble:
        """Let something go wrong from now on."""
        trouble = Trouble(when, act, times, after)
        with self._lock:
            self.troubles.append(trouble)
        return trouble

    def heal(self) -> None:
        """No more trouble, and count anew."""
        with self._lock:
            self.troubles.clear()
            self.exchanges.clear()

    def seen(self, when: When) -> list[Exchange]:
        """The requests of a kind so far."""
        with self._lock:
            return [exchange for exchange in self.exchanges if when(exchange)]

    def received_bytes(self, when: When) -> int:
        """How many bytes of answers' bodies went to the client."""
        return sum(exchange.received_bytes for exchange in self.seen(when))

    def sent_bytes(self, when: When) -> int:
        """How many bytes of requests' bodies came from the client."""
        return sum(exchange.sent_bytes for exchange in self.seen(when))

    def connection_to_the_server(self) -> HTTPConnection:
        """A new one, which the link's end ends as well."""
        connection = HTTPConnection(*self._server, timeout=_SERVER_SECONDS)
        connection.connect()
        with self._lock:
            if self._closed:
                connection.close()
                raise HangUpError
            self._open.add(connection.sock)
        return connection

    def forget(self, connection: HTTPConnection) -> None:
        """Close a connection to the server."""
        with self._lock:
            self._open = {sock for sock in self._open if sock is not connection.sock}
        connection.close()

    def serve(self) -> None:
        """Accept connections until closed."""
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._talk, args=(near,), name="faulty-link", daemon=True)
            with self._lock:
                if self._closed:
                    near.close()
                    return
                self._open.add(near)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """End every connection and every thread; safe to call again.

        Blocks, so a server in an event loop has to be given the chance to see its connections end.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for near in self._open:
                with suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _talk(self, near: socket.socket) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = cast("BufferedReader", near.makefile("rb", _CHUNK_BYTES))
        try:
            while (exchange := self._next(near, reader)) is not None:
                self._act_for(exchange)(exchange)
                if exchange.unread_bytes:
                    break  # what follows is no request
        except (HangUpError, ConnectionError, BrokenPipeError):
            pass
        except (OSError, HTTPException) as failure:
            if not self._closed:
                self.failures.append(failure)
        except BaseException as failure:  # noqa: BLE001  # told to whoever runs the test
            self.failures.append(failure)
        finally:
            with self._lock:
                self._open.discard(near)
            reader.close()
            near.close()

    def _next(self, near: socket.socket, reader: BufferedReader) -> Exchange | None:
        lines: list[str] = []
        while (line := reader.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        if not lines or not line:
            return None
        method, target, _ = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        with self._lock:
            exchange = Exchange(
                len(self.exchanges) + 1,
                method,
                target,
                headers,
                _near=near,
                _reader=reader,
                _link=self,
            )
            self.exchanges.append(exchange)
        return exchange

    def _act_for(self, exchange: Exchange) -> Act:
        with self._lock:
            for trouble in self.troubles:
                if trouble.takes(exchange):
                    return trouble.act
        return Exchange.forward


@contextmanager
def faulty_link(server_url: str) -> Iterator[FaultyLink]:
    """A link to a server, without trouble so far. What went wrong in it by mistake is raised at its end."""
    link = FaultyLink(server_url)
    serving = threading.Thread(target=link.serve, name="faulty-link-listener", daemon=True)
    serving.start()
    try:
        yield link
    finally:
        link.close()
        serving.join()
    if link.failures:
        raise ExceptionGroup("the link itself failed", [Exception(repr(one)) for one in link.failures])


# --- which requests


def anything(_exchange: Exchange) -> bool:
    return True


def asks(method: str | None = None, *, key: str | None = None, query: str | None = None) -> When:
    """Requests by method, by the end of their path, by the name of a parameter in their query."""

    def matches(exchange: Exchange) -> bool:
        return (
            method in (None, exchange.method)
            and (key is None or exchange.path.endswith(f"/{key}"))
            and (query is None or query in exchange.query)
        )

    return matches


def is_part(number: int | None = None) -> When:
    """PUTs of an upload's part, or of one by its number."""

    def matches(exchange: Exchange) -> bool:
        told = exchange.query.get("partNumber")
        return exchange.method == "PUT" and told is not None and number in (None, int(told))

    return matches


def from_byte(position: int) -> When:
    """GETs that ask for bytes from there on."""
    return lambda exchange: exchange.headers.get("range", "").startswith(f"bytes={position}-")


def every_other_time(when: When = anything) -> When:
    """The first, the third, … time that the very same is asked."""
    times: Counter[tuple[str, str, str | None]] = Counter()

    def matches(exchange: Exchange) -> bool:
        asked = exchange.method, exchange.target, exchange.headers.get("range")
        times[asked] += when(exchange)
        return when(exchange) and times[asked] % 2 == 1

    return matches


is_get = asks("GET")
is_put = asks("PUT")
is_begin = asks("POST", query="uploads")
is_complete = asks("POST", query="uploadId")
is_abort = asks("DELETE", query="uploadId")
is_list = asks("GET", query="list-type")


def is_bucket(exchange: Exchange) -> bool:
    """HEADs of a bucket."""
    return exchange.method == "HEAD" and exchange.path.strip("/").count("/") == 0


def is_look(exchange: Exchange) -> bool:
    """HEADs of an object."""
    return exchange.method == "HEAD" and not is_bucket(exchange)


# --- what happens to them


def refuse(
    status: int, code: str = "", *, retry_after: int | None = 0, unread: bool = False, message: str = "no"
) -> Act:
    """An answer of S3's that is no; with `unread` before the request's body was read, as busy servers do."""
    wait = () if retry_after is None else (("Retry-After", str(retry_after)),)
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
    return instead(status, body, wait, unread=unread)


def instead(
    status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), *, unread: bool = False
) -> Act:
    """An answer of our own; the server never hears of the request."""

    def act(exchange: Exchange) -> None:
        if not unread:
            exchange.read_body()
        exchange.answer(status, headers, () if exchange.method == "HEAD" else [body], len(body))

    return act


def hang_up(exchange: Exchange) -> None:
    """The request is read and never answered."""
    exchange.read_body()
    raise HangUpError


def hang_up_while_sent(after_bytes: int) -> Act:
    """The connection breaks while the request's body is on its way."""

    def act(exchange: Exchange) -> None:
        for _ in exchange.body(after_bytes):
            pass
        exchange.reset()

    return act


def cut_answer(after_bytes: int, *, rudely: bool = False) -> Act:
    """The connection ends in the middle of the answer's body; `rudely`: is reset."""

    def act(exchange: Exchange) -> None:
        with exchange.asked() as came:
            whole = came.read()
            exchange.pass_on_as(came, whole, whole[:after_bytes])
        if rudely:
            exchange.reset()
        raise HangUpError

    return act


def stall(exchange: Exchange) -> None:
    """The request is read, and no answer comes."""
    exchange.read_body()
    exchange.await_the_client_going()


def stall_while_sent(after_bytes: int) -> Act:
    """In the middle of the request's body nothing is taken any more."""

    def act(exchange: Exchange) -> None:
        for _ in exchange.body(after_bytes):
            pass
        exchange.await_the_client_going()

    return act


def stall_answer(after_bytes: int) -> Act:
    """In the middle of the answer's body nothing comes any more."""

    def act(exchange: Exchange) -> None:
        with exchange.asked() as came:
            whole = came.read()
            exchange.pass_on_as(came, whole, whole[:after_bytes])
        exchange.await_the_client_going()

    return act


def lose_answer(exchange: Exchange) -> None:
    """The server does what it was asked, and the client never hears of it."""
    with exchange.asked() as came:
        came.read()
    raise HangUpError


def done_but(act: Act) -> Act:
    """The server does what it was asked, and something else is said of it."""

    def done(exchange: Exchange) -> None:
        with exchange.asked() as came:
            came.read()
        act(exchange)

    return done


def damage(at: int) -> Act:
    """One byte of the answer's body is another."""

    def act(exchange: Exchange) -> None:
        with exchange.asked() as came:
            body = bytearray(came.read())
            body[at] ^= 0xFF
            exchange.pass_on_as(came, bytes(body))

    return act


def damage_sent(at: int) -> Act:
    """One byte of the request's body is another; who was told its checksum says so, as S3 does."""

    def act(exchange: Exchange) -> None:
        body = bytearray(exchange.read_body())
        body[at] ^= 0xFF
        if _fits_its_checksum(exchange, bytes(body)):
            with exchange.asked([bytes(body)]) as came:
                exchange.pass_on(came)
        else:
            refuse(400, "BadDigest", message="The checksum you specified did not match")(exchange)

    return act


def _fits_its_checksum(exchange: Exchange, body: bytes) -> bool:
    for algorithm in Algorithm:
        told = exchange.headers.get(algorithm.header)
        if told is not None:
            digest = new_digest(algorithm)
            digest.update(body)
            return base64.b64encode(digest.digest()).decode() == told
    return True


def meanwhile(happens: Callable[[], object], then: Act = Exchange.forward) -> Act:
    """Something happens just before the request goes on."""

    def act(exchange: Exchange) -> None:
        happens()
        then(exchange)

    return act


class Gate:
    """Holds requests up and says that it does, so that a test knows where its client is."""

    def __init__(self, waiting: int = 1) -> None:
        """`waiting`: how many requests it takes until the client counts as being here."""
        self._waiting = threading.Semaphore(0)
        self._expected = waiting
        self._opened = os.eventfd(0)

    def __del__(self) -> None:
        os.close(self._opened)

    def wait(self, seconds: float = 60) -> None:
        """Wait until so many requests are held up."""
        for _ in range(self._expected):
            assert self._waiting.acquire(timeout=seconds), "the client never came here"

    def open(self) -> None:
        """Let them go on, and all that follow."""
        os.eventfd_write(self._opened, 1)

    def hold(self, exchange: Exchange) -> None:
        """Hold a request up for good: it is read, the server never hears of it."""
        exchange.read_body()
        self._waiting.release()
        exchange.await_the_client_going()

    def hold_back(self, exchange: Exchange) -> None:
        """Hold a request up until the gate opens; then the server hears of it."""
        self._waiting.release()
        exchange.await_the_client_going(or_readable=self._opened)
        exchange.forward()

    def hold_answer(self, after_bytes: int) -> Act:
        """Hold up the rest of an answer's body for good."""

        def act(exchange: Exchange) -> None:
            with exchange.asked() as came:
                whole = came.read()
            exchange.pass_on_as(came, whole, whole[:after_bytes])
            self._waiting.release()
            exchange.await_the_client_going()

        return act

    def hold_sent(self, after_bytes: int) -> Act:
        """Take no more of a request's body, for good."""

        def act(exchange: Exchange) -> None:
            for _ in exchange.body(after_bytes):
                pass
            self._waiting.release()
            exchange.await_the_client_going()

        return act

    def hold_done(self, exchange: Exchange) -> None:
        """The server does what it was asked; its answer waits for the gate to open."""
        with exchange.asked() as came:
            body = came.read()
            self._waiting.release()
            exchange.await_the_client_going(or_readable=self._opened)
            exchange.pass_on_as(came, body)
