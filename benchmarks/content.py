"""What is moved: bytes that any offset of any file can be asked for, and that no two places nearby share.

A ground of 127 MiB is made once: random bytes in which every page carries its own number. A file's bytes are
the ground's, again and again, from a phase that its name decides. So a part written to the wrong offset and two
files that were mixed up are both seen, and a server can give objects of any size by `sendfile` without holding
them. 127 is a prime: parts of any usual size that change places differ.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MiB = 1024 * 1024
GiB = 1024 * MiB
GROUND_BYTES = 127 * MiB
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Files:
    """So many files of one size each."""

    count: int
    size_bytes: int

    def __str__(self) -> str:
        size = shown_size(self.size_bytes)
        return size if self.count == 1 else f"{self.count} × {size}"  # noqa: RUF001

    @property
    def total_bytes(self) -> int:
        return self.count * self.size_bytes

    def names(self) -> list[str]:
        """Their names: of one file a plain one, of several in folders of a thousand."""
        if self.count == 1:
            return ["file.bin"]
        return [f"{number // 1000:02}/file-{number:05}.bin" for number in range(self.count)]


def shown_size(size_bytes: float) -> str:
    """As people write sizes."""
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (1024, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.4g} {name}"
    return f"{size_bytes:.0f} B"


class Ground:
    """The bytes that all files are cut from, in a file of memory only, which `sendfile` can send from.

    It is read, not mapped, unless somebody asks for the `view`: the kernel counts what is mapped as memory of
    the process, and of the children that it starts until they are programs of their own.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("benchmark-ground")
        block = bytearray(random.Random(1).randbytes(MiB))
        for offset in range(0, GROUND_BYTES, MiB):
            for page in range(0, MiB, PAGE_BYTES):
                struct.pack_into("<Q", block, page, (offset + page) // PAGE_BYTES)
            os.pwrite(self.descriptor, block, offset)

    @cached_property
    def view(self) -> memoryview:
        """All of it, mapped into memory."""
        return memoryview(mmap.mmap(self.descriptor, GROUND_BYTES))

    def pieces(self, name: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Where in the ground `length` bytes of the file `name` from `offset` are: (offset, length) of each."""
        place = (phase_of(name) + offset) % GROUND_BYTES
        while length:
            piece = min(length, GROUND_BYTES - place)
            yield place, piece
            length -= piece
            place = 0

    def write(self, path: Path, name: str, size_bytes: int) -> None:
        """Make the file `name` at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            for offset, length in self.pieces(name, 0, size_bytes):
                sent = 0
                while sent < length:
                    sent += os.sendfile(file.fileno(), self.descriptor, offset + sent, length - sent)

    def first_difference(self, path: Path, name: str, size_bytes: int) -> str | None:
        """How the file at `path` differs from the file `name`; None where it is the same to the byte."""
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size_bytes:
            return f"{name} has {found:,} bytes, not {size_bytes:,}"
        position = 0
        with path.open("rb", buffering=0) as file:
            for offset, length in self.pieces(name, 0, size_bytes):
                for start in range(offset, offset + length, MiB):
                    wanted = os.pread(self.descriptor, min(MiB, offset + length - start), start)
                    if os.pread(file.fileno(), len(wanted), position) != wanted:
                        return f"{name} differs within the {len(wanted):,} bytes from offset {position:,} on"
                    position += len(wanted)
        return None


def phase_of(name: str) -> int:
    """Where in the ground a file begins: on a page, by the last part of its name."""
    return zlib.crc32(name.rpartition("/")[2].encode()) % (GROUND_BYTES // PAGE_BYTES) * PAGE_BYTES
