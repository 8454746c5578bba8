"""Connections whose calls are generators: they yield the events they wait for, and one loop runs them all."""

from __future__ import annotations

import mmap
import os
import select
import socket
import ssl
from collections.abc import Callable, Generator

from benchmarks.content import MiB

Waiting = Generator[int, None, None]
"""Yields the epoll events it waits for."""


class ClientGoneError(Exception):
    """The other side closed the connection, or broke the protocol."""


class Connection:
    """A plain connection, whose calls are generators that wait when the kernel has nothing for them."""

    discarded = mmap.mmap(-1, 16 * MiB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    """A place for bytes nobody looks at; MSG_TRUNC never writes to it, so it takes no memory."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.buffer = bytearray()

    def fill(self) -> Waiting:
        """Take what has arrived into the buffer."""
        while True:
            try:
                chunk = self.peer.recv(64 * 1024)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield select.EPOLLIN
                continue
            if not chunk:
                raise ClientGoneError
            self.buffer += chunk
            return

    def taken(self, length: int) -> bytes:
        """The first bytes of the buffer, which then no longer has them."""
        chunk = bytes(memoryview(self.buffer)[:length])
        del self.buffer[:length]
        return chunk

    def until(self, mark: bytes, limit_bytes: int = 64 * 1024) -> Generator[int, None, bytes]:
        """Everything up to and with `mark`."""
        while (place := self.buffer.find(mark)) < 0:
            if len(self.buffer) > limit_bytes:
                raise ClientGoneError
            yield from self.fill()
        return self.taken(place + len(mark))

    def pass_on(self, length: int, take: Callable[[memoryview], object] | None) -> Waiting:
        """The next `length` bytes to `take`, chunk by chunk, or to nobody."""
        here = min(length, len(self.buffer))
        if here:
            chunk = self.taken(here)
            if take:
                take(memoryview(chunk))
        left = length - here
        while left:
            try:
                got = self._receive(left, wanted=take is not None)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield select.EPOLLIN
                continue
            if not got:
                raise ClientGoneError
            if take:
                with memoryview(self.discarded) as whole, whole[:got] as chunk_view:
                    take(chunk_view)
            left -= got
            if left and got == len(self.discarded):
                yield select.EPOLLIN  # others have their turn

    def _receive(self, limit: int, *, wanted: bool) -> int:
        flags = 0 if wanted else socket.MSG_TRUNC
        return self.peer.recv_into(self.discarded, min(limit, len(self.discarded)), flags)

    def send(self, data: bytes, *, more: bool = False) -> Waiting:
        """All of `data`; `more`: something follows at once."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._send(rest, more=more) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield select.EPOLLOUT

    def _send(self, data: memoryview, *, more: bool) -> int:
        return self.peer.send(data, socket.MSG_MORE if more else 0)

    def send_file(self, descriptor: int, view: memoryview | None, offset: int, length: int) -> Waiting:
        """`length` bytes of a file from `offset` on (`view`: the same file in memory, where it is there)."""
        del view
        end = offset + length
        while offset < end:
            try:
                sent = os.sendfile(self.peer.fileno(), descriptor, offset, end - offset)
            except BlockingIOError:
                yield select.EPOLLOUT
                continue
            if not sent:
                raise ClientGoneError
            offset += sent


class TlsConnection(Connection):
    """The same over TLS, which the kernel can neither drop nor send by itself."""

    def __init__(self, peer: ssl.SSLSocket) -> None:
        super().__init__(peer)
        self.tls = peer

    def shake_hands(self) -> Waiting:
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                yield select.EPOLLIN
            except ssl.SSLWantWriteError:
                yield select.EPOLLOUT

    def _receive(self, limit: int, *, wanted: bool) -> int:
        del wanted
        return self.tls.recv_into(self.discarded, min(limit, 64 * 1024))

    def _send(self, data: memoryview, *, more: bool) -> int:
        del more
        return self.tls.send(data)

    def send_file(self, descriptor: int, view: memoryview | None, offset: int, length: int) -> Waiting:
        for start in range(offset, offset + length, MiB):
            here = min(MiB, offset + length - start)
            yield from self.send(view[start : start + here] if view else os.pread(descriptor, here, start))  # type: ignore[arg-type]
