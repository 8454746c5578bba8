"""Files on the web, read only.

A file is probed with a GET for its first byte, since that tells what HEAD often does not: whether ranges work,
how large the file is, where redirects lead. Parts are asked for only where the server serves ranges and names
the version it serves (a strong ETag or Last-Modified), so that no file is put together from two versions.
Bytes are kept as they are served: nothing is unpacked.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, OutputFailedError, TransferIOError, TransientError
from taskrunner.storage.heads import date_seconds
from taskrunner.storage.network import Endpoint, has_no_address, refuse_metadata_address
from taskrunner.storage.store import Part, StoredObject, Upload
from taskrunner.storage.web import (
    MOST_REDIRECTS,
    REDIRECTS,
    redirected,
    refused,
    request_parts,
    told_checksum,
)
from taskrunner.storage.wire import Answer, Connections, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskrunner.storage.slices import FileSlice

# Any server may say anything; a number with more digits is no file's length.
_NUMBER = r"[0-9]{1,18}"
_CONTENT_RANGE = re.compile(rf"bytes (?:({_NUMBER})-({_NUMBER})|\*)/({_NUMBER}|\*)")
_CONTENT_LENGTH = re.compile(_NUMBER)
_ONE_BYTE = (("Range", "bytes=0-0"),)
# What a server says of a request it does not like; without Range it may like it.
_RANGE_DISLIKED = frozenset({400, 405, 406, 412, 416, 501})
# What is said of a place that was signed and has expired.
_EXPIRED = frozenset({400, 401, 403, 404, 410})
_WORTH_READING_BYTES = 64 * 1024  # a longer body costs more than a new connection


class HttpStore:
    """See `Store`. It remembers nothing, so lanes share it freely."""

    def check(self, connections: Connections, url: str) -> None:
        """See `Store.check`: a literal address is none that no task may reach."""
        connections.raise_if_aborted()
        endpoint = Endpoint.of(request_parts(url, url)[0])
        refuse_metadata_address(endpoint.host, endpoint.host)

    def stat(self, connections: Connections, url: str) -> StoredObject:
        """See `Store.stat`."""
        try:
            with _following(connections, url, url, _ONE_BYTE) as (answer, location):
                if answer.status not in _RANGE_DISLIKED or _is_empty(answer):
                    return _described(url, location, answer)
            with _following(connections, url, url, ()) as (answer, location):
                return _described(url, location, answer)
        except TransientError as error:
            if isinstance(error.__cause__, OSError) and has_no_address(error.__cause__):
                raise InputMissingError(f"{url}: there is no such host; {error}") from error
            raise

    def list_directory(
        self,
        connections: Connections,  # noqa: ARG002
        url: str,
        *,
        deep: bool = True,  # noqa: ARG002
    ) -> Iterator[StoredObject]:
        """See `Store.list_directory`: the web has no directories. Raises TransferIOError."""
        raise TransferIOError(
            f"{url} is a web address and can't be listed as a directory; name its files one by one, or use s3://"
        )

    def read(self, connections: Connections, found: StoredObject, target: FileSlice) -> None:
        """See `Store.read`. Where redirects led before is asked first; it may have expired meanwhile."""
        if target.left == 0 and found.size_bytes:
            return  # a range of no bytes can't be asked for
        reading = _Reading(found, target)
        for location in filter(None, (found.location, found.url)):
            with _following(connections, found.url, location, reading.headers) as (answer, _):
                if answer.status in _EXPIRED and location != found.url:
                    continue
                reading.take(answer)
                return

    def abandon_upload(
        self, connections: Connections, url: str, resume_id: str | None, since_seconds: float
    ) -> None:
        """See `Store.abandon_upload`: there are none to go on with here."""

    def begin_upload(
        self,
        connections: Connections,  # noqa: ARG002
        url: str,
        parts: Sequence[Part],  # noqa: ARG002
        resume_id: str | None = None,  # noqa: ARG002
    ) -> Upload:
        """See `Store.begin_upload`: nothing is written to the web. Raises OutputFailedError."""
        raise OutputFailedError(f"{url} is a web address and can't be written; use s3:// or a local path")


@contextmanager
def _following(
    connections: Connections, url: str, location: str, extra: tuple[tuple[str, str], ...]
) -> Iterator[tuple[Answer, str]]:
    """Ask for `location` on behalf of `url`, whose credentials count; gives the last answer and who gave it."""
    for _ in range(MOST_REDIRECTS + 1):
        address, headers = request_parts(location, url)
        with connections.exchange(Request("GET", address, (*headers, *extra))) as answer:
            if answer.status not in REDIRECTS:
                yield answer, location
                return
            location = redirected(location, answer.header("Location"))
            _spare(answer)
    raise TransferIOError(f"{url} redirects more than {MOST_REDIRECTS} times")


class _Reading:
    """What is wanted of a file: from where the slice stands to its end."""

    def __init__(self, found: StoredObject, target: FileSlice) -> None:
        self._found = found
        self._target = target
        self._start = target.position
        to_the_end = None if found.size_bytes is None else found.size_bytes - self._start
        self._length = to_the_end if target.left is None else target.left
        self._whole = self._start == 0 and self._length == to_the_end

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """For a part of the file: which, and of which version."""
        if self._whole:
            return ()
        last = "" if self._length is None else str(self._start + self._length - 1)
        validator = _strong(self._found.etag) or self._found.version
        pinned = (("If-Range", validator),) if validator else ()
        return (("Range", f"bytes={self._start}-{last}"), *pinned)

    def take(self, answer: Answer) -> None:
        """Receive the bytes wanted. Raises where the answer has others."""
        if answer.status == 416 and self._found.size_bytes == 0:
            return
        self._check(answer)
        if self._whole and self._found.checksum is None:
            checksum = told_checksum(answer.header, whole=answer.status == 200)
            if checksum is not None:
                self._target.expect(checksum)
        answer.receive(self._target)
        came = self._target.position - self._start
        if self._length is not None and came != self._length:
            raise TransientError(f"{self._found.url}: the server sent {came} bytes, expected {self._length}")

    def _check(self, answer: Answer) -> None:
        """Refuse an answer with other bytes than those asked for."""
        found, url = self._found, self._found.url
        if answer.status not in (200, 206, 412, 416):
            raise refused(answer.status, url, answer.header("Retry-After"))
        etag, modified = answer.header("ETag"), answer.header("Last-Modified")
        changed = (etag and found.etag and etag != found.etag) or (
            modified and found.version and modified != found.version
        )
        if changed or answer.status in (412, 416):
            raise TransferIOError(f"{url} was changed while it was downloaded; nothing of it is kept")
        if answer.status == 206:
            span = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
            if span is None or span[1] is None or int(span[1]) != self._start:
                raise self._another_range()
            if span[3] not in ("*", str(found.size_bytes)):
                raise TransferIOError(f"{url} was changed while it was downloaded: it has another length now")
        elif not self._whole:
            raise self._another_range()
        if None not in (answer.length, self._length) and answer.length != self._length:
            raise TransferIOError(f"{url}: the server sends {answer.length} bytes, expected {self._length}")

    def _another_range(self) -> TransferIOError:
        return TransferIOError(
            f"{self._found.url}: the server no longer sends the range asked for; was it changed?"
        )


def _described(url: str, location: str, answer: Answer) -> StoredObject:
    """What an answer to a probe tells of the file. Raises for one that is no success."""
    status, header = answer.status, answer.header
    if status not in (200, 206) and not _is_empty(answer):
        raise refused(status, url, header("Retry-After"))
    _spare(answer)
    etag = header("ETag") or ""
    if not etag.isascii():
        etag = ""  # allowed, but it can't be sent back to pin the file by (RFC 9110, section 8.8.3)
    version = None if _strong(etag) else header("Last-Modified")
    size_bytes = _size_bytes(url, answer)
    return StoredObject(
        url,
        size_bytes,
        etag,
        ranged=status == 206 and size_bytes is not None and bool(_strong(etag) or version),
        version=version,
        location=location if location != url else None,
        checksum=told_checksum(header, whole=status == 200),
        modified_seconds=date_seconds(header("Last-Modified")),
    )


def _size_bytes(url: str, answer: Answer) -> int | None:
    """How large the file is, as far as the answer to a probe says. Raises where it contradicts itself."""
    span = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
    if span is not None:
        total = None if span[3] == "*" else int(span[3])
        if total is not None and span[1] is not None and int(span[2]) >= total and answer.length != 0:
            raise TransferIOError(
                f"{url}: the server sends a byte of {total} where there is none ({span[0]})"
            )
        return total
    if answer.status != 200 or answer.header("Transfer-Encoding"):
        return None  # a part's length says nothing of the file's
    told = _CONTENT_LENGTH.fullmatch(answer.header("Content-Length") or "")
    return int(told[0]) if told else None


def _spare(answer: Answer) -> None:
    """Read a small body that nobody wants, so that its connection can be used again; leave a large one."""
    if answer.length is not None and answer.length <= _WORTH_READING_BYTES:
        answer.excerpt()


def _strong(etag: str) -> str:
    """The ETag if it tells bytes apart (RFC 9110, section 8.8.1), else nothing."""
    return "" if etag.startswith("W/") else etag


def _is_empty(answer: Answer) -> bool:
    """Whether this is how a server says that a file has no first byte."""
    span = (answer.header("Content-Range") or "").replace(" ", "")
    return answer.status == 416 and span == "bytes*/0"
