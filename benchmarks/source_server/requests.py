"""Requests and answers as S3 writes them: heads, ranges, framings, XML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
CHECKSUMS = ("crc64nvme", "crc32c", "crc32")


@dataclass
class Refused(Exception):  # noqa: N818  # an answer, not a mistake of ours
    """An answer with S3's error document."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Request:
    """What a head said."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def checksum(self) -> str | None:
        """The body's checksum as the client claims it in a header, as `name:base64`."""
        return claimed(self.headers)


def claimed(headers: Mapping[str, str]) -> str | None:
    """The first checksum among headers or trailers, as `name:base64`."""
    for name in CHECKSUMS:
        if value := headers.get(f"x-amz-checksum-{name}"):
            return f"{name}:{value}"
    return None


def parsed_head(head: bytes) -> Request:
    """A request's head."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    if "://" in path:
        path = "/" + path.split("/", 3)[3]
    bucket, _, key = unquote(path.lstrip("/")).partition("/")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    fields = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
    if ".." in f"{bucket}/{key}".split("/") or bucket.startswith("."):
        raise Refused(400, "InvalidURI", "this server knows no such keys")
    return Request(method, bucket, key, fields, headers)


REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 400: "Bad Request", 404: "Not Found"} | {
    405: "Method Not Allowed",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
}


def head_of(status: int, length: int, headers: Mapping[str, str] | None = None) -> bytes:
    """The head of an answer with a body of `length` bytes."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}"]
    if status != 204:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def document(root: str, content: str) -> bytes:
    """An XML answer."""
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"' if root != "Error" else ""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{space}>{content}</{root}>'.encode()


def wanted_range(header: str | None, size: int) -> tuple[int, int]:
    """First and last byte that a Range header asks for; all without one."""
    if header is None or size == 0:
        return 0, size - 1
    match = RANGE.match(header)
    if not match or match.groups() == ("", ""):
        raise Refused(416, "InvalidRange", f"not understood: {header}")
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    if int(first) >= size:
        raise Refused(416, "InvalidRange", f"the object has {size} bytes only")
    return int(first), min(int(last), size - 1) if last else size - 1


def element(part: bytes, name: bytes) -> bytes:
    """The text of an element in a fragment of XML."""
    match = re.search(rb"<%s>(.*?)</%s>" % (name, name), part)
    if not match:
        raise Refused(400, "MalformedXML", f"{name.decode()} is missing")
    return match[1].strip()


class Unframing:
    """S3's chunks inside HTTP's: what is in them goes on, byte for byte."""

    def __init__(self, take: Callable[[memoryview], object] | None, trailers: dict[str, str]) -> None:
        self._take = take
        self._trailers = trailers
        self._line = bytearray()
        self._left = 0
        self._ended = False
        self.length = 0

    def take(self, chunk: memoryview) -> None:
        while len(chunk):
            if self._left:
                here = chunk[: self._left]
                if self._take:
                    self._take(here)
                self._left -= len(here)
                self.length += len(here)
                chunk = chunk[len(here) :]
            else:
                self._line.append(chunk[0])
                chunk = chunk[1:]
                if self._line.endswith(b"\n"):
                    self._take_line(self._line.decode("latin-1").strip())
                    self._line.clear()

    def _take_line(self, line: str) -> None:
        if not line:
            return  # the end of a chunk
        if self._ended:
            name, _, value = line.partition(":")
            self._trailers[name.lower()] = value.strip()
        else:
            self._left = int(line.partition(";")[0], 16)
            self._ended = self._left == 0
