"""What comes in on a connection, through the lane's one buffer: heads of answers, and their bodies' bytes.

A plain socket blocks, and the kernel keeps the time (SO_RCVTIMEO): one system call fills the buffer, where a
Python socket with a timeout would poll before each. TLS comes in records of 16 KiB, which are gathered until the
buffer is full, so that the disk sees the same large writes.
"""

from __future__ import annotations

import ssl
import struct
from socket import MSG_WAITALL, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET
from typing import TYPE_CHECKING

from taskrunner.storage.heads import AnswerError, Head, NoAnswerError, head_length, parsed_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from taskrunner.storage.pace import Meter

_LONGEST_HEAD_BYTES = 64 * 1024
_LONGEST_LINE_BYTES = 4096
_MOST_INTERIM_ANSWERS = 16


class Stream:
    """The bytes of one connection, in their order.

    `buffer` is the lane's; it is larger than any head. `ended` is called where the connection ends, and raises
    where that was our own doing: a body that goes on to the connection's end would seem to be whole.
    """

    def __init__(
        self, sock: socket.socket, buffer: memoryview, ended: Callable[[], None], meter: Meter | None
    ) -> None:
        self._socket = sock
        self._encrypted = isinstance(sock, ssl.SSLSocket)
        self._buffer = buffer
        self._ended = ended
        self._meter = meter
        self._most = len(buffer) if meter is None else min(len(buffer), meter.pace.chunk_bytes)
        self._start = self._end = 0
        self._failure: OSError | None = None

    @property
    def empty(self) -> bool:
        """Whether all bytes that came have been read."""
        return self._start == self._end

    def head(self) -> Head:
        """Read the head of the next answer, past interim ones such as "100 Continue".

        Raises AnswerError, NoAnswerError, OSError.
        """
        for _ in range(_MOST_INTERIM_ANSWERS):
            head = parsed_head(self._head_bytes())
            if head.status >= 200:
                return head
            if head.status == 101:
                break
        raise AnswerError("sends interim answers instead of one")

    def next(self, most: int) -> memoryview:
        """The next bytes of a body, `most` of them if they fit into the buffer; fewer where the connection ends.

        They hold until the next call. Empty at the end. Raises OSError, but only after all that came before.
        """
        most = min(most, self._most)
        if self._end - self._start < most:
            self._gather(most)
        chunk = self._buffer[self._start : min(self._end, self._start + most)]
        self._start += len(chunk)
        if self._meter is not None and chunk:
            self._meter.spend(len(chunk))
        return chunk

    def line(self) -> bytes:
        """The next line of a chunked body, without its end. Raises AnswerError, OSError."""
        while True:
            received = bytes(self._buffer[self._start : min(self._end, self._start + _LONGEST_LINE_BYTES)])
            line, found, _ = received.partition(b"\r\n")
            if found:
                self._start += len(line) + 2
                return line
            if len(received) == _LONGEST_LINE_BYTES:
                raise AnswerError("sends chunks with lines that are too long")
            if not self._more():
                raise AnswerError("closed the connection in the middle of an answer")

    def _head_bytes(self) -> bytes:
        while True:
            received = bytes(self._buffer[self._start : min(self._end, self._start + _LONGEST_HEAD_BYTES)])
            if length := head_length(received):
                self._start += length
                return received[:length]
            if len(received) == _LONGEST_HEAD_BYTES:
                raise AnswerError(f"answers with a head of more than {_LONGEST_HEAD_BYTES} bytes")
            if not self._more():
                if received:
                    raise AnswerError("closed the connection in the middle of an answer")
                raise NoAnswerError("closed the connection without an answer")

    def _more(self) -> bool:
        """Take in whatever comes next; False at the end of the connection."""
        self._raise_failure()
        self._make_room()
        count = self._receive(self._buffer[self._end :])
        self._take(count)
        return count > 0

    def _gather(self, most: int) -> None:
        """Have `most` bytes ready, or as many as there is room for without moving any, or as many as come."""
        if self.empty:
            self._raise_failure()
            self._start = self._end = 0
        elif self._failure is not None:
            return
        goal = min(self._start + most, len(self._buffer))
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._gather_records(self._socket, goal)
            elif self._end < goal:
                # Less than asked for is what came before an end or a silence.
                self._take(self._receive(self._buffer[self._end : goal], MSG_WAITALL))
        except OSError as error:
            if self.empty:
                raise
            self._failure = error

    def _gather_records(self, sock: ssl.SSLSocket, goal: int) -> None:
        """Fill the buffer up to `goal`: at 16 KiB a record, each call and each name counts here."""
        buffer, end, read = self._buffer, self._end, sock.read
        try:
            while end < goal:
                count = read(goal - end, buffer[end:goal])
                if not count:
                    break
                end += count  # type: ignore[operator]  # a count, since there is a buffer
        finally:
            self._end = end
        if end < goal:
            self._ended()

    def _take(self, count: int) -> None:
        if not count:
            self._ended()
        self._end += count

    def _raise_failure(self) -> None:
        """The kernel tells a broken connection once only; what came before it was handed out first."""
        if self._failure is not None:
            raise self._failure

    def _make_room(self) -> None:
        if self.empty:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start

    def _receive(self, room: memoryview, flags: int = 0) -> int:
        if self._encrypted:
            return self._socket.recv_into(room)
        try:
            return self._socket.recv_into(room, 0, flags)
        except BlockingIOError as error:  # SO_RCVTIMEO's word for it
            raise TimeoutError from error


def set_patience(sock: socket.socket, seconds: float) -> None:
    """How long a connected socket may stay silent, or take no bytes, before that is an error."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    microseconds = max(1, int(seconds * 1_000_000))
    timeval = struct.pack("@ll", *divmod(microseconds, 1_000_000))
    sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, timeval)
    sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, timeval)
