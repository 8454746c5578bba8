"""AWS Signature Version 4 for S3 requests, fast enough for many small objects.

Pure: a request's parts, keys and a time in, headers out. The body is not hashed (`UNSIGNED-PAYLOAD`, which S3
allows for every request with an Authorization header): its integrity is a matter of checksums, not of the
signature. The key derived from the secret holds for a day, a region and a pair of keys, and is kept.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256
from time import gmtime, strftime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = tuple[tuple[str, str], ...]

_KEPT_KEYS = 16


class Keys(Protocol):
    """What signs: an access key id, its secret, and a session token for temporary ones."""

    @property
    def access_key(self) -> str:
        """The public half, such as AKIA…."""

    @property
    def secret_key(self) -> str:
        """The secret half."""

    @property
    def token(self) -> str | None:
        """The session token."""


def encoded_path(key: str) -> str:
    """An S3 key as part of a URL's path: encoded once, `/` kept, `..` and `//` left as they are."""
    return quote(key, safe="/-._~")


def encoded_query(parameters: Iterable[tuple[str, str]]) -> str:
    """A query in the canonical form, which the URL uses as well."""
    pairs = sorted((quote(name, safe="-._~"), quote(value, safe="-._~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


@lru_cache(maxsize=4)
def _amz_date(seconds: int) -> str:
    return strftime("%Y%m%dT%H%M%SZ", gmtime(seconds))


class Signer:
    """Signs S3 requests; keeps the derived keys of the day."""

    def __init__(self) -> None:
        self._derived: dict[tuple[str, ...], bytes] = {}

    def sign(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Headers,
        *,
        keys: Keys,
        region: str,
        timestamp: float,
        service: str = "s3",
    ) -> Headers:
        """All headers to send but Host: `headers` (all of them signed), and those of the signature.

        `host` is the Host header's value, `path` and `query` are encoded as they will be sent (the query by
        `encoded_query`), `timestamp` is in seconds since the epoch.
        """
        amz_date = _amz_date(int(timestamp))
        added = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), ("x-amz-date", amz_date)]
        if keys.token:
            added.append(("x-amz-security-token", keys.token))
        sent = (*headers, *added)
        signed = sorted([("host", host), *((name.lower(), " ".join(value.split())) for name, value in sent)])
        names = ";".join(name for name, _ in signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        scope = f"{amz_date[:8]}/{region}/{service}/aws4_request"
        digest = sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{digest}"
        key = self._key(amz_date[:8], region, service, keys)
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return (*sent, ("Authorization", authorization))

    def _key(self, day: str, region: str, service: str, keys: Keys) -> bytes:
        identity = (day, region, service, keys.access_key, keys.secret_key)
        key = self._derived.get(identity)
        if key is None:
            key = f"AWS4{keys.secret_key}".encode()
            for word in (day, region, service, "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            if len(self._derived) >= _KEPT_KEYS:
                self._derived.clear()
            self._derived[identity] = key
        return key
