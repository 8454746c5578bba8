"""A unix socket before the engine's own whose connections can be cut, all at once, as often as a test likes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class EngineProxy:
    """Passes bytes and ends of streams on, both ways."""

    def __init__(self, path: Path, engine: str) -> None:
        self.host = f"unix://{path}"
        """For DOCKER_HOST."""
        self._path = path
        self._engine = engine
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket
        self._bytes_left: int | None = None

    def open(self) -> None:
        """Let connections in (again)."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(100)
        self._begin(self._accept, self._listener)

    def refuse(self) -> None:
        """Let no new connection in."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def cut(self) -> None:
        """Break every connection that there is."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count: int) -> None:
        """Break every connection when so many bytes more have come from the engine."""
        self._bytes_left = count

    def close(self) -> None:
        """End everything."""
        self.refuse()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                self._begin(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            try:
                far.connect(self._engine)
            except OSError:
                return
            with self._lock:
                self._ends += [near, far]
            answering = threading.Thread(target=self._pump, args=(far, near, True), daemon=True)
            answering.start()
            self._pump(near, far, False)
            answering.join()
            with self._lock:
                self._ends = [end for end in self._ends if end is not near and end is not far]

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(4096):
                if counted and self._is_the_last(len(chunk)):
                    sink.sendall(chunk[: len(chunk) // 2])
                    self.cut()
                    return
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def _is_the_last(self, count: int) -> bool:
        with self._lock:
            if self._bytes_left is None:
                return False
            self._bytes_left -= count
            if self._bytes_left > 0:
                return False
            self._bytes_left = None
            return True


@contextmanager
def engine_proxy(directory: Path, engine: str = "/var/run/docker.sock") -> Iterator[EngineProxy]:
    """A proxy whose socket is in `directory`."""
    proxy = EngineProxy(directory / "engine.sock", engine)
    proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()
