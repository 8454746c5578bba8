"""What the words after `taskrunner storage …` name: sources, patterns, and the places files go to. Pure text.

    s3://b/dir/          everything below it        s3://b/dir/*.bam     what matches, at any depth
    s3://b/dir/a.bam     one file                   dir, /a/dir/         everything below it, if it is one

A pattern's `*` stands for any characters, slashes too, and `?` for one, as in aws-cli and s5cmd. A local path
has no wildcards here: the shell has seen to that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from taskrunner.errors import UsageError
from taskrunner.urls import S3Url, StoreKind, local_path, store_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

_WILDCARDS = "*?"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the files that a directory or a pattern brings are taken; an `exclude` always wins."""

    include: Sequence[str] = ()
    """Where there are any, one of them must match."""
    exclude: Sequence[str] = ()

    def takes(self, name: str) -> bool:
        """Whether a file is taken, by its path below the directory."""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)


@dataclass(frozen=True, slots=True)
class Source:
    """Something to read: one file, or a directory and what of it."""

    url: str
    """Local ones as absolute paths; directories end with a slash."""
    typed: str
    """As the user wrote it."""
    is_directory: bool = False
    pattern: str | None = None
    """What names below the directory must match; None: all."""

    def __str__(self) -> str:
        return self.typed

    @property
    def kind(self) -> StoreKind | None:
        """Which kind of store has it."""
        return store_kind(self.url)

    def takes(self, name: str) -> bool:
        """Whether a name below the directory is one of these."""
        return self.pattern is None or fnmatchcase(name, self.pattern)

    @property
    def file_name(self) -> str:
        """What a file is called where it goes into a directory. Raises UsageError where it has no name.

        Names from the web are percent-decoded, where what comes out can be a file's.
        """
        name = _last_part(self.url)
        if self.kind is StoreKind.HTTP:
            name = next((one for one in (unquote(name), name) if _is_file_name(one)), "")
        if not _is_file_name(name):
            raise UsageError(f"{self.url} has no name for a file: tell a whole path to put it at")
        return name


def source_of(text: str, *, recursive: bool = False, wildcards: bool = True) -> Source:
    """What a source typed as `text` names. Raises UsageError for what nobody here can read."""
    if text == "" or "\0" in text:
        raise UsageError(f"expected a path or URL to read, got {text!r}")
    kind = store_kind(text) if "://" in text else StoreKind.LOCAL
    if kind is StoreKind.LOCAL:
        path = local_text(text)
        is_directory = recursive or path.endswith("/") or os.path.isdir(path)  # noqa: PTH112  # text
        return Source(_with_slash(path) if is_directory else path, text, is_directory)
    if kind is StoreKind.HTTP:
        return Source(text, text, is_directory=recursive)
    if kind is not StoreKind.S3:
        raise UsageError(f"can't read {text}: expected a path, or an s3://, http(s):// or file:// URL")
    parsed = _s3(text)
    key = parsed.key
    wildcards = wildcards and parsed.version_id is None
    if wildcards and (at := min((key.find(w) for w in _WILDCARDS if w in key), default=-1)) >= 0:
        return _matching(text, key, at)
    if recursive or not key or key.endswith("/"):
        return Source(_with_slash(text), text, is_directory=True)
    return Source(text, text)


def _matching(url: str, key: str, wildcard_at: int) -> Source:
    """What matches a key with wildcards, below the last directory before the first of them."""
    start = key.rfind("/", 0, wildcard_at) + 1
    pattern = key[start:].replace("[", "[[]")  # only aws-cli has sets, and keys do have brackets
    if pattern.endswith("/"):
        pattern += "*"
    bucket = S3Url.parse(url, versioned=False).bucket
    return Source(f"s3://{bucket}/{key[:start]}", url, is_directory=True, pattern=pattern)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where files go: one file's place, or a directory that each gets a place below."""

    url: str
    """Local ones as absolute paths."""
    is_directory: bool

    def place(self, name: str) -> str:
        """Where the file of that name goes; a directory's is below it, at any depth."""
        if not self.is_directory:
            return self.url
        return f"{self.url.removesuffix('/')}/{name}"


def local_destination(text: str, *, several: bool) -> Destination:
    """Where on this machine files go. Raises UsageError for a URL of a store, or for `-`."""
    if "://" in text and store_kind(text) is not StoreKind.LOCAL:
        raise UsageError(f"can't get files to {text}: expected a path; `storage put` sends local files to S3")
    return _local(text, several=several)


def destination_of(text: str, *, several: bool) -> Destination:
    """Where files are put: S3 or this machine. Raises UsageError."""
    kind = store_kind(text) if "://" in text else StoreKind.LOCAL
    if kind is StoreKind.LOCAL:
        return _local(text, several=several)
    if kind is not StoreKind.S3:
        raise UsageError(f"can't put files to {text}: expected s3://BUCKET/KEY or a local path")
    key = _s3(text, versioned=False).key
    return Destination(text, is_directory=several or not key or key.endswith("/"))


def _local(text: str, *, several: bool) -> Destination:
    if text in ("", "-"):
        raise UsageError(f"expected a path for the files, got {text!r} (./- is a file of that name)")
    path = local_text(text)
    is_directory = several or path.endswith("/") or os.path.isdir(path)  # noqa: PTH112  # text, not a path
    return Destination(path if path == "/" else path.rstrip("/"), is_directory)


def local_text(text: str) -> str:
    """A local path or `file://` URL as an absolute path, with its slash at the end. Raises UsageError."""
    path = text
    if "://" in text:
        try:
            path = str(local_path(text))
        except ValueError as error:
            raise UsageError(str(error)) from error
    absolute = os.path.abspath(path)  # noqa: PTH100  # links stay
    return _with_slash(absolute) if text.endswith("/") else absolute


def _s3(url: str, *, versioned: bool = True) -> S3Url:
    try:
        return S3Url.parse(url, versioned=versioned)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _with_slash(text: str) -> str:
    return text if text.endswith("/") else f"{text}/"


def _last_part(url: str) -> str:
    kind = store_kind(url)
    if kind is StoreKind.HTTP:
        return urlsplit(url).path.rpartition("/")[2]
    path = S3Url.parse(url).key if kind is StoreKind.S3 else url
    return path.rpartition("/")[2]


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
