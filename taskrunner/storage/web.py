"""What the web says of a file, beside its bytes: redirects, credentials, statuses, checksums. Pure."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    TaskrunnerError,
    ThrottledError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.checksums import Algorithm, Checksum, decoded
from taskrunner.storage.network import Endpoint
from taskrunner.storage.wire import retry_after_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Headers = Callable[[str], str | None]
    """One answer's headers: from a name, whatever its case, to the value."""

MOST_REDIRECTS = 10
_RAW_BYTE = re.compile("[\x80-\xff]")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHA256_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")
_GOOGLE_HASH = re.compile(r"(crc32c|md5)=([A-Za-z0-9+/=]+)")


def request_parts(url: str, original: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The URL to ask, without userinfo and fragment and percent-encoded where it was not, and its headers.

    User and password of `original` go only to its own host (RFC 9110, section 15.4). Raises TransferIOError
    where `url` is no web address.
    """
    endpoint = Endpoint.of(url)
    same_origin = endpoint == Endpoint.of(original)
    parts, first = urlsplit(url), urlsplit(original)
    headers: tuple[tuple[str, str], ...] = (("Accept-Encoding", "identity"),)
    if first.username is not None and same_origin:
        pair = f"{unquote(first.username)}:{unquote(first.password or '')}"
        headers = (*headers, ("Authorization", f"Basic {b64encode(pair.encode()).decode()}"))
    netloc = parts.netloc.rpartition("@")[2]
    if not netloc.isascii():
        netloc = endpoint.authority
    # `%` is safe: what is encoded already stays as it is.
    path = quote(parts.path, safe="/%:=&?~#+!$,;'@()*[]-._") or "/"
    query = quote(parts.query, safe="/%:=&?~+!$,;'@()*[]-._")
    return parts._replace(netloc=netloc, path=path, query=query, fragment="").geturl(), headers


def redirected(url: str, location: str | None) -> str:
    """Where a redirect leads. Raises TransferIOError where that is no web address.

    Bytes beyond ASCII, which no Location should have, are encoded as they are: nobody says what they mean.
    """
    try:
        target = urljoin(url, _RAW_BYTE.sub(lambda byte: f"%{ord(byte[0]):02X}", location or ""))
        scheme = urlsplit(target).scheme
    except ValueError:
        target = scheme = ""
    if not location or scheme not in ("http", "https"):
        raise TransferIOError(f"{url} redirects to {location!r}, which is not a web address")
    return target


def refused(status: int, url: str, retry_after: str | None) -> TaskrunnerError:
    """Our error for an answer that is no success."""
    if status in (401, 403, 407):
        return AccessDeniedError(f"{url}: access denied ({status})")
    if status in (404, 410):
        return InputMissingError(f"{url} does not exist ({status})")
    if status in (408, 425, 429) or (status >= 500 and status not in (501, 505)):
        kind = ThrottledError if status in (429, 503) else TransientError
        return kind(
            f"the server of {url} can't serve it just now ({status})",
            retry_after_seconds=retry_after_seconds(retry_after),
        )
    return TransferIOError(f"{url}: the server answered {status}, and not with the file")


def told_checksum(header: Headers, *, whole: bool) -> Checksum | None:
    """What an answer says that the whole file comes to; None where it says nothing that makes sense.

    With `whole` the answer brings the file from its first byte to its last. What is said of an answer's own
    bytes counts only then; what is said of the file, always. Of several checksums the first in the order of
    `Algorithm` is taken.
    """
    told = [*_of_the_file(header), *(_of_the_answer(header) if whole else ())]
    values = {algorithm: decoded(text, algorithm) for algorithm, text in told}
    return next((Checksum(one, value) for one in Algorithm if (value := values.get(one))), None)


def _of_the_file(header: Headers) -> Iterator[tuple[Algorithm, str]]:
    # https://www.rfc-editor.org/rfc/rfc9530#section-3
    if digest := _SHA256_DIGEST.search(header("Repr-Digest") or ""):
        yield Algorithm.SHA256, digest[1]
    # What Google unpacks while it serves it comes to something else.
    # https://cloud.google.com/storage/docs/xml-api/reference-headers
    if header("x-goog-stored-content-encoding") in (None, "identity"):
        for name, text in _GOOGLE_HASH.findall(header("x-goog-hash") or ""):
            yield Algorithm(name.upper()), text


def _of_the_answer(header: Headers) -> Iterator[tuple[Algorithm, str]]:
    # https://www.rfc-editor.org/rfc/rfc9530#section-2
    if digest := _SHA256_DIGEST.search(header("Content-Digest") or ""):
        yield Algorithm.SHA256, digest[1]
    # Servers differ in whether it is of the packed bytes or the plain ones.
    if not header("Content-Encoding") and (md5 := header("Content-MD5")):
        yield Algorithm.MD5, md5.strip()
    if header("x-amz-checksum-type") in (None, "FULL_OBJECT"):
        for algorithm in Algorithm:
            if text := header(algorithm.header):
                yield algorithm, text.strip()
