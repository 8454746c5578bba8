"""One HTTP/1.1 connection: requests go out on it, bodies and all, and the heads of answers come in.

What is small goes out with its head, in one piece. Large bodies go from the page cache to the socket by
`sendfile`; under TLS, by `preadv` and `sendall`. A server may answer before it has read everything (403, 503),
and close: then its answer counts, not the broken pipe.
"""

from __future__ import annotations

import os
import re
import select
import ssl
from dataclasses import dataclass, field
from socket import MSG_MORE, MSG_PEEK
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskrunner.errors import TransferIOError
from taskrunner.storage.heads import AnswerError, Head
from taskrunner.storage.network import Endpoint, proxy_authorization, target_of
from taskrunner.storage.slices import path_of, unreadable
from taskrunner.storage.streams import Stream, set_patience

if TYPE_CHECKING:
    import socket

    from taskrunner.storage.pace import Meter
    from taskrunner.storage.slices import FileSlice

_EARLY_ANSWER_SECONDS = 5.0
_INTERIM_ANSWER = (b"HTTP/1.1 1", b"HTTP/1.0 1")
_LONGEST_INTERIM_BYTES = 4096
_TARGET = re.compile("/[!-~]*")
# What would end a header, or is allowed in none (RFC 9110, section 5.5).
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; Host is added, and Content-Length where there is a body."""

    method: str
    url: str
    """Absolute and percent-encoded."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_bundle: str | None = None
    body: bytes | None = field(default=None, repr=False)
    """A small document; files are sent as the `source` of an exchange."""
    silence_seconds: float | None = None
    """How long the server may stay silent, where that is known to be long."""


class Link:
    """One open connection, for one lane."""

    def __init__(
        self,
        endpoint: Endpoint,
        sock: socket.socket,
        stream: Stream,
        proxy: str | None,
        patience_seconds: float,
    ) -> None:
        self.endpoint = endpoint
        self.socket = sock
        self.stream = stream
        # Plain http goes through a proxy by naming the whole URL; https through a tunnel, unseen.
        self._absolute = proxy is not None and endpoint.scheme == "http"
        self._proxy_authorization = proxy_authorization(proxy) if proxy and self._absolute else None
        self._patience_seconds = self._usual_patience_seconds = patience_seconds
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self.spoiled = False
        """Whether no further request may be sent here."""

    @property
    def stale(self) -> bool:
        """Whether, although nothing was asked, something came: the connection's end, or no answer of ours.

        What came in one TLS record with the last answer's end lies decrypted, where no poll sees it.
        """
        decrypted = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
        return bool(decrypted or self._readable.poll(0))

    def ask(
        self, request: Request, source: FileSlice | None, buffer: memoryview, meter: Meter | None
    ) -> Head:
        """Send one request, with `source` as its body, and read the head of its answer.

        Raises OSError, AnswerError, and TransferIOError where the file can't be read or the request not be said.
        """
        head = self._head(request, source)
        self._be_patient(request.silence_seconds or self._usual_patience_seconds)
        try:
            self._send(head, source, buffer, meter)
        except (ConnectionError, TimeoutError, ssl.SSLError) as error:
            # A server may answer (403, 503) and close before it has read everything: its answer says more.
            self.spoiled = True
            self._be_patient(_EARLY_ANSWER_SECONDS)
            try:
                answer = self.stream.head()
            except (OSError, AnswerError):
                raise error from None
        else:
            answer = self.stream.head()
        if self.spoiled and answer.status < 300:
            raise ConnectionAbortedError(None, "the answer came before the whole request was sent")
        return answer

    def _be_patient(self, seconds: float) -> None:
        if seconds != self._patience_seconds:
            self._patience_seconds = seconds
            set_patience(self.socket, seconds)

    def _head(self, request: Request, source: FileSlice | None) -> bytes:
        """What is sent before `source`: the request's head, and its body if it is a small one."""
        authority = self.endpoint.authority
        target = target_of(request.url)
        if not _TARGET.fullmatch(target):
            raise TransferIOError(
                f"{request.url!r} can't be asked for: it has characters that no URL may have"
            )
        if self._absolute:
            target = f"http://{authority}{target}"
        lines = [f"{request.method} {target} HTTP/1.1", f"Host: {authority}"]
        lines += [f"{name}: {value}" for name, value in request.headers]
        if self._proxy_authorization:
            lines.append(f"Proxy-Authorization: {self._proxy_authorization}")
        if source is not None:
            lines.append(f"Content-Length: {source.length or 0}")
        elif request.body is not None:
            lines.append(f"Content-Length: {len(request.body)}")
        if any(map(_UNSENDABLE.search, lines)):
            raise TransferIOError(
                f"{request.url} can't be asked for: a header has characters that none may have"
            )
        try:
            head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
        except UnicodeEncodeError as error:
            raise TransferIOError(f"{request.url} can't be asked for: a header is not in Latin-1") from error
        return head if request.body is None else head + request.body

    def _send(self, head: bytes, source: FileSlice | None, buffer: memoryview, meter: Meter | None) -> None:
        if source is None:
            _send_all(self.socket, head)
            return
        source.done = 0
        length = source.length or 0
        if len(head) + length <= len(buffer) and meter is None:
            buffer[: len(head)] = head
            _read_exactly(source, buffer[len(head) : len(head) + length])
            _send_all(self.socket, buffer[: len(head) + length])
            source.done = length
        elif isinstance(self.socket, ssl.SSLSocket):
            self.socket.sendall(head)
            _send_encrypted(self.socket, source, buffer, meter)
        else:
            _send_all(self.socket, head, MSG_MORE if length else 0)
            self.spoiled = not _send_plain(self.socket, source, self._patience_seconds, meter)


