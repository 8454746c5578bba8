"""Outputs arrive whole, all that can; what fails leaves nothing half-made."""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskrunner.errors import AccessDeniedError, OutputFailedError, TransientError
from taskrunner.plan import Upload
from taskrunner.staging.stage_out import StagedOut, stage_out
from taskrunner.storage.memory import Fault, MemoryStore
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir
from tests.staging.plans import TRANSFER, Recorder, a_plan, a_workdir, stores_with, upload

NOISE = random.Random(2).randbytes(17 * 1024 * 1024)


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with a_workdir(tmp_path) as workdir:
        workdir.place("/out").mkdir()
        yield workdir


async def staged_out(
    workdir: WorkDir, memory: MemoryStore, *uploads: Upload, succeeded: bool = True
) -> tuple[StagedOut, Recorder]:
    recorder = Recorder()
    async with stores_with(memory) as stores:
        plan = a_plan(workdir, uploads=uploads)
        result = await stage_out(plan, workdir, stores, TRANSFER, recorder, succeeded=succeeded)
    return result, recorder


async def test_a_file_of_many_parts_arrives_the_same_to_the_byte(workdir: WorkDir) -> None:
    memory = MemoryStore()
    workdir.place("/out/big").write_bytes(NOISE)
    result, recorder = await staged_out(workdir, memory, upload(workdir, "/out/big", "memory://b/big"))
    assert memory.get("memory://b/big") == NOISE
    assert [(log.url, log.path, log.size_bytes) for log in result.outputs] == [
        ("memory://b/big", "/out/big", len(NOISE))
    ]
    assert [msg for msg, _ in recorder.told()] == ["upload started", "upload finished"]
    assert (memory.open_uploads, result.errors) == (0, ())


async def test_outputs_are_told_in_the_documents_order_whatever_their_size(workdir: WorkDir) -> None:
    for name, size_bytes in (("small", 1), ("large", 1000), ("empty", 0)):
        workdir.place(f"/out/{name}").write_bytes(bytes(size_bytes))
    rules = [upload(workdir, f"/out/{name}", f"memory://b/{name}") for name in ("small", "large", "empty")]
    result, _ = await staged_out(workdir, MemoryStore(), *rules)
    assert [log.size_bytes for log in result.outputs] == [1, 1000, 0]


async def test_a_part_that_fails_is_sent_again_from_its_start(workdir: WorkDir) -> None:
    memory = MemoryStore(write_faults=deque([Fault(TransientError("dropped"), after_bytes=300_000)]))
    workdir.place("/out/big").write_bytes(NOISE)
    await staged_out(workdir, memory, upload(workdir, "/out/big", "memory://b/big"))
    assert memory.get("memory://b/big") == NOISE


async def test_one_missing_output_after_success_is_an_error_and_the_others_arrive(workdir: WorkDir) -> None:
    memory = MemoryStore()
    workdir.place("/out/a").write_text("a")
    rules = [upload(workdir, f"/out/{name}", f"memory://b/{name}") for name in ("none", "a")]
    result, recorder = await staged_out(workdir, memory, *rules)
    assert memory.urls() == ["memory://b/a"]
    assert [type(error) for error in result.errors] == [OutputFailedError]
    assert ("upload failed", "memory://b/none") in recorder.told()


async def test_a_missing_output_after_a_failed_executor_is_a_warning(workdir: WorkDir) -> None:
    rule = upload(workdir, "/out/none", "memory://b/none")
    result, recorder = await staged_out(workdir, MemoryStore(), rule, succeeded=False)
    assert (result.errors, recorder.told()) == ((), [("output missing", "memory://b/none")])


async def test_an_upload_that_is_not_allowed_does_not_stop_the_others(workdir: WorkDir) -> None:
    memory = MemoryStore(write_faults=deque([Fault(AccessDeniedError("no"))]))
    workdir.place("/out/large").write_bytes(b"12")
    workdir.place("/out/small").write_bytes(b"1")
    rules = [upload(workdir, f"/out/{name}", f"memory://b/{name}") for name in ("large", "small")]
    result, recorder = await staged_out(workdir, memory, *rules)
    assert len(memory.urls()) == 1
    assert [type(error) for error in result.errors] == [AccessDeniedError]
    assert (memory.open_uploads, len(result.outputs)) == (0, 1)
    assert [msg for msg, _ in recorder.told()].count("upload failed") == 1


async def test_a_large_file_that_fails_leaves_no_upload_open_and_is_told_once(workdir: WorkDir) -> None:
    memory = MemoryStore(write_faults=deque([Fault(AccessDeniedError("no"), after_bytes=10)] * 4))
    workdir.place("/out/big").write_bytes(NOISE)
    result, recorder = await staged_out(workdir, memory, upload(workdir, "/out/big", "memory://b/big"))
    assert (memory.urls(), memory.open_uploads) == ([], 0)
    assert len(result.errors) == 1
    assert [msg for msg, _ in recorder.told()] == ["upload started", "upload failed"]


async def test_an_empty_directory_is_a_warning(workdir: WorkDir) -> None:
    rule = upload(workdir, "/out", "memory://b/d", FileType.DIRECTORY)
    result, recorder = await staged_out(workdir, MemoryStore(), rule)
    assert (result.errors, recorder.told()) == ((), [("upload source directory is empty", "memory://b/d")])


async def test_a_link_out_of_the_task_is_an_error_and_its_target_stays_unread(workdir: WorkDir) -> None:
    memory = MemoryStore()
    workdir.place("/out/secret").symlink_to("/etc/passwd")
    result, _ = await staged_out(workdir, memory, upload(workdir, "/out/secret", "memory://b/secret"))
    assert (memory.urls(), [type(error) for error in result.errors]) == ([], [OutputFailedError])
