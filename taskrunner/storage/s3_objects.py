"""Objects in S3 as they are read: what a HEAD tells of one, and its bytes by GET.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from taskrunner.errors import TransferIOError
from taskrunner.storage.checksums import Checksum
from taskrunner.storage.heads import date_seconds, told_number
from taskrunner.storage.s3_checksums import ASK_FOR_CHECKSUM, ToldChecksum, whole_checksum
from taskrunner.storage.s3_refusals import Refusal, archived, changed, explained
from taskrunner.storage.s3_requests import told_length
from taskrunner.storage.store import StoredObject

if TYPE_CHECKING:
    from taskrunner.storage.s3_requests import Place
    from taskrunner.storage.signing import Headers
    from taskrunner.storage.slices import FileSlice
    from taskrunner.storage.wire import Answer, Connections

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def look_at(connections: Connections, place: Place, version: str | None) -> StoredObject:
    """See `Store.stat`."""
    with place.ask(connections, "HEAD", query=_of_version(version), headers=(ASK_FOR_CHECKSUM,)) as head:
        no = Refusal.of_answer(head) if head.status != 200 else None
        if no is None:
            _check_readable(place, head)
            size_bytes, etag = told_length(head), head.header("ETag") or ""
            modified_seconds = date_seconds(head.header("Last-Modified"))
            whole = whole_checksum(head, md5_etags=place.bucket.etags_may_be_md5)
            told = None if whole else ToldChecksum.by(head)
    if no is not None:
        raise explained(_reason(connections, place, version, no), place.asked)
    if told is not None and told.part_count is not None and size_bytes:
        whole = _composite(connections, place, _pinned(etag, version), told, size_bytes)
    return StoredObject(
        place.asked.url,
        size_bytes,
        etag,
        ranged=size_bytes is not None,
        version=version,
        checksum=whole,
        modified_seconds=modified_seconds,
    )


def receive(connections: Connections, place: Place, found: StoredObject, target: FileSlice) -> None:
    """See `Store.read`."""
    start, left = target.position, target.left
    whole = start == 0 and left in (None, found.size_bytes)
    if left == 0 and not whole:
        return
    headers: Headers = (("If-Match", found.etag),) if found.etag else ()
    if whole:
        headers = (*headers, ASK_FOR_CHECKSUM)
    else:
        end = "" if left is None else start + left - 1
        headers = (*headers, ("Range", f"bytes={start}-{end}"))
    with place.ask(connections, "GET", query=_of_version(found.version), headers=headers) as answer:
        if answer.status not in (200, 206):
            raise explained(Refusal.of_answer(answer), place.asked)
        _check_bytes(place, answer, found, start, left, whole=whole)
        if whole and answer.status == 200 and found.checksum is None:
            checksum = whole_checksum(answer, md5_etags=place.bucket.etags_may_be_md5)
            if checksum is not None:
                target.expect(checksum)
        answer.receive(target)


def _of_version(version: str | None) -> Headers:
    return (("versionId", version),) if version else ()


def _pinned(etag: str, version: str | None) -> tuple[Headers, Headers]:
    """Query and headers with which a further question is about the same bytes."""
    return _of_version(version), (("If-Match", etag),) if etag else ()


def _reason(connections: Connections, place: Place, version: str | None, no: Refusal) -> Refusal:
    """Why a HEAD was refused: its answer has no words, so a GET of one byte is asked the same.

    An object may well be read and yet have no first byte (416): that says nothing about the HEAD.
    """
    if no.status in (404, 405, 429) or no.status >= 500:
        return no
    with place.ask(
        connections, "GET", query=_of_version(version), headers=(("Range", "bytes=0-0"),)
    ) as answer:
        return no if answer.status in (200, 206, 416) else Refusal.of_answer(answer)


def _check_readable(place: Place, head: Answer) -> None:
    """Raise where a HEAD was answered with yes and yet there is nothing to be read."""
    if head.header("x-amz-delete-marker") == "true":
        raise explained(Refusal(404, "NoSuchKey", "", None, None), place.asked)
    in_archive = head.header("x-amz-storage-class") in ("GLACIER", "DEEP_ARCHIVE")
    restore = head.header("x-amz-restore") or ""
    if (in_archive or head.header("x-amz-archive-status")) and 'ongoing-request="false"' not in restore:
        raise archived(place.asked, restoring='ongoing-request="true"' in restore)


def _composite(
    connections: Connections,
    place: Place,
    pinned: tuple[Headers, Headers],
    told: ToldChecksum,
    size_bytes: int,
) -> Checksum | None:
    """A composite with the size of the parts it is of; None where they are of different sizes, or nobody says.

    The first part's size must give the number of parts and the size of the last one. That all the others
    are as long as the first is how every client cuts; S3 has no cheaper way to say so.
    """
    query, headers = pinned
    first = _part(connections, place, (("partNumber", "1"), *query), headers)
    if first is None:
        return None
    part_bytes, part_count = first
    count = told.part_count or part_count
    if not part_bytes or part_count not in (0, count) or -(-size_bytes // part_bytes) != count:
        return None
    if count > 1:
        last = _part(connections, place, (("partNumber", str(count)), *query), headers)
        if last is None or last[0] != size_bytes - (count - 1) * part_bytes:
            return None
    return Checksum(told.algorithm, told.value, part_bytes)


def _part(connections: Connections, place: Place, query: Headers, headers: Headers) -> tuple[int, int] | None:
    """The size of one part in bytes and how many there are (0: untold); None where the server can't say."""
    with place.ask(connections, "HEAD", query=query, headers=headers) as head:
        if head.status in (200, 206):
            return told_length(head) or 0, told_number(head.header("x-amz-mp-parts-count")) or 0
        no = Refusal.of_answer(head)
    if no.transient:
        raise explained(no, place.asked)
    return None


def _check_bytes(
    place: Place, answer: Answer, found: StoredObject, start: int, left: int | None, *, whole: bool
) -> None:
    """Refuse an answer with other bytes than those that were asked for."""
    url = place.asked.url
    etag = answer.header("ETag")
    if etag is not None and found.etag and etag != found.etag:
        raise changed(place.asked)
    if not whole or answer.status == 206:
        # rclone's server answers 200 to a range, with the right Content-Range; others ignore ranges.
        span = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
        if span is None or int(span[1]) != start:
            raise TransferIOError(f"{url}: the server sent other bytes than the range asked for")
        if span[3] not in ("*", str(found.size_bytes)):
            raise changed(place.asked)
    if None not in (answer.length, left) and answer.length != left:
        raise TransferIOError(f"{url}: the server sends {answer.length} bytes where {left} were expected")
