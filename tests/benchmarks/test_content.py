"""The bytes that are moved, and how differences are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.content import GROUND_BYTES, PAGE_BYTES, Files, Ground, phase_of

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground()


def test_a_written_file_has_no_difference(ground: Ground, tmp_path: Path) -> None:
    ground.write(tmp_path / "f", "f", 5 * MIB + 3)
    assert ground.first_difference(tmp_path / "f", "f", 5 * MIB + 3) is None


def test_a_file_goes_on_at_the_grounds_beginning_after_its_end(ground: Ground) -> None:
    first = GROUND_BYTES - phase_of("f")
    assert list(ground.pieces("f", 0, 2 * GROUND_BYTES)) == [
        (phase_of("f"), first),
        (0, GROUND_BYTES),
        (0, GROUND_BYTES - first),
    ]
    assert list(ground.pieces("f", first - 10, 30)) == [(GROUND_BYTES - 10, 10), (0, 20)]
    assert list(ground.pieces("f", 0, 0)) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data[:-1], "bytes, not"),
        (lambda data: data + b"x", "bytes, not"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "differs within"),
        (lambda data: data[MIB:] + data[:MIB], "differs within"),
        (lambda data: data[PAGE_BYTES:] + data[:PAGE_BYTES], "differs within"),
    ],
    ids=["shorter", "longer", "one-bit", "parts-swapped", "pages-shifted"],
)
def test_every_kind_of_damage_is_seen(
    ground: Ground, tmp_path: Path, spoil: Callable[[bytes], bytes], told: str
) -> None:
    ground.write(tmp_path / "f", "f", 2 * MIB)
    (tmp_path / "f").write_bytes(spoil((tmp_path / "f").read_bytes()))
    assert told in (ground.first_difference(tmp_path / "f", "f", 2 * MIB) or "")


def test_one_file_is_not_taken_for_another(ground: Ground, tmp_path: Path) -> None:
    ground.write(tmp_path / "f", "file-00001.bin", 64 * 1024)
    assert ground.first_difference(tmp_path / "f", "file-00002.bin", 64 * 1024) is not None
    assert "missing" in (ground.first_difference(tmp_path / "g", "g", 1) or "")


def test_many_files_have_names_of_their_own_in_folders_of_a_thousand() -> None:
    names = Files(2500, 1).names()
    assert len(set(names)) == 2500
    assert names[2001] == "02/file-02001.bin"
    assert Files(1, 1).names() == ["file.bin"]
