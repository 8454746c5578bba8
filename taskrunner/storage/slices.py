"""A stretch of an open file: what a lane fills or reads, how far it is, and what its bytes come to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import DamagedError, TransferIOError
from taskrunner.storage.checksums import KnownDigest, encoded, new_digest

if TYPE_CHECKING:
    from taskrunner.storage.checksums import Algorithm, Checksum, Digest


@dataclass(slots=True)
class FileSlice:
    """A stretch of an open file that a lane fills (download) or reads (upload); the lane never seeks.

    `length` None means to the end of the stream. `done` counts the bytes moved so far and is read by the loop
    while a lane moves it, for progress and for resuming where a connection dropped.
    """

    fd: int
    offset: int
    length: int | None
    done: int = 0
    algorithm: Algorithm | None = None
    digest: Digest | None = None
    """By `algorithm`; fed with every byte that is appended."""
    expected: Checksum | None = None
    """What `digest` is to come to, where that is known of this very stretch."""
    cut_count: int = 0
    """How often a connection was given up for being far slower than others."""

    @property
    def position(self) -> int:
        """Where the next byte goes, or comes from."""
        return self.offset + self.done

    @property
    def left(self) -> int | None:
        """How many bytes are still to be moved; None where nobody knows."""
        return None if self.length is None else self.length - self.done

    def append(self, chunk: memoryview) -> None:
        """Write the next bytes at their place.

        Raises TransferIOError where the disk takes no more; a plain OSError would look like the network's.
        """
        if self.digest is not None:
            self.digest.update(chunk)
        while chunk:
            try:
                written = os.pwrite(self.fd, chunk, self.offset + self.done)
            except OSError as error:
                raise TransferIOError(
                    f"can't write to the local disk: {error.strerror}; is there enough space on it?"
                ) from error
            self.done += written
            chunk = chunk[written:]

    def compute(self, algorithm: Algorithm) -> None:
        """Compute a checksum of the bytes to come. Only before the first one."""
        self.algorithm = algorithm
        self.digest = new_digest(algorithm)

    def expect(self, checksum: Checksum) -> None:
        """The store tells, before the first byte, what the whole stretch comes to; the first word counts."""
        if self.expected is None and not self.done:
            self.compute(checksum.algorithm)
            self.expected = checksum

    def verify(self, url: str) -> None:
        """Compare what came with what was told. Raises DamagedError where they differ."""
        if self.expected is None or self.digest is None:
            return
        require_same(url, self.digest.digest(), self.expected)

    def recall(self, value: bytes) -> None:
        """All bytes are there already, and come to `value`."""
        self.digest = KnownDigest(value)
        self.done = self.length or 0

    def start_over(self) -> None:
        """Forget what was moved: the next byte is the first one again."""
        self.done = 0
        if self.algorithm is not None:
            self.compute(self.algorithm)


def path_of(fd: int) -> Path:
    """Where an open file is now."""
    return Path(f"/proc/self/fd/{fd}").readlink()


def unreadable(source: FileSlice, error: OSError) -> TransferIOError:
    """Our error for a file that can't be read; a plain OSError would look like the network's."""
    return TransferIOError(f"can't read {path_of(source.fd)}: {error.strerror}")


def require_same(url: str, value: bytes, expected: Checksum) -> None:
    """Compare what the bytes of `url` come to with what was told. Raises DamagedError where they differ."""
    if value != expected.value:
        raise DamagedError(
            f"{url} arrived damaged: its {expected.algorithm} is {encoded(value)}, "
            f"expected {encoded(expected.value)}"
        )
