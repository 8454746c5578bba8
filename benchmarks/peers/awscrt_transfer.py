"""The S3 client of AWS's common runtime, with its defaults: get|put BUCKET KEY|PREFIX/ PATH, or `version`."""

import os
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import awscrt
from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientTlsContext, TlsConnectionOptions, TlsContextOptions
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, create_default_s3_signing_config

ENDPOINT = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
REGION = "us-east-1"


def client() -> S3Client:
    """A client for the endpoint of the environment."""
    keys = AwsCredentialsProvider.new_static(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    )
    signing = create_default_s3_signing_config(region=REGION, credential_provider=keys)
    if ENDPOINT.scheme == "http":
        return S3Client(region=REGION, signing_config=signing, tls_mode=S3RequestTlsMode.DISABLED)
    options = TlsContextOptions()
    options.override_default_trust_store_from_path(None, os.environ["AWS_CA_BUNDLE"])
    tls = TlsConnectionOptions(ClientTlsContext(options))
    tls.set_server_name(ENDPOINT.hostname)
    return S3Client(region=REGION, signing_config=signing, tls_connection_options=tls)


def request(method: str, path: str, length: int | None = None) -> HttpRequest:
    """A request that the client signs."""
    headers = HttpHeaders([("Host", ENDPOINT.netloc)])
    if length is not None:
        headers.add("Content-Length", str(length))
        headers.add("Content-Type", "application/octet-stream")
    return HttpRequest(method, path, headers)


def page(s3: S3Client, path: str) -> bytes:
    """The body of an answer."""
    body = bytearray()
    listing = s3.make_request(
        type=S3RequestType.DEFAULT,
        operation_name="ListObjectsV2",
        request=request("GET", path),
        on_body=lambda chunk, **_: body.extend(chunk),
    )
    listing.finished_future.result()
    return bytes(body)


def keys_below(s3: S3Client, bucket: str, prefix: str) -> list[str]:
    """Every key with the prefix."""
    keys: list[str] = []
    more = ""
    while True:
        body = page(s3, f"/{bucket}?list-type=2&prefix={quote(prefix, safe='')}{more}")
        keys += [unescape(key.decode()) for key in re.findall(rb"<Key>(.*?)</Key>", body)]
        token = re.search(rb"<NextContinuationToken>(.*?)</NextContinuationToken>", body)
        if not token:
            return keys
        more = f"&continuation-token={quote(unescape(token[1].decode()), safe='')}"


def get(s3: S3Client, bucket: str, key: str, path: Path) -> Any:
    """Begin a download."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = request("GET", f"/{bucket}/{quote(key)}")
    return s3.make_request(
        type=S3RequestType.GET_OBJECT, request=wanted, recv_filepath=str(path)
    ).finished_future


def put(s3: S3Client, bucket: str, key: str, path: Path) -> Any:
    """Begin an upload."""
    sent = request("PUT", f"/{bucket}/{quote(key)}", path.stat().st_size)
    return s3.make_request(
        type=S3RequestType.PUT_OBJECT, request=sent, send_filepath=str(path)
    ).finished_future


def main() -> None:
    """Move everything at once; the client limits itself."""
    if sys.argv[1] == "version":
        print(f"awscrt {awscrt.__version__}")
        return
    direction, bucket, key, path = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    s3 = client()
    if not key.endswith("/"):
        moves = [(key, path)]
    elif direction == "get":
        moves = [(each, path / each.removeprefix(key)) for each in keys_below(s3, bucket, key)]
    else:
        moves = [(key + str(each.relative_to(path)), each) for each in path.rglob("*") if each.is_file()]
    begin = get if direction == "get" else put
    for future in [begin(s3, bucket, *move) for move in moves]:
        future.result()


if __name__ == "__main__":
    main()
