"""What the source server promises: the right bytes, and S3's answers."""

from __future__ import annotations

import http.client
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from awscrt.checksums import crc64nvme
from botocore.exceptions import ClientError

from benchmarks.content import Ground, MiB
from benchmarks.servers import Endpoint, source_server
from tests.servers import S3Server, self_signed

SIZE = 200 * MiB + 7
"""More than the ground has, so that it is used twice."""
MANIFEST = {"data": {"big/file.bin": SIZE, "empty": 0, **{f"many/{n:04}.bin": 10 for n in range(1500)}}}


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with source_server(tmp_path_factory.mktemp("source"), MANIFEST) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Any:
    return S3Server(endpoint.url).client()


def asked(endpoint: Endpoint, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
    """An answer and its body, as they come."""
    connection = http.client.HTTPConnection(endpoint.address)
    connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def expected(ground: Ground, key: str, offset: int, length: int) -> bytes:
    return b"".join(
        bytes(ground.view[start : start + size]) for start, size in ground.pieces(key, offset, length)
    )


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-4199", 100, 4199),
        (f"bytes={127 * MiB - 100}-{127 * MiB + 100}", 127 * MiB - 100, 127 * MiB + 100),
        (f"bytes={SIZE - 9}-", SIZE - 9, SIZE - 1),
        ("bytes=-5", SIZE - 5, SIZE - 1),
        (f"bytes={SIZE - 3}-{SIZE + 100}", SIZE - 3, SIZE - 1),
    ],
)
def test_a_range_is_those_bytes(
    endpoint: Endpoint, ground: Ground, header: str, first: int, last: int
) -> None:
    answer, content = asked(endpoint, "GET", "/data/big/file.bin", Range=header)
    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {first}-{last}/{SIZE}")
    assert content == expected(ground, "big/file.bin", first, last - first + 1)


def test_a_range_beyond_the_end_is_refused(endpoint: Endpoint) -> None:
    assert asked(endpoint, "GET", "/data/big/file.bin", Range=f"bytes={SIZE}-")[0].status == 416


def test_a_whole_object_comes_with_its_checksum_when_that_is_asked_for(
    endpoint: Endpoint, ground: Ground
) -> None:
    answer, content = asked(endpoint, "GET", "/data/big/file.bin", x_amz_checksum_mode="ENABLED")
    assert content == expected(ground, "big/file.bin", 0, SIZE)
    assert (
        answer.headers["x-amz-checksum-crc64nvme"]
        == b64encode(crc64nvme(content).to_bytes(8, "big")).decode()
    )
    assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    answer, content = asked(endpoint, "HEAD", "/data/big/file.bin")
    assert (int(answer.headers["Content-Length"]), content) == (SIZE, b"")
    assert "x-amz-checksum-crc64nvme" not in answer.headers


def test_another_etag_than_wished_is_refused(endpoint: Endpoint) -> None:
    etag = asked(endpoint, "HEAD", "/data/big/file.bin")[0].headers["ETag"]
    wished = {"Range": "bytes=0-1", "If_Match": etag}
    assert asked(endpoint, "GET", "/data/big/file.bin", **wished)[0].status == 206
    assert asked(endpoint, "GET", "/data/big/file.bin", If_Match='"other"')[0].status == 412


def test_what_is_not_there_is_said_in_s3s_words(client: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket="data", Key="nothing")
    assert client.get_object(Bucket="data", Key="empty")["Body"].read() == b""


def test_a_listing_gives_every_key_once_page_by_page(client: Any) -> None:
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket="data", Prefix="many/"))
    assert [len(page["Contents"]) for page in pages] == [1000, 500]
    keys = [each["Key"] for page in pages for each in page["Contents"]]
    assert keys == sorted(key for key in MANIFEST["data"] if key.startswith("many/"))
    first_version = list(client.get_paginator("list_objects").paginate(Bucket="data", Prefix="many/"))
    assert [each["Key"] for page in first_version for each in page["Contents"]] == keys


