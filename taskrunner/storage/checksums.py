"""Checksums as S3 knows them: computed as bytes pass, put together from parts, never by reading a file again.

Three CRCs can be combined: that of a whole object follows from those of its parts, in whatever order they
came. SHA and MD5 can't; S3 says for objects sent in parts a *composite* of them, the digest of the parts'
digests ("SHA256 …-12"), which follows from parts of the very same sizes only.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
This is the only module that imports awscrt.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Bytes = bytes | bytearray | memoryview


class Algorithm(StrEnum):
    """An algorithm, by S3's name for it; in the order in which one is chosen where a store tells several."""

    CRC64NVME = "CRC64NVME"
    CRC32C = "CRC32C"
    CRC32 = "CRC32"
    SHA256 = "SHA256"
    SHA1 = "SHA1"
    MD5 = "MD5"

    @property
    def combinable(self) -> bool:
        """Whether the value for a whole follows from those of its parts."""
        return self in _CRC_BYTES

    @property
    def digest_bytes(self) -> int:
        """How long a value is."""
        return _CRC_BYTES.get(self) or hashlib.new(self.value, usedforsecurity=False).digest_size

    @property
    def header(self) -> str:
        """The header S3 has for it."""
        return f"x-amz-checksum-{self.value.lower()}"


_CRC_BYTES = {Algorithm.CRC64NVME: 8, Algorithm.CRC32C: 4, Algorithm.CRC32: 4}


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a store says that an object's bytes come to."""

    algorithm: Algorithm
    value: bytes
    part_bytes: int | None = None
    """For a composite: the size of each part but the last. None: `value` is of the whole object's bytes."""

    def __str__(self) -> str:
        return f"{self.algorithm} {b64encode(self.value).decode()}"


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, chunk: Bytes, /) -> None:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """The value of all bytes so far, as S3 encodes it (big-endian), before its base64."""


class _Crc:
    """A CRC by awscrt, which uses the processor's own instructions for it."""

    __slots__ = ("_function", "_length", "_value")

    def __init__(self, algorithm: Algorithm) -> None:
        self._function: Callable[[Bytes, int], int] = _crt_function(algorithm.value.lower())
        self._length = algorithm.digest_bytes
        self._value = 0

    def update(self, chunk: Bytes, /) -> None:
        self._value = self._function(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


@dataclass(frozen=True, slots=True)
class KnownDigest:
    """A checksum that was computed before; nothing can be added to it."""

    value: bytes

    def update(self, chunk: Bytes, /) -> None:
        """See `Digest.update`."""
        raise NotImplementedError

    def digest(self) -> bytes:
        """See `Digest.digest`."""
        return self.value


def new_digest(algorithm: Algorithm) -> Digest:
    """A digest of no bytes yet."""
    if algorithm.combinable:
        return _Crc(algorithm)
    return hashlib.new(algorithm.value, usedforsecurity=False)


def combined(algorithm: Algorithm, parts: Sequence[tuple[bytes, int]]) -> bytes:
    """The value of consecutive parts taken together, from (value, length in bytes) of each; CRCs only."""
    combine = _crt_function(f"combine_{algorithm.value.lower()}")
    total = 0
    for value, length_bytes in parts:
        total = combine(total, int.from_bytes(value, "big"), length_bytes)
    return total.to_bytes(algorithm.digest_bytes, "big")


def composite(algorithm: Algorithm, values: Sequence[bytes]) -> bytes:
    """S3's composite of parts' values."""
    whole = new_digest(algorithm)
    for value in values:
        whole.update(value)
    return whole.digest()


def encoded(value: bytes) -> str:
    """A value as S3 writes it in headers and XML."""
    return b64encode(value).decode()


def decoded(text: str, algorithm: Algorithm) -> bytes | None:
    """A value as S3 writes it; None where it can't be one of this algorithm's (some servers err here)."""
    try:
        value = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        return None
    return value if len(value) == algorithm.digest_bytes else None


def _crt_function(name: str) -> Callable[..., int]:
    from awscrt import checksums  # noqa: PLC0415  # 30 ms, for tasks that move large files only

    function: Callable[..., int] = getattr(checksums, name)
    return function
