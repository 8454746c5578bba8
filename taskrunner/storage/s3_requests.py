"""S3's requests: put together and signed in the lane that sends them, at that moment, with its credentials.

No client of the SDK is used: it would cost more than the bytes of a small object.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner.errors import TransientError
from taskrunner.storage.heads import told_number
from taskrunner.storage.network import Endpoint
from taskrunner.storage.s3_checksums import SentChecksums
from taskrunner.storage.s3_documents import Document
from taskrunner.storage.s3_refusals import Refusal
from taskrunner.storage.signing import Headers, Signer, encoded_path, encoded_query
from taskrunner.storage.wire import Request

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from taskrunner.aws import AwsSession, BucketEndpoint
    from taskrunner.storage.s3_refusals import Asked
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Answer, Connections


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, and how it is reached; all but `sent_checksums`, which lanes share and change, stays as it is."""

    name: str
    region: str
    service: str
    """What its requests are signed for."""
    origin: str
    """Such as https://host:9000."""
    host: str
    """As the Host header says it."""
    path: str
    """Where the bucket is on its host: `/name`, or empty."""
    ca_bundle: str | None
    sent_checksums: SentChecksums = field(default_factory=SentChecksums)

    @property
    def etags_may_be_md5(self) -> bool:
        """Directory buckets and Object Lambda make theirs otherwise."""
        return self.service == "s3"

    @classmethod
    def at(cls, name: str, endpoint: BucketEndpoint, ca_bundle: str | None) -> Bucket:
        """The bucket at its endpoint. Raises TransferIOError where that names no host."""
        where = Endpoint.of(endpoint.url)
        origin, _, path = endpoint.url.partition("://")[2].partition("/")
        scheme = where.scheme
        return cls(
            name,
            endpoint.region,
            endpoint.service,
            f"{scheme}://{origin}",
            where.authority,
            f"/{path}" if path else "",
            ca_bundle,
        )


class Requests:
    """Builds and signs requests; for all lanes."""

    def __init__(self, aws: AwsSession) -> None:
        self._aws = aws
        self._signer = Signer()

    def signed(
        self,
        method: str,
        bucket: Bucket,
        key: str | None = None,
        *,
        query: Headers = (),
        headers: Headers = (),
        body: bytes | None = None,
        silence_seconds: float | None = None,
    ) -> Request:
        """One request about `key`, else about the bucket itself. Raises as `AwsSession.credentials`."""
        path = (bucket.path or "/") if key is None else f"{bucket.path}/{encoded_path(key)}"
        parameters = encoded_query(query) if query else ""
        keys = self._aws.credentials()
        if keys is not None:
            headers = self._signer.sign(
                method,
                bucket.host,
                path,
                parameters,
                headers,
                keys=keys,
                region=bucket.region,
                timestamp=time.time(),
                service=bucket.service,
            )
        question = f"?{parameters}" if parameters else ""
        url = f"{bucket.origin}{path}{question}"
        return Request(method, url, headers, bucket.ca_bundle, body, silence_seconds)


def told_length(head: Answer) -> int | None:
    """The Content-Length of an answer to a HEAD: how many bytes a GET would bring."""
    return told_number(head.header("Content-Length"))


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a bucket, or the bucket itself, and what is wanted of it."""

    requests: Requests
    bucket: Bucket
    key: str | None
    asked: Asked
    payer: Headers
    """Who pays, which every request says."""

    def ask(
        self,
        connections: Connections,
        method: str,
        *,
        query: Headers = (),
        headers: Headers = (),
        body: bytes | None = None,
        source: FileSlice | None = None,
        silence_seconds: float | None = None,
    ) -> AbstractContextManager[Answer]:
        """One request about it. Raises as `Requests.signed` and `Connections.exchange`."""
        request = self.requests.signed(
            method,
            self.bucket,
            self.key,
            query=query,
            headers=(*headers, *self.payer),
            body=body,
            silence_seconds=silence_seconds,
        )
        return connections.exchange(request, source)

    def told(self, answer: Answer, name: str) -> Document | Refusal:
        """The document that an answer brings, or a no, which may come after it began with a yes.

        `name` is what its root's name begins with: S3 goes on with `Result`, some of its relatives otherwise.
        Raises TransientError where it is another thing, such as the page of a server in between.
        """
        if answer.status != 200:
            return Refusal.of_answer(answer)
        document = Document.parsed(answer.content(), self.asked.url)
        if document.name == "Error":
            return Refusal.of_document(answer, document)
        if not document.name.startswith(name):
            raise TransientError(
                f"S3's answer about {self.asked.url} is no {name}, as it should be, but {document.name[:40]}"
            )
        return document