def test_a_listing_with_a_delimiter_gives_folders(client: Any) -> None:
    page = client.list_objects_v2(Bucket="data", Delimiter="/")
    assert [each["Prefix"] for each in page["CommonPrefixes"]] == ["big/", "many/"]
    assert [each["Key"] for each in page["Contents"]] == ["empty"]
    pages = list(
        client.get_paginator("list_objects_v2").paginate(
            Bucket="data", Delimiter="/", PaginationConfig={"PageSize": 1}
        )
    )
    assert [list(page).count("CommonPrefixes") for page in pages] == [1, 0, 1]


def test_a_sink_remembers_sizes_and_a_kept_bucket_bytes(endpoint: Endpoint, client: Any) -> None:
    for bucket in ("sink", "kept"):
        client.put_object(Bucket=bucket, Key="put/a b", Body=b"hello" * 100_000)
        assert client.head_object(Bucket=bucket, Key="put/a b")["ContentLength"] == 500_000
    assert (endpoint.folder / "sink" / "put" / "a b").stat().st_blocks == 0
    assert client.get_object(Bucket="kept", Key="put/a b")["Body"].read() == b"hello" * 100_000
    client.delete_object(Bucket="kept", Key="put/a b")
    assert "Contents" not in client.list_objects_v2(Bucket="kept", Prefix="put/")


def test_a_checksum_that_is_wrong_is_refused_where_bytes_are_kept(endpoint: Endpoint) -> None:
    body = b"some bytes"
    right = b64encode(crc64nvme(body).to_bytes(8, "big")).decode()
    wrong = b64encode(bytes(8)).decode()
    answer, _ = asked(endpoint, "PUT", "/kept/sum", body, x_amz_checksum_crc64nvme=right)
    assert (answer.status, answer.headers["x-amz-checksum-crc64nvme"]) == (200, right)
    answer, content = asked(endpoint, "PUT", "/kept/wrong", body, x_amz_checksum_crc64nvme=wrong)
    assert answer.status == 400
    assert b"BadDigest" in content
    assert asked(endpoint, "HEAD", "/kept/wrong")[0].status == 404


def test_a_body_in_s3s_chunks_is_freed_of_them(endpoint: Endpoint) -> None:
    checksum = b64encode(crc64nvme(b"abcdefg").to_bytes(8, "big")).decode()
    chunks = f"3\r\nabc\r\n4;chunk-signature=0\r\ndefg\r\n0\r\nx-amz-checksum-crc64nvme:{checksum}\r\n\r\n".encode()
    answer, _ = asked(
        endpoint,
        "PUT",
        "/kept/chunked",
        chunks,
        Content_Encoding="aws-chunked",
        x_amz_decoded_content_length="7",
    )
    assert (answer.status, answer.headers["x-amz-checksum-crc64nvme"]) == (200, checksum)
    assert (endpoint.folder / "kept" / "chunked").read_bytes() == b"abcdefg"
    twice = (
        b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (chunks[:5], chunks[5:])) + b"0\r\n\r\n"
    )
    connection = http.client.HTTPConnection(endpoint.address)
    headers = {"Content-Encoding": "aws-chunked", "Transfer-Encoding": "chunked"}
    connection.request("PUT", "/kept/twice", twice, headers)
    assert connection.getresponse().status == 200
    connection.close()
    assert (endpoint.folder / "kept" / "twice").read_bytes() == b"abcdefg"


def test_an_announced_length_that_does_not_come_is_an_error(endpoint: Endpoint) -> None:
    chunks = b"3\r\nabc\r\n0\r\n\r\n"
    headers = {"Content_Encoding": "aws-chunked", "x_amz_decoded_content_length": "7"}
    answer, content = asked(endpoint, "PUT", "/sink/short", chunks, **headers)
    assert (answer.status, b"IncompleteBody" in content) == (400, True)
    assert not (endpoint.folder / "sink" / "short").exists()


