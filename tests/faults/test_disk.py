"""Disks that are full or can't be written: an error that says so, at once, and nothing half-made."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskrunner.errors import ExitCode, TransferIOError
from taskrunner.task import FileType
from tests.faults.scene import LARGE, LARGE_PARTS, MEBIBYTE, NOISE, Scene
from tests.faulty_link import Exchange, is_get, is_list, meanwhile
from tests.program import typed

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes file systems with these mount options."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)


def fill(path: Path) -> None:
    """Let nothing more go on the disk that `path` is on."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def is_content(exchange: Exchange) -> bool:
    return is_get(exchange) and not is_list(exchange)


async def test_a_disk_that_somebody_else_fills_while_small_files_come_ends_it_at_once(
    scene: Scene, disk: Disk
) -> None:
    small_disk = disk("size=4m")
    scene = replace(scene, tmp_path=small_disk)
    for number in range(20):
        scene.put(f"dir/{number:02}", NOISE[:50_000])
    scene.link.trouble(is_get, meanwhile(lambda: fill(small_disk / "filler")), after=8)

    with pytest.raises(TransferIOError, match="No space left") as raised:
        await scene.bring("dir", kind=FileType.DIRECTORY)

    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert scene.left_for_another_attempt() == []


async def test_a_disk_that_is_filled_before_a_large_file_s_turn_ends_it_without_a_request_for_it(
    scene: Scene, disk: Disk
) -> None:
    small_disk = disk("size=4m")
    scene = replace(scene, tmp_path=small_disk, transfer=replace(scene.transfer, max_connections=1))
    for key in ("a", "b"):
        scene.put(key, LARGE)
    scene.link.trouble(is_get, meanwhile(lambda: fill(small_disk / "filler")), after=20)

    with pytest.raises(TransferIOError, match=r"No space left|is the disk") as raised:
        await scene.bring("a", "b")

    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert scene.left_for_another_attempt() == []
    paths = {one.path for one in scene.link.seen(is_get)}
    assert len(paths) == 1


async def test_a_target_that_can_not_be_made_is_told_and_no_partial_file_is_left(scene: Scene) -> None:
    """Where the input is to be, something else is."""
    scene.put("a", LARGE)

    def in_the_way() -> None:
        (scene.root / "in" / "a").mkdir(parents=True, exist_ok=True)

    scene.link.trouble(is_get, meanwhile(in_the_way), after=3)
    with pytest.raises(TransferIOError, match="/in/a") as raised:
        await scene.bring("a")
    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert scene.left_for_another_attempt() == []
    assert len(scene.link.seen(is_get)) == LARGE_PARTS


def test_getting_more_than_a_disk_holds_is_refused_before_the_first_byte(scene: Scene, disk: Disk) -> None:
    small_disk = disk("size=1m")
    scene.put("a", NOISE[: 2 * MEBIBYTE])
    code, _, stderr = typed("storage", "get", scene.url("a"), small_disk / "a")
    assert (code, "2,097,152 bytes" in stderr, list(small_disk.iterdir())) == (74, True, [])
    assert scene.link.seen(is_get) == []


@pytest.mark.parametrize("size_bytes", [50_000, 2 * MEBIBYTE, 17 * MEBIBYTE])
def test_getting_to_a_disk_that_somebody_else_fills_leaves_nothing(
    scene: Scene, disk: Disk, size_bytes: int
) -> None:
    small_disk = disk("size=40m")
    for name in ("a", "b"):
        scene.put(f"dir/{name}", NOISE[:size_bytes])
    scene.link.trouble(is_content, meanwhile(lambda: fill(small_disk / "filler")))
    arguments = ("storage", "get", "--max-connections", "1", scene.url("dir/"), small_disk / "out")

    code, _, stderr = typed(*arguments)

    assert (code, "No space left" in stderr, "Traceback" in stderr) == (74, True, False)
    left = {path.name: path.read_bytes() for path in (small_disk / "out").rglob("*") if path.is_file()}
    assert all(content == NOISE[:size_bytes] for content in left.values())
    assert [name for name in left if name.startswith(".")] == []


def test_a_read_only_place_is_told_and_nothing_is_downloaded(
    scene: Scene, disk: Disk, tmp_path: Path
) -> None:
    read_only = disk("ro")
    scene.put("a", b"a")
    document = tmp_path / "task.json"
    inputs = [{"url": scene.url("a"), "path": "/a"}]
    executors = [{"image": "busybox", "command": ["true"]}]
    document.write_text(json.dumps({"id": "T", "inputs": inputs, "executors": executors}))
    for arguments, exit_code in (
        (("storage", "get", scene.url("a"), read_only / "a"), 77),
        (("storage", "get", scene.url("a"), f"{read_only}/new/dir/"), 77),
        (("stage-in", document, "--work-dir", read_only / "work"), 74),
    ):
        code, stdout, stderr = typed(*arguments)
        assert (code, stdout, str(read_only) in stderr, "Traceback" in stderr) == (exit_code, "", True, False)
    assert (list(read_only.iterdir()), scene.link.seen(is_get)) == ([], [])


def test_putting_to_a_full_or_read_only_disk_fails_and_leaves_nothing(disk: Disk, tmp_path: Path) -> None:
    full, read_only = disk("size=1m"), disk("ro")
    source = tmp_path / "source"
    source.write_bytes(NOISE[: MEBIBYTE // 2])
    fill(full / "filler")
    for place, words, exit_code in ((full, "free", 74), (read_only, "Read-only", 77)):
        code, _, stderr = typed("storage", "put", source, place / "copy")
        assert (code, words in stderr, "Traceback" in stderr) == (exit_code, True, False)
    assert [path.name for path in (*full.iterdir(), *read_only.iterdir())] == ["filler"]
