"""New objects in S3: one PUT where one part is enough, a multipart upload otherwise.

Everything sent goes with its checksum, CRC64NVME where the server knows it: S3 then refuses what was damaged on
its way, and keeps the checksum of the whole object for whoever reads it. Servers that refuse to hear of one are
told the next one, or none; what was sent is computed all the same.

A multipart upload that is neither completed nor aborted costs money until somebody notices. It is known by its
id, with which a later attempt goes on, as long as S3 still has it.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import AccessDeniedError, DamagedError, TransferIOError, TransientError, one_line
from taskrunner.storage.checksums import Algorithm, Checksum, combined, encoded
from taskrunner.storage.heads import told_number
from taskrunner.storage.s3_checksums import ASK_FOR_CHECKSUM, stored_value
from taskrunner.storage.s3_documents import Document, completion, quoted, seconds, told_checksum
from taskrunner.storage.s3_refusals import ChecksumRefusedError, Refusal, explained
from taskrunner.storage.s3_requests import Place, told_length
from taskrunner.storage.store import Part, Receipt, StoredObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskrunner.storage.signing import Headers
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections

_COMPLETE_SECONDS = 900.0
"""S3 may work for minutes on a completion. It sends white space meanwhile; its relatives may stay silent."""
_CLOCKS_DIFFER_SECONDS = 900.0
"""As much as S3 puts up with (RequestTimeTooSkewed)."""
_UNTOLD = "none"
"""In place of an algorithm: an upload whose server takes no checksums."""
_RESUME_ID = re.compile(rf"({_UNTOLD}|CRC64NVME|CRC32):([0-9]{{1,18}}):(.+)")


@dataclass(frozen=True, slots=True)
class Destination(Place):
    """Where a new object goes."""

    storage_headers: Headers
    """How it is stored: encryption and ACL, for the request that begins it."""

    def send(
        self,
        connections: Connections,
        source: FileSlice,
        query: Headers,
        headers: Headers,
        checksum: Checksum | None,
    ) -> str:
        """One PUT of `source`'s bytes, with their checksum if any; its ETag. Raises ChecksumRefusedError."""
        if checksum is not None:
            headers = (*headers, (checksum.algorithm.header, encoded(checksum.value)))
        with self.ask(connections, "PUT", query=query, headers=headers, source=source) as answer:
            if answer.status not in (200, 201, 204):
                raise self.refused(Refusal.of_answer(answer), checksum)
            etag = answer.header("ETag")
            if checksum is not None:
                self.compare(checksum, stored_value(answer, checksum.algorithm))
            answer.excerpt()
        if not etag:
            raise TransientError(f"{self.asked.url}: the server gave no ETag for what was sent")
        return etag

    def refused(self, no: Refusal, checksum: object | None) -> Exception:
        """What to raise for a refusal of a request that was sent with `checksum`, if any."""
        if checksum is not None and no.about_checksum:
            return ChecksumRefusedError(no.message)
        return explained(no, self.asked)

    def compare(self, sent: Checksum, stored: bytes | None) -> None:
        """Raise DamagedError where the server tells that it has something else."""
        if stored not in (None, sent.value):
            raise DamagedError(
                f"{self.asked.url} was damaged on its way: the {sent.algorithm} of what was sent is "
                f"{encoded(sent.value)}, of what was stored {encoded(stored)}"
            )


@dataclass(frozen=True, slots=True)
class SinglePut:
    """An object sent by one PUT, visible as soon as that has succeeded."""

    destination: Destination
    size_bytes: int

    @property
    def resume_id(self) -> None:
        """See `Upload.resume_id`: there is nothing to go on with."""
        return

    def sent_parts(self, connections: Connections) -> Mapping[int, Receipt]:  # noqa: ARG002  # nothing to ask
        """See `Upload.sent_parts`."""
        return {}

    def write_part(self, connections: Connections, part: Part, source: FileSlice) -> Receipt:
        """See `Upload.write_part`."""
        to = self.destination
        told = to.bucket.sent_checksums.algorithm
        computed = told or Algorithm.CRC64NVME
        checksum = Checksum(computed, connections.digest_of(source, computed))
        try:
            etag = to.send(connections, source, (), to.storage_headers, checksum if told else None)
        except ChecksumRefusedError:
            to.bucket.sent_checksums.refuse(computed)
            return self.write_part(connections, part, source)
        return Receipt(etag, checksum)

    def complete(self, connections: Connections, receipts: Sequence[Receipt]) -> StoredObject:  # noqa: ARG002  # it is
        """See `Upload.complete`."""
        (receipt,) = receipts
        url = self.destination.asked.url
        return StoredObject(url, self.size_bytes, receipt.etag, ranged=True, checksum=receipt.checksum)

    def abort(self, connections: Connections) -> None:
        """See `Upload.abort`: S3 shows nothing of a PUT that did not end well."""


