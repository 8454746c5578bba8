"""S3 and everything that speaks its protocol.

All questions are requests of our own (`s3_requests`), asked in the lane that needs the answer: what is there
(`s3_objects`), what goes there (`s3_uploads`), and here what is below a prefix. Every bucket is asked for once:
that tells a missing bucket from a missing key, and in which region it is, so that a wrong region mends itself.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from taskrunner.errors import OutputFailedError, TransferIOError, UsageError
from taskrunner.storage.s3_documents import Page, quoted, seconds
from taskrunner.storage.s3_objects import look_at, receive
from taskrunner.storage.s3_refusals import Action, Asked, Refusal, explained, no_such_bucket
from taskrunner.storage.s3_requests import Bucket, Place, Requests
from taskrunner.storage.s3_uploads import (
    Destination,
    Multipart,
    SinglePut,
    abandon_multipart,
    begin_multipart,
    resumed_multipart,
)
from taskrunner.storage.store import Part, StoredObject
from taskrunner.urls import S3Url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskrunner.aws import AwsSession
    from taskrunner.settings import S3Settings
    from taskrunner.storage.signing import Headers
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Connections

_LONGEST_NAME_BYTES = 255  # NAME_MAX of Linux file systems
# Names that S3 or a relative of its has, never one that is a step up in a path; ARNs are those of access points.
_BUCKET_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,255}|arn:[A-Za-z0-9:_-]{1,250}")


class S3Store:
    """See `Store`."""

    def __init__(self, aws: AwsSession, settings: S3Settings) -> None:
        self._aws = aws
        self._settings = settings
        self._requests = Requests(aws)
        self._buckets: dict[str, Bucket] = {}
        self._asking: dict[str, threading.Lock] = {}
        self._payer: Headers = (("x-amz-request-payer", "requester"),) if settings.requester_pays else ()

    def check(self, connections: Connections, url: str) -> None:
        """See `Store.check`: there is such a bucket."""
        self._place(connections, url, Action.READ)

    def stat(self, connections: Connections, url: str) -> StoredObject:
        """See `Store.stat`."""
        parsed = _parsed(url)
        if not parsed.key:
            raise UsageError(f"{url} is a bucket, not a file: expected s3://BUCKET/KEY")
        place = self._place(connections, url, Action.READ, parsed.key)
        return look_at(connections, place, parsed.version_id)

    def list_directory(
        self, connections: Connections, url: str, *, deep: bool = True
    ) -> Iterator[StoredObject]:
        """See `Store.list_directory`.

        Raises TransferIOError for keys that can't be files below one directory.
        """
        key = _parsed(url, versioned=False).key
        prefix = key if key.endswith("/") or not key else f"{key}/"
        place = self._place(connections, url, Action.LIST)
        names: set[str] = set()
        token, tokens = "", set[int]()
        while True:
            page = _page(connections, place, prefix, token, deep=deep)
            if hash(page.more) in tokens:  # their order proves nothing: directory buckets list in none
                raise TransferIOError(f"{place.asked.url}: the server's listing does not come to an end")
            tokens.add(hash(page.more))
            for entry in page.entries:
                # Keys with a slash at their end are what consoles make to show an empty directory.
                if not entry["Key"].endswith("/"):
                    yield _listed(place.bucket.name, entry, prefix, names)
            if not page.more:
                return
            token = page.more

    def read(self, connections: Connections, found: StoredObject, target: FileSlice) -> None:
        """See `Store.read`."""
        key = _parsed(found.url, versioned=found.version is not None).key
        place = self._place(connections, found.url, Action.READ, key)
        receive(connections, place, found, target)

    def begin_upload(
        self, connections: Connections, url: str, parts: Sequence[Part], resume_id: str | None = None
    ) -> SinglePut | Multipart:
        """See `Store.begin_upload`.

        Raises OutputFailedError where there is no such bucket, or the URL names no key.
        """
        key = _parsed(url, versioned=False).key
        if not key:
            raise OutputFailedError(f"{url} can't be written: expected s3://BUCKET/KEY")
        place = self._place(connections, url, Action.WRITE, key)
        to = Destination(place.requests, place.bucket, key, place.asked, place.payer, self._storage_headers)
        if len(parts) == 1:
            return SinglePut(to, parts[0].length)
        resumed = resumed_multipart(to, connections, parts, resume_id) if resume_id else None
        return resumed or begin_multipart(to, connections, parts)

    def abandon_upload(
        self, connections: Connections, url: str, resume_id: str | None, since_seconds: float
    ) -> None:
        """See `Store.abandon_upload`."""
        key = _parsed(url, versioned=False).key
        place = self._place(connections, url, Action.WRITE, key)
        to = Destination(place.requests, place.bucket, key, place.asked, place.payer, self._storage_headers)
        abandon_multipart(to, connections, resume_id, since_seconds)

    @property
    def _storage_headers(self) -> Headers:
        chosen = {
            "x-amz-server-side-encryption": self._settings.server_side_encryption,
            "x-amz-server-side-encryption-aws-kms-key-id": self._settings.kms_key_id,
            "x-amz-acl": self._settings.acl,
        }
        return tuple((name, str(value)) for name, value in chosen.items() if value)

    def _place(self, connections: Connections, url: str, action: Action, key: str | None = None) -> Place:
        """Where `key` is, else the bucket. Raises where there is no such bucket."""
        name = _parsed(url, versioned=False).bucket
        credentials = self._aws.credentials()
        signed, renewable = credentials is not None, credentials is not None and credentials.renewable
        bucket = self._buckets.get(name)
        if bucket is None:
            with self._asking.setdefault(name, threading.Lock()):
                bucket = self._buckets.get(name)
                if bucket is None:
                    bucket = self._look_up(connections, Asked(action, url, name, "", signed, renewable))
                    self._buckets[name] = bucket
        asked = Asked(action, url, name, bucket.region, signed, renewable)
        return Place(self._requests, bucket, key, asked, self._payer)

    def _look_up(self, connections: Connections, asked: Asked) -> Bucket:
        """Find a bucket in its own region. Raises where there is none.

        A refusal is no reason to stop: a role may well read objects and not ask for their bucket.
        """
        name, ca_bundle = asked.bucket, self._aws.ca_bundle()
        bucket = Bucket.at(name, self._aws.bucket_endpoint(name), ca_bundle)
        no = self._refusal(connections, bucket, asked)
        if no is not None and no.region not in (None, bucket.region):
            bucket = Bucket.at(name, self._aws.bucket_endpoint(name, no.region), ca_bundle)
            no = self._refusal(connections, bucket, asked)
        if no is not None and no.status == 404:
            raise no_such_bucket(asked)
        if no is not None and (no.status >= 500 or no.status == 429):
            raise explained(no, asked)
        return bucket

    def _refusal(self, connections: Connections, bucket: Bucket, asked: Asked) -> Refusal | None:
        """What S3 says against a bucket, if anything."""
        with Place(self._requests, bucket, None, asked, self._payer).ask(connections, "HEAD") as answer:
            return None if answer.status == 200 else Refusal.of_answer(answer)


def _parsed(url: str, *, versioned: bool = True) -> S3Url:
    try:
        url.encode()
        parsed = S3Url.parse(url, versioned=versioned)
    except UnicodeEncodeError as error:  # bytes of a command line, or of a file's name, that are no text
        raise UsageError(f"{url!r}: expected a URL in UTF-8") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not _BUCKET_NAME.fullmatch(parsed.bucket):
        raise UsageError(f"{url}: no bucket can have that name; expected letters, digits, dots and hyphens")
    return parsed


def _page(connections: Connections, place: Place, prefix: str, token: str, *, deep: bool) -> Page:
    """One page of what is below `prefix`: ListObjectsV2."""
    # Keys may have characters that XML has not, so they are asked for percent-encoded.
    query: Headers = (("list-type", "2"), ("prefix", prefix), ("encoding-type", "url"))
    if not deep:
        query = (*query, ("delimiter", "/"))
    if token:
        query = (*query, ("continuation-token", token))
    with place.ask(connections, "GET", query=query) as answer:
        told = place.told(answer, "ListBucket")
    if isinstance(told, Refusal):
        raise explained(told, place.asked)
    return Page.of(told, place.asked.url)


def _listed(bucket: str, entry: dict[str, str], prefix: str, names: set[str]) -> StoredObject:
    """One listed object; `names` are those before it that can be files."""
    name, url = entry["Key"].removeprefix(prefix), f"s3://{bucket}/{entry['Key']}"
    unfit = _unfit(name, names)
    if not unfit and S3Url.parse(url).version_id is not None:
        unfit = "can't be told from a version of another object: its key ends as URLs of versions do"
    if not unfit:
        names.add(name)
    return StoredObject(
        url,
        int(entry["Size"]),
        quoted(entry.get("ETag", "")),
        ranged=True,
        name=name,
        modified_seconds=seconds(entry.get("LastModified", "")),
        unfit=unfit,
    )


def _unfit(name: str, names: set[str]) -> str:
    """Why a key can't be a file's name below its prefix; empty where it can."""
    parts = name.split("/")
    longest = max(len(part.encode()) for part in parts)
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or longest > _LONGEST_NAME_BYTES:
        return (
            "can't be a file below a directory: its key has an empty, `.`, `..` or too long part; "
            "name such objects one by one"
        )
    for depth in range(1, len(parts)):
        if (other := "/".join(parts[:depth])) in names:
            return f"and {other} can't both be there: the same name would be a file and a directory"
    return ""
