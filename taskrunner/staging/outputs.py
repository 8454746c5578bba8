"""What a task's outputs are, once its executors have ended: rules in, files out. Nothing is uploaded here.

An executor is free to leave anything in its directories, so the walk trusts nothing: links are followed by the
container's own meaning and only inside the task's directory (`WorkDir.resolve`), pipes and devices are never
opened, circles end. What a rule finds is told in byte order of the paths, whatever the file system's order.
"""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import OutputFailedError
from taskrunner.staging.patterns import Component, parse_component
from taskrunner.urls import join
from taskrunner.workdir import EscapingLinkError, WorkDir

if TYPE_CHECKING:
    from pathlib import Path

    from taskrunner.plan import Upload

_DEEPEST = 200  # directories; each is a few calls deep here
_MOST_INDIRECT = 1_000_000


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


class WalkStoppedError(Exception):
    """Whoever asked for the outputs does not want them any more."""


def find_outputs(
    uploads: tuple[Upload, ...], workdir: WorkDir, stopped: threading.Event | None = None
) -> FoundOutputs:
    """Look for every output. Blocking: to be called off the loop. WalkStoppedError once `stopped` is set."""
    walk = _Walk(workdir, stopped or threading.Event())
    for upload in uploads:
        walk.find(upload)
    walk.refuse_twins()
    return walk.found


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a walk is."""

    path: str
    """In the container."""
    url: str
    above: tuple[tuple[int, int], ...] = ()
    """The identities (device, inode) of the directories it is in, from the rule's own down."""
    by_link: bool = False
    """Whether a linked directory is among those."""

    def below(self, name: str, identity: tuple[int, int], *, by_link: bool) -> _Place:
        return _Place(
            f"{self.path.rstrip('/')}/{name}", join(self.url, name), (*self.above, identity), by_link=by_link
        )


class _Walk:
    def __init__(self, workdir: WorkDir, stopped: threading.Event) -> None:
        self._workdir = workdir
        self._stopped = stopped
        self._indirect = 0
        """How much was looked at by way of links and wildcards, which multiply what is there."""
        self.found = FoundOutputs()

    def find(self, upload: Upload) -> None:
        if upload.path_prefix is not None:
            self._find_matches(upload, upload.path_prefix.rstrip("/"))
        elif self._is_missing(upload):
            self.found.missing.append(upload)
        else:
            self._take(_Place(upload.path, upload.url), upload)

    def refuse_twins(self) -> None:
        """Two files can't have one URL: the later would replace the earlier without a word."""
        first: dict[str, OutputFile] = {}
        for file in self.found.files:
            earlier = first.setdefault(file.url, file)
            if earlier.source != file.source:
                reason = f"{earlier.path} is uploaded to the same URL"
                self._refuse(_Place(file.path, file.url), reason)
        self.found.files = list(first.values())

    def _find_matches(self, upload: Upload, prefix: str) -> None:
        try:
            matches = sorted(self._matches(upload.path))
        except _TooMuchError as error:
            self._refuse(_Place(upload.path, upload.url), str(error))
            return
        if not matches:
            self.found.unmatched.append(upload)
        for path in matches:
            self._take(_Place(path, join(upload.url, path[len(prefix) + 1 :])), upload)

    def _is_missing(self, upload: Upload) -> bool:
        """Links are followed as in the container; what can't be looked at is there, and refused later."""
        try:
            status = self._workdir.resolve(upload.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (EscapingLinkError, OSError):
            return False
        # An untouched placeholder still has the time it was given when it was made.
        return upload.placeholder and status.st_size == 0 and status.st_mtime_ns == 0

    def _take(self, place: _Place, upload: Upload) -> None:
        """Take the file at `place`, or everything below the directory there."""
        try:
            self._count(indirect=place.by_link)
            place.path.encode()
            source = self._workdir.resolve(place.path)
            status = source.lstat()
        except UnicodeEncodeError:
            self._refuse(place, "its name is not UTF-8, so it can't be part of a URL")
        except OSError as error:
            self._refuse(place, str(error.strerror))
        except (EscapingLinkError, _TooMuchError) as error:
            self._refuse(place, str(error))
        else:
            self._take_entry(place, upload, source, status)

    def _take_entry(self, place: _Place, upload: Upload, source: Path, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self.found.files.append(OutputFile(place.url.rstrip("/"), place.path, source, status.st_size))
        elif stat.S_ISDIR(status.st_mode):
            self._take_directory(place, upload, source, (status.st_dev, status.st_ino))
        elif place.above or upload.path_prefix is not None:
            self.found.skipped.append((place.path, _kind(status.st_mode)))
        else:
            self._refuse(place, f"it is {_kind(status.st_mode)}")

    def _take_directory(self, place: _Place, upload: Upload, source: Path, identity: tuple[int, int]) -> None:
        if identity in place.above:
            self.found.skipped.append((place.path, "a link to a directory above it"))
            return
        if len(place.above) >= _DEEPEST:
            self._refuse(place, f"it is nested more than {_DEEPEST} directories deep")
            return
        try:
            names = sorted(os.listdir(source), key=os.fsencode)  # noqa: PTH208  # names, not paths
        except OSError as error:
            self._refuse(place, str(error.strerror))
            return
        if not names and not place.above and upload.path_prefix is None:
            self.found.empty.append(upload)
        by_link = place.by_link or source != self._workdir.place(place.path)
        for name in names:
            self._take(place.below(name, identity, by_link=by_link), upload)

    def _refuse(self, place: _Place, reason: str) -> None:
        url, path = _printable(place.url), _printable(place.path)
        self.found.refused.append((url, OutputFailedError(f"can't upload {path} to {url}: {reason}")))

    def _matches(self, pattern: str) -> list[str]:
        """Container paths that match, with their links unresolved."""
        paths = [""]
        for text in filter(None, pattern.split("/")):
            component = parse_component(text)
            paths = [
                f"{path}/{name}"
                for path in paths
                for name in self._names(path, component)
                if self._count(indirect=True)
            ]
        return paths

    def _names(self, directory: str, component: Component) -> list[str]:
        """What is in a directory and matches."""
        try:
            place = self._workdir.resolve(directory)
            if component.is_wild:
                names = os.listdir(place)  # noqa: PTH208  # names, not paths
                return [name for name in names if self._count(indirect=True) and component.matches(name)]
            return [component.literal] if os.path.lexists(place / component.literal) else []
        except (EscapingLinkError, OSError):
            return []

    def _count(self, *, indirect: bool) -> bool:
        """Called for everything that is looked at; always True."""
        if self._stopped.is_set():
            raise WalkStoppedError
        self._indirect += indirect
        if self._indirect > _MOST_INDIRECT:
            raise _TooMuchError(
                f"links and wildcards lead to more than {_MOST_INDIRECT} files and directories"
            )
        return True


class _TooMuchError(Exception):
    """Links to directories of links multiply; so do wildcards through them."""


def _printable(text: str) -> str:
    """A name that is not UTF-8, with what can't be told replaced."""
    return text.encode(errors="replace").decode()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
