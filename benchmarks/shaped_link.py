"""A link in front of a server that is like S3 over a wide network: a wait, then so much a second.

The first byte of each answer comes a latency after the last byte of its request; each connection carries no
more than its rate, all together no more than the link's, in each direction. So what the link can carry is
known: bytes / rate. Bytes pass through pipes inside the kernel (`os.splice`), by a clock of 100 ticks a second,
for some per cent of a core. TLS passes untouched.

    python -m benchmarks.shaped_link --to HOST:PORT [--latency-ms 30] [--connection-mb 10] [--link-mb 200]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

MB = 1_000_000
TICK_SECONDS = 0.01
BURST_SECONDS = 0.03
"""What a late tick may make up for."""
PIPE_BYTES = 1024 * 1024
RECEIVE_BUFFER_BYTES = 256 * 1024


class TokenBucket:
    """So many bytes a second, and never more at once than what comes together in `burst_seconds`."""

    def __init__(self, bytes_per_second: float, burst_seconds: float, now: float) -> None:
        self._rate = bytes_per_second
        self._most = bytes_per_second * burst_seconds
        self._tokens = 0.0
        self._filled = now

    def available(self, now: float) -> int:
        """The bytes that may pass now."""
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        return int(self._tokens)

    def take(self, amount: int) -> None:
        """Bytes that passed; at most those available."""
        self._tokens -= amount


@dataclass(frozen=True)
class Shape:
    """What a link is like."""

    latency_seconds: float = 0.03
    connection_bytes_per_second: float = 10 * MB
    link_bytes_per_second: float = 200 * MB

    def __str__(self) -> str:
        return (
            f"{self.latency_seconds * 1000:.0f} ms to the first byte of each answer, "
            f"{self.connection_bytes_per_second / MB:.0f} MB/s a connection, "
            f"{self.link_bytes_per_second / MB:.0f} MB/s for all"
        )

    def least_seconds(self, total_bytes: int) -> float:
        """The time in which the link carries so much at best."""
        return total_bytes / self.link_bytes_per_second


class Flow:
    """One direction of one connection: from a socket through a pipe to a socket."""

    def __init__(self, source: socket.socket, sink: socket.socket, shape: Shape, now: float) -> None:
        self.source = source
        self.sink = sink
        self.bucket = TokenBucket(shape.connection_bytes_per_second, BURST_SECONDS, now)
        self.held = 0
        """Bytes in the pipe, for which the sink had no room yet."""
        self.ended = False
        """Whether the source has said its last."""
        self.over = False
        """Whether the sink was told so."""
        self._out, self._in = os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def draw(self, limit: int) -> int:
        """Take up to `limit` bytes that have arrived; how many they were."""
        try:
            taken = os.splice(self.source.fileno(), self._in, limit, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return 0
        except OSError:
            taken = 0
        self.ended = taken == 0
        self.held += taken
        return taken

    def push(self) -> None:
        """Hand on what is held, and the end after it."""
        try:
            while self.held:
                self.held -= os.splice(self._out, self.sink.fileno(), self.held, flags=os.SPLICE_F_NONBLOCK)
            if self.ended and not self.over:
                self.over = True
                self.sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:  # the sink is gone
            self.held, self.ended, self.over = 0, True, True

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)


@dataclass
class Pair:
    """A client's connection and ours to the server."""

    near: socket.socket
    far: socket.socket
    requests: Flow
    answers: Flow
    asked: float | None = None
    """When the last byte of a request passed that has no answer yet."""

    @property
    def over(self) -> bool:
        return self.requests.over and self.answers.over

    def close(self) -> None:
        for each in (self.requests, self.answers, self.near, self.far):
            each.close()


@dataclass
class Link:
    """All connections; `tick` moves what may be moved now."""

    shape: Shape
    now: float
    pairs: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        rate = self.shape.link_bytes_per_second
        self._there = TokenBucket(rate, BURST_SECONDS, self.now)
        self._back = TokenBucket(rate, BURST_SECONDS, self.now)

    def join(self, near: socket.socket, far: socket.socket) -> Pair:
        for each in (near, far):
            each.setblocking(False)  # noqa: FBT003
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests, answers = (Flow(*ends, self.shape, self.now) for ends in ((near, far), (far, near)))
        pair = Pair(near, far, requests, answers)
        self.pairs.append(pair)
        return pair

    def tick(self, now: float, readable: set[int]) -> None:
        """Move what has arrived at the sockets `readable`, as far as rates and latency allow."""
        self.now = now
        # Whoever was first is last next time, so that nobody starves when the link is full.
        self.pairs = self.pairs[1:] + self.pairs[:1]
        for pair in self.pairs:
            if pair.requests.held or pair.near.fileno() in readable:
                before = pair.requests.held
                if self._move(pair.requests, self._there) or before:
                    pair.asked = now
            answer_arrived = pair.far.fileno() in readable
            waits = pair.asked is not None and now < pair.asked + self.shape.latency_seconds
            if pair.answers.held or (answer_arrived and not waits):
                pair.asked = None
                self._move(pair.answers, self._back)
        for pair in [each for each in self.pairs if each.over]:
            self.pairs.remove(pair)
            pair.close()

    def _move(self, flow: Flow, link: TokenBucket) -> int:
        taken = 0
        if not flow.held and not flow.ended:
            limit = min(flow.bucket.available(self.now), link.available(self.now), PIPE_BYTES)
            if limit:
                taken = flow.draw(limit)
                flow.bucket.take(taken)
                link.take(taken)
        flow.push()
        return taken


def serve(listener: socket.socket, target: tuple[str, int], shape: Shape) -> None:
    """Carry every connection that comes, for ever."""
    link = Link(shape, time.monotonic())
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        next_tick = time.monotonic() + TICK_SECONDS
        readable = {descriptor for descriptor, _ in poll.poll(0 if link.pairs else None)}
        if listener.fileno() in readable:
            while near := _accepted(listener):
                link.join(near, socket.create_connection(target))
                for each in (near, link.pairs[-1].far):
                    poll.register(each, select.EPOLLIN)
        link.tick(time.monotonic(), readable)
        time.sleep(max(0.0, next_tick - time.monotonic()))


def _accepted(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None


def main(arguments: list[str] | None = None) -> None:
    """Say where the link begins, and carry until ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--connection-mb", type=float, default=10, help="MB/s of each connection")
    parser.add_argument("--link-mb", type=float, default=200, help="MB/s of all together")
    told: Any = parser.parse_args(arguments)
    host, _, port = told.to.rpartition(":")
    shape = Shape(told.latency_ms / 1000, told.connection_mb * MB, told.link_mb * MB)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)  # noqa: FBT003
        # Or it would take in megabytes at once, at a rate no link has; accepted connections inherit this.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        print(f"carrying from http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        serve(listener, (host, int(port)), shape)


if __name__ == "__main__":
    main()