def open_tunnel(sock: socket.socket, stream: Stream, endpoint: Endpoint, proxy: str) -> None:
    """Have the proxy connect us to `endpoint` (RFC 9110, section 9.3.6). Raises OSError, AnswerError."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    authority = f"{host}:{endpoint.port}"
    authorization = proxy_authorization(proxy)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    _send_all(sock, "\r\n".join((*lines, "\r\n")).encode("latin-1"))
    answer = stream.head()
    name = urlsplit(proxy).hostname
    if answer.status != 200:
        raise ConnectionRefusedError(None, f"the proxy {name} answered {answer.status}")
    if not stream.empty:  # who speaks first in TLS is us
        raise ConnectionAbortedError(None, f"the proxy {name} sent something of its own into the tunnel")


def _send_all(sock: socket.socket, data: bytes | memoryview, flags: int = 0) -> None:
    try:
        sock.sendall(data, flags)
    except BlockingIOError as error:  # SO_SNDTIMEO's word for it
        raise TimeoutError from error


def _send_plain(sock: socket.socket, source: FileSlice, patience_seconds: float, meter: Meter | None) -> bool:
    """Send `source`; False when the server began to answer before it had all of it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    sock.setblocking(False)  # noqa: FBT003  # its only parameter
    try:
        while left := source.left:
            events = poll.poll(patience_seconds * 1000)
            if not events:
                raise TimeoutError("the server takes no more bytes")
            if events[0][1] & ~select.POLLOUT:
                if _took_interim_answer(sock):
                    continue
                return False
            most = left if meter is None else min(left, meter.pace.chunk_bytes)
            try:
                sent = os.sendfile(sock.fileno(), source.fd, source.position, most)
            except BlockingIOError:
                continue
            except (ConnectionError, TimeoutError):
                raise
            except OSError as error:
                raise unreadable(source, error) from error
            _must_have_more(sent, source)
            source.done += sent
            if meter is not None:
                meter.spend(sent)
    finally:
        sock.setblocking(True)  # noqa: FBT003
    return True


def _took_interim_answer(sock: socket.socket) -> bool:
    """Take one such as "100 Continue" off a connection where something came; False where it is another thing."""
    came = sock.recv(_LONGEST_INTERIM_BYTES, MSG_PEEK)
    end = came.find(b"\r\n\r\n") + 4
    if not came.startswith(_INTERIM_ANSWER) or end < 4:
        return False
    sock.recv(end)
    return True


def _send_encrypted(sock: ssl.SSLSocket, source: FileSlice, buffer: memoryview, meter: Meter | None) -> None:
    # TLS sockets are readable for reasons of their own (session tickets): no early answer is looked for.
    if meter is not None:
        buffer = buffer[: meter.pace.chunk_bytes]
    while left := source.left:
        chunk = buffer[:left]
        _read_exactly(source, chunk)
        sock.sendall(chunk)
        source.done += len(chunk)
        if meter is not None:
            meter.spend(len(chunk))


def _read_exactly(source: FileSlice, room: memoryview) -> None:
    """Fill `room` with the next bytes of `source`."""
    position = source.position
    while room:
        try:
            count = os.preadv(source.fd, [room], position)
        except OSError as error:
            raise unreadable(source, error) from error
        _must_have_more(count, source)
        position += count
        room = room[count:]


def _must_have_more(count: int, source: FileSlice) -> None:
    if count == 0:
        raise TransferIOError(f"{path_of(source.fd)} became shorter while it was sent")
