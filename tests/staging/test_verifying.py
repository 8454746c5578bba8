"""What arrives damaged is brought once more; what is damaged again is an error that says which."""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskrunner.errors import AccessDeniedError, DamagedError, ExitCode
from taskrunner.plan import Download
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import stage_out
from taskrunner.storage.checksums import Algorithm
from taskrunner.storage.memory import Damage, Fault, MemoryStore, MemoryUpload
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir
from tests.staging.plans import (
    PART_BYTES,
    TRANSFER,
    Recorder,
    a_plan,
    a_workdir,
    download,
    partial_files,
    stores_with,
    upload,
)

NOISE = random.Random(3).randbytes(10 * PART_BYTES + 17)
TOLD_OF_THE_WHOLE = list(Algorithm)
COMPOSITE = [algorithm for algorithm in Algorithm if algorithm not in (Algorithm.MD5, Algorithm.CRC64NVME)]


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with a_workdir(tmp_path) as workdir:
        yield workdir


async def staged(workdir: WorkDir, memory: MemoryStore, *downloads: Download) -> None:
    async with stores_with(memory) as stores:
        await stage_in(a_plan(workdir, downloads=downloads), workdir, stores, TRANSFER, Recorder())


@pytest.mark.parametrize("algorithm", TOLD_OF_THE_WHOLE)
@pytest.mark.parametrize("size_bytes", [0, 1, PART_BYTES, len(NOISE)])
async def test_whole_files_agree_with_every_kind_of_checksum(
    workdir: WorkDir, algorithm: Algorithm, size_bytes: int
) -> None:
    memory = MemoryStore(algorithm=algorithm)
    memory.put("memory://b/f", NOISE[:size_bytes])
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert workdir.place("/in/f").read_bytes() == NOISE[:size_bytes]


@pytest.mark.parametrize("algorithm", COMPOSITE)
@pytest.mark.parametrize("part_bytes", [1000, PART_BYTES, 5 * PART_BYTES, len(NOISE)])
async def test_files_that_were_sent_in_parts_agree_with_the_checksum_of_these(
    workdir: WorkDir, algorithm: Algorithm, part_bytes: int
) -> None:
    memory = MemoryStore(algorithm=algorithm, read_faults=deque([None, Damage(5)]))
    memory.put("memory://b/f", NOISE, part_bytes)
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert workdir.place("/in/f").read_bytes() == NOISE


@pytest.mark.parametrize("algorithm", COMPOSITE)
async def test_a_composite_of_a_single_part_is_compared_too(workdir: WorkDir, algorithm: Algorithm) -> None:
    memory = MemoryStore(algorithm=algorithm, read_faults=deque([Damage(3)]))
    memory.put("memory://b/f", b"small", part_bytes=1000)
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert (workdir.place("/in/f").read_bytes(), memory.reads_begun) == (b"small", 2)


@pytest.mark.parametrize("algorithm", [Algorithm.CRC64NVME, Algorithm.CRC32, Algorithm.SHA256])
async def test_a_large_file_that_arrives_damaged_is_brought_once_more(
    workdir: WorkDir, algorithm: Algorithm
) -> None:
    memory = MemoryStore(algorithm=algorithm, read_faults=deque([Damage(7)]))
    memory.put("memory://b/f", NOISE)
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert workdir.place("/in/f").read_bytes() == NOISE
    assert memory.bytes_served == 2 * len(NOISE)


async def test_a_small_file_that_arrives_damaged_is_brought_once_more(workdir: WorkDir) -> None:
    memory = MemoryStore(algorithm=Algorithm.MD5, read_faults=deque([Damage()]))
    memory.put("memory://b/f", b"small")
    await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert (workdir.place("/in/f").read_bytes(), memory.reads_begun) == (b"small", 2)


@pytest.mark.parametrize("size_bytes", [100, len(NOISE)])
async def test_what_is_damaged_twice_is_an_error_that_names_url_and_algorithm(
    workdir: WorkDir, size_bytes: int
) -> None:
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME, read_faults=deque([Damage()] * 40))
    memory.put("memory://b/f", NOISE[:size_bytes])
    with pytest.raises(DamagedError, match=r"memory://b/f.*CRC64NVME") as raised:
        await staged(workdir, memory, download(workdir, "memory://b/f", "/in/f"))
    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert (partial_files(workdir), list(workdir.place("/in").iterdir())) == ([], [])