def begin_multipart(to: Destination, connections: Connections, parts: Sequence[Part]) -> Multipart:
    """A new multipart upload."""
    algorithm = to.bucket.sent_checksums.algorithm
    headers = to.storage_headers
    if algorithm is not None:
        chosen = (("x-amz-checksum-algorithm", algorithm.value), ("x-amz-checksum-type", "FULL_OBJECT"))
        headers = (*headers, *chosen)
    with to.ask(connections, "POST", query=(("uploads", ""),), headers=headers, body=b"") as answer:
        told = to.told(answer, "InitiateMultipartUpload")
    if isinstance(told, Refusal):
        if algorithm is None or not told.about_checksum:
            raise explained(told, to.asked)
        to.bucket.sent_checksums.refuse(algorithm)
        return begin_multipart(to, connections, parts)
    upload_id = told.field("UploadId")
    if not upload_id:
        raise TransientError(f"{to.asked.url}: the server began an upload and gave no id for it")
    if not upload_id.isprintable():
        raise TransientError(
            f"{to.asked.url}: the server began an upload and gave an id that can't be sent back"
        )
    return Multipart(to, tuple(parts), upload_id, algorithm)


def resumed_multipart(
    to: Destination, connections: Connections, parts: Sequence[Part], resume_id: str
) -> Multipart | None:
    """The multipart upload of an earlier attempt; None where it can't be gone on with.

    Where S3 has it, but does not let us see its parts, or they were cut otherwise, it is ended as far as we may.
    """
    match = _resumable(resume_id)
    if match is None:
        return None
    algorithm = None if match[1] == _UNTOLD else Algorithm(match[1])
    upload = Multipart(to, tuple(parts), match[3], algorithm)
    if int(match[2]) == parts[0].length:
        no = upload.look_up(connections)
        if no is None:
            return upload
        if no.transient:
            raise explained(no, to.asked)
        if no.code == "NoSuchUpload":
            return None
    with suppress(AccessDeniedError):  # who may neither see its parts nor end it can still begin a new one
        upload.abort(connections)
    return None


def _resumable(resume_id: str) -> re.Match[str] | None:
    """The parts of a `Multipart.resume_id`; None where it is none, or has characters that we refuse at first."""
    return _RESUME_ID.fullmatch(resume_id) if resume_id.isprintable() else None


def abandon_multipart(
    to: Destination, connections: Connections, resume_id: str | None, since_seconds: float
) -> None:
    """End the multipart upload of an earlier attempt; without its id, all of this very key begun since then."""
    if resume_id is None:
        upload_ids = _begun_since(to, connections, since_seconds - _CLOCKS_DIFFER_SECONDS)
    else:
        match = _resumable(resume_id)
        upload_ids = [match[3]] if match else []
    for upload_id in upload_ids:
        Multipart(to, (), upload_id, None).abort(connections)


def _begun_since(to: Destination, connections: Connections, since_seconds: float) -> list[str]:
    """The ids of open uploads of a key; none where we may not look. One that tells no time may be anybody's.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html: in order of keys, so that those
    of the very key are on the first page.
    """
    of_bucket = Place(to.requests, to.bucket, None, to.asked, to.payer)
    query = (("prefix", to.key or ""), ("uploads", ""))
    with of_bucket.ask(connections, "GET", query=query) as answer:
        told = of_bucket.told(answer, "ListMultipartUploads")
    if isinstance(told, Refusal):
        if told.transient:
            raise explained(told, to.asked)
        return []
    uploads = [entry for entry in told.entries("Upload") if entry.get("Key") == to.key]
    return [
        entry["UploadId"]
        for entry in uploads
        if entry.get("UploadId", "").isprintable()
        and entry.get("UploadId")
        and (begun := seconds(entry.get("Initiated", ""))) is not None
        and begun >= since_seconds
    ]


