"""What a store of bytes must be able to do, whatever its kind.

A store is asked two sorts of things. *Control* (does it exist, how large, what is below) is asynchronous and
runs on the loop. *Bytes* are moved by lanes (threads): the loop asks the store for a `Reading` or a
`Writing`, a small frozen description of one request, signed at that moment; a lane then runs it, blocking,
against a `FileSlice`. Nothing here retries: one call is one try, and errors say whether another try makes
sense (`TransientError`) or not. The contract is tested by one suite that every store passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one file in a store, as `stat` or `list_directory` found it."""

    url: str
    """As the user would write it (for listings: of the file itself)."""
    size_bytes: int | None
    """None where the store does not tell before the end (HTTP without a length)."""
    etag: str
    """With its quotes; empty where there is none."""
    ranged: bool
    """Whether parts of it can be read; if not, the one reading is from 0 to the end."""
    name: str = ""
    """For listings: the path below the listed directory, `/`-separated, never absolute, never with `..`."""
    version: str | None = None
    """The store's version id, which readings are pinned to beside the ETag."""
    location: str | None = None
    """Where the bytes really are, if not at `url` (HTTP: after redirects)."""


class Reading(Protocol):
    """One request for bytes, to be run in a lane."""

    def run(self, connections: Connections, target: FileSlice) -> None:
        """Blocking: append exactly the promised bytes to `target`.

        Raises:
            TransientError: the connection broke or the server asks for patience; `target.done` bytes hold.
            InputMissingError, AccessDeniedError: as said.
            TransferIOError: the object is not the version that was pinned, or its length is not as told.
        """


class Writing(Protocol):
    """One request that sends bytes, to be run in a lane."""

    def run(self, connections: Connections, source: FileSlice) -> str:
        """Blocking: send `source` wholly; returns the part's receipt (S3: its ETag), "" where none.

        Raises:
            TransientError: nothing of this part may be counted on; send it again from its start.
            AccessDeniedError, OutputFailedError, TransferIOError: as said.
        """


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of a file: `number` from 1."""

    number: int
    offset: int
    length: int


class Upload(Protocol):
    """One object in the making: begun, not yet visible."""

    async def write_part(self, part: Part) -> Writing:
        """The request that sends one part."""

    async def complete(self, receipts: Sequence[str]) -> StoredObject:
        """Make the object visible from its parts, in their order; it is then as durable as the store is."""

    async def abort(self) -> None:
        """Leave nothing behind: no open multipart upload, no temporary file. Safe to call at any time."""


class Store(Protocol):
    """One kind of store."""

    async def check(self, url: str) -> None:
        """Fail early where nothing could ever be read or written: no such bucket, directory not allowed."""

    async def stat(self, url: str) -> StoredObject:
        """The file at `url`. Raises InputMissingError, AccessDeniedError, TransientError, TransferIOError."""

    def list_directory(self, url: str) -> AsyncIterator[StoredObject]:
        """Every file below the directory `url`, in byte order of their names, page by page.

        `url` counts as ending with a slash: `data/a` never brings `data/ab`.
        """

    async def read(self, found: StoredObject, start: int, length: int | None) -> Reading:
        """The request for `length` bytes from `start`, pinned to the version `found` is."""

    async def begin_upload(self, url: str, parts: Sequence[Part]) -> Upload:
        """Begin a new object of these parts (at least one; a single one may be empty)."""
