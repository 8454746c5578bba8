"""Files are cut without gaps, within S3's limits, and so that their checksums can be put together."""

from hypothesis import given
from hypothesis import strategies as st

from taskrunner.staging.parts import MOST_PARTS, SINGLE_UPLOAD_BYTES, Cut, download_parts, upload_parts
from taskrunner.storage.checksums import Algorithm, Checksum
from taskrunner.storage.store import Part

MIB = 1024 * 1024
TIB = MIB * MIB


@given(st.integers(0, 10**6), st.integers(1000, 10**5))
def test_parts_cover_a_file_once_and_in_order(size_bytes: int, part_bytes: int) -> None:
    parts = list(Cut(size_bytes, part_bytes))
    assert len(Cut(size_bytes, part_bytes)) == len(parts)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [part.offset for part in parts] == [part_bytes * number for number in range(len(parts))]
    assert sum(part.length for part in parts) == size_bytes


def test_an_empty_file_is_one_empty_part() -> None:
    assert list(Cut(0, 8 * MIB)) == list(upload_parts(0, 8 * MIB)) == [Part(1, 0, 0)]


def test_a_file_of_unknown_size_is_read_in_one_go() -> None:
    assert len(download_parts(None, 8 * MIB, ranged=False)) == 1


def test_a_file_without_ranges_is_read_in_one_go() -> None:
    assert list(download_parts(100 * MIB, 8 * MIB, ranged=False)) == [Part(1, 0, 100 * MIB)]


def test_up_to_sixteen_mebibytes_are_sent_in_one_request() -> None:
    assert len(upload_parts(SINGLE_UPLOAD_BYTES, 8 * MIB)) == 1
    assert len(upload_parts(SINGLE_UPLOAD_BYTES + 1, 8 * MIB)) == 3


def test_five_tebibytes_are_sent_in_ten_thousand_parts_at_most() -> None:
    parts = upload_parts(5 * TIB, 8 * MIB)
    assert len(parts) <= MOST_PARTS
    assert parts[0].length % MIB == 0


def test_a_part_but_the_last_is_never_below_s3s_least() -> None:
    assert upload_parts(17 * MIB, 1)[0].length == 5 * MIB


def test_a_server_that_tells_any_size_gets_some_ten_thousand_ranges_at_most() -> None:
    assert len(download_parts(2**60, 8 * MIB, ranged=True)) <= MOST_PARTS + 32


def told(algorithm: Algorithm, part_bytes: int | None = None) -> Checksum:
    return Checksum(algorithm, bytes(algorithm.digest_bytes), part_bytes)


def test_a_crc_of_the_whole_object_allows_any_cut() -> None:
    parts = download_parts(100 * MIB, 8 * MIB, ranged=True, checksum=told(Algorithm.CRC64NVME))
    assert parts[0].length == 8 * MIB


def test_a_sha_of_the_whole_object_needs_it_in_one_stretch() -> None:
    assert len(download_parts(100 * MIB, 8 * MIB, ranged=True, checksum=told(Algorithm.SHA256))) == 1


def test_a_composite_sha_is_read_in_the_very_parts_it_was_made_of() -> None:
    checksum = told(Algorithm.SHA256, part_bytes=20 * MIB)
    assert [part.length for part in download_parts(50 * MIB, 8 * MIB, ranged=True, checksum=checksum)] == [
        20 * MIB,
        20 * MIB,
        10 * MIB,
    ]


@given(st.integers(5 * MIB, 5 * 1024 * MIB))
def test_large_parts_of_a_composite_crc_are_read_in_even_shares(part_bytes: int) -> None:
    checksum = told(Algorithm.CRC32, part_bytes=part_bytes)
    share = download_parts(3 * part_bytes, 8 * MIB, ranged=True, checksum=checksum).part_bytes
    assert part_bytes % share == 0
    assert share <= part_bytes


@given(st.integers(1, 5 * 1024 * MIB))
def test_large_files_are_read_in_large_parts_and_small_ones_at_the_end(size_bytes: int) -> None:
    parts = list(download_parts(size_bytes, 8 * MIB, ranged=True))
    ends = [0, *(part.offset + part.length for part in parts)]
    assert [part.offset for part in parts] == ends[:-1]
    assert ends[-1] == size_bytes
    if size_bytes >= 512 * MIB:
        assert (parts[0].length, parts[-2].length) == (16 * MIB, 4 * MIB)


def test_uploads_are_cut_evenly_since_some_servers_take_nothing_else() -> None:
    assert {part.length for part in upload_parts(1024 * MIB, 8 * MIB)} == {8 * MIB}
