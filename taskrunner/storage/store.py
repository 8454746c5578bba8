"""What a store of bytes must be able to do, whatever its kind.

Every call blocks and is made in a lane: a thread with kept-alive `Connections` of its own, which it hands to
the store. The event loop never calls a store; it decides which lane does what, and it alone retries: one call
is one try, and errors say whether another try makes sense (`TransientError`) or not. Stores are shared by all
lanes, so what they remember (buckets, credentials) is behind locks. Calls end early, with a `TransientError`,
when the lane's connections are aborted. The contract is tested by one suite that every store passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from taskrunner.errors import TransferIOError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taskrunner.storage.checksums import Checksum
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
    """For listings: the path below the listed directory, `/`-separated; where `unfit` is empty, never absolute
    and never with `..`."""
    version: str | None = None
    """The store's version id, which readings are pinned to beside the ETag."""
    location: str | None = None
    """Where the bytes really are, if not at `url` (HTTP: after redirects)."""
    checksum: Checksum | None = None
    """What the whole object's bytes come to; None where the store does not say (listings never do)."""
    modified_seconds: float | None = None
    """When it was last changed, since the epoch; None where the store does not tell."""
    unfit: str = ""
    """For listings: why it can't be a file below a directory of ours; empty where it can."""

    def require_fit(self) -> None:
        """Raise TransferIOError where its name can't be a file's below a directory."""
        if self.unfit:
            raise TransferIOError(f"{self.url} {self.unfit}")


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of a file: `number` from 1."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a store gave for a part that it has."""

    etag: str
    """Empty where the store has none."""
    checksum: Checksum | None = None
    """Of the part's bytes, as computed from our side before they were sent: it goes into the request's head."""


class Upload(Protocol):
    """One object in the making: begun, not yet visible."""

    @property
    def resume_id(self) -> str | None:
        """What a later attempt needs to go on with it; None where that is impossible or not worth it."""

    def sent_parts(self, connections: Connections) -> Mapping[int, Receipt]:
        """The parts the store has already, by number; of an upload that was just begun there are none."""

    def write_part(self, connections: Connections, part: Part, source: FileSlice) -> Receipt:
        """Send one part wholly, from the beginning of `source`.

        Raises:
            TransientError: nothing of this part may be counted on; send it again from its start.
            AccessDeniedError, OutputFailedError, TransferIOError: as said.
        """

    def complete(self, connections: Connections, receipts: Sequence[Receipt]) -> StoredObject:
        """Make the object visible from its parts, in their order; it is then as durable as the store is.

        Size and checksum of what is then there are compared with what was sent. Raises DamagedError.
        """

    def abort(self, connections: Connections) -> None:
        """Leave nothing behind: no open multipart upload, no temporary file. Safe to call at any time."""


class Store(Protocol):
    """One kind of store."""

    def check(self, connections: Connections, url: str) -> None:
        """Fail early where nothing could ever be read or written: no such bucket, directory not allowed."""

    def stat(self, connections: Connections, url: str) -> StoredObject:
        """The file at `url`. Raises InputMissingError, AccessDeniedError, TransientError, TransferIOError."""

    def list_directory(
        self, connections: Connections, url: str, *, deep: bool = True
    ) -> Iterator[StoredObject]:
        """Every file below the directory `url`, in byte order of their names, page by page.

        Where it is not to be `deep`, only the files right below it: what is further down is not gone through.
        `url` counts as ending with a slash: `data/a` never brings `data/ab`.
        """

    def read(self, connections: Connections, found: StoredObject, target: FileSlice) -> None:
        """Append to `target` the object's bytes from `target.position` on, to the slice's end.

        Object and file have the same offsets. Exactly the version that `found` is, or an error. Where the
        answer tells the checksum of a whole object that is read from its first byte to its last, and
        `found` did not, `target.expect` is told before the first byte.

        Raises:
            TransientError: the connection broke or the server asks for patience; `target.done` bytes hold.
            InputMissingError, AccessDeniedError: as said.
            TransferIOError: the object is not the version that was pinned, or its length is not as told.
        """

    def begin_upload(
        self, connections: Connections, url: str, parts: Sequence[Part], resume_id: str | None = None
    ) -> Upload:
        """Begin a new object of these parts (at least one; a single one may be empty).

        With the `resume_id` of an earlier attempt the upload goes on from there, if the store still has it.
        """

    def abandon_upload(
        self, connections: Connections, url: str, resume_id: str | None, since_seconds: float
    ) -> None:
        """End the upload that an earlier attempt knew by `resume_id`, if the store still has it.

        None: the attempt never learned how its upload is known. Then all to this very URL that were begun since
        that time (since the epoch, by our clock) are ended.
        """
