"""New objects in S3: one PUT where one part is enough, a multipart upload otherwise.

A multipart upload that is neither completed nor aborted costs money until somebody notices, and it exists as
soon as S3 has read our request, whether we saw the answer or not. Hence `begin_multipart` waits for the answer
even when it is cancelled, and takes the upload back.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.aws import AwsRefusalError, calling
from taskrunner.errors import AccessDeniedError, TaskrunnerError, TransferIOError, TransientError
from taskrunner.storage.s3_refusals import Asked, Refusal, explained
from taskrunner.storage.s3_requests import Bucket, Requests, S3Writing
from taskrunner.storage.store import Part, StoredObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrunner.settings import S3Settings

# S3 may work for minutes on a CompleteMultipartUpload; it keeps the connection alive meanwhile.
_COMPLETE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a new object goes, and how it is stored."""

    bucket: Bucket
    key: str
    asked: Asked
    settings: S3Settings

    @property
    def requester_pays(self) -> dict[str, str]:
        """For the SDK's calls."""
        return {"RequestPayer": "requester"} if self.settings.requester_pays else {}

    def parameters(self) -> dict[str, str]:
        """Encryption and ACL, as the SDK's calls name them."""
        chosen = {
            "ServerSideEncryption": self.settings.server_side_encryption,
            "SSEKMSKeyId": self.settings.kms_key_id,
            "ACL": self.settings.acl,
        }
        return {name: str(value) for name, value in chosen.items() if value} | self.requester_pays

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The same as headers of a PUT."""
        names = {
            "ServerSideEncryption": "x-amz-server-side-encryption",
            "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
            "ACL": "x-amz-acl",
            "RequestPayer": "x-amz-request-payer",
        }
        return tuple((names[name], value) for name, value in self.parameters().items())


@dataclass(frozen=True, slots=True)
class SinglePut:
    """An object sent by one PUT, visible as soon as that has succeeded."""

    destination: Destination
    requests: Requests
    size_bytes: int

    async def write_part(self, part: Part) -> S3Writing:
        """See `Upload.write_part`."""
        to = self.destination
        request = await self.requests.signed("PUT", to.bucket, to.key, headers=to.headers())
        return S3Writing(request, to.asked, part.length)

    async def complete(self, receipts: Sequence[str]) -> StoredObject:
        """See `Upload.complete`."""
        return StoredObject(self.destination.asked.url, self.size_bytes, receipts[0], ranged=True)

    async def abort(self) -> None:
        """See `Upload.abort`: S3 shows nothing of a PUT that did not end well."""


async def begin_multipart(destination: Destination, requests: Requests, parts: Sequence[Part]) -> Multipart:
    """A new multipart upload; when cancelled, none is left."""
    bucket = destination.bucket
    creating = asyncio.create_task(
        bucket.client.create_multipart_upload(
            Bucket=bucket.name, Key=destination.key, **destination.parameters()
        ),
        name=f"create-upload {destination.asked.url}",
    )
    try:
        async with calling(destination.asked.url):
            answer = await asyncio.shield(creating)
    except AwsRefusalError as error:
        raise explained(Refusal.of_error(error), destination.asked) from error
    except (asyncio.CancelledError, TaskrunnerError):
        await _take_back(creating, destination, requests)
        raise
    return Multipart(destination, requests, tuple(parts), answer["UploadId"])


async def _take_back(creating: asyncio.Task[dict[str, str]], to: Destination, requests: Requests) -> None:
    """End an upload whose beginning nobody waits for any more."""
    await asyncio.wait([creating], timeout=10)
    if creating.done() and not creating.cancelled() and creating.exception() is None:
        await Multipart(to, requests, (), creating.result()["UploadId"]).abort()
    creating.cancel()


@dataclass(slots=True)
class Multipart:
    """An object sent in parts, visible when completed."""

    destination: Destination
    requests: Requests
    parts: tuple[Part, ...]
    upload_id: str
    _etag: str | None = field(default=None, init=False)
    """Set once S3 has put the parts together."""
    _tried: bool = field(default=False, init=False)
    _doubted: str | None = field(default=None, init=False)
    """The ETag that proves that a completion without an answer was one."""

    async def write_part(self, part: Part) -> S3Writing:
        """See `Upload.write_part`."""
        to = self.destination
        query = (("partNumber", str(part.number)), ("uploadId", self.upload_id))
        payer = (("x-amz-request-payer", "requester"),) if to.settings.requester_pays else ()
        request = await self.requests.signed("PUT", to.bucket, to.key, query, payer)
        return S3Writing(request, to.asked, part.length)

    async def complete(self, receipts: Sequence[str]) -> StoredObject:
        """See `Upload.complete`. The new object is looked at before it counts as stored."""
        if self._etag is None:
            self._etag = await self._put_together(receipts)
        etag = await self._looked_at() or self._etag
        return StoredObject(self.destination.asked.url, self._size_bytes, etag, ranged=True)

    async def _put_together(self, receipts: Sequence[str]) -> str:
        to = self.destination
        parts = [
            {"PartNumber": part.number, "ETag": etag} for part, etag in zip(self.parts, receipts, strict=True)
        ]
        again, self._tried = self._tried, True
        try:
            async with calling(to.asked.url, _COMPLETE_SECONDS):
                answer = await to.bucket.client.complete_multipart_upload(
                    Bucket=to.bucket.name,
                    Key=to.key,
                    UploadId=self.upload_id,
                    MultipartUpload={"Parts": parts},
                    **to.requester_pays,
                )
        except AwsRefusalError as error:
            if again and error.code == "NoSuchUpload":
                # Either an earlier try succeeded and its answer was lost, or somebody ended the upload.
                self._doubted = _joint_etag(receipts)
                return self._doubted
            raise explained(Refusal.of_error(error), to.asked) from error
        return str(answer.get("ETag") or "")

    async def _looked_at(self) -> str | None:
        """The object's ETag as S3 tells it now; None where we may not look, since S3's word is good.

        S3's relatives may say yes before the object exists, and a lost answer proves nothing.
        """
        to = self.destination
        try:
            async with calling(to.asked.url):
                head = await to.bucket.client.head_object(
                    Bucket=to.bucket.name, Key=to.key, **to.requester_pays
                )
        except AwsRefusalError as error:
            if error.status == 403 and self._doubted is None:
                return None
            if error.status == 404:
                raise TransientError(f"{to.asked.url} is not there yet after its upload") from error
            raise explained(Refusal.of_error(error), to.asked) from error
        size, etag = head["ContentLength"], str(head.get("ETag", ""))
        if size != self._size_bytes or (self._doubted is not None and etag != self._doubted):
            raise TransferIOError(
                f"{to.asked.url} is not what was uploaded: expected {self._size_bytes} bytes, found {size} "
                f"({etag}); does somebody else write it?"
            )
        return etag

    @property
    def _size_bytes(self) -> int:
        return sum(part.length for part in self.parts)

    async def abort(self) -> None:
        """See `Upload.abort`."""
        if self._etag is not None:
            return
        to = self.destination
        try:
            async with calling(to.asked.url):
                await to.bucket.client.abort_multipart_upload(
                    Bucket=to.bucket.name, Key=to.key, UploadId=self.upload_id, **to.requester_pays
                )
        except AwsRefusalError as error:
            if error.code == "NoSuchUpload" or error.status == 404:
                return
            if error.status == 403:
                raise AccessDeniedError(
                    f"{to.asked.url}: a multipart upload is left open, since the credentials lack "
                    "s3:AbortMultipartUpload; a lifecycle rule on the bucket can end it"
                ) from error
            raise explained(Refusal.of_error(error), to.asked) from error


def _joint_etag(receipts: Sequence[str]) -> str:
    """The ETag of a multipart object, from those of its parts: how S3 makes it where they are MD5 sums."""
    try:
        sums = b"".join(bytes.fromhex(receipt.strip('"')) for receipt in receipts)
    except ValueError:
        return ""
    return f'"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(receipts)}"'
