"""The requests of clients that move files, answered: reading, writing in one piece or in parts, listing."""

from __future__ import annotations

import os
import re
from html import unescape
from typing import TYPE_CHECKING
from uuid import uuid4
from xml.sax.saxutils import escape

from benchmarks.content import MiB
from benchmarks.source_server.checksums import Summing, combined_claim
from benchmarks.source_server.connections import Connection, TlsConnection, Waiting
from benchmarks.source_server.objects import (
    PAGE_OF_KEYS,
    Found,
    Shelves,
    joined,
    listing,
    opened,
    part_tag,
    placed,
    remove_tree,
)
from benchmarks.source_server.requests import (
    Refused,
    Request,
    Unframing,
    claimed,
    document,
    element,
    head_of,
    parsed_head,
    wanted_range,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

LARGEST_DOCUMENT_BYTES = 4 * MiB
SMALLEST_PART_BYTES = 5 * MiB
PART_TAG = re.compile(rb"<Part>(.*?)</Part>", re.DOTALL)


class Service:
    """Answers the requests of one connection."""

    def __init__(self, connection: Connection, shelves: Shelves) -> None:
        self._connection = connection
        self._shelves = shelves
        self._unread = False

    def run(self) -> Waiting:
        """Request after request, until the client goes."""
        if isinstance(self._connection, TlsConnection):
            yield from self._connection.shake_hands()
        while True:
            head = yield from self._connection.until(b"\r\n\r\n")
            if not (yield from self._one(head)):
                return

    def _one(self, head: bytes) -> Generator[int, None, bool]:
        """One request and its answer; whether the connection can be used for more."""
        request = None
        try:
            request = parsed_head(head)
            self._unread = request.method in {"PUT", "POST"}
            yield from self._answer(request)
        except Refused as refused:
            content = f"<Code>{refused.code}</Code><Message>{escape(refused.message)}</Message>"
            body = b"" if request and request.method == "HEAD" else document("Error", content)
            yield from self._reply(refused.status, body)
            if request is None or self._unread:
                return False
        return request.headers.get("connection", "").lower() != "close"

    def _reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Waiting:
        kind = {"Content-Type": "application/xml"} if body else {}
        yield from self._connection.send(head_of(status, len(body), {**kind, **(headers or {})}) + body)

    def _answer(self, request: Request) -> Waiting:
        match request.method, bool(request.key):
            case "GET" | "HEAD", True if "uploadId" not in request.query:
                yield from self._read(request)
            case "GET", True:
                yield from self._reply(200, self._listed_parts(request))
            case "HEAD", False:
                yield from self._reply(200, headers={"x-amz-bucket-region": "us-east-1"})
            case "GET", False:
                yield from self._reply(200, self._bucket_document(request))
            case "PUT", True:
                yield from self._put(request)
            case "PUT", False:
                yield from self._body(request, None)
                yield from self._reply(200)
            case "POST", True:
                yield from self._post(request)
            case "DELETE", _:
                self._delete(request)
                yield from self._reply(204)
            case _:
                raise Refused(405, "MethodNotAllowed", f"{request.method} is not known here")

    # --- Reading

    def _read(self, request: Request) -> Waiting:
        found = self._shelves.find(request.bucket, request.key)
        if request.headers.get("if-match", found.etag) not in {found.etag, "*", found.etag.strip('"')}:
            raise Refused(412, "PreconditionFailed", "the object has another ETag")
        first, last = wanted_range(request.headers.get("range"), found.size)
        length = last - first + 1
        part = "range" in request.headers and found.size > 0
        headers = self._shelves.headers(request.bucket, found, request, whole=length == found.size)
        if part:
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        sends = request.method == "GET" and length > 0
        yield from self._connection.send(head_of(206 if part else 200, length, headers), more=sends)
        if not sends:
            return
        if found.path is None:
            ground = self._shelves.ground
            for offset, piece in ground.pieces(found.key, first, length):
                yield from self._connection.send_file(ground.descriptor, ground.view, offset, piece)
        else:
            with found.path.open("rb") as file:
                yield from self._connection.send_file(file.fileno(), None, first, length)

    def _bucket_document(self, request: Request) -> bytes:
        if "location" in request.query:
            return document("LocationConstraint", "")
        if "versioning" in request.query:
            return document("VersioningConfiguration", "")
        return listing(self._shelves, request)

    # --- Writing

    def _body(
        self, request: Request, take: Callable[[memoryview], object] | None
    ) -> Generator[int, None, int]:
        """Take a request's body, freed of its framings; its own length. Trailers are in `self.trailers`."""
        self.trailers: dict[str, str] = {}
        if request.headers.get("expect", "").lower() == "100-continue":
            yield from self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        framed = "aws-chunked" in request.headers.get("content-encoding", "")
        decoded = int(request.headers.get("x-amz-decoded-content-length", -1))
        taken = 0
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            unframe = Unframing(take, self.trailers) if framed else None
            taken = yield from self._chunks(unframe.take if unframe else take, {})
            taken = unframe.length if unframe else taken
        elif framed:
            taken = yield from self._chunks(take, self.trailers)
        else:
            taken = int(request.headers.get("content-length", 0))
            yield from self._connection.pass_on(taken, take)
        self._unread = False
        if decoded not in {-1, taken}:
            raise Refused(400, "IncompleteBody", f"{taken} bytes came, {decoded} were announced")
        return taken

    def _chunks(
        self, take: Callable[[memoryview], object] | None, trailers: dict[str, str]
    ) -> Generator[int, None, int]:
        """A body in chunks (HTTP's and S3's framing are alike); the length of what was in them."""
        total = 0
        while True:
            line = yield from self._connection.until(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if not size:
                break
            yield from self._connection.pass_on(size, take)
            yield from self._connection.until(b"\r\n")
            total += size
        while (line := (yield from self._connection.until(b"\r\n"))) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            trailers[name.strip().lower()] = value.strip()
        return total

    def _stored(self, request: Request, path: Path) -> Generator[int, None, tuple[int, str | None]]:
        """A body as a file at `path`, real or sparse; its size, and the checksum claimed for it."""
        kept = request.bucket.startswith("kept")
        partial = self._shelves.folder / ".partial" / uuid4().hex
        descriptor = opened(partial)
        try:
            summing = Summing(descriptor) if kept else None
            size = yield from self._body(request, summing.take if summing else None)
            claim = request.checksum or claimed(self.trailers)
            if summing and claim and not summing.agrees_with(claim):
                raise Refused(400, "BadDigest", f"the body does not come to {claim}")
            os.truncate(descriptor, size)
            placed(partial, path)
        except BaseException:
            partial.unlink()
            raise
        finally:
            os.close(descriptor)
        return size, claim

    def _put(self, request: Request) -> Waiting:
        if upload := request.query.get("uploadId"):
            path = self._upload(upload) / request.query["partNumber"]
        else:
            path = self._shelves.path(request.bucket, request.key)
        size, claim = yield from self._stored(request, path)
        if claim and upload:
            path.with_suffix(".claim").write_text(claim)
        elif claim:
            self._claim(request, claim)
        tag = part_tag(size) if upload else Found(request.key, size, path).etag
        name, _, text = (claim or "").partition(":")
        yield from self._reply(
            200, headers={"ETag": tag} | ({f"x-amz-checksum-{name}": text} if text else {})
        )

    def _claim(self, request: Request, claim: str) -> None:
        path = self._shelves.claim_path(request.bucket, request.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(claim)

    def _upload(self, name: str) -> Path:
        folder = self._shelves.folder / ".uploads" / name
        if not re.fullmatch("[0-9a-f]{32}", name) or not folder.is_dir():
            raise Refused(404, "NoSuchUpload", "there is no such upload")
        return folder

    def _post(self, request: Request) -> Waiting:
        body = bytearray()
        if int(request.headers.get("content-length", 0)) > LARGEST_DOCUMENT_BYTES:
            raise Refused(400, "MalformedXML", "the document is too large")
        yield from self._body(request, body.extend)
        if "uploads" in request.query:
            name = uuid4().hex
            (self._shelves.folder / ".uploads" / name).mkdir(parents=True)
            content = f"<Bucket>{escape(request.bucket)}</Bucket><Key>{escape(request.key)}</Key>"
            answer = document("InitiateMultipartUploadResult", f"{content}<UploadId>{name}</UploadId>")
        elif "uploadId" in request.query:
            answer = self._complete(request, bytes(body))
        else:
            answer = self._delete_many(request, bytes(body))
        yield from self._reply(200, answer)

    def _complete(self, request: Request, body: bytes) -> bytes:
        """Make one object of the parts that the client names."""
        folder = self._upload(request.query["uploadId"])
        numbers, sizes = [], []
        for part in PART_TAG.findall(body):
            number = int(element(part, b"PartNumber"))
            path = folder / str(number)
            tag = unescape(element(part, b"ETag").decode()).strip('"')
            if not path.exists() or tag != part_tag(path.stat().st_size).strip('"'):
                raise Refused(400, "InvalidPart", f"part {number} is not here, or another")
            numbers.append(number)
            sizes.append(path.stat().st_size)
        if not numbers or numbers != sorted(set(numbers)):
            raise Refused(400, "InvalidPartOrder", "the parts are not in their order")
        if any(size < SMALLEST_PART_BYTES for size in sizes[:-1]):
            raise Refused(400, "EntityTooSmall", "a part that is not the last has less than 5 MiB")
        claims = [(folder / f"{number}.claim") for number in numbers]
        claim = combined_claim(
            [
                (path.read_text() if path.exists() else None, size)
                for path, size in zip(claims, sizes, strict=True)
            ]
        )
        told = request.checksum
        if told and claim and told.partition(":")[0] == claim.partition(":")[0] and told != claim:
            raise Refused(400, "BadDigest", f"the parts come to {claim}, not to {told}")
        path = self._shelves.path(request.bucket, request.key)
        joined([folder / str(number) for number in numbers], path, kept=request.bucket.startswith("kept"))
        remove_tree(folder)
        content = f"<Bucket>{escape(request.bucket)}</Bucket><Key>{escape(request.key)}</Key>"
        content += f"<ETag>{escape(Found(request.key, sum(sizes), path).etag)}</ETag>"
        if whole := told or claim:
            self._claim(request, whole)
            name, _, text = whole.partition(":")
            content += f"<Checksum{name.upper()}>{text}</Checksum{name.upper()}>"
            content += "<ChecksumType>FULL_OBJECT</ChecksumType>"
        return document("CompleteMultipartUploadResult", content)

    def _listed_parts(self, request: Request) -> bytes:
        folder = self._upload(request.query["uploadId"])
        after = int(request.query.get("part-number-marker") or 0)
        numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        later = [number for number in numbers if number > after]
        page = later[: int(request.query.get("max-parts") or PAGE_OF_KEYS)]
        content = f"<IsTruncated>{str(len(page) < len(later)).lower()}</IsTruncated>"
        content += f"<NextPartNumberMarker>{page[-1] if page else after}</NextPartNumberMarker>"
        for number in page:
            path = folder / str(number)
            size = path.stat().st_size
            content += f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(part_tag(size))}</ETag>"
            claim = path.with_suffix(".claim")
            if claim.exists():
                name, _, text = claim.read_text().partition(":")
                content += f"<Checksum{name.upper()}>{text}</Checksum{name.upper()}>"
            content += f"<Size>{size}</Size></Part>"
        return document("ListPartsResult", content)

    def _delete(self, request: Request) -> None:
        if upload := request.query.get("uploadId"):
            remove_tree(self._upload(upload))
        elif request.key:
            self._shelves.path(request.bucket, request.key).unlink(missing_ok=True)

    def _delete_many(self, request: Request, body: bytes) -> bytes:
        for key in re.findall(rb"<Key>(.*?)</Key>", body):
            self._shelves.path(request.bucket, key.decode()).unlink(missing_ok=True)
        return document("DeleteResult", "")
