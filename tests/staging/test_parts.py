"""Files are cut without gaps, within S3's limits."""

from hypothesis import given
from hypothesis import strategies as st

from taskrunner.staging.parts import MOST_PARTS, SINGLE_UPLOAD_BYTES, cut, download_parts, upload_parts
from taskrunner.storage.store import Part

MIB = 1024 * 1024
TIB = MIB * MIB


@given(st.integers(0, 10**6), st.integers(1000, 10**5))
def test_parts_cover_a_file_once_and_in_order(size_bytes: int, part_bytes: int) -> None:
    parts = cut(size_bytes, part_bytes)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [part.offset for part in parts] == [part_bytes * number for number in range(len(parts))]
    assert sum(part.length for part in parts) == size_bytes


def test_an_empty_file_is_one_empty_part() -> None:
    assert cut(0, 8 * MIB) == upload_parts(0, 8 * MIB) == (Part(1, 0, 0),)


def test_a_file_of_unknown_size_is_read_in_one_go() -> None:
    assert len(download_parts(None, 8 * MIB, ranged=False)) == 1


def test_a_file_without_ranges_is_read_in_one_go() -> None:
    assert download_parts(100 * MIB, 8 * MIB, ranged=False) == (Part(1, 0, 100 * MIB),)


def test_up_to_sixteen_mebibytes_are_sent_in_one_request() -> None:
    assert len(upload_parts(SINGLE_UPLOAD_BYTES, 8 * MIB)) == 1
    assert len(upload_parts(SINGLE_UPLOAD_BYTES + 1, 8 * MIB)) == 3


def test_five_tebibytes_are_sent_in_ten_thousand_parts_at_most() -> None:
    parts = upload_parts(5 * TIB, 8 * MIB)
    assert len(parts) <= MOST_PARTS
    assert parts[0].length % MIB == 0


def test_a_part_but_the_last_is_never_below_s3s_least() -> None:
    assert upload_parts(17 * MIB, 1)[0].length == 5 * MIB


def test_a_server_that_tells_any_size_gets_ten_thousand_ranges_at_most() -> None:
    assert len(download_parts(2**60, 8 * MIB, ranged=True)) <= MOST_PARTS
