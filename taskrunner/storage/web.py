"""What the probing and the reading of web addresses have in common: redirects, credentials, statuses. Pure."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote, unquote, urljoin, urlsplit

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.network import Endpoint
from taskrunner.storage.wire import retry_after_seconds

MOST_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})


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
    """Where a redirect leads. Raises TransferIOError where that is no web address."""
    try:
        target = urljoin(url, location or "")
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
        return TransientError(
            f"the server of {url} can't serve it just now ({status})",
            retry_after_seconds=retry_after_seconds(retry_after),
        )
    return TransferIOError(f"{url}: the server answered {status}, and not with the file")
