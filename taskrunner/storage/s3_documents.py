"""S3's XML documents: what comes in as listings and answers about uploads, and the one that goes out.

A server is not more trusted than the network: documents with a document type declaration, from which entity
bombs are made, are refused, and those that would take much more memory than their bytes. Names are taken without
their namespaces, which S3's relatives leave away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET  # see `_Builder`

from taskrunner.errors import TransferIOError, TransientError
from taskrunner.storage.checksums import Checksum, decoded, encoded
from taskrunner.storage.heads import moment_seconds, told_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from taskrunner.storage.checksums import Algorithm
    from taskrunner.storage.store import Receipt

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_MOST_ELEMENTS = 50_000
"""A page names 1000 things at most, each by a dozen elements or so."""
_DEEPEST = 20
_PIECE_BYTES = 64 * 1024
# One tag may have a million attributes, all of which are read before anybody is asked.
_LONG_TAG = re.compile(rb"<[^<]{65536}")


class _Builder(ET.TreeBuilder):
    def __init__(self) -> None:
        super().__init__()
        self._elements = 0
        self._depth = 0

    def start(self, tag: str, _attributes: dict[str, str], /) -> ET.Element:
        self._elements += 1
        self._depth += 1
        if self._elements > _MOST_ELEMENTS or self._depth > _DEEPEST:
            raise ValueError("too many elements")
        return super().start(tag, {})

    def end(self, tag: str, /) -> ET.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> None:
        raise ValueError(f"a document type declaration ({name})")


def _read(body: bytes) -> ET.Element:
    """The root of a document; in pieces, since expat reads what it has to the end though nobody wants more."""
    parser = ET.XMLParser(target=_Builder())  # noqa: S314  # see `_Builder`
    for start in range(0, len(body), _PIECE_BYTES):
        parser.feed(body[start : start + _PIECE_BYTES])
    root: ET.Element = parser.close()
    return root


@dataclass(frozen=True, slots=True)
class Document:
    """One answer: its fields by name, and those of the elements that it has several of."""

    root: ET.Element

    @classmethod
    def parsed(cls, body: bytes, url: str) -> Document:
        """Read the answer to a question about `url`; white space around it only kept the connection alive.

        Raises TransientError where it is no such document.
        """
        try:
            if _LONG_TAG.search(body):
                raise ValueError("an element without end")
            root = _read(body.strip())
        except (ET.ParseError, ValueError, LookupError) as error:  # an encoding that nobody knows
            raise TransientError(
                f"S3's answer about {url} is no document that it should be: {error}"
            ) from error
        return cls(root)

    @property
    def name(self) -> str:
        """What kind of answer it is."""
        return _name(self.root)

    def field(self, name: str) -> str:
        """The text of the element of this name; empty where there is none."""
        return self.fields.get(name, "")

    @property
    def fields(self) -> dict[str, str]:
        """The text of every element."""
        return _fields(self.root)

    def entries(self, name: str) -> Iterator[dict[str, str]]:
        """The fields of each element of this name, in their order."""
        return (_fields(element) for element in self.root if _name(element) == name)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fields(element: ET.Element) -> dict[str, str]:
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


def quoted(etag: str) -> str:
    """An ETag with its quotes, which rclone's server leaves away in documents.

    Empty where it can't be sent back: a document may have characters that no header may.
    """
    if not (etag.isascii() and etag.isprintable()):
        return ""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag


def seconds(time: str) -> float | None:
    """A time such as 2026-01-31T12:00:00.000Z, since the epoch; None where it is none."""
    try:
        return moment_seconds(datetime.fromisoformat(time))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    entries: tuple[dict[str, str], ...]
    """The fields of each object, its Key as it is."""
    more: str
    """What the next page is asked with; empty for the last one."""

    @classmethod
    def of(cls, document: Document, url: str) -> Page:
        """Read a ListBucketResult; names are encoded only where it says so.

        Raises TransferIOError where it says that there is more, and not where: files would be missing; and
        TransientError where it is no such listing.
        """
        fields = document.fields
        entries = tuple(document.entries("Contents"))
        for entry in entries:
            if "Key" not in entry or told_number(entry.get("Size")) is None:
                raise TransientError(
                    f"{url}: the server's listing names an object without its key or its size"
                )
        if fields.get("EncodingType") == "url":
            entries = tuple({**entry, "Key": unquote_plus(entry["Key"])} for entry in entries)
        truncated = fields.get("IsTruncated", "").strip() == "true"
        more = fields.get("NextContinuationToken", "")
        if truncated and not more:
            raise TransferIOError(f"{url}: the server breaks its listing off and does not tell how to go on")
        return cls(entries, more if truncated else "")


def told_checksum(fields: dict[str, str], algorithm: Algorithm) -> Checksum | None:
    """The checksum an element tells by this algorithm; None where it tells none that could be one."""
    value = decoded(fields.get(f"Checksum{algorithm}", "").strip(), algorithm)
    return None if value is None else Checksum(algorithm, value)


def completion(parts: Iterable[tuple[int, Receipt]], *, with_checksums: bool) -> bytes:
    """What CompleteMultipartUpload is told: each part's number and receipt."""
    lines = []
    for number, receipt in parts:
        checksum = ""
        if with_checksums and receipt.checksum is not None:
            name = f"Checksum{receipt.checksum.algorithm}"
            checksum = f"<{name}>{encoded(receipt.checksum.value)}</{name}>"
        etag = f"<ETag>{escape(receipt.etag, quote=False)}</ETag>"
        lines.append(f"<Part><PartNumber>{number}</PartNumber>{etag}{checksum}</Part>")
    whole = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{"".join(lines)}</CompleteMultipartUpload>'
    return whole.encode()