@dataclass(slots=True)
class Multipart:
    """An object sent in parts, visible when completed."""

    destination: Destination
    parts: tuple[Part, ...]
    upload_id: str
    algorithm: Algorithm | None
    """What it was begun with; None where the server takes no checksums."""
    _found: dict[int, Receipt] = field(default_factory=dict, init=False)
    _silent: bool = field(default=False, init=False)
    """Whether the server refused a part for the checksum it had agreed to."""
    _etag: str | None = field(default=None, init=False)
    """Set once S3 has put the parts together."""
    _tried: bool = field(default=False, init=False)
    _doubted: bool = field(default=False, init=False)
    """Whether nothing but the object itself can prove that it was completed."""

    @property
    def resume_id(self) -> str:
        """See `Upload.resume_id`: the upload's id, and what must be the same for its parts to be of use."""
        return f"{self.algorithm or _UNTOLD}:{self.parts[0].length}:{self.upload_id}"

    def sent_parts(self, connections: Connections) -> Mapping[int, Receipt]:  # noqa: ARG002  # looked up before
        """See `Upload.sent_parts`: those that are as long as they are planned now."""
        return self._found

    def look_up(self, connections: Connections) -> Refusal | None:
        """Ask S3 which parts it has; its refusal, if it is one."""
        planned = {(str(part.number), str(part.length)): part.number for part in self.parts}
        marker = 0
        while True:
            query = (*self._query, ("part-number-marker", str(marker)))
            with self.destination.ask(connections, "GET", query=query) as answer:
                document = self.destination.told(answer, "ListParts")
            if isinstance(document, Refusal):
                return document
            for entry in document.entries("Part"):
                number = planned.get((entry.get("PartNumber", ""), entry.get("Size", "")))
                etag = quoted(entry.get("ETag", ""))
                if number is not None and etag:
                    self._found[number] = Receipt(etag, told_checksum(entry, self._computed))
            following = told_number(document.field("NextPartNumberMarker"))
            # A marker that does not grow would never end; parts that stay unseen are sent once more.
            if document.field("IsTruncated") != "true" or following is None or following <= marker:
                return None
            if following >= self.parts[-1].number:
                return None
            marker = following

    def write_part(self, connections: Connections, part: Part, source: FileSlice) -> Receipt:
        """See `Upload.write_part`."""
        checksum = Checksum(self._computed, connections.digest_of(source, self._computed))
        told = checksum if self._telling else None
        query = (("partNumber", str(part.number)), *self._query)
        try:
            etag = self.destination.send(connections, source, query, (), told)
        except ChecksumRefusedError:
            self._be_silent()
            return self.write_part(connections, part, source)
        return Receipt(etag, checksum)

    def complete(self, connections: Connections, receipts: Sequence[Receipt]) -> StoredObject:
        """See `Upload.complete`. The new object is looked at before it counts as stored."""
        whole = self._whole(receipts)
        if self._etag is None:
            try:
                self._etag = self._put_together(connections, receipts, whole)
            except ChecksumRefusedError:
                self._be_silent()
                return self.complete(connections, receipts)
        etag = self._looked_at(connections, whole, self._etag) or self._etag
        return StoredObject(self.destination.asked.url, self._size_bytes, etag, ranged=True, checksum=whole)

    def abort(self, connections: Connections) -> None:
        """See `Upload.abort`."""
        if self._etag is not None:
            return
        to = self.destination
        with to.ask(connections, "DELETE", query=self._query) as answer:
            if answer.status in (200, 204, 404):
                answer.excerpt()
                return
            no = Refusal.of_answer(answer)
        if no.status == 403:
            raise AccessDeniedError(
                f"{to.asked.url}: a multipart upload is left open, since the credentials lack "
                "s3:AbortMultipartUpload; a lifecycle rule on the bucket can end it"
            )
        raise explained(no, to.asked)

    def _put_together(
        self, connections: Connections, receipts: Sequence[Receipt], whole: Checksum | None
    ) -> str:
        """Have S3 make the object of its parts; its ETag."""
        again, self._tried = self._tried, True
        answer = self._completed(connections, receipts, whole)
        if isinstance(answer, Document):
            told = told_checksum(answer.fields, whole.algorithm) if whole else None
            if whole and told:
                self.destination.compare(whole, told.value)
            return quoted(answer.field("ETag"))
        if again and answer.code == "NoSuchUpload":
            # Either an earlier try succeeded and its answer was lost, or somebody ended the upload.
            self._doubted = True
            return _joint_etag(receipts)
        if answer.damaged:
            said = f"{answer.code} {answer.message}"
            raise DamagedError(f"{self.destination.asked.url}: S3 has other bytes than were sent ({said})")
        raise self.destination.refused(answer, whole if self._telling else None)

    def _completed(
        self, connections: Connections, receipts: Sequence[Receipt], whole: Checksum | None
    ) -> Document | Refusal:
        """S3's answer to CompleteMultipartUpload, which may turn out to be no after it began with a yes."""
        numbered = zip((part.number for part in self.parts), receipts, strict=True)
        body = completion(numbered, with_checksums=self._telling)
        headers = self._completion_headers(whole)
        to = self.destination
        asking = to.ask(
            connections,
            "POST",
            query=self._query,
            headers=headers,
            body=body,
            silence_seconds=_COMPLETE_SECONDS,
        )
        with asking as answer:
            return to.told(answer, "CompleteMultipartUpload")

    def _completion_headers(self, whole: Checksum | None) -> Headers:
        if not self._telling or whole is None:
            return ()
        return (
            (whole.algorithm.header, encoded(whole.value)),
            ("x-amz-checksum-type", "FULL_OBJECT"),
            ("x-amz-mp-object-size", str(self._size_bytes)),
        )

    def _looked_at(self, connections: Connections, whole: Checksum | None, expected_etag: str) -> str | None:
        """The object's ETag as S3 tells it now; None where we may not look, since S3's word is good.

        S3's relatives may say yes before the object exists, and a lost answer proves nothing.
        """
        to = self.destination
        with to.ask(connections, "HEAD", headers=(ASK_FOR_CHECKSUM,)) as answer:
            if answer.status == 403 and not self._doubted:
                return None
            if answer.status == 404:
                raise TransientError(f"{to.asked.url} is not there yet after its upload")
            if answer.status != 200:
                raise explained(Refusal.of_answer(answer), to.asked)
            size_bytes, etag = told_length(answer), answer.header("ETag") or ""
            stored = stored_value(answer, whole.algorithm) if whole else None
        proven = bool(etag) and etag == expected_etag
        if stored is not None and whole is not None:
            proven = stored == whole.value
        if size_bytes != self._size_bytes or (self._doubted and not proven):
            kind = DamagedError if self._doubted else TransferIOError  # in doubt it is sent once more
            raise kind(
                f"{to.asked.url} is not what was uploaded: expected {self._size_bytes} bytes, found {size_bytes} "
                f"({one_line(etag)}); does somebody else write it?"
            )
        if whole:
            to.compare(whole, stored)
        return etag

    def _whole(self, receipts: Sequence[Receipt]) -> Checksum | None:
        """The whole object's checksum, from its parts'; None where the server kept one of them to itself."""
        values = []
        for part, receipt in zip(self.parts, receipts, strict=True):
            if receipt.checksum is None or receipt.checksum.algorithm is not self._computed:
                return None
            values.append((receipt.checksum.value, part.length))
        return Checksum(self._computed, combined(self._computed, values))

    def _be_silent(self) -> None:
        """No more checksums in this upload, which keeps what it began with, nor this one in others."""
        self._silent = True
        self.destination.bucket.sent_checksums.refuse(self._computed)

    @property
    def _computed(self) -> Algorithm:
        """What parts are computed by, also where nobody is told."""
        return self.algorithm or Algorithm.CRC64NVME

    @property
    def _telling(self) -> bool:
        return self.algorithm is not None and not self._silent

    @property
    def _query(self) -> Headers:
        return (("uploadId", self.upload_id),)

    @property
    def _size_bytes(self) -> int:
        return sum(part.length for part in self.parts)


def _joint_etag(receipts: Sequence[Receipt]) -> str:
    """The ETag of a multipart object, from those of its parts: how S3 makes it where they are MD5 sums."""
    try:
        sums = b"".join(bytes.fromhex(receipt.etag.strip('"')) for receipt in receipts)
    except ValueError:
        return ""
    return f'"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(receipts)}"'
