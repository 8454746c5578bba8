"""What S3 tells about an object's checksum in its headers, and which checksum it is told in turn.

S3 tells the checksum an object was stored with, of the whole or (`value-N`) of N parts' checksums. Its relatives
err here, so that a value no algorithm could give counts as untold. Where nothing is told, the ETag of an object
that was sent in one piece is its MD5, unless it is encrypted by keys of KMS or the customer.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.storage.checksums import Algorithm, Checksum, decoded
from taskrunner.storage.heads import told_number

if TYPE_CHECKING:
    from taskrunner.storage.wire import Answer

ASK_FOR_CHECKSUM = ("x-amz-checksum-mode", "ENABLED")

_HEADERS = {algorithm: algorithm.header for algorithm in Algorithm}
_PARTS_ETAG = re.compile('-([0-9]{1,5})"?$')
_MD5_ETAG = re.compile('"?([0-9a-f]{32})"?')
_SENT = (Algorithm.CRC64NVME, Algorithm.CRC32)


@dataclass(frozen=True, slots=True)
class ToldChecksum:
    """A checksum that an answer tells of an object."""

    algorithm: Algorithm
    value: bytes
    part_count: int | None
    """For a composite, of how many parts; 0 where the answer does not say. None: `value` is of all bytes."""

    @classmethod
    def by(cls, answer: Answer) -> ToldChecksum | None:
        """The best one of those the answer tells."""
        return next((told for one in Algorithm if (told := cls.of(answer, one))), None)

    @classmethod
    def of(cls, answer: Answer, algorithm: Algorithm) -> ToldChecksum | None:
        """What the answer tells by `algorithm`.

        S3 says of which type a checksum is; not all of its relatives do, nor tell the number of parts. Where an
        object was sent in parts, SHA can only be a composite, CRC64NVME never is one, and other CRCs may be both.
        """
        told = answer.header(_HEADERS[algorithm])
        if told is None:
            return None
        text, dash, suffix = told.partition("-")
        value = decoded(text, algorithm)
        if value is None:
            return None
        kind = answer.header("x-amz-checksum-type")
        parts = _PARTS_ETAG.search(answer.header("ETag") or "")
        if dash or kind == "COMPOSITE":
            return cls(algorithm, value, told_number(suffix) or 0)
        if kind == "FULL_OBJECT" or parts is None or algorithm is Algorithm.CRC64NVME:
            return cls(algorithm, value, None)
        return None if algorithm.combinable else cls(algorithm, value, int(parts[1]))


def whole_checksum(answer: Answer, *, md5_etags: bool) -> Checksum | None:
    """What the answer (to a HEAD, or a GET without a range) tells of all the object's bytes, if anything."""
    told = ToldChecksum.by(answer)
    if told is None:
        return _md5(answer) if md5_etags else None
    return Checksum(told.algorithm, told.value) if told.part_count is None else None


def stored_value(answer: Answer, algorithm: Algorithm) -> bytes | None:
    """What the answer tells by `algorithm` of all the bytes that were stored, if anything."""
    told = ToldChecksum.of(answer, algorithm)
    return told.value if told is not None and told.part_count is None else None


def _md5(answer: Answer) -> Checksum | None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/RESTCommonResponseHeaders.html, ETag."""
    match = _MD5_ETAG.fullmatch(answer.header("ETag") or "")
    by_kms = (answer.header("x-amz-server-side-encryption") or "").startswith("aws:")
    if match is None or by_kms or answer.header("x-amz-server-side-encryption-customer-algorithm"):
        return None
    return Checksum(Algorithm.MD5, bytes.fromhex(match[1]))


@dataclass(slots=True)
class SentChecksums:
    """Which checksum goes with what one bucket is sent: the best, until its server refuses to hear of it.

    Shared by all lanes.
    """

    _refused: set[Algorithm] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def algorithm(self) -> Algorithm | None:
        """The one to try now; None where the server takes none."""
        with self._lock:
            return next((one for one in _SENT if one not in self._refused), None)

    def refuse(self, algorithm: Algorithm) -> None:
        """The server does not know it."""
        with self._lock:
            self._refused.add(algorithm)
