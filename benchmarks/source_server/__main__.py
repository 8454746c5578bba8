"""An S3 server that is never what a transfer waits for: it gives what it need not hold, and takes without looking.

Objects named in its manifest are cut from one ground of bytes (`content.py`) and sent by `sendfile`. What is
uploaded to a bucket named `kept…` is stored and its checksums are compared; bodies for any other bucket are
dropped by the kernel (`MSG_TRUNC`) and leave a sparse file of their size, so that count and sizes can be
checked. Requests are those of clients that move files, path-style; signatures are not looked at.

A few processes share the port (`SO_REUSEPORT`), and everything they remember is in one folder. In each,
a connection is a generator that yields what it waits for, and one epoll loop runs them all.

    python -m benchmarks.source_server --folder DIR --manifest FILE [--certificate FILE --key FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.content import Ground
from benchmarks.source_server.connections import ClientGoneError, Connection, TlsConnection, Waiting
from benchmarks.source_server.objects import Shelves
from benchmarks.source_server.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator


def serve(listener: socket.socket, shelves: Shelves, tls: ssl.SSLContext | None, parent: int) -> None:
    """Run every connection that comes, until `parent` (the read end of a pipe) is closed."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(parent, select.EPOLLIN)
    running: dict[int, tuple[socket.socket, Waiting, int]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == parent:
                return
            if descriptor == listener.fileno():
                for peer, service in accepted(listener, shelves, tls):
                    poll.register(peer, select.EPOLLIN)
                    running[peer.fileno()] = peer, service, select.EPOLLIN
                continue
            peer, service, awaited = running[descriptor]
            try:
                wanted = next(service)
            except (StopIteration, ClientGoneError, OSError, ValueError):
                poll.unregister(descriptor)
                del running[descriptor]
                peer.close()
                continue
            if wanted != awaited:
                poll.modify(descriptor, wanted)
                running[descriptor] = peer, service, wanted


def accepted(
    listener: socket.socket, shelves: Shelves, tls: ssl.SSLContext | None
) -> Iterator[tuple[socket.socket, Waiting]]:
    """The connections that wait to be accepted."""
    while True:
        try:
            peer, _ = listener.accept()
        except BlockingIOError:
            return
        peer.setblocking(False)  # noqa: FBT003
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            secure = tls.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
            yield secure, Service(TlsConnection(secure), shelves).run()
        else:
            yield peer, Service(Connection(peer), shelves).run()


def listening(port: int) -> socket.socket:
    """A socket that shares its port with those of the other processes."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    listener.setblocking(False)  # noqa: FBT003
    return listener


def main(arguments: list[str] | None = None) -> None:
    """Serve until told to end by SIGTERM, or until the parent of all processes is gone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where uploads leave their files")
    parser.add_argument("--manifest", type=Path, help='JSON: {"bucket": {"key": size in bytes}}')
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    told: Any = parser.parse_args(arguments)
    tls = None
    if told.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(told.certificate, told.key)
    manifest = json.loads(told.manifest.read_text()) if told.manifest else {}
    shelves = Shelves(told.folder, manifest, Ground())
    shelves.prepare_checksums()
    first = listening(0)
    port = first.getsockname()[1]
    listeners = [first, *(listening(port) for _ in range(told.processes - 1))]
    parent, lifeline = os.pipe()
    for listener in listeners:
        if os.fork() == 0:
            os.close(lifeline)
            with suppress(KeyboardInterrupt):
                serve(listener, shelves, tls, parent)
            os._exit(0)
    for listener in listeners:
        listener.close()
    print(f"serving on {'https' if tls else 'http'}://127.0.0.1:{port}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
