"""The objects: those of the manifest, cut from the ground, and those that were uploaded, which are files."""

from __future__ import annotations

import hashlib
import os
import time
from base64 import b64encode
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.sax.saxutils import escape

from benchmarks.content import Ground, MiB
from benchmarks.source_server.checksums import crt_function
from benchmarks.source_server.requests import Refused, Request, document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGE_OF_KEYS = 1000


@dataclass(frozen=True)
class Found:
    """An object that can be read."""

    key: str
    size: int
    path: Path | None
    """Where it was uploaded to; None for one of the manifest."""

    @property
    def etag(self) -> str:
        """Of fixed form, and never taken for an MD5."""
        name = hashlib.md5(f"{self.key} {self.size}".encode(), usedforsecurity=False).hexdigest()
        return f'"{name}-1"'


@dataclass
class Shelves:
    """All objects: those of the manifest, which never change, and the uploaded ones, which are files."""

    folder: Path
    manifest: Mapping[str, Mapping[str, int]]
    """Bucket: key: size in bytes."""
    ground: Ground
    _sums: dict[tuple[str, int], str] = field(default_factory=dict)
    _stamp: str = field(default_factory=lambda: time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))

    def prepare_checksums(self) -> None:
        """Compute those of the manifest's objects before anybody asks."""
        for objects in self.manifest.values():
            for key, size in objects.items():
                self.ground_sum(key, size)

    def ground_sum(self, key: str, size: int) -> str:
        """CRC-64/NVME of an object of the manifest, in base64."""
        if (key, size) not in self._sums:
            crc, value = crt_function("crc64nvme"), 0
            for offset, length in self.ground.pieces(key, 0, size):
                value = crc(self.ground.view[offset : offset + length], value)
            self._sums[key, size] = b64encode(value.to_bytes(8, "big")).decode()
        return self._sums[key, size]

    def path(self, bucket: str, key: str) -> Path:
        return self.folder / bucket / key

    def claim_path(self, bucket: str, key: str) -> Path:
        return self.folder / ".claims" / bucket / quote(key, safe="")

    def find(self, bucket: str, key: str) -> Found:
        size = self.manifest.get(bucket, {}).get(key)
        if size is not None:
            return Found(key, size, None)
        path = self.path(bucket, key)
        if not path.is_file():
            raise Refused(404, "NoSuchKey", "there is no such object")
        return Found(key, path.stat().st_size, path)

    def checksum(self, bucket: str, found: Found) -> str | None:
        """As `name:base64`, where it is known."""
        if found.path is None:
            return f"crc64nvme:{self.ground_sum(found.key, found.size)}"
        claim = self.claim_path(bucket, found.key)
        return claim.read_text() if claim.exists() else None

    def headers(self, bucket: str, found: Found, request: Request, *, whole: bool) -> dict[str, str]:
        headers = {"ETag": found.etag, "Last-Modified": self._stamp, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        asked = request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
        if whole and asked and (claim := self.checksum(bucket, found)):
            name, _, text = claim.partition(":")
            headers |= {f"x-amz-checksum-{name}": text, "x-amz-checksum-type": "FULL_OBJECT"}
        return headers

    def keys(self, bucket: str, prefix: str) -> list[tuple[str, int]]:
        """(key, size) of all objects with the prefix, in byte order."""
        listed = [each for each in self._declared(bucket) if each[0].startswith(prefix)]
        root = self.folder / bucket
        for path, _, names in os.walk(root):
            for name in names:
                key = str((Path(path) / name).relative_to(root))
                if key.startswith(prefix):
                    listed.append((key, (Path(path) / name).stat().st_size))
        return sorted(listed, key=lambda each: each[0].encode())

    @cache  # noqa: B019  # one for the life of the server
    def _declared(self, bucket: str) -> list[tuple[str, int]]:
        return sorted(self.manifest.get(bucket, {}).items())

    def __hash__(self) -> int:
        return id(self)


def listing(shelves: Shelves, request: Request) -> bytes:
    """One page of ListObjectsV2 (or of its first version)."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    second = query.get("list-type") == "2"
    after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
    limit = min(int(query.get("max-keys") or PAGE_OF_KEYS), PAGE_OF_KEYS)
    encode: Callable[[str], str] = quote if query.get("encoding-type") == "url" else escape
    keys = shelves.keys(request.bucket, prefix)
    begin = bisect_left([key for key, _ in keys], after) if after else 0
    entries: list[str] = []
    folders: list[str] = []
    last, truncated = "", False
    for key, size in keys[begin:]:
        if key <= after or (delimiter and after.endswith(delimiter) and key.startswith(after)):
            continue
        name, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        folder = prefix + name + delimiter if cut else ""
        if folder and folders and folders[-1] == folder:
            continue
        if len(entries) + len(folders) == limit:
            truncated = True
            break
        last = folder or key
        if folder:
            folders.append(folder)
        else:
            tag = escape(Found(key, size, None).etag)
            entries.append(
                f"<Contents><Key>{encode(key)}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{tag}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
    content = (
        f"<Name>{escape(request.bucket)}</Name><Prefix>{encode(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"
    )
    content += f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
    content += f"<KeyCount>{len(entries) + len(folders)}</KeyCount>"
    content += "<EncodingType>url</EncodingType>" if encode is quote else ""
    if truncated:
        tag = "NextContinuationToken" if second else "NextMarker"
        content += f"<{tag}>{escape(last) if second else encode(last)}</{tag}>"
    content += "".join(entries)
    content += "".join(
        f"<CommonPrefixes><Prefix>{encode(each)}</Prefix></CommonPrefixes>" for each in folders
    )
    return document("ListBucketResult", content)


def part_tag(size: int) -> str:
    """A part's ETag, of fixed form."""
    return f'"{size:032x}"'


def opened(path: Path) -> int:
    """A new file, with its folders when they are missing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def placed(partial: Path, path: Path) -> None:
    """Give a whole file its name, with the folders when they are missing."""
    try:
        partial.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)


def joined(parts: list[Path], path: Path, *, kept: bool) -> None:
    """One file of several: their bytes, or their size."""
    descriptor = opened(path)
    try:
        if not kept:
            os.truncate(descriptor, sum(part.stat().st_size for part in parts))
            return
        for part in parts:
            with part.open("rb") as source:
                while os.sendfile(descriptor, source.fileno(), None, 1024 * MiB):
                    pass
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """A folder of files."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
