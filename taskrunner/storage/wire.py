"""Blocking HTTP/1.1 for lanes: one request after another, with as little Python per byte as can be.

A lane (a thread) owns one `Connections`. It sends a `Request`, gets an `Answer`, and has the body put at its
place in a file: filled into one reusable buffer and written with `pwrite`, both with the interpreter lock
released. The loop stops a lane by `abort`, or one exchange of it by `cut`: both shut its sockets down, so that a
blocked call returns at once.

Nothing here retries, but for one case that is no failure: a kept-alive connection that the server has closed
meanwhile is replaced by a new one, where what was asked may be asked twice. A connection is kept only when its
answer was read to the end.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from time import time
from typing import TYPE_CHECKING

from taskrunner.errors import ConnectionCutError, TransferIOError, TransientError
from taskrunner.storage.answers import Answer
from taskrunner.storage.checksums import new_digest
from taskrunner.storage.heads import AnswerError, NoAnswerError, date_seconds
from taskrunner.storage.link import Link, Request, open_tunnel
from taskrunner.storage.network import (
    Endpoint,
    Network,
    network_error,
    refuse_metadata_address,
    resolved,
    was_cut_off,
)
from taskrunner.storage.pace import Meter
from taskrunner.storage.slices import path_of, unreadable
from taskrunner.storage.streams import Stream, set_patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.storage.checksums import Algorithm
    from taskrunner.storage.heads import Head
    from taskrunner.storage.slices import FileSlice

_SECONDS = re.compile("[0-9]{1,9}")
_BUFFER_BYTES = 256 * 1024
_UNSENT_BYTES = 256 * 1024
"""What the kernel may take in of an upload before it can send it; else megabytes would seem to be on their way."""
_KEPT_CONNECTIONS = 3
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods by which asking twice comes to the same as asking once (RFC 9110, section 9.2.2)."""

__all__ = ["Answer", "Connections", "Request", "retry_after_seconds"]


