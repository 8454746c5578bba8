"""The URLs a task may name, taken apart and put together: pure text, no store is asked.

`s3://bucket/key` holds the key as it is, without percent-decoding, as in aws-cli, s5cmd and Funnel: a key may
contain spaces, `#`, `%`, `+` and `?`; only a `?versionId=` at the very end of an input's URL is no part of it.
`file://` URLs and bare absolute paths are local and are not decoded either. `http(s)://` URLs are left alone.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

_VERSION_ID = "?versionId="
_LONGEST_HOST = 253
_NO_HOST = re.compile(r"[\s\x00-\x1f\x7f<>\"\\^`{|}]")


class StoreKind(StrEnum):
    """The kinds of store the program knows."""

    S3 = "s3"
    HTTP = "http"
    LOCAL = "local"
    MEMORY = "memory"
    """For tests and benchmarks; no task document can name it."""


READABLE = frozenset({StoreKind.S3, StoreKind.HTTP, StoreKind.LOCAL})
WRITABLE = frozenset({StoreKind.S3, StoreKind.LOCAL})


def store_kind(url: str) -> StoreKind | None:
    """Which kind of store `url` belongs to; None for a scheme nobody here knows."""
    if url.startswith("/"):
        return StoreKind.LOCAL
    scheme, separator, _ = url.partition("://")
    if not separator:
        return None
    return {
        "s3": StoreKind.S3,
        "http": StoreKind.HTTP,
        "https": StoreKind.HTTP,
        "file": StoreKind.LOCAL,
        "memory": StoreKind.MEMORY,
    }.get(scheme.lower())


@dataclass(frozen=True, slots=True)
class S3Url:
    """An `s3://` URL: bucket, key (may be empty: the whole bucket) and the version asked for."""

    bucket: str
    key: str
    version_id: str | None = None

    @classmethod
    def parse(cls, url: str, *, versioned: bool = True) -> S3Url:
        """Take `url` apart; with `versioned` False (outputs) a `?` is always part of the key.

        Raises ValueError, with what was expected, where there is no bucket.
        """
        bucket, _, key = url.partition("://")[2].partition("/")
        if not bucket:
            raise ValueError(f'expected s3://BUCKET/KEY, got "{url}"')
        before, separator, version_id = key.rpartition(_VERSION_ID)
        if versioned and separator and version_id and "/" not in version_id:
            return cls(bucket, before, version_id)
        return cls(bucket, key)

    def __str__(self) -> str:
        version = f"{_VERSION_ID}{self.version_id}" if self.version_id else ""
        return f"s3://{self.bucket}/{self.key}{version}"


def local_path(url: str) -> Path:
    """The path that a `file://` URL or a bare absolute path names, normalised but with links unresolved.

    Raises ValueError for a `file://` URL with a host other than localhost, or a path that is not absolute.
    """
    path = url
    if not url.startswith("/"):
        host, slash, rest = url.partition("://")[2].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ValueError(f'expected file:///ABSOLUTE/PATH, got "{url}"')
        path = f"/{rest}"
    if "\0" in path:
        raise ValueError("a path can't hold a NUL character")
    normal = posixpath.normpath(path)
    return Path("/" + normal.lstrip("/"))


def ascii_host(host: str) -> str:
    """A web address's host as the network's name service knows it: labels of other alphabets in IDNA.

    Raises ValueError, with what was expected, where no host can have that name (RFC 1123, section 2.1).
    """
    if not host or _NO_HOST.search(host):
        raise ValueError(f'expected a host name, got "{host}"')
    try:
        name = host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f'expected a host name, its labels of 1 to 63 characters, got "{host}"') from error
    if len(name.rstrip(".")) > _LONGEST_HOST:
        raise ValueError(f'expected a host name of at most {_LONGEST_HOST} characters, got "{host}"')
    return name


def join(directory_url: str, name: str) -> str:
    """The URL of the file `name` (`/`-separated) below a directory's URL, with exactly one slash between.

    A web address keeps its query at its end.
    """
    if store_kind(directory_url) is StoreKind.HTTP:
        parts = urlsplit(directory_url)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()
    scheme, separator, rest = directory_url.rpartition("://")
    return f"{scheme}{separator}{rest.rstrip('/')}/{name}"


def last_name(url: str) -> str:
    """What a person would call the file: the part after the last slash, without a web address's query."""
    kind = store_kind(url)
    path = urlsplit(url).path if kind is StoreKind.HTTP else url
    return path.rstrip("/").rpartition("/")[2]