@pytest.mark.parametrize("bucket", ["kept", "sink"])
def test_parts_in_any_order_become_one_object(endpoint: Endpoint, client: Any, bucket: str) -> None:
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    bodies = {1: b"a" * 5 * MiB, 2: b"b" * 6 * MiB, 3: b"c"}
    sums = {number: b64encode(crc64nvme(body).to_bytes(8, "big")).decode() for number, body in bodies.items()}
    named = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    tags = {
        number: client.upload_part(
            PartNumber=number, Body=bodies[number], ChecksumCRC64NVME=sums[number], **named
        )["ETag"]
        for number in (3, 1, 2)
    }
    listed = client.list_parts(**named)["Parts"]
    assert [(each["PartNumber"], each["Size"], each["ETag"]) for each in listed] == [
        (number, len(bodies[number]), tags[number]) for number in (1, 2, 3)
    ]
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in (1, 2, 3)]
    done = client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **named)
    whole = b"".join(bodies.values())
    assert done["ChecksumCRC64NVME"] == b64encode(crc64nvme(whole).to_bytes(8, "big")).decode()
    found = client.head_object(Bucket=bucket, Key="parts", ChecksumMode="ENABLED")
    assert (found["ContentLength"], found["ChecksumCRC64NVME"]) == (len(whole), done["ChecksumCRC64NVME"])
    if bucket == "kept":
        assert (endpoint.folder / "kept" / "parts").read_bytes() == whole
    assert list((endpoint.folder / ".uploads").iterdir()) == []


def test_an_upload_with_a_part_missing_too_small_or_of_another_tag_is_not_completed(client: Any) -> None:
    named = {"Bucket": "sink", "Key": "refused"}
    named["UploadId"] = client.create_multipart_upload(**named)["UploadId"]
    tags = [client.upload_part(PartNumber=number, Body=b"small", **named)["ETag"] for number in (1, 2)]
    for parts, code in (
        ([{"PartNumber": 1, "ETag": tags[0]}, {"PartNumber": 2, "ETag": tags[1]}], "EntityTooSmall"),
        ([{"PartNumber": 1, "ETag": tags[0]}, {"PartNumber": 3, "ETag": tags[0]}], "InvalidPart"),
        ([{"PartNumber": 1, "ETag": '"other"'}], "InvalidPart"),
        ([{"PartNumber": 2, "ETag": tags[1]}, {"PartNumber": 1, "ETag": tags[0]}], "InvalidPartOrder"),
    ):
        with pytest.raises(ClientError, match=code):
            client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **named)
    client.abort_multipart_upload(**named)
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.list_parts(**named)


def test_a_key_never_leads_out_of_the_folder(endpoint: Endpoint) -> None:
    assert asked(endpoint, "PUT", "/sink/../../outside", b"x")[0].status == 400
    assert asked(endpoint, "PUT", "/.uploads/x", b"x")[0].status == 400


def test_the_same_over_tls(tmp_path: Path, ground: Ground) -> None:
    (tmp_path / "server").mkdir()
    certificate = self_signed(tmp_path)
    with source_server(tmp_path / "server", {"data": {"f": 3 * MiB}}, certificate) as endpoint:
        trust = ssl.create_default_context(cafile=endpoint.certificate)
        connection = http.client.HTTPSConnection(urlsplit(endpoint.url).netloc, context=trust)
        connection.request("GET", "/data/f", headers={"Range": "bytes=5-2999999"})
        assert connection.getresponse().read() == expected(ground, "f", 5, 2_999_995)
        connection.request("PUT", "/kept/g", b"x" * 3 * MiB)
        assert connection.getresponse().read() == b""
        connection.close()
        assert (tmp_path / "server" / "kept" / "g").read_bytes() == b"x" * 3 * MiB