@pytest.mark.parametrize("content", [NOISE, b"small"], ids=["large", "small"])
async def test_files_of_a_directory_are_verified_although_listings_tell_no_checksums(
    workdir: WorkDir, content: bytes
) -> None:
    memory = MemoryStore(algorithm=Algorithm.CRC32C, read_faults=deque([Damage()]))
    memory.put("memory://b/d/f", content)
    await staged(workdir, memory, download(workdir, "memory://b/d", "/in/d", FileType.DIRECTORY))
    assert workdir.place("/in/d/f").read_bytes() == content
    assert memory.bytes_served == 2 * len(content)


@pytest.mark.parametrize("size_bytes", [100, 17 * 1024 * 1024])
async def test_an_upload_that_arrives_damaged_is_sent_once_more(workdir: WorkDir, size_bytes: int) -> None:
    content = random.Random(4).randbytes(size_bytes)
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME, write_faults=deque([Damage(3)]))
    workdir.place("/out").mkdir()
    workdir.place("/out/f").write_bytes(content)
    plan = a_plan(workdir, uploads=(upload(workdir, "/out/f", "memory://b/f"),))
    async with stores_with(memory) as stores:
        result = await stage_out(plan, workdir, stores, TRANSFER, Recorder(), succeeded=True)
    assert (result.errors, memory.open_uploads) == ((), 0)
    assert memory.get("memory://b/f") == content


async def test_an_upload_damaged_twice_is_an_error_and_leaves_nothing(workdir: WorkDir) -> None:
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME, write_faults=deque([Damage(3)] * 20))
    workdir.place("/out").mkdir()
    workdir.place("/out/f").write_bytes(bytes(17 * 1024 * 1024))
    plan = a_plan(workdir, uploads=(upload(workdir, "/out/f", "memory://b/f"),))
    async with stores_with(memory) as stores:
        result = await stage_out(plan, workdir, stores, TRANSFER, Recorder(), succeeded=True)
    assert [type(error) for error in result.errors] == [DamagedError]
    assert (memory.urls(), memory.open_uploads) == ([], 0)


async def test_a_part_among_many_that_arrives_damaged_is_sent_again_by_itself(workdir: WorkDir) -> None:
    content = random.Random(8).randbytes(40 * 1024 * 1024)
    memory = MemoryStore(write_faults=deque([None, Fault(DamagedError("the store saw it"), 10)]))
    workdir.place("/out").mkdir()
    workdir.place("/out/f").write_bytes(content)
    plan = a_plan(workdir, uploads=(upload(workdir, "/out/f", "memory://b/f"),))
    async with stores_with(memory) as stores:
        result = await stage_out(plan, workdir, stores, TRANSFER, Recorder(), succeeded=True)
    assert (result.errors, memory.get("memory://b/f") == content) == ((), True)
    assert memory.parts_begun == 1 + 5 + 3, "one more than the parts of 5 MiB"


async def test_a_damaged_upload_that_can_not_be_withdrawn_is_an_error_and_told(
    workdir: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AccessDeniedError("s3:AbortMultipartUpload is not allowed")

    monkeypatch.setattr(MemoryUpload, "abort", refused)
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME, write_faults=deque([Damage(3)]))
    workdir.place("/out").mkdir()
    workdir.place("/out/f").write_bytes(bytes(17 * 1024 * 1024))
    rule = upload(workdir, "/out/f", "memory://b/f")
    recorder = Recorder()
    async with stores_with(memory) as stores:
        result = await stage_out(
            a_plan(workdir, uploads=(rule,)), workdir, stores, TRANSFER, recorder, succeeded=True
        )
    assert ([type(error) for error in result.errors], memory.urls()) == ([AccessDeniedError], [])
    assert any("could not be withdrawn" in str(event.fields().get("error")) for event in recorder.events)
