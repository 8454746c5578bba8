"""What the environment alone says about S3, for tasks that need not wait for the AWS SDK.

Importing the SDK and reading its rules takes longer than moving many a small file. Where keys, region and
endpoint are all told by variables, and no profile could say more, the SDK would only repeat them. Everything
that is not plain (an endpoint of AWS's own, FIPS, odd names) is left to it. A test holds both to one answer.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN_REGION = re.compile(r"(?!fips-)[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN_ENDPOINT = re.compile(rf"https?://{_LABEL}(?:\.{_LABEL}){{0,10}}(?::[0-9]{{1,5}})?/?")
_PLAIN_BUCKET = re.compile(r"(?=.{3,63}$)[a-z0-9]+(?:[.-][a-z0-9]+)*")
# With any of these the answer is the SDK's to find.
_MORE_TO_SAY = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_DATA_PATH",
)
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs requests, as it is now."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    renewable: bool
    """Whether the SDK fetches new ones when these expire."""


@dataclass(frozen=True, slots=True)
class BucketEndpoint:
    """How a bucket is reached."""

    url: str
    """Its own URL, without a slash at the end: virtual host or path, dual stack, FIPS, accelerated, custom."""
    region: str
    """The region that was asked for, by whose key requests are signed."""
    service: str = "s3"
    """The name of the service that requests are signed for."""


@dataclass(frozen=True, slots=True)
class PlainEnvironment:
    """Keys, region and endpoint, all from variables."""

    credentials: Credentials | None
    """None for unsigned requests."""
    region: str
    endpoint: str
    ca_bundle: str | None

    @classmethod
    def read(cls, variables: Mapping[str, str], *, unsigned: bool) -> PlainEnvironment | None:
        """What `variables` say; None where they do not say everything, or more than is plain."""
        region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or ""
        endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or ""
        access_key = variables.get("AWS_ACCESS_KEY_ID")
        secret_key = variables.get("AWS_SECRET_ACCESS_KEY")
        if any(name in variables for name in _MORE_TO_SAY) or _has_profiles(variables):
            return None
        if not _PLAIN_REGION.fullmatch(region) or not _PLAIN_ENDPOINT.fullmatch(endpoint):
            return None
        if "amazonaws.com" in endpoint or not (unsigned or (access_key and secret_key)):
            return None
        keys = None
        if access_key and secret_key and not unsigned:
            keys = Credentials(
                access_key, secret_key, variables.get("AWS_SESSION_TOKEN") or None, renewable=False
            )
        return cls(keys, region, endpoint.rstrip("/"), variables.get("AWS_CA_BUNDLE") or None)

    def bucket(self, name: str, region: str | None) -> BucketEndpoint | None:
        """How a bucket is reached; None where its name, or the region it is in, is not plain.

        Custom endpoints rarely have a host name for each bucket, so it is in the path, as the SDK has it.
        """
        if not _PLAIN_BUCKET.fullmatch(name) or not _PLAIN_REGION.fullmatch(region or self.region):
            return None
        return BucketEndpoint(f"{self.endpoint}/{name}", region or self.region)


def _has_profiles(variables: Mapping[str, str]) -> bool:
    paths = (variables.get(name, default) for name, default in _FILES.items())
    return any(os.path.isfile(os.path.expanduser(os.path.expandvars(path))) for path in paths)  # noqa: PTH111, PTH113  # as the SDK does
