"""How a file is cut into parts: sizes in, offsets out, nothing else.

S3 allows 10,000 parts of 5 MiB to 5 GiB in one upload (S3 User Guide, "Amazon S3 multipart upload limits"),
and rewards ranges of 8 to 16 MiB (S3 performance guidelines), so parts stay small until the file is too large.
"""

from __future__ import annotations

from taskrunner.storage.store import Part

MOST_PARTS = 10_000
LEAST_UPLOAD_PART_BYTES = 5 * 1024 * 1024
SINGLE_UPLOAD_BYTES = 16 * 1024 * 1024
"""Up to this size an object is sent in one request: beginning and completing a multipart upload cost two."""
_MEBIBYTE = 1024 * 1024


def cut(size_bytes: int, part_bytes: int) -> tuple[Part, ...]:
    """`size_bytes` as consecutive parts of `part_bytes`, the last one shorter; one empty part for 0."""
    offsets = range(0, max(size_bytes, 1), part_bytes)
    return tuple(
        Part(number, offset, min(part_bytes, size_bytes - offset)) for number, offset in enumerate(offsets, 1)
    )


def download_parts(size_bytes: int | None, part_bytes: int, *, ranged: bool) -> tuple[Part, ...]:
    """The ranges an object is read in: one for all of it where its size is unknown or it has no ranges.

    Never more than 10,000 either, since a server may tell any size.
    """
    if size_bytes is None:
        return (Part(1, 0, 0),)
    return cut(size_bytes, _grown(size_bytes, part_bytes) if ranged else max(size_bytes, 1))


def upload_parts(size_bytes: int, part_bytes: int) -> tuple[Part, ...]:
    """The parts an object is sent in: one up to 16 MiB, never more than 10,000, whole mebibytes when larger."""
    if size_bytes <= SINGLE_UPLOAD_BYTES:
        return cut(size_bytes, max(size_bytes, 1))
    return cut(size_bytes, _grown(size_bytes, max(part_bytes, LEAST_UPLOAD_PART_BYTES)))


def _grown(size_bytes: int, part_bytes: int) -> int:
    """`part_bytes`, or as many whole mebibytes as are needed for 10,000 parts to suffice."""
    needed_bytes = -(-size_bytes // MOST_PARTS)
    if needed_bytes <= part_bytes:
        return part_bytes
    return -(-needed_bytes // _MEBIBYTE) * _MEBIBYTE
