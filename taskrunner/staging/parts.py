"""How a file is cut into parts: sizes in, offsets out, nothing else.

S3 allows 10,000 parts of 5 MiB to 5 GiB in one upload (S3 User Guide, "Amazon S3 multipart upload limits"),
and rewards ranges of 8 to 16 MiB (S3 performance guidelines), so parts stay small until the file is too large.
A checksum that can't be put together from any stretches sets the cut itself: a composite needs the very parts
the object was uploaded in, a SHA of the whole object needs one stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from taskrunner.storage.store import Part

if TYPE_CHECKING:
    from taskrunner.storage.checksums import Checksum

MOST_PARTS = 10_000
LEAST_UPLOAD_PART_BYTES = 5 * 1024 * 1024
SINGLE_UPLOAD_BYTES = 16 * 1024 * 1024
"""Up to this size an object is sent in one request: beginning and completing a multipart upload cost two."""
_MEBIBYTE = 1024 * 1024
_MANY_PARTS = 64
"""A file of so many parts has enough for all lanes."""
_FINE_PARTS = 8
_FINE_SHARES = 4
_LARGEST_STRETCH_BYTES = 32 * _MEBIBYTE


@dataclass(frozen=True, slots=True)
class Cut(Sequence[Part]):
    """`size_bytes` as consecutive parts of `part_bytes`, the last one shorter; one empty part for 0.

    From the part with the index `fine_from` on, parts are of `fine_bytes`. Parts are made when asked for: a task
    may well have a million.
    """

    size_bytes: int
    part_bytes: int
    fine_from: int | None = None
    fine_bytes: int = 1

    def __len__(self) -> int:
        if self.fine_from is None:
            return _count(max(self.size_bytes, 1), self.part_bytes)
        return self.fine_from + _count(self.size_bytes - self.fine_from * self.part_bytes, self.fine_bytes)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        offset, length = at * self.part_bytes, self.part_bytes
        if self.fine_from is not None and at >= self.fine_from:
            offset = self.fine_from * self.part_bytes + (at - self.fine_from) * self.fine_bytes
            length = self.fine_bytes
        return Part(at + 1, offset, min(length, self.size_bytes - offset))


def _count(size_bytes: int, part_bytes: int) -> int:
    return (size_bytes + part_bytes - 1) // part_bytes


def download_parts(
    size_bytes: int | None, part_bytes: int, *, ranged: bool, checksum: Checksum | None = None
) -> Cut:
    """The ranges an object is read in: one for all of it where its size is unknown or it has no ranges.

    Never more than 10,000 either, since a server may tell any size.
    """
    if size_bytes is None:
        return Cut(0, 1)
    whole = Cut(size_bytes, max(size_bytes, 1))
    if not ranged:
        return whole
    if checksum is None or (checksum.part_bytes is None and checksum.algorithm.combinable):
        return _fine_at_the_end(size_bytes, part_bytes)
    if checksum.part_bytes is None:
        return whole
    if checksum.algorithm.combinable:
        return Cut(size_bytes, _even_share(checksum.part_bytes))
    return Cut(size_bytes, checksum.part_bytes)


def upload_parts(size_bytes: int, part_bytes: int) -> Cut:
    """The parts an object is sent in: one up to 16 MiB, never more than 10,000, whole mebibytes when larger."""
    if size_bytes <= SINGLE_UPLOAD_BYTES:
        return Cut(size_bytes, max(size_bytes, 1))
    return Cut(size_bytes, _grown(size_bytes, max(part_bytes, LEAST_UPLOAD_PART_BYTES)))


def _fine_at_the_end(size_bytes: int, part_bytes: int) -> Cut:
    """Parts of `part_bytes`; of a large file of twice that, with the last few in small shares.

    Half as many requests cost less, but towards the end, when there is no more to take, a lane with a large part
    would keep the others waiting.
    """
    if size_bytes < _MANY_PARTS * part_bytes:
        return Cut(size_bytes, part_bytes)
    large_bytes = max(2 * part_bytes, _grown(size_bytes, part_bytes))
    coarse = max(0, size_bytes // large_bytes - _FINE_PARTS)
    return Cut(size_bytes, large_bytes, coarse, large_bytes // _FINE_SHARES)


def _grown(size_bytes: int, part_bytes: int) -> int:
    """`part_bytes`, or as many whole mebibytes as are needed for 10,000 parts to suffice."""
    needed_bytes = _count(size_bytes, MOST_PARTS)
    return part_bytes if needed_bytes <= part_bytes else _count(needed_bytes, _MEBIBYTE) * _MEBIBYTE


def _even_share(part_bytes: int) -> int:
    """A large part of an object in equal shares, where it can be shared out evenly."""
    for share in range(-(-part_bytes // _LARGEST_STRETCH_BYTES), part_bytes // LEAST_UPLOAD_PART_BYTES + 1):
        if part_bytes % share == 0:
            return part_bytes // share
    return part_bytes
