"""S3's bytes: signed requests for lanes, and what a lane makes of their answers.

The SDK is not used here: it would cost more than the bytes of a small object. A request is built and signed on
the loop, at the moment it is wanted, with the credentials of that moment; a lane then only runs it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from taskrunner.errors import TransferIOError, TransientError
from taskrunner.storage.network import Endpoint
from taskrunner.storage.s3_refusals import Asked, Refusal, changed, explained
from taskrunner.storage.signing import Headers, Signer, encoded_path, encoded_query
from taskrunner.storage.wire import Answer, Connections, Request

if TYPE_CHECKING:
    from taskrunner.aws import AwsSession
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.store import StoredObject

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, and how it is reached."""

    name: str
    client: Any
    """The SDK's client for the bucket's region."""
    region: str
    url: str
    """With a slash at its end."""
    ca_bundle: str | None


class Requests:
    """Builds and signs requests."""

    def __init__(self, aws: AwsSession) -> None:
        self._aws = aws
        self._signer = Signer()

    async def signed(
        self, method: str, bucket: Bucket, key: str, query: Headers = (), headers: Headers = ()
    ) -> Request:
        """One request about `key`. Raises as `AwsSession.credentials`."""
        endpoint = urlsplit(bucket.url)
        path = endpoint.path + encoded_path(key)
        parameters = encoded_query(query)
        keys = await self._aws.credentials()
        if keys is not None:
            host = Endpoint.of(bucket.url).authority
            headers = self._signer.sign(
                method,
                host,
                path,
                parameters,
                headers,
                keys=keys,
                region=bucket.region,
                timestamp=time.time(),
            )
        url = f"{endpoint.scheme}://{endpoint.netloc}{path}{'?' if parameters else ''}{parameters}"
        return Request(method, url, headers, bucket.ca_bundle)


@dataclass(frozen=True, slots=True)
class S3Reading:
    """One GET, of a range or of the whole object."""

    request: Request
    asked: Asked
    found: StoredObject
    start: int
    length: int | None
    """None: the object's size is not known."""
    whole: bool
    """Whether no range was asked for."""

    def run(self, connections: Connections, target: FileSlice) -> None:
        """See `Reading.run`."""
        with connections.exchange(self.request) as answer:
            if answer.status not in (200, 206):
                raise explained(Refusal.of_answer(answer), self.asked)
            self._check(answer)
            answer.receive(target, self.length)

    def _check(self, answer: Answer) -> None:
        """Refuse an answer with other bytes than those that were asked for."""
        etag = answer.header("ETag")
        if etag is not None and self.found.etag and etag != self.found.etag:
            raise changed(self.asked)
        if not self.whole or answer.status == 206:
            # rclone's server answers 200 to a range, with the right Content-Range; others ignore ranges.
            span = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
            if span is None or int(span[1]) != self.start:
                raise TransferIOError(
                    f"{self.asked.url}: the server sent other bytes than the range asked for"
                )
            if span[3] not in ("*", str(self.found.size_bytes)):
                raise changed(self.asked)
        if None not in (answer.length, self.length) and answer.length != self.length:
            raise TransferIOError(
                f"{self.asked.url}: the server sends {answer.length} bytes where {self.length} were expected"
            )


@dataclass(frozen=True, slots=True)
class S3Writing:
    """One PUT, of a part or of a whole object."""

    request: Request
    asked: Asked
    length: int

    def run(self, connections: Connections, source: FileSlice) -> str:
        """See `Writing.run`; the receipt is the ETag."""
        with connections.exchange(self.request, source, self.length) as answer:
            if answer.status not in (200, 201, 204):
                raise explained(Refusal.of_answer(answer), self.asked)
            etag = answer.header("ETag")
            answer.excerpt()
        if not etag:
            raise TransientError(f"{self.asked.url}: the server gave no ETag for what was sent")
        return etag
