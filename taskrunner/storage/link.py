"""One HTTP/1.1 connection: requests go out on it, bodies and all, and the heads of answers come in.

Bodies go from the page cache to the socket by `sendfile`; under TLS, by `preadv` and `sendall`. A server may
answer before it has read everything (403, 503), and close: then its answer counts, not the broken pipe.
"""

from __future__ import annotations

import http.client
import os
import select
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskrunner.errors import TransferIOError
from taskrunner.storage.network import Endpoint, proxy_authorization

if TYPE_CHECKING:
    import socket

    from taskrunner.storage.slices import FileSlice

_BUFFER_BYTES = 1024 * 1024
_EARLY_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request; Host is added, and Content-Length where there is a body."""

    method: str
    url: str
    """Absolute and percent-encoded."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_bundle: str | None = None


class Link:
    """One open connection."""

    def __init__(self, endpoint: Endpoint, sock: socket.socket, proxy: str | None) -> None:
        self.endpoint = endpoint
        self.socket = sock
        self.http = http.client.HTTPConnection(endpoint.host, endpoint.port)
        self.http.sock = sock
        # Plain http goes through a proxy by naming the whole URL; https through a tunnel, unseen.
        self.absolute = proxy is not None and endpoint.scheme == "http"
        self.proxy_authorization = proxy_authorization(proxy) if proxy and self.absolute else None
        self.spoiled = False
        """Whether no further request may be sent here."""
        self._response: http.client.HTTPResponse | None = None

    def ask(self, request: Request, source: FileSlice | None, length: int) -> http.client.HTTPResponse:
        """Send one request and read the head of its answer."""
        parts = urlsplit(request.url)
        target = parts.path or "/"
        if parts.query:
            target = f"{target}?{parts.query}"
        if self.absolute:
            target = f"http://{self.endpoint.authority}{target}"
        self.http.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        self.http.putheader("Host", self.endpoint.authority)
        for name, value in request.headers:
            self.http.putheader(name, value)
        if self.proxy_authorization:
            self.http.putheader("Proxy-Authorization", self.proxy_authorization)
        if source is not None:
            self.http.putheader("Content-Length", str(length))
        self._response = self._send(source, length)
        return self._response

    def close(self) -> None:
        """Give up the connection, and an answer that was not read to its end."""
        if self._response is not None:
            self._response.close()
        self.http.close()

    def _send(self, source: FileSlice | None, length: int) -> http.client.HTTPResponse:
        try:
            self.http.endheaders()
            if source is not None:
                self.spoiled = not _send_body(self.socket, source, length)
        except (ConnectionError, TimeoutError, ssl.SSLError) as error:
            # A server may answer (403, 503) and close before it has read everything: its answer says more.
            self.spoiled = True
            self.socket.settimeout(_EARLY_ANSWER_SECONDS)
            try:
                return self.http.getresponse()
            except (OSError, http.client.HTTPException):
                raise error from None
        response = self.http.getresponse()
        if self.spoiled and response.status < 300:
            raise ConnectionAbortedError(None, "the answer came before the whole request was sent")
        return response


def open_tunnel(sock: socket.socket, endpoint: Endpoint, proxy: str) -> None:
    """Have the proxy connect us to `endpoint` (RFC 9110, section 9.3.6)."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    authority = f"{host}:{endpoint.port}"
    authorization = proxy_authorization(proxy)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    with http.client.HTTPResponse(sock, method="CONNECT") as response:
        response.begin()
        if response.status != 200:
            raise ConnectionRefusedError(
                None, f"the proxy {urlsplit(proxy).hostname} answered {response.status} {response.reason}"
            )


def _send_body(sock: socket.socket, source: FileSlice, length: int) -> bool:
    """Send `length` bytes of `source`; False when the server began to answer before it had them all."""
    source.done = 0
    try:
        if isinstance(sock, ssl.SSLSocket):
            return _send_encrypted(sock, source, length)
        return _send_plain(sock, source, length)
    except (ConnectionError, TimeoutError, ssl.SSLError):
        raise
    except OSError as error:
        raise TransferIOError(f"can't read {path_of(source)}: {error.strerror}") from error


def _send_plain(sock: socket.socket, source: FileSlice, length: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    patience_ms = (sock.gettimeout() or 60.0) * 1000
    while source.done < length:
        events = poll.poll(patience_ms)
        if not events:
            raise TimeoutError("the server takes no more bytes")
        if events[0][1] & ~select.POLLOUT:
            return False
        try:
            sent = os.sendfile(sock.fileno(), source.fd, source.offset + source.done, length - source.done)
        except BlockingIOError:
            continue
        _must_have_more(sent, source)
        source.done += sent
    return True


def _send_encrypted(sock: ssl.SSLSocket, source: FileSlice, length: int) -> bool:
    # TLS sockets are readable for reasons of their own (session tickets): no early answer is looked for.
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, length)))
    while source.done < length:
        count = os.preadv(source.fd, [buffer[: length - source.done]], source.offset + source.done)
        _must_have_more(count, source)
        sock.sendall(buffer[:count])
        source.done += count
    return True


def path_of(its_slice: FileSlice) -> Path:
    """The path of the file a slice belongs to, for errors."""
    return Path(f"/proc/self/fd/{its_slice.fd}").readlink()


def _must_have_more(count: int, source: FileSlice) -> None:
    if count == 0:
        raise TransferIOError(f"{path_of(source)} became shorter while it was sent")
