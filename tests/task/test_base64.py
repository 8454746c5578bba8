"""A document handed over as text: base64 of JSON, or of gzipped JSON."""

import base64
import gzip
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.document import MAX_DOCUMENT_BYTES, decode_base64
from taskrunner.errors import InvalidTaskError


def _mistake(text: str) -> str:
    with pytest.raises(InvalidTaskError) as caught:
        decode_base64(text)
    (mistake,) = caught.value.mistakes
    return str(mistake)


@given(st.binary(max_size=200).filter(lambda document: not document.startswith(b"\x1f\x8b")))
def test_both_alphabets_are_read_with_and_without_padding(document: bytes) -> None:
    for encoded in (base64.b64encode(document).decode(), base64.urlsafe_b64encode(document).decode()):
        assert decode_base64(encoded) == document
        assert decode_base64(encoded.rstrip("=")) == document


@given(st.binary(max_size=200))
def test_a_gzipped_document_is_unpacked(document: bytes) -> None:
    assert decode_base64(base64.b64encode(gzip.compress(document)).decode()) == document


def test_white_space_is_tolerated() -> None:
    encoded = base64.b64encode(b"{}" * 100).decode()
    assert decode_base64("\n " + "\r\n".join(textwrap.wrap(encoded, 64)) + "\n") == b"{}" * 100


@pytest.mark.parametrize("text", ["{}", "ab$d", "a", "täsk", "ab=cd"])
def test_what_is_no_base64_is_a_mistake(text: str) -> None:
    assert _mistake(text).startswith("expected base64 of a task document, got something else")


def test_damaged_gzip_data_is_a_mistake() -> None:
    packed = gzip.compress(b"{}" * 100)
    for damaged in (packed[:-4], packed[:12], packed[:-8] + b"\0" * 8, packed[:10] + b"\xff" * 20):
        assert _mistake(base64.b64encode(damaged).decode()).startswith("expected a gzipped task document")


def test_a_gzip_bomb_is_a_mistake() -> None:
    bomb = gzip.compress(b" " * (MAX_DOCUMENT_BYTES + 1), compresslevel=1)
    assert (
        _mistake(base64.b64encode(bomb).decode())
        == "expected at most 67,108,864 bytes in the gzip data, got more"
    )