class Connections:
    """The connections of one lane: at most one per endpoint, a few kept alive.

    All methods but `abort`, `cut` and `aborted` are for the lane's own thread.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._kept: dict[Endpoint, Link] = {}
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._aborted = threading.Event()
        self._cut = threading.Event()
        self._memory: memoryview | None = None
        self._meter = None if network.pace is None else Meter(network.pace, self.pause)

    @contextmanager
    def exchange(self, request: Request, source: FileSlice | None = None) -> Iterator[Answer]:
        """Send `request` and give its answer, whatever status.

        The body is the whole of `source`, from its beginning; `source.done` counts what was sent.

        Raises:
            ConnectionCutError: `cut` was called meanwhile.
            TransientError: the network failed, or `abort` was called.
            TransferIOError: the server's certificate is not trusted, or the file can't be read or written.
            AccessDeniedError: the host is a metadata service.
            UsageError: the CA bundle can't be read, or the proxy is none that is spoken to here.
        """
        endpoint = Endpoint.of(request.url, request.ca_bundle)
        where = endpoint.authority
        link: Link | None = None
        kept = False
        try:
            self._cut.clear()
            link, head = self._ask(endpoint, request, source)
            answer = Answer(head, link.stream, request.method, where)
            yield answer
            kept = answer.reusable and not link.spoiled
        except (OSError, AnswerError) as error:
            self._raise_if_stopped()
            raise network_error(error, where) from error
        except TransientError:
            self._raise_if_stopped()
            raise
        finally:
            if link is not None:
                self._keep(link) if kept else self._discard(link)

    def _ask(self, endpoint: Endpoint, request: Request, source: FileSlice | None) -> tuple[Link, Head]:
        self.raise_if_aborted()
        kept = self._kept.pop(endpoint, None)
        if kept is not None and kept.stale:
            self._discard(kept)
        elif kept is not None:
            try:
                return kept, kept.ask(request, source, self._buffer(), self._meter)
            except (ConnectionError, NoAnswerError, ssl.SSLError) as error:
                # The server closed it while it was idle; that is no failure, and is met once only. But it may
                # as well have done what it was asked to, and not said so.
                self._discard(kept)
                self._raise_if_stopped()
                over = was_cut_off(error) or not isinstance(error, ssl.SSLError)
                if request.method not in _REPEATABLE or not over:
                    raise
            except BaseException:
                self._discard(kept)
                raise
        link = self._connect(endpoint)
        try:
            return link, link.ask(request, source, self._buffer(), self._meter)
        except BaseException:
            self._discard(link)
            raise

    def _connect(self, endpoint: Endpoint) -> Link:
        proxy = self._network.proxy_for(endpoint)
        if proxy:
            refuse_metadata_address(endpoint.host, endpoint.host)
        sock = self._connected_socket(Endpoint.of(proxy) if proxy else endpoint)
        try:
            if endpoint.scheme == "https":
                if proxy:
                    open_tunnel(sock, self._stream(sock), endpoint, proxy)
                sock = self._with_tls(sock, endpoint)
            set_patience(sock, self._network.read_timeout_seconds)
        except BaseException:
            self._forget(sock)
            raise
        return Link(endpoint, sock, self._stream(sock), proxy, self._network.read_timeout_seconds)

    def _stream(self, sock: socket.socket) -> Stream:
        return Stream(sock, self._buffer(), self._raise_if_stopped, self._meter)

    def _connected_socket(self, endpoint: Endpoint) -> socket.socket:
        failure: OSError | None = None
        for family, address in resolved(endpoint.host, endpoint.port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._remember(sock)
                sock.settimeout(self._network.connect_timeout_seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
                sock.connect(address)
            except OSError as error:
                self._forget(sock)
                self._raise_if_stopped()
                failure = error
            except BaseException:
                self._forget(sock)
                raise
            else:
                return sock
        raise failure or OSError(f"no address for {endpoint.host}")

    def _with_tls(self, sock: socket.socket, endpoint: Endpoint) -> ssl.SSLSocket:
        context = self._network.context_for(endpoint)
        with self._lock:
            wrapped = context.wrap_socket(
                sock,
                server_hostname=endpoint.host,
                do_handshake_on_connect=False,
                # Whoever cuts a body short can't say so in TLS: an end that was not said is none.
                suppress_ragged_eofs=False,
            )
            self._open.discard(sock)
            self._open.add(wrapped)
        try:
            self._raise_if_stopped()
            wrapped.do_handshake()
        except BaseException:
            self._forget(wrapped)
            raise
        return wrapped

    def abort(self) -> None:
        """From any thread: make the running call fail at once, and every later one."""
        with self._lock:
            self._aborted.set()
            self._shut_down()

    def cut(self) -> None:
        """From any thread: make the running exchange fail with ConnectionCutError; later ones are not touched.

        Between exchanges nothing fails: what was kept alive is replaced.
        """
        with self._lock:
            self._cut.set()
            self._shut_down()

    def _shut_down(self) -> None:
        for sock in self._open:
            with suppress(OSError):
                # SSLSocket's own shutdown would take the TLS state away under the reader's feet.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    @property
    def aborted(self) -> bool:
        """Whether `abort` was called."""
        return self._aborted.is_set()

    def raise_if_aborted(self) -> None:
        """For work without sockets: raise TransientError once `abort` was called."""
        if self._aborted.is_set():
            raise TransientError("the transfer was stopped")

    def _raise_if_stopped(self) -> None:
        self.raise_if_aborted()
        if self._cut.is_set():
            raise ConnectionCutError("the connection was given up, since others are faster")

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until `abort`. Raises TransientError then."""
        self._aborted.wait(seconds)
        self.raise_if_aborted()

    def digest_of(self, source: FileSlice, algorithm: Algorithm) -> bytes:
        """What all bytes of `source` come to, read from its file. Not while an answer is being read.

        Raises TransferIOError where the file became shorter or can't be read, TransientError once aborted.
        """
        digest = new_digest(algorithm)
        buffer = self._buffer()
        position, left = source.offset, source.length or 0
        while left:
            self.raise_if_aborted()
            try:
                count = os.preadv(source.fd, [buffer[:left]], position)
            except OSError as error:
                raise unreadable(source, error) from error
            if not count:
                raise TransferIOError(f"{path_of(source.fd)} became shorter while it was read")
            digest.update(buffer[:count])
            position += count
            left -= count
        return digest.digest()

    def close(self) -> None:
        """Close what is kept alive."""
        for link in list(self._kept.values()):
            self._discard(link)
        self._kept.clear()

    def _buffer(self) -> memoryview:
        if self._memory is None:
            self._memory = memoryview(bytearray(_BUFFER_BYTES))
        return self._memory

    def _keep(self, link: Link) -> None:
        self._kept[link.endpoint] = link
        if len(self._kept) > _KEPT_CONNECTIONS:
            self._discard(self._kept.pop(next(iter(self._kept))))

    def _discard(self, link: Link) -> None:
        self._forget(link.socket)

    def _remember(self, sock: socket.socket) -> None:
        with self._lock:
            self._raise_if_stopped()
            self._open.add(sock)

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.discard(sock)
            sock.close()


def retry_after_seconds(value: str | None) -> float | None:
    """A Retry-After header's value in seconds from now (RFC 9110, section 10.2.3); None where unreadable."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    date = date_seconds(value)
    return None if date is None else max(0.0, date - time())
