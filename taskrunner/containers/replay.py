"""One stream of a container's output, read again from the engine's log: which bytes of it are new. Pure.

The log keeps lines, a longer one than 16 KiB in pieces of that size, all with the time of the first. Some engines
(20.10) tell no newline behind the last piece of such a line, so it is put back when the stream goes on.

A restarted engine has lost what it had read of an unfinished line, while we may have got it: the log then goes on
behind that. So our last bytes are compared with the log's, and an entry that differs from them is new.
"""

from __future__ import annotations

_PIECE_BYTES = 16 * 1024
_KNOWN_BYTES = 4 * _PIECE_BYTES


class MisplacedError(Exception):
    """The log does not hold what we have got, so what is new in it can't be told."""


class Replay:
    """What we have of a stream; all of it is counted, its end is known."""

    def __init__(self) -> None:
        self._count = 0
        self._known = bytearray()
        self.begin()

    def took(self, data: bytes) -> None:
        """These bytes came next, not by way of the log."""
        self._count += len(data)
        self._known += data[-_KNOWN_BYTES:]
        del self._known[:-_KNOWN_BYTES]

    def begin(self) -> None:
        """The log is read again from its beginning."""
        self._read = 0
        self._time = b""
        self._open = False
        self._owed = b""

    def new(self, time: bytes, data: bytes) -> bytes:
        """What is new in the log's next entry; counts as taken.

        Raises MisplacedError: the log has something else where we have what we got before.
        """
        new = self._unknown(self._whole(time, data))
        self.took(new)
        return new

    @property
    def ends_in_doubt(self) -> bool:
        """Whether the log, read to its end, does not tell if the last line had a newline."""
        return bool(self._owed) and self._read >= self._count

    def _whole(self, time: bytes, data: bytes) -> bytes:
        """An entry's data, with the newline that the log has left out before or behind it."""
        before, self._owed = self._owed, b""
        further_piece = self._open and time == self._time
        self._time = time
        if further_piece and not data:
            data = b"\n"
        self._open = not data.endswith(b"\n")
        if further_piece and self._open and len(data) < _PIECE_BYTES:
            self._owed = b"\n"
        return before + data

    def _unknown(self, data: bytes) -> bytes:
        start = self._read
        self._read += len(data)
        had = min(len(data), self._count - start)
        if had <= 0:
            return data
        known_from = self._count - len(self._known)
        compared_from = max(start, known_from)
        if compared_from >= start + had:
            return data[had:]
        ours = self._known[compared_from - known_from : start + had - known_from]
        if data[compared_from - start : had] == ours:
            return data[had:]
        if 0 < known_from >= start:
            raise MisplacedError
        # What we have beyond this place is not in the log.
        del self._known[start - known_from :]
        self._count = start
        return data
