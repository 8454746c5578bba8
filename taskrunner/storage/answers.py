"""An answer: its head, and its body for the asking, whichever of three ways it comes in.

A body has a length, or comes in chunks, or goes on to the end of the connection (RFC 9112, section 6.3). Those
with a length go from the socket to the file with a handful of Python instructions for each quarter of a megabyte.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from taskrunner.errors import TransferIOError, TransientError
from taskrunner.storage.heads import AnswerError, chunk_size

if TYPE_CHECKING:
    from taskrunner.storage.heads import Head
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.streams import Stream

_EXCERPT_BYTES = 64 * 1024
_CONTENT_BYTES = 16 * 1024 * 1024
_MOST_TRAILERS = 100
_ALL = 1 << 62
_NOTHING = memoryview(b"")


class Answer:
    """The head of an answer, and its body for the asking."""

    def __init__(self, head: Head, stream: Stream, method: str, where: str) -> None:
        self.status = head.status
        self.length = head.length if head.has_body(method) else 0
        """The body's length, where the server told it."""
        self._headers = head.headers
        self._body = _body(head, stream, method)
        self._stream = stream
        self._kept = head.kept
        self._where = where

    def header(self, name: str) -> str | None:
        """One header's value, whatever the case of its name."""
        return self._headers.get(name.lower())

    @property
    def drained(self) -> bool:
        """Whether the body was read to its end."""
        return self._body.drained

    @property
    def reusable(self) -> bool:
        """Whether the connection is as it was before: the server keeps it, and nothing lies on it unread."""
        ended = isinstance(self._body, _EndlessBody)
        return self._kept and self._body.drained and not ended and self._stream.empty

    def receive(self, target: FileSlice) -> None:
        """Append the body to `target`: exactly as many bytes as are left of it, or all to the proper end.

        Raises (as the exchange does):
            TransientError: the body ended early; `target.done` bytes are in the file.
            TransferIOError: the disk does not take the bytes, or there are more than told.
        """
        told = target.left
        left = _ALL if told is None else told
        body = self._body
        while left and (chunk := body.next(left)):
            target.append(chunk)
            left -= len(chunk)
        if told is None:
            return
        if left:
            raise TransientError(f"{self._where} closed the connection {left} bytes before the end")
        if self._has_more():
            raise TransferIOError(f"{self._where} sends more than the {told} bytes that were told")

    def content(self, limit_bytes: int = _CONTENT_BYTES) -> bytes:
        """The whole of a small body, such as a listing.

        Raises (as the exchange does) TransientError where it was cut short, TransferIOError where it has more
        than `limit_bytes`.
        """
        pieces = bytearray()
        while chunk := self._body.next(limit_bytes + 1 - len(pieces)):
            pieces += chunk
            if len(pieces) > limit_bytes:
                raise TransferIOError(
                    f"{self._where} sends more than {limit_bytes} bytes where few are expected"
                )
        return bytes(pieces)

    def excerpt(self) -> bytes:
        """The beginning of the body, for what it says about an error; what can't be read is left out."""
        pieces = bytearray()
        with suppress(OSError, AnswerError, TransientError):
            while (room := _EXCERPT_BYTES - len(pieces)) and (chunk := self._body.next(room)):
                pieces += chunk
        return bytes(pieces)

    def _has_more(self) -> bool:
        """Whether bytes follow those that were told: a chunked body still has its end to come.

        Where it breaks off there, nothing is missing but that end: asking for the rest would be asking for
        nothing.
        """
        with suppress(OSError, AnswerError):
            return bool(self._body.next(1))
        return False


class _Body(Protocol):
    @property
    def drained(self) -> bool:
        """Whether it was read to its end."""

    def next(self, most: int) -> memoryview:
        """The next bytes, at most `most`; empty at the proper end. Raises AnswerError, OSError."""


def _body(head: Head, stream: Stream, method: str) -> _Body:
    if not head.has_body(method):
        return _SizedBody(stream, 0)
    if head.chunked:
        return _ChunkedBody(stream)
    return _EndlessBody(stream) if head.length is None else _SizedBody(stream, head.length)


class _SizedBody:
    def __init__(self, stream: Stream, length: int) -> None:
        self._stream = stream
        self._left = length

    @property
    def drained(self) -> bool:
        return not self._left

    def next(self, most: int) -> memoryview:
        if not self._left:
            return _NOTHING
        chunk = self._stream.next(min(most, self._left))
        if not chunk:
            raise AnswerError(f"closed the connection {self._left} bytes before the end")
        self._left -= len(chunk)
        return chunk


class _ChunkedBody:
    """See RFC 9112, section 7.1; what is said in trailers is passed over."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0
        self._begun = False
        self.drained = False

    def next(self, most: int) -> memoryview:
        if not self._left and not self.drained:
            self._begin_chunk()
        if self.drained:
            return _NOTHING
        chunk = self._stream.next(min(most, self._left))
        if not chunk:
            raise AnswerError("closed the connection in the middle of an answer")
        self._left -= len(chunk)
        return chunk

    def _begin_chunk(self) -> None:
        if self._begun and self._stream.line():
            raise AnswerError("sends a chunk that is longer than told")
        self._begun = True
        self._left = chunk_size(self._stream.line())
        if not self._left:
            self._pass_over_trailers()
            self.drained = True

    def _pass_over_trailers(self) -> None:
        for _ in range(_MOST_TRAILERS):
            if not self._stream.line():
                return
        raise AnswerError(f"sends more than {_MOST_TRAILERS} trailers")


class _EndlessBody:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.drained = False

    def next(self, most: int) -> memoryview:
        chunk = self._stream.next(most)
        self.drained = not chunk
        return chunk
