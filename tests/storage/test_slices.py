"""A stretch of a file: where it stands, what it writes, and what its bytes are to come to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskrunner.errors import DamagedError, TransferIOError
from taskrunner.storage.checksums import Algorithm, Checksum, new_digest
from taskrunner.storage.slices import FileSlice
from tests.storage.moving import opened

URL = "s3://bucket/file"


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as made:
        yield made


def checksum(content: bytes, algorithm: Algorithm = Algorithm.CRC32C) -> Checksum:
    digest = new_digest(algorithm)
    digest.update(content)
    return Checksum(algorithm, digest.digest())


def append(piece: FileSlice, content: bytes) -> None:
    piece.append(memoryview(content))


def test_a_slice_knows_where_it_stands(fd: int) -> None:
    piece, endless = FileSlice(fd, 100, 10), FileSlice(fd, 100, None)
    for one in (piece, endless):
        append(one, b"abc")

    assert (piece.position, piece.left, piece.done) == (103, 7, 3)
    assert (endless.position, endless.left, endless.done) == (103, None, 3)


def test_bytes_are_written_at_their_place_and_nowhere_else(fd: int) -> None:
    append(FileSlice(fd, 0, None), b"----------")
    piece = FileSlice(fd, 3, 4)
    append(piece, b"ab")
    append(piece, b"cd")

    assert os.pread(fd, 100, 0) == b"---abcd---"


def test_what_the_disk_takes_in_pieces_is_written_wholly(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, chunk, offset: pwrite(fd, chunk[:3], offset))
    piece = FileSlice(fd, 2, 10)
    append(piece, b"0123456789")

    assert (piece.done, os.pread(fd, 100, 2)) == (10, b"0123456789")


def test_a_full_disk_is_told_in_a_sentence() -> None:
    with opened(Path("/dev/full"), os.O_WRONLY) as full:
        piece = FileSlice(full, 0, 10)
        with pytest.raises(TransferIOError, match="No space left on device; is there enough space"):
            append(piece, b"0123456789")

    assert piece.done == 0


@pytest.mark.parametrize("algorithm", Algorithm)
def test_bytes_are_held_to_what_was_told_of_them(fd: int, algorithm: Algorithm) -> None:
    good, bad = FileSlice(fd, 0, 7), FileSlice(fd, 7, 7)
    for piece in (good, bad):
        piece.expect(checksum(b"content", algorithm))
    for chunk in (b"con", b"te", b"nt"):
        append(good, chunk)
    append(bad, b"contenT")

    good.verify(URL)
    with pytest.raises(DamagedError, match=rf"^{URL} arrived damaged: its {algorithm} is \S+, expected \S+$"):
        bad.verify(URL)


def test_what_nobody_told_is_not_verified(fd: int) -> None:
    untold, computed = FileSlice(fd, 0, 7), FileSlice(fd, 0, 7)
    computed.compute(Algorithm.SHA1)
    for piece in (untold, computed):
        append(piece, b"content")
        piece.verify(URL)

    assert untold.digest is None
    assert computed.digest is not None
    assert computed.digest.digest() == checksum(b"content", Algorithm.SHA1).value


def test_the_first_word_on_a_slice_counts(fd: int) -> None:
    piece = FileSlice(fd, 0, 7)
    piece.expect(checksum(b"content"))
    piece.expect(checksum(b"something else", Algorithm.MD5))
    append(piece, b"content")

    piece.verify(URL)
    assert piece.expected == checksum(b"content")


def test_a_word_that_comes_after_the_first_byte_is_too_late(fd: int) -> None:
    piece = FileSlice(fd, 0, 7)
    append(piece, b"c")
    piece.expect(checksum(b"content"))
    append(piece, b"ontent")

    piece.verify(URL)
    assert (piece.expected, piece.digest) == (None, None)


def test_what_starts_over_is_held_to_the_same_word(fd: int) -> None:
    piece = FileSlice(fd, 0, 7)
    piece.expect(checksum(b"content"))
    append(piece, b"wrong")
    piece.start_over()

    assert (piece.done, piece.position, piece.left) == (0, 0, 7)
    append(piece, b"content")
    piece.verify(URL)


def test_what_starts_over_without_a_checksum_has_none(fd: int) -> None:
    piece = FileSlice(fd, 5, None)
    append(piece, b"wrong")
    piece.start_over()

    assert (piece.done, piece.position, piece.digest) == (0, 5, None)


def test_what_is_there_already_is_recalled_and_verified(fd: int) -> None:
    good, bad = FileSlice(fd, 0, 7), FileSlice(fd, 0, 7)
    for piece in (good, bad):
        piece.expect(checksum(b"content"))
    good.recall(checksum(b"content").value)
    bad.recall(checksum(b"other").value)

    assert (good.done, good.left) == (7, 0)
    good.verify(URL)
    with pytest.raises(DamagedError):
        bad.verify(URL)
