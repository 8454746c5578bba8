"""What an earlier attempt has moved already: a few lines beside a file in the making, never trusted.

A journal's first line says which transfer it is about (URL, version, size, how it is cut); each further line
is one part that was moved wholly, with its checksum. It is written as parts end, so a killed process leaves
all but the parts in flight. Whoever goes on compares: the first line must be the same to the byte, and each
part's bytes, on disk or in the store, must still come to what its line says. A line that can't be read ends
the journal; a journal that is about something else is as good as none.
"""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from taskrunner.errors import TransferIOError
from taskrunner.storage.checksums import Algorithm, Checksum
from taskrunner.storage.store import Receipt
from taskrunner.workdir import is_only_ours

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OF_UPLOAD = ("resume_id", "begun_seconds")
_LONGEST_SECONDS = 30 * 24 * 3600.0
"""An upload older than this is none that an attempt before ours has left."""
_MOST_BYTES = 16 * 1024 * 1024  # ten thousand parts are some 2 MB


def journal_name(*identity: str) -> str:
    """A file name for the journal of one transfer, and for its file in the making."""
    return sha256("\0".join(identity).encode(errors="surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a journal holds."""

    parts: dict[int, Receipt]
    """Parts that an earlier attempt says it moved, by number."""
    resume_id: str | None = None
    """For uploads: what the store knows the one under way by; None where that was never learned."""
    begun_seconds: float | None = None
    """For uploads: when it was begun, since the epoch."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of one transfer. All calls block and may come from any lane."""

    path: Path
    about: Mapping[str, str | int]
    """What must be the same for the rest to mean anything."""

    def recall(self) -> Recalled:
        """What an earlier attempt wrote; nothing where it wrote about something else.

        Raises TransferIOError where the journal is there and can't be read.
        """
        first, *lines = read_lines(self.path) or [b""]
        about = _object(first)
        resume_id, begun_seconds = _of_upload(about)
        if {key: about[key] for key in about if key not in _OF_UPLOAD} != dict(self.about):
            return Recalled({})
        parts: dict[int, Receipt] = {}
        good_bytes = len(first)
        for line in lines:
            entry = _entry(line)
            if entry is None:
                break
            parts[entry[0]] = entry[1]
            good_bytes += len(line)
        try:
            os.truncate(self.path, good_bytes)  # so that what is added begins a line of its own
        except OSError as error:
            raise TransferIOError(f"can't write {self.path}: {error.strerror}") from error
        return Recalled(parts, resume_id, begun_seconds)

    def record(self, number: int, receipt: Receipt) -> None:
        """One part was moved wholly. Raises TransferIOError where the disk takes no more."""
        line = _line(number, receipt)
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise TransferIOError(f"can't write {self.path}: {error.strerror}; is the disk full?") from error

    def begin(self, *, resume_id: str | None = None, begun_seconds: float | None = None) -> None:
        """Begin anew: nothing was moved so far. Raises TransferIOError."""
        of_upload = {"resume_id": resume_id, "begun_seconds": begun_seconds}
        first = {**self.about, **{key: value for key, value in of_upload.items() if value is not None}}
        try:
            self.path.unlink(missing_ok=True)
            with self.path.open("xb") as file:
                file.write(f"{json.dumps(first)}\n".encode())
        except OSError as error:
            raise TransferIOError(f"can't write {self.path}: {error.strerror}; is the disk full?") from error

    def remove(self) -> None:
        """There is nothing to go on with any more. Raises TransferIOError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise TransferIOError(f"can't remove {self.path}: {error.strerror}") from error


def read_lines(path: Path) -> list[bytes]:
    """A journal's whole lines; none where there is no journal, or what is there is not one of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TransferIOError(f"can't read {path}: {error.strerror}") from error
    try:
        with open(fd, "rb") as file:
            content = file.read(_MOST_BYTES) if is_only_ours(os.fstat(fd)) else b""
    except OSError as error:
        raise TransferIOError(f"can't read {path}: {error.strerror}") from error
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def abandoned_upload(path: Path) -> tuple[str, str | None, float] | None:
    """URL, resume id and time of the upload a journal is about; None where there is none to be read."""
    about = _object((read_lines(path) or [b""])[0])
    url = about.get("url")
    resume_id, begun_seconds = _of_upload(about)
    if not isinstance(url, str) or begun_seconds is None:
        return None
    return url, resume_id, begun_seconds


def _of_upload(about: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """A first line's resume id and time of beginning, as far as they can be ones of ours."""
    resume_id, begun_seconds = (about.get(key) for key in _OF_UPLOAD)
    if not isinstance(resume_id, str) or not (resume_id.isascii() and resume_id.isprintable()):
        resume_id = None
    now = time.time()
    if not isinstance(begun_seconds, int | float) or not now - _LONGEST_SECONDS < begun_seconds <= now:
        begun_seconds = None
    return resume_id, begun_seconds


def _object(line: bytes) -> dict[str, Any]:
    """A line's JSON object; empty where it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _line(number: int, receipt: Receipt) -> bytes:
    entry: dict[str, str | int] = {"part": number, "etag": receipt.etag}
    if receipt.checksum is not None:
        entry["algorithm"] = receipt.checksum.algorithm.value
        entry["value"] = b64encode(receipt.checksum.value).decode()
    return f"{json.dumps(entry)}\n".encode()


def _entry(line: bytes) -> tuple[int, Receipt] | None:
    """One line's part; None where it is damaged."""
    try:
        entry = _object(line)
        number, etag = entry["part"], entry["etag"]
        if not isinstance(number, int) or not isinstance(etag, str):
            return None
        checksum = None
        if "value" in entry:
            checksum = Checksum(Algorithm(entry["algorithm"]), b64decode(entry["value"], validate=True))
    except (ValueError, KeyError, TypeError):
        return None
    return number, Receipt(etag, checksum)
