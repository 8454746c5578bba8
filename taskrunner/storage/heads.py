"""The heads of HTTP/1.1 answers: status line and headers, read strictly.

What two readers could understand differently is refused, since the connection can't be trusted any more: folded
lines, bare line feeds, two lengths, a length beside chunks. The standard library's reader, which is made for
mail, takes five times as long, which is felt where there are many small objects.

https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_HEADERS = 200
_BEGINNING = b"HTTP/1."
_BODILESS = frozenset({204, 304})

# Any three digits: some servers have statuses of their own.
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?")
_HEADER_LINES = re.compile(r"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)*+")
# No file has a length of more digits.
_LENGTH = re.compile("[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[^\r\n]*)?")


class AnswerError(Exception):
    """What a server did wrong, in words that follow its name: "closed the connection …"."""


class NoAnswerError(AnswerError):
    """The connection was closed before the first byte of an answer."""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before an answer's body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; what came several times is joined by commas (RFC 9110, section 5.3)."""
    length: int | None
    """The body's length as it is told; None where it is not."""
    chunked: bool
    kept: bool
    """Whether the server keeps the connection open afterwards."""

    def has_body(self, method: str) -> bool:
        """Whether a body follows, in an answer to this method (RFC 9112, section 6.3)."""
        tunnel = method == "CONNECT" and self.status < 300
        return not (method == "HEAD" or self.status in _BODILESS or self.status < 200 or tunnel)


def head_length(received: bytes) -> int:
    """How long the head is that `received` begins with, its empty line counted; 0 where its end is still to come.

    Raises AnswerError as soon as it can't become a head any more.
    """
    if not received.startswith(_BEGINNING[: len(received)]):
        raise AnswerError("answers with something that is no HTTP/1.1")
    end = received.find(b"\r\n\r\n")
    if end < 0 and b"\n\n" in received:
        raise AnswerError("ends the lines of its answer's head wrongly")
    return end + 4 if end >= 0 else 0


def parsed_head(data: bytes) -> Head:
    """The head that `data` is, with or without its empty line. Raises AnswerError."""
    text = data.decode("latin-1").removesuffix("\r\n\r\n")
    first, _, rest = text.partition("\r\n")
    status_line = _STATUS_LINE.fullmatch(first)
    if status_line is None:
        raise AnswerError("answers with something that is no HTTP/1.1")
    headers = _headers(rest)
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        raise AnswerError("sends its answer in a transfer coding that nobody asked for")
    length = headers.get("content-length")
    if length is not None and (coding is not None or not _LENGTH.fullmatch(length)):
        raise AnswerError("tells the length of its answer in contradictory ways")
    # HTTP/1.0 can keep connections as well, but not in a way that is the same everywhere.
    kept = status_line[1] != "0" and "close" not in headers.get("connection", "").lower()
    return Head(
        int(status_line[2]), headers, None if length is None else int(length), coding is not None, kept
    )


def _headers(text: str) -> dict[str, str]:
    if not text:
        return {}
    if not _HEADER_LINES.fullmatch("\r\n" + text):
        raise AnswerError("answers with header lines that are none")
    lines = text.split("\r\n")
    if len(lines) > _MOST_HEADERS:
        raise AnswerError(f"answers with more than {_MOST_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip("\t ")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def chunk_size(line: bytes) -> int:
    """How many bytes follow a chunk's first line (RFC 9112, section 7.1). Raises AnswerError."""
    found = _CHUNK_SIZE.fullmatch(line)
    if found is None:
        raise AnswerError("sends a chunk without its length")
    return int(found[1], 16)


def date_seconds(value: str | None) -> float | None:
    """A date in a header, since the epoch (RFC 9110, section 5.6.7); None where it is none."""
    try:
        return moment_seconds(parsedate_to_datetime(value or ""))
    except (ValueError, OverflowError):
        return None


def moment_seconds(moment: datetime) -> float | None:
    """A moment that a server told, since the epoch; None where it is beyond the years that a date can have.

    The first and the last day, told with an offset from UTC, lead there.
    """
    try:
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        return None
    return seconds


def told_number(text: str | None) -> int | None:
    """A length or a count that a server told; None where it is none that a file could have."""
    return int(text) if text is not None and _LENGTH.fullmatch(text) else None
