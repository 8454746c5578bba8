"""Checksums: known values, what follows from parts, and what is no checksum at all."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.storage.checksums import (
    Algorithm,
    Checksum,
    combined,
    composite,
    decoded,
    encoded,
    new_digest,
)

COMBINABLE = [algorithm for algorithm in Algorithm if algorithm.combinable]

# The check values of the catalogue of CRCs (https://reveng.sourceforge.io/crc-catalogue/); for the others, what
# sha256sum and its likes say.
OF_123456789 = {
    Algorithm.CRC64NVME: "ae8b14860a799888",
    Algorithm.CRC32C: "e3069283",
    Algorithm.CRC32: "cbf43926",
    Algorithm.SHA256: "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    Algorithm.SHA1: "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    Algorithm.MD5: "25f9e794323b453885f5181f1b624d0b",
}


def value_of(algorithm: Algorithm, *chunks: bytes) -> bytes:
    digest = new_digest(algorithm)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def pieces(content: bytes, cuts: list[int]) -> list[bytes]:
    ends = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_values_are_those_everybody_knows(algorithm: Algorithm) -> None:
    assert value_of(algorithm, b"123456789").hex() == OF_123456789[algorithm]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_values_are_as_long_as_is_said(algorithm: Algorithm) -> None:
    assert len(value_of(algorithm)) == algorithm.digest_bytes


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_any_bytes_are_taken(algorithm: Algorithm, kind: type) -> None:
    digest = new_digest(algorithm)
    digest.update(kind(b"123456789"))

    assert digest.digest().hex() == OF_123456789[algorithm]


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(min_value=0), max_size=5))
@pytest.mark.parametrize("algorithm", Algorithm)
def test_it_is_no_matter_in_which_pieces_bytes_come(
    algorithm: Algorithm, content: bytes, cuts: list[int]
) -> None:
    assert value_of(algorithm, *pieces(content, cuts)) == value_of(algorithm, content)


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(min_value=0), max_size=5))
@pytest.mark.parametrize("algorithm", COMBINABLE)
def test_the_value_of_the_whole_follows_from_those_of_its_parts(
    algorithm: Algorithm, content: bytes, cuts: list[int]
) -> None:
    parts = [(value_of(algorithm, piece), len(piece)) for piece in pieces(content, cuts)]

    assert combined(algorithm, parts) == value_of(algorithm, content)


@pytest.mark.parametrize("algorithm", COMBINABLE)
def test_parts_of_any_length_are_combined(algorithm: Algorithm) -> None:
    zeros = bytes(1024 * 1024)
    whole, megabyte = new_digest(algorithm), value_of(algorithm, zeros)
    for _ in range(70):
        whole.update(zeros)
    whole.update(b"the end")

    parts = [(megabyte, len(zeros))] * 70 + [(value_of(algorithm, b"the end"), 7)]
    assert combined(algorithm, parts) == whole.digest()


def test_no_parts_come_to_the_value_of_nothing() -> None:
    for algorithm in COMBINABLE:
        assert combined(algorithm, []) == value_of(algorithm)


def test_a_composite_is_the_digest_of_the_digests() -> None:
    parts = [b"first part", b"second part"]
    shas = [hashlib.sha256(part).digest() for part in parts]
    crcs = [zlib.crc32(part).to_bytes(4, "big") for part in parts]

    assert composite(Algorithm.SHA256, shas) == hashlib.sha256(shas[0] + shas[1]).digest()
    assert composite(Algorithm.CRC32, crcs) == zlib.crc32(crcs[0] + crcs[1]).to_bytes(4, "big")


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_value_is_read_as_it_is_written(algorithm: Algorithm) -> None:
    value = value_of(algorithm, b"content")

    assert decoded(encoded(value), algorithm) == value
    assert str(Checksum(algorithm, value)) == f"{algorithm.value} {b64encode(value).decode()}"


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize(
    "text", ["", "?", "A", "AAAA", "not base64!", "AAAAAAAA\n", "4waSgw==-3", "ümläut", "A" * 100_000]
)
def test_garbage_is_no_value(algorithm: Algorithm, text: str) -> None:
    assert decoded(text, algorithm) is None


@given(text=st.text())
@pytest.mark.parametrize("algorithm", Algorithm)
def test_whatever_a_server_says_is_a_value_of_the_right_length_or_none(
    algorithm: Algorithm, text: str
) -> None:
    value = decoded(text, algorithm)

    assert value is None or len(value) == algorithm.digest_bytes


def test_headers_are_those_of_s3() -> None:
    assert Algorithm.CRC64NVME.header == "x-amz-checksum-crc64nvme"
    assert Algorithm.SHA256.header == "x-amz-checksum-sha256"
