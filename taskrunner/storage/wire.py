"""Blocking HTTP/1.1 for lanes: one request after another, with as little Python per byte as can be.

A lane (a thread) owns one `Connections`. It sends a `Request`, gets an `Answer`, and has the body put at its
place in a file: filled into one reusable buffer and written with `pwrite`, both with the interpreter lock
released. The loop stops a lane by `abort`, which shuts its sockets down, so that a blocked call returns at once.

Nothing here retries, but for one case that is no failure: a kept-alive connection that the server has closed
meanwhile is replaced by a new one. A connection is kept only when its answer was read to the end.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING

from taskrunner.errors import TransferIOError, TransientError
from taskrunner.storage.link import Link, Request, open_tunnel
from taskrunner.storage.network import (
    Endpoint,
    Network,
    network_error,
    refuse_metadata_address,
    resolved,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.storage.slices import FileSlice

_SECONDS = re.compile("[0-9]{1,9}")
_BUFFER_BYTES = 1024 * 1024
_ERROR_BODY_BYTES = 64 * 1024
_KEPT_CONNECTIONS = 3

__all__ = ["Answer", "Connections", "Request", "retry_after_seconds"]


class Answer:
    """The head of an answer, and its body for the asking."""

    def __init__(self, response: http.client.HTTPResponse, buffer: memoryview, where: str) -> None:
        self.status = response.status
        self._response = response
        self._buffer = buffer
        self._where = where

    def header(self, name: str) -> str | None:
        """One header's value."""
        return self._response.headers.get(name)

    @property
    def length(self) -> int | None:
        """The body's length, where the server told it."""
        return self._response.length

    @property
    def drained(self) -> bool:
        """Whether the body was read to its end."""
        return self._response.isclosed()

    def receive(self, target: FileSlice, length: int | None) -> None:
        """Append the body to `target`: exactly `length` bytes, or all there are to its proper end.

        Raises:
            TransientError: the body ended early; `target.done` bytes are in the file.
            TransferIOError: the disk does not take the bytes.
        """
        left = self._response.length if length is None else length
        while left is None or left > 0:
            room = self._buffer if left is None or left >= len(self._buffer) else self._buffer[:left]
            count = self._response.readinto(room)
            if not count:
                break
            target.append(room[:count])
            left = None if left is None else left - count
        if left:
            raise TransientError(f"{self._where} closed the connection {left} bytes before the end")
        if not self.drained and self._has_more(all_told=length is not None):
            raise TransferIOError(f"{self._where} sends more than the {length} bytes that were told")

    def _has_more(self, *, all_told: bool) -> bool:
        """Whether bytes follow: a chunked body has its end still to come, even when all its bytes are here.

        Where it breaks off there, nothing is missing but that end, if the length was told: asking for the rest
        would be asking for nothing.
        """
        with suppress(*((OSError, http.client.HTTPException) if all_told else ())):
            return bool(self._response.read(1))
        return False

    def excerpt(self) -> bytes:
        """The beginning of the body, for what it says about an error; empty where it can't be read."""
        try:
            return self._response.read(_ERROR_BODY_BYTES)
        except (OSError, http.client.HTTPException):
            return b""


class Connections:
    """The connections of one lane: at most one per endpoint, a few kept alive.

    All methods but `abort` and `aborted` are for the lane's own thread.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._kept: dict[Endpoint, Link] = {}
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._aborted = threading.Event()
        self._memory: memoryview | None = None

    @contextmanager
    def exchange(
        self, request: Request, source: FileSlice | None = None, length: int = 0
    ) -> Iterator[Answer]:
        """Send `request` (with `length` bytes of `source` as its body) and give its answer, whatever status.

        Raises:
            TransientError: the network failed, or `abort` was called.
            TransferIOError: the server's certificate is not trusted, or the file can't be read or written.
            AccessDeniedError: the host is a metadata service.
            UsageError: the CA bundle can't be read.
        """
        endpoint = Endpoint.of(request.url, request.ca_bundle)
        where = endpoint.authority
        link: Link | None = None
        kept = False
        try:
            link, response = self._ask(endpoint, request, source, length)
            answer = Answer(response, self._buffer(), where)
            yield answer
            self.raise_if_aborted()  # else a body without a length would seem to be whole
            kept = answer.drained and not response.will_close and not link.spoiled
        except (OSError, http.client.HTTPException) as error:
            self.raise_if_aborted()
            raise network_error(error, where) from error
        except TransientError:
            self.raise_if_aborted()
            raise
        finally:
            if link is not None:
                self._keep(link) if kept else self._discard(link)

    def _ask(
        self, endpoint: Endpoint, request: Request, source: FileSlice | None, length: int
    ) -> tuple[Link, http.client.HTTPResponse]:
        self.raise_if_aborted()
        kept = self._kept.pop(endpoint, None)
        if kept is not None:
            try:
                return kept, kept.ask(request, source, length)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                # The server closed it while it was idle; that is no failure, and is met once only.
                self._discard(kept)
                self.raise_if_aborted()
            except BaseException:
                self._discard(kept)
                raise
        link = self._connect(endpoint)
        try:
            return link, link.ask(request, source, length)
        except BaseException:
            self._discard(link)
            raise

    def _connect(self, endpoint: Endpoint) -> Link:
        proxy = self._network.proxy_for(endpoint)
        if proxy:
            refuse_metadata_address(endpoint.host, endpoint.host)
        through = Endpoint.of(proxy) if proxy else endpoint
        sock = self._connected_socket(through)
        try:
            if proxy and endpoint.scheme == "https":
                open_tunnel(sock, endpoint, proxy)
            if endpoint.scheme == "https":
                sock = self._with_tls(sock, endpoint)
        except BaseException:
            self._forget(sock)
            raise
        sock.settimeout(self._network.read_timeout_seconds)
        return Link(endpoint, sock, proxy)

    def _connected_socket(self, endpoint: Endpoint) -> socket.socket:
        failure: OSError | None = None
        for family, address in resolved(endpoint.host, endpoint.port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            self._remember(sock)
            try:
                sock.settimeout(self._network.connect_timeout_seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
            except OSError as error:
                self._forget(sock)
                self.raise_if_aborted()
                failure = error
            else:
                return sock
        raise failure or OSError(f"no address for {endpoint.host}")

    def _with_tls(self, sock: socket.socket, endpoint: Endpoint) -> ssl.SSLSocket:
        context = self._network.context_for(endpoint)
        with self._lock:
            wrapped = context.wrap_socket(sock, server_hostname=endpoint.host, do_handshake_on_connect=False)
            self._open.discard(sock)
            self._open.add(wrapped)
        try:
            self.raise_if_aborted()
            wrapped.do_handshake()
        except BaseException:
            self._forget(wrapped)
            raise
        return wrapped

    def abort(self) -> None:
        """From any thread: make the running call fail at once, and every later one."""
        with self._lock:
            self._aborted.set()
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

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until `abort`. Raises TransientError then."""
        self._aborted.wait(seconds)
        self.raise_if_aborted()

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
        link.close()
        self._forget(link.socket)

    def _remember(self, sock: socket.socket) -> None:
        with self._lock:
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
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return None
