"""Inputs are staged whole, pinned and in their places, or not at all."""

import os
import random
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.errors import (
    ExitCode,
    InputMissingError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.plan import ContentFile, Download
from taskrunner.staging.stage_in import stage_in
from taskrunner.storage.memory import Fault, MemoryStore
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir
from tests.servers import web_server
from tests.staging.plans import (
    PART_BYTES,
    TRANSFER,
    Recorder,
    a_plan,
    a_workdir,
    download,
    partial_files,
    stores_with,
)

NOISE = random.Random(1).randbytes(10 * PART_BYTES + 17)


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with a_workdir(tmp_path) as workdir:
        yield workdir


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def staged(
    workdir: WorkDir, memory: MemoryStore, *downloads: Download, contents: tuple[ContentFile, ...] = ()
) -> Recorder:
    recorder = Recorder()
    plan = a_plan(workdir, downloads=downloads, contents=contents)
    async with stores_with(memory) as stores:
        await stage_in(plan, workdir, stores, TRANSFER, recorder)
    return recorder


async def test_a_file_of_many_parts_is_the_same_to_the_byte(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/big", NOISE)
    recorder = await staged(workdir, memory, download(workdir, "memory://b/big", "/in/big"))
    assert workdir.place("/in/big").read_bytes() == NOISE
    assert recorder.told() == [
        ("download started", "memory://b/big"),
        ("download finished", "memory://b/big"),
    ]
    assert partial_files(workdir) == []


async def test_downloads_and_contents_have_funnels_modes(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/f", b"f")
    script = ContentFile("/in/script", workdir.place("/in/script"), "#!/bin/sh\necho é\n")
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"), contents=(script,))
    modes = [oct(workdir.place(path).stat().st_mode)[-3:] for path in ("/in/f", "/in/script")]
    assert modes == ["666", "775"]
    assert workdir.place("/in/script").read_text() == "#!/bin/sh\necho é\n"


async def test_an_empty_file_is_staged(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/empty", b"")
    await staged(workdir, memory, download(workdir, "memory://b/empty", "/in/empty"))
    assert workdir.place("/in/empty").read_bytes() == b""


async def test_a_dropped_connection_goes_on_at_the_byte_where_it_stopped(workdir: WorkDir) -> None:
    memory = MemoryStore(read_faults=deque([Fault(TransientError("dropped"), after_bytes=1000)] * 2))
    memory.put("memory://b/big", NOISE)
    await staged(workdir, memory, download(workdir, "memory://b/big", "/in/big"))
    assert workdir.place("/in/big").read_bytes() == NOISE


async def test_every_missing_input_is_told_before_the_first_byte(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/there", NOISE)
    recorder = Recorder()
    names = ["one", "there", "two"]
    plan = a_plan(
        workdir, downloads=tuple(download(workdir, f"memory://b/{name}", f"/in/{name}") for name in names)
    )
    async with stores_with(memory) as stores:
        with pytest.raises(TaskrunnerError, match=r"(?s)one.*two") as raised:
            await stage_in(plan, workdir, stores, TRANSFER, recorder)
    assert raised.value.exit_code is ExitCode.INPUT_MISSING
    failed = [url for msg, url in recorder.told() if msg == "download failed"]
    assert sorted(map(str, failed)) == ["memory://b/one", "memory://b/two"]
    assert not workdir.place("/in/there").exists()


async def test_a_permanent_failure_leaves_neither_a_file_nor_a_partial_one(workdir: WorkDir) -> None:
    memory = MemoryStore(read_faults=deque([None, Fault(TransferIOError("it changed"), after_bytes=10)]))
    memory.put("memory://b/big", NOISE)
    recorder = Recorder()
    plan = a_plan(workdir, downloads=(download(workdir, "memory://b/big", "/in/big"),))
    async with stores_with(memory) as stores:
        with pytest.raises(TransferIOError, match="it changed"):
            await stage_in(plan, workdir, stores, TRANSFER, recorder)
    assert [msg for msg, _ in recorder.told()] == ["download started", "download failed"]
    assert (partial_files(workdir), list(workdir.place("/in").iterdir())) == ([], [])


async def test_what_stays_broken_is_given_up_after_the_tries_and_is_worth_retrying(workdir: WorkDir) -> None:
    memory = MemoryStore(read_faults=deque([Fault(TransientError("dropped", retry_after_seconds=0))] * 3))
    memory.put("memory://b/f", b"f")
    with pytest.raises(TransientError, match="dropped") as raised:
        await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert raised.value.exit_code is ExitCode.RETRY


async def test_a_directory_brings_what_is_below_it_and_never_its_look_alike(workdir: WorkDir) -> None:
    memory = MemoryStore()
    for key in ("d/a", "d/sub/b", "dx/no"):
        memory.put(f"memory://b/{key}", key.encode())
    await staged(workdir, memory, download(workdir, "memory://b/d", "/in/d", FileType.DIRECTORY))
    files = sorted(str(path.relative_to(workdir.root)) for path in workdir.root.rglob("*") if path.is_file())
    assert files == ["in/d/a", "in/d/sub/b"]


async def test_an_empty_directory_is_a_warning(workdir: WorkDir) -> None:
    recorder = await staged(
        workdir, MemoryStore(), download(workdir, "memory://b/none/", "/in/d", FileType.DIRECTORY)
    )
    assert recorder.told() == [("download source directory is empty", "memory://b/none/")]


async def test_of_two_directories_the_one_that_names_the_place_more_closely_wins(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/wide/sub/x", b"from the wide one")
    memory.put("memory://b/close/x", b"from the close one")
    await staged(
        workdir,
        memory,
        download(workdir, "memory://b/close", "/in/sub", FileType.DIRECTORY),
        download(workdir, "memory://b/wide", "/in", FileType.DIRECTORY),
    )
    assert workdir.place("/in/sub/x").read_text() == "from the close one"


async def test_an_input_of_its_own_wins_over_a_directorys_file_of_the_same_place(workdir: WorkDir) -> None:
    memory = MemoryStore()
    memory.put("memory://b/d/x", b"from the directory")
    memory.put("memory://b/d/y", b"from the directory")
    memory.put("memory://b/own", b"its own")
    script = ContentFile("/in/d/y", workdir.place("/in/d/y"), "content")
    await staged(
        workdir,
        memory,
        download(workdir, "memory://b/d", "/in/d", FileType.DIRECTORY),
        download(workdir, "memory://b/own", "/in/d/x"),
        contents=(script,),
    )
    assert workdir.place("/in/d/x").read_text() == "its own"
    assert workdir.place("/in/d/y").read_text() == "content"


@pytest.mark.parametrize(("shareable", "links"), [(True, 2), (False, 1)])
async def test_a_local_input_is_linked_only_where_no_container_may_write(
    workdir: WorkDir, tmp_path: Path, *, shareable: bool, links: int
) -> None:
    original = tmp_path / "original"
    original.write_bytes(NOISE)
    plan = a_plan(
        workdir,
        downloads=(
            Download(f"file://{original}", "/in/x", workdir.place("/in/x"), FileType.FILE, shareable),
        ),
    )
    async with stores_with(MemoryStore(), tmp_path) as stores:
        await stage_in(plan, workdir, stores, TRANSFER, Recorder())
    assert (original.stat().st_nlink, workdir.place("/in/x").read_bytes() == NOISE) == (links, True)


async def test_a_disk_that_fills_up_is_told_as_such_and_nothing_is_left(small_disk: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        with suppress(ConnectionError):
            while True:
                await answer.write(bytes(100_000))
        return answer

    async with web_server({"/big": endless}) as base:
        with a_workdir(small_disk) as workdir:
            with pytest.raises(TransferIOError, match="No space left") as raised:
                await staged(workdir, MemoryStore(), download(workdir, f"{base}/big", "/in/big"))
            assert raised.value.exit_code is ExitCode.IO_ERROR
            assert (partial_files(workdir), workdir.place("/in/big").exists()) == ([], False)


async def test_a_disk_too_small_for_all_inputs_is_told_before_the_first_byte(small_disk: Path) -> None:
    memory = MemoryStore(read_faults=deque([Fault(TransientError("nothing is to be read"))]))
    names = ("a", "b")
    for name in names:
        memory.put(f"memory://b/{name}", bytes(600_000))
    with a_workdir(small_disk) as workdir:
        with pytest.raises(TransferIOError, match=r"1,200,000 bytes.*--work-dir"):
            await staged(
                workdir, memory, *(download(workdir, f"memory://b/{name}", f"/in/{name}") for name in names)
            )
        assert (len(memory.read_faults), list(workdir.place("/in").iterdir())) == (1, [])


async def test_a_missing_input_keeps_its_own_exit_code(workdir: WorkDir) -> None:
    with pytest.raises(InputMissingError):
        await staged(workdir, MemoryStore(), download(workdir, "memory://b/none", "/in/x"))
