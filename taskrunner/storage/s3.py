"""S3 and everything that speaks its protocol.

Control calls (is there such a bucket, how large is this object, what is below that prefix) go through the SDK;
bytes go through the lanes' own requests (`s3_requests`, `s3_uploads`). Every bucket is asked for once: that
tells a missing bucket from a missing key, and in which region it is, so that a wrong region mends itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from taskrunner.aws import AwsRefusalError, AwsSession, calling
from taskrunner.errors import OutputFailedError, TransferIOError, UsageError
from taskrunner.storage.s3_refusals import Action, Asked, Refusal, archived, explained, no_such_bucket
from taskrunner.storage.s3_requests import Bucket, Requests, S3Reading
from taskrunner.storage.s3_uploads import Destination, Multipart, SinglePut, begin_multipart
from taskrunner.storage.store import Part, StoredObject
from taskrunner.urls import S3Url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taskrunner.settings import S3Settings

_LONGEST_NAME_BYTES = 255  # NAME_MAX of Linux file systems


class S3Store:
    """See `Store`."""

    def __init__(self, aws: AwsSession, settings: S3Settings) -> None:
        self._aws = aws
        self._settings = settings
        self._requests = Requests(aws)
        self._buckets: dict[str, Bucket] = {}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def check(self, url: str) -> None:
        """See `Store.check`: there is such a bucket."""
        await self._bucket(url, Action.READ)

    async def stat(self, url: str) -> StoredObject:
        """See `Store.stat`."""
        place = _parsed(url)
        bucket, asked = await self._bucket(url, Action.READ)
        which = self._which(bucket, place)
        try:
            async with calling(url):
                head = await bucket.client.head_object(**which)
        except AwsRefusalError as error:
            raise explained(await self._reason(error, bucket, which), asked) from error
        if head.get("DeleteMarker"):
            raise explained(Refusal(404, "NoSuchKey", "", None, None), asked)
        restore = head.get("Restore", "")
        if _is_archived(head) and 'ongoing-request="false"' not in restore:
            raise archived(asked, restoring='ongoing-request="true"' in restore)
        size = head.get("ContentLength")
        return StoredObject(
            url, size, head.get("ETag", ""), ranged=size is not None, version=place.version_id
        )

    def _which(self, bucket: Bucket, place: S3Url) -> dict[str, str]:
        which = {"Bucket": bucket.name, "Key": place.key}
        if place.version_id:
            which["VersionId"] = place.version_id
        if self._settings.requester_pays:
            which["RequestPayer"] = "requester"
        return which

    async def _reason(self, error: AwsRefusalError, bucket: Bucket, which: dict[str, str]) -> Refusal:
        """Why a HEAD was refused: its answer has no words, so a GET of one byte is asked the same."""
        if error.status in (404, 405) or error.status >= 500:
            return Refusal.of_error(error)
        try:
            async with calling(which["Key"]):
                answer = await bucket.client.get_object(**which, Range="bytes=0-0")
                answer["Body"].close()
        except AwsRefusalError as wordy:
            return Refusal.of_error(wordy)
        return Refusal.of_error(error)

    async def list_directory(self, url: str) -> AsyncIterator[StoredObject]:
        """See `Store.list_directory`.

        Raises TransferIOError for keys that can't be files below one directory.
        """
        place = _parsed(url, versioned=False)
        prefix = place.key if place.key.endswith("/") or not place.key else f"{place.key}/"
        bucket, asked = await self._bucket(url, Action.LIST)
        payer = {"RequestPayer": "requester"} if self._settings.requester_pays else {}
        pages = bucket.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket.name, Prefix=prefix, **payer
        )
        names: set[str] = set()
        iterator = aiter(pages)
        while True:
            try:
                async with calling(url):
                    page = await anext(iterator, None)
            except AwsRefusalError as error:
                raise explained(Refusal.of_error(error), asked) from error
            if page is None:
                return
            for entry in page.get("Contents", ()):
                # Keys with a slash at their end are what consoles make to show an empty directory.
                if not entry["Key"].endswith("/"):
                    yield _listed(bucket.name, entry, prefix, names)

    async def read(self, found: StoredObject, start: int, length: int | None) -> S3Reading:
        """See `Store.read`."""
        place = _parsed(found.url, versioned=found.version is not None)
        bucket, asked = await self._bucket(found.url, Action.READ)
        query = (("versionId", found.version),) if found.version else ()
        headers = [("If-Match", found.etag)] if found.etag else []
        if self._settings.requester_pays:
            headers.append(("x-amz-request-payer", "requester"))
        whole = start == 0 and length in (None, found.size_bytes)
        if not whole:
            end = "" if length is None else start + length - 1
            headers.append(("Range", f"bytes={start}-{end}"))
        request = await self._requests.signed("GET", bucket, place.key, query, tuple(headers))
        return S3Reading(request, asked, found, start, length, whole)

    async def begin_upload(self, url: str, parts: Sequence[Part]) -> SinglePut | Multipart:
        """See `Store.begin_upload`.

        Raises OutputFailedError where there is no such bucket, or the URL names no key.
        """
        place = _parsed(url, versioned=False)
        if not place.key:
            raise OutputFailedError(f"{url} can't be written: expected s3://BUCKET/KEY")
        bucket, asked = await self._bucket(url, Action.WRITE)
        destination = Destination(bucket, place.key, asked, self._settings)
        if len(parts) == 1:
            return SinglePut(destination, self._requests, parts[0].length)
        return await begin_multipart(destination, self._requests, parts)

    async def _bucket(self, url: str, action: Action) -> tuple[Bucket, Asked]:
        name = _parsed(url, versioned=False).bucket
        credentials = await self._aws.credentials()
        signed, renewable = credentials is not None, credentials is not None and credentials.renewable
        async with self._asking[name]:
            bucket = self._buckets.get(name)
            if bucket is None:
                bucket = await self._look_up(name)
                if bucket is None:
                    raise no_such_bucket(Asked(action, url, name, "", signed, renewable))
                self._buckets[name] = bucket
        return bucket, Asked(action, url, name, bucket.region, signed, renewable)

    async def _look_up(self, name: str) -> Bucket | None:
        """Find a bucket in its own region; None where there is none.

        A refusal is no reason to stop: a role may well read objects and not ask for their bucket.
        """
        answer = await self._aws.head_bucket(name)
        if answer.told_region not in (None, answer.region):
            answer = await self._aws.head_bucket(name, answer.told_region)
        if answer.status == 404:
            return None
        if answer.status >= 500:
            asked = Asked(Action.READ, f"s3://{name}", name, answer.region, signed=True, renewable=True)
            raise explained(Refusal(answer.status, "", "", None, None), asked)
        client = await self._aws.s3_client(answer.region)
        ca_bundle = await self._aws.ca_bundle()
        return Bucket(name, client, answer.region, answer.url.rstrip("/") + "/", ca_bundle)


def _parsed(url: str, *, versioned: bool = True) -> S3Url:
    try:
        return S3Url.parse(url, versioned=versioned)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _is_archived(head: dict[str, Any]) -> bool:
    return head.get("StorageClass") in ("GLACIER", "DEEP_ARCHIVE") or bool(head.get("ArchiveStatus"))


def _listed(bucket: str, entry: dict[str, Any], prefix: str, names: set[str]) -> StoredObject:
    """One listed object. Raises TransferIOError where its key can't be a file's name below the prefix."""
    url = f"s3://{bucket}/{entry['Key']}"
    name = entry["Key"].removeprefix(prefix)
    parts = name.split("/")
    longest = max(len(part.encode()) for part in parts)
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or longest > _LONGEST_NAME_BYTES:
        raise TransferIOError(
            f"{url} can't be a file below a directory: its key has an empty, `.`, `..` or too long part; "
            "name such objects one by one as inputs"
        )
    for depth in range(1, len(parts)):
        if "/".join(parts[:depth]) in names:
            raise TransferIOError(
                f"{url} and s3://{bucket}/{prefix}{'/'.join(parts[:depth])} can't both be there: "
                "the same name would be a file and a directory"
            )
    names.add(name)
    etag = entry.get("ETag", "")
    quoted = f'"{etag}"' if etag and not etag.endswith('"') else etag  # rclone leaves them bare in listings
    return StoredObject(url, entry["Size"], quoted, ranged=True, name=name)
