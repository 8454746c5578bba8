"""A phase that is stopped leaves nothing behind: no thread, no partial file, no upload begun."""

import asyncio
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import stage_out
from taskrunner.storage.memory import MemoryStore
from tests.staging.plans import (
    TRANSFER,
    Recorder,
    a_plan,
    a_workdir,
    download,
    partial_files,
    stores_with,
    upload,
)

SLOW_BYTES_PER_SECOND = 50_000.0


def lanes_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")]


async def cancelled_when_under_way(phase: Awaitable[object], recorder: Recorder) -> None:
    running = asyncio.ensure_future(phase)
    await recorder.begun.wait()
    assert await under_way()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def under_way() -> bool:
    for _ in range(500):
        if lanes_alive():
            return True
        await asyncio.sleep(0.01)
    return False


async def gone(names: list[str]) -> bool:
    for _ in range(500):
        if not set(lanes_alive()) & set(names):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_stopped_download_leaves_no_file_and_no_thread(tmp_path: Path) -> None:
    memory = MemoryStore(total_bytes_per_second=SLOW_BYTES_PER_SECOND)
    memory.put("memory://b/big", bytes(2_000_000))
    recorder = Recorder()
    with a_workdir(tmp_path) as workdir:
        plan = a_plan(workdir, downloads=(download(workdir, "memory://b/big", "/in/big"),))
        async with stores_with(memory) as stores:
            await cancelled_when_under_way(stage_in(plan, workdir, stores, TRANSFER, recorder), recorder)
        assert (partial_files(workdir), workdir.place("/in/big").exists()) == ([], False)
    assert await gone(lanes_alive())


async def test_a_stopped_upload_leaves_nothing_at_its_url_and_no_thread(tmp_path: Path) -> None:
    memory = MemoryStore(total_bytes_per_second=SLOW_BYTES_PER_SECOND)
    recorder = Recorder()
    with a_workdir(tmp_path) as workdir:
        workdir.place("/out").mkdir()
        workdir.place("/out/big").write_bytes(bytes(20_000_000))
        plan = a_plan(workdir, uploads=(upload(workdir, "/out/big", "memory://b/big"),))
        async with stores_with(memory) as stores:
            phase = stage_out(plan, workdir, stores, TRANSFER, recorder, succeeded=True)
            await cancelled_when_under_way(phase, recorder)
    assert (memory.urls(), memory.open_uploads) == ([], 0)
    assert await gone(lanes_alive())
