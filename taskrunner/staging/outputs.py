"""What a task's outputs are, once its executors have ended: rules in, files out. Nothing is uploaded here.

An executor is free to leave anything in its directories, so the walk trusts nothing: links are followed by the
container's own meaning and only inside the task's directory (`WorkDir.resolve`), pipes and devices are never
opened, circles end. What a rule finds is told in byte order of the paths, whatever the file system's order.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import OutputFailedError
from taskrunner.staging.patterns import component_matcher, has_wildcard, literal
from taskrunner.urls import join
from taskrunner.workdir import EscapingLinkError, WorkDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskrunner.plan import Upload

_DEEPEST = 200  # directories; each is two calls deep here


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to upload."""

    url: str
    path: str
    """In the container, as the document or the walk named it (not where a link led)."""
    source: Path
    """Where its bytes are; no link in it."""
    size_bytes: int


@dataclass(slots=True)
class FoundOutputs:
    """What the rules of a task came to, in the document's order."""

    files: list[OutputFile] = field(default_factory=list)
    missing: list[Upload] = field(default_factory=list)
    """Rules that named one thing that is not there."""
    unmatched: list[Upload] = field(default_factory=list)
    """Patterns that match nothing: allowed, a pattern names a set and the set may be empty."""
    empty: list[Upload] = field(default_factory=list)
    """Directories without a file in them."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Container path and kind of what is neither file nor directory."""
    refused: list[tuple[str, OutputFailedError]] = field(default_factory=list)
    """URL and reason of what leads out of the task's directory or can't be read."""


def find_outputs(uploads: tuple[Upload, ...], workdir: WorkDir) -> FoundOutputs:
    """Look for every output. Blocking: to be called off the loop."""
    walk = _Walk(workdir)
    for upload in uploads:
        walk.find(upload)
    return walk.found


class _Walk:
    def __init__(self, workdir: WorkDir) -> None:
        self._workdir = workdir
        self.found = FoundOutputs()

    def find(self, upload: Upload) -> None:
        if upload.path_prefix is not None:
            matches = sorted(self._matches(upload.path))
            if not matches:
                self.found.unmatched.append(upload)
            prefix = upload.path_prefix.rstrip("/")
            for path in matches:
                self._take(path, join(upload.url, path[len(prefix) + 1 :]), upload, ())
        elif not self._is_there(upload):
            self.found.missing.append(upload)
        else:
            self._take(upload.path, upload.url, upload, ())

    def _is_there(self, upload: Upload) -> bool:
        if not os.path.lexists(upload.source):
            return False
        status = upload.source.lstat()
        # An untouched placeholder still has the time it was given when it was made.
        return not (upload.placeholder and status.st_size == 0 and status.st_mtime_ns == 0)

    def _take(self, path: str, url: str, upload: Upload, above: tuple[tuple[int, int], ...]) -> None:
        """Take the file at `path`, or everything below the directory there; `above`: its parents' identity."""
        try:
            path.encode()
            source = self._workdir.resolve(path)
            status = source.lstat()
        except (EscapingLinkError, OSError) as error:
            self._refuse(
                url, path, str(error) if isinstance(error, EscapingLinkError) else str(error.strerror)
            )
            return
        except UnicodeEncodeError:
            self._refuse(url, path, "its name is not UTF-8, so it can't be part of a URL")
            return
        if stat.S_ISREG(status.st_mode):
            self.found.files.append(OutputFile(url.rstrip("/"), path, source, status.st_size))
        elif stat.S_ISDIR(status.st_mode):
            self._take_directory(path, url, upload, source, (*above, (status.st_dev, status.st_ino)))
        else:
            self.found.skipped.append((path, _kind(status.st_mode)))

    def _take_directory(
        self, path: str, url: str, upload: Upload, source: Path, above: tuple[tuple[int, int], ...]
    ) -> None:
        if above[-1] in above[:-1]:
            self.found.skipped.append((path, "a link to a directory above it"))
            return
        if len(above) > _DEEPEST:
            self._refuse(url, path, f"it is nested more than {_DEEPEST} directories deep")
            return
        try:
            names = sorted(os.listdir(source), key=os.fsencode)  # noqa: PTH208  # names, not paths
        except OSError as error:
            self._refuse(url, path, str(error.strerror))
            return
        before = len(self.found.files)
        for name in names:
            self._take(f"{path.rstrip('/')}/{name}", join(url, name), upload, above)
        top = len(above) == 1 and upload.path_prefix is None
        if top and not names and len(self.found.files) == before:
            self.found.empty.append(upload)

    def _refuse(self, url: str, path: str, reason: str) -> None:
        url, path = _printable(url), _printable(path)
        self.found.refused.append((url, OutputFailedError(f"can't upload {path} to {url}: {reason}")))

    def _matches(self, pattern: str) -> Iterator[str]:
        """Container paths that match, with their links unresolved."""
        yield from self._below("", [part for part in pattern.split("/") if part])

    def _below(self, directory: str, components: list[str]) -> Iterator[str]:
        component, *rest = components
        if has_wildcard(component):
            names = self._names(directory)
            matcher = component_matcher(component)
            paths = [f"{directory}/{name}" for name in names if matcher.match(name)]
        else:
            paths = [f"{directory}/{literal(component)}"]
        for path in paths:
            if rest:
                yield from self._below(path, rest)
            elif os.path.lexists(self._lexical(path)):
                yield path

    def _names(self, directory: str) -> list[str]:
        try:
            return os.listdir(self._workdir.resolve(directory))  # noqa: PTH208  # names, not paths
        except (EscapingLinkError, OSError):
            return []

    def _lexical(self, path: str) -> Path:
        """Where the last component itself is: the links before it followed, it not."""
        directory, _, name = path.rpartition("/")
        try:
            return self._workdir.resolve(directory) / name
        except EscapingLinkError:
            return self._workdir.place(path)


def _printable(text: str) -> str:
    """A name that is not UTF-8, with what can't be told replaced."""
    return text.encode(errors="replace").decode()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
