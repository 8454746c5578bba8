"""Files on the web, read only.

A file is probed with a GET for its first byte, since that tells what HEAD often does not: whether ranges work,
how large the file is, where redirects lead. Parts are asked for only where the server serves ranges and names
the version it serves (a strong ETag or Last-Modified), so that no file is put together from two versions.
Bytes are kept as they are served: nothing is unpacked.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskrunner.errors import (
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.network import (
    Endpoint,
    Network,
    has_no_address,
    network_error,
    refuse_metadata_address,
)
from taskrunner.storage.store import Part, StoredObject
from taskrunner.storage.web import MOST_REDIRECTS, REDIRECTS, redirected, refused, request_parts
from taskrunner.storage.wire import Answer, Connections, Request

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping, Sequence

    from taskrunner.storage.slices import FileSlice

# Any server may say anything; a number with more digits is no file's length.
_NUMBER = r"[0-9]{1,18}"
_CONTENT_RANGE = re.compile(rf"bytes (?:({_NUMBER})-({_NUMBER})|\*)/({_NUMBER}|\*)")
_CONTENT_LENGTH = re.compile(_NUMBER)
_ONE_BYTE = {"Range": "bytes=0-0"}
# What a server says of a request it does not like; without Range it may like it.
_RANGE_DISLIKED = frozenset({400, 405, 406, 412, 416, 501})


class HttpStore:
    """See `Store`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._session: Any = None

    async def close(self) -> None:
        """Close the connections that probing opened."""
        if self._session is not None:
            await self._session.close()

    async def check(self, url: str) -> None:
        """See `Store.check`: a literal address is none that no task may reach."""
        endpoint = Endpoint.of(request_parts(url, url)[0])
        refuse_metadata_address(endpoint.host, endpoint.host)

    async def stat(self, url: str) -> StoredObject:
        """See `Store.stat`."""
        status, headers, location = await self._probe(url, _ONE_BYTE)
        if status in _RANGE_DISLIKED and not _is_empty(status, headers):
            status, headers, location = await self._probe(url, {})
        if status not in (200, 206) and not _is_empty(status, headers):
            raise refused(status, url, headers.get("Retry-After"))
        return _described(url, location, status, headers)

    async def _probe(self, url: str, extra: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and final URL of a GET whose body is left alone."""
        import aiohttp  # noqa: PLC0415  # only tasks with web inputs should pay for it

        location = url
        for _ in range(MOST_REDIRECTS + 1):
            target, headers = request_parts(location, url)
            endpoint = Endpoint.of(target)
            if self._network.proxy_for(endpoint):
                refuse_metadata_address(endpoint.host, endpoint.host)
            try:
                async with (await self._opened()).get(
                    _as_is(target),
                    headers={**dict(headers), **extra},
                    proxy=self._network.proxy_for(endpoint),
                    ssl=self._network.context_for(endpoint) if endpoint.scheme == "https" else False,
                    allow_redirects=False,
                ) as answer:
                    if answer.status not in REDIRECTS:
                        return answer.status, answer.headers, location
                    location = redirected(location, answer.headers.get("Location"))
            except aiohttp.ClientConnectorCertificateError as error:
                raise network_error(error.certificate_error, endpoint.authority) from error
            except aiohttp.ClientConnectorDNSError as error:
                raise _not_resolved(error.os_error, url, endpoint.host) from error
            except (aiohttp.ClientError, OSError) as error:
                raise _as_transient(error, endpoint.authority) from error
            except ValueError as error:  # yarl's and aiohttp's word for what can't be asked
                raise TransferIOError(f"{url}: {error}") from error
        raise TransferIOError(f"{url} redirects more than {MOST_REDIRECTS} times")

    async def _opened(self) -> Any:
        import aiohttp  # noqa: PLC0415

        if self._session is None:
            network = self._network
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=16, socket_factory=_guarded_socket),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=network.connect_timeout_seconds,
                    sock_read=network.read_timeout_seconds,
                ),
            )
        return self._session

    def list_directory(self, url: str) -> AsyncIterator[StoredObject]:
        """See `Store.list_directory`: the web has no directories. Raises TransferIOError."""
        raise TransferIOError(
            f"{url} is a web address and can't be listed as a directory; name its files one by one, or use s3://"
        )

    async def read(self, found: StoredObject, start: int, length: int | None) -> HttpReading:
        """See `Store.read`."""
        whole = start == 0 and length in (None, found.size_bytes)
        extra: tuple[tuple[str, str], ...] = ()
        if not whole:
            extra = (("Range", f"bytes={start}-{'' if length is None else start + length - 1}"),)
            if validator := _strong(found.etag) or found.version:
                extra = (*extra, ("If-Range", validator))
        return HttpReading(found, start, length, whole, extra)

    async def begin_upload(self, url: str, parts: Sequence[Part]) -> Any:  # noqa: ARG002
        """See `Store.begin_upload`: nothing is written to the web. Raises OutputFailedError."""
        raise OutputFailedError(f"{url} is a web address and can't be written; use s3:// or a local path")


@dataclass(frozen=True, slots=True)
class HttpReading:
    """One GET, redirects followed."""

    found: StoredObject
    start: int
    length: int | None
    whole: bool
    extra: tuple[tuple[str, str], ...]

    def run(self, connections: Connections, target: FileSlice) -> None:
        """See `Reading.run`."""
        url = self.found.url
        # Where redirects led before is asked first; it may be signed and have expired meanwhile.
        if self.found.location and self._receive(connections, target, self.found.location, last=False):
            return
        self._receive(connections, target, url, last=True)

    def _receive(self, connections: Connections, target: FileSlice, location: str, *, last: bool) -> bool:
        """Whether the bytes came; False only where `last` is not and the place they once were says no."""
        for _ in range(MOST_REDIRECTS + 1):
            address, headers = request_parts(location, self.found.url)
            with connections.exchange(Request("GET", address, (*headers, *self.extra))) as answer:
                if answer.status in REDIRECTS:
                    location = redirected(location, answer.header("Location"))
                    answer.excerpt()
                    continue
                if answer.status in (400, 401, 403, 404, 410) and not last:
                    return False
                if self._check(answer):
                    answer.receive(target, self.length)
                return True
        raise TransferIOError(f"{self.found.url} redirects more than {MOST_REDIRECTS} times")

    def _check(self, answer: Answer) -> bool:
        """Refuse an answer with other bytes than those asked for; False where there are none to receive."""
        url = self.found.url
        if answer.status == 416 and self.found.size_bytes == 0:
            return False
        if answer.status not in (200, 206, 412, 416):
            raise refused(answer.status, url, answer.header("Retry-After"))
        etag, modified = answer.header("ETag"), answer.header("Last-Modified")
        changed = (etag and self.found.etag and etag != self.found.etag) or (
            modified and self.found.version and modified != self.found.version
        )
        if changed or answer.status in (412, 416):
            raise TransferIOError(f"{url} was changed while it was downloaded; nothing of it is kept")
        if not self.whole or answer.status == 206:
            span = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
            if span is None or span[1] is None or int(span[1]) != self.start:
                raise TransferIOError(
                    f"{url}: the server no longer sends the range asked for; was it changed?"
                )
            if span[3] not in ("*", str(self.found.size_bytes)):
                raise TransferIOError(f"{url} was changed while it was downloaded: it has another length now")
        if None not in (answer.length, self.length) and answer.length != self.length:
            raise TransferIOError(f"{url}: the server sends {answer.length} bytes, expected {self.length}")
        return True


def _described(url: str, location: str, status: int, headers: Mapping[str, str]) -> StoredObject:
    etag = headers.get("ETag", "")
    if not etag.isascii():
        etag = ""  # allowed, but it can't be sent back to pin the file by (RFC 9110, section 8.8.3)
    modified = None if _strong(etag) else headers.get("Last-Modified")
    size: int | None = None
    span = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if span is not None:
        size = None if span[3] == "*" else int(span[3])
    elif status == 200 and "Transfer-Encoding" not in headers:  # a part's length says nothing of the file's
        told = _CONTENT_LENGTH.fullmatch(headers.get("Content-Length", ""))
        size = int(told[0]) if told else None
    ranged = status == 206 and size is not None and bool(_strong(etag) or modified)
    return StoredObject(
        url, size, etag, ranged, version=modified, location=location if location != url else None
    )


def _strong(etag: str) -> str:
    """The ETag if it tells bytes apart (RFC 9110, section 8.8.1), else nothing."""
    return "" if etag.startswith("W/") else etag


def _is_empty(status: int, headers: Mapping[str, str]) -> bool:
    """Whether this is how a server says that a file has no first byte."""
    return status == 416 and headers.get("Content-Range", "").replace(" ", "") == "bytes*/0"


def _as_is(url: str) -> Any:
    """A URL for aiohttp that is sent exactly as it is written here."""
    from yarl import URL  # noqa: PLC0415

    return URL(url, encoded=True)


def _guarded_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for one of a host's addresses. Raises AccessDeniedError for a metadata service's."""
    import socket as sockets  # noqa: PLC0415

    family, kind, protocol, _, where = address
    refuse_metadata_address(str(where[0]), str(where[0]))
    made = sockets.socket(family, kind, protocol)
    made.setblocking(False)  # noqa: FBT003  # its only parameter
    return made


def _not_resolved(error: OSError, url: str, host: str) -> TaskrunnerError:
    if has_no_address(error):
        return InputMissingError(f"{url}: there is no host {host}")
    return network_error(error, host)


def _as_transient(error: Exception, where: str) -> Exception:
    if isinstance(error, asyncio.TimeoutError):
        return TransientError(f"{where} stayed silent for too long")
    return TransientError(f"the connection to {where} failed: {error}")
