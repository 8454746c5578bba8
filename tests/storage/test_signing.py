"""Our signer against the SDK's, on requests nobody would think of."""

from __future__ import annotations

import datetime as dt
from unittest.mock import patch

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.aws import Credentials
from taskrunner.storage.signing import Signer, encoded_path, encoded_query

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TOKEN = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
HEADER_NAME = st.from_regex(r"x-amz-meta-[a-z0-9]{1,8}|Range|If-Match|Content-Type", fullmatch=True)
HEADERS = st.dictionaries(HEADER_NAME, st.text(" !\"#$%&'()*+abc=/", max_size=20), max_size=4)


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    key=TEXT,
    query=st.dictionaries(TEXT.filter(bool), TEXT, max_size=4),
    headers=HEADERS,
    access_key=st.from_regex(r"[A-Z0-9]{16,20}", fullmatch=True),
    secret_key=TOKEN,
    token=st.none() | TOKEN,
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
    service=st.sampled_from(["s3", "s3express"]),
    timestamp=st.integers(0, 4_000_000_000),
)
def test_signatures_are_the_sdks(
    *,
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    access_key: str,
    secret_key: str,
    token: str | None,
    region: str,
    service: str,
    timestamp: int,
) -> None:
    path, parameters = f"/bucket/{encoded_path(key)}", encoded_query(query.items())
    url = f"https://localhost:9000{path}{'?' if parameters else ''}{parameters}"
    request = AWSRequest(method, url, headers={**headers, "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    then = dt.datetime.fromtimestamp(timestamp, tz=dt.UTC)
    with patch("botocore.auth.get_current_datetime", return_value=then):
        S3SigV4Auth(ReadOnlyCredentials(access_key, secret_key, token), service, region).add_auth(request)

    signed = Signer().sign(
        method,
        "localhost:9000",
        path,
        parameters,
        tuple(headers.items()),
        keys=Credentials(access_key, secret_key, token, renewable=False),
        region=region,
        timestamp=timestamp,
        service=service,
    )

    assert dict(signed)["Authorization"] == request.headers["Authorization"]


def test_a_key_is_encoded_once_and_never_normalised() -> None:
    assert encoded_path("a b/../c//d%20é+?#~") == "a%20b/../c//d%2520%C3%A9%2B%3F%23~"


def test_one_signer_serves_keys_regions_and_days_side_by_side() -> None:
    def authorization(signer: Signer, access_key: str, region: str, timestamp: float) -> str:
        keys = Credentials(access_key, f"secret of {access_key}", None, renewable=False)
        headers = signer.sign("GET", "host", "/", "", (), keys=keys, region=region, timestamp=timestamp)
        return dict(headers)["Authorization"]

    shared = Signer()
    for timestamp in (0.0, 86_400.0 * 400):
        for access_key in map(str, range(20)):
            for region in ("us-east-1", "eu-central-1"):
                alone = authorization(Signer(), access_key, region, timestamp)
                assert authorization(shared, access_key, region, timestamp) == alone
                assert authorization(shared, access_key, region, timestamp) == alone


def test_a_secret_that_was_corrected_is_used() -> None:
    def authorization(signer: Signer, secret_key: str) -> str:
        keys = Credentials("AKID", secret_key, None, renewable=False)
        return dict(signer.sign("GET", "h", "/", "", (), keys=keys, region="us-east-1", timestamp=0))[
            "Authorization"
        ]

    shared = Signer()

    assert authorization(shared, "wrong") != authorization(shared, "right")
    assert authorization(shared, "right") == authorization(Signer(), "right")


def test_a_request_never_shows_its_signature() -> None:
    from taskrunner.storage.wire import Request

    assert "Signature" not in repr(Request("GET", "http://x/", (("Authorization", "AWS4 Signature=1"),)))
