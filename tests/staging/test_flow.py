"""Lanes work as wide as is good, give up what is slow, and try again only so often in all."""

import asyncio
import os
import random
import resource
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from taskrunner.errors import ThrottledError, TransientError
from taskrunner.retrying import Allowance, Patience
from taskrunner.settings import TransferSettings
from taskrunner.staging.lanes import LANE_BYTES, Lane, Lanes, most_lanes
from taskrunner.staging.schedule import Todo
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.width import Width
from taskrunner.storage.checksums import Algorithm
from taskrunner.storage.memory import Fault, MemoryStore, Stall
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import StoredObject
from taskrunner.storage.wire import Connections
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir
from tests.staging.plans import PART_BYTES, TRANSFER, Recorder, a_plan, a_workdir, download, stores_with

NOISE = random.Random(7).randbytes(40 * PART_BYTES)


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with a_workdir(tmp_path) as workdir:
        yield workdir


def lanes_of(width: Width) -> Lanes:
    return Lanes(width, lambda: Connections(Network()))


async def test_everything_is_done_although_lanes_come_and_go() -> None:
    width = Width(16)
    lanes, done = lanes_of(width), []

    async def work(lane: Lane, number: int) -> None:
        await lane.run(lambda _: time.sleep(0.001))
        done.append(number)
        width.now = number % 7 % width.most + 1
        lanes.wake()

    async with asyncio.timeout(30):
        await lanes.work_through(Todo(range(500)), work)
    assert sorted(done) == list(range(500))


async def test_what_is_added_by_the_last_one_at_work_is_done_too() -> None:
    lanes, todo, done = lanes_of(Width(8)), Todo([3]), []

    async def work(lane: Lane, more: int) -> None:
        await lane.run(lambda _: None)
        done.append(more)
        for _ in range(more):
            todo.append(more - 1)
        lanes.wake()

    async with asyncio.timeout(30):
        await lanes.work_through(todo, work)
    assert len(done) == 1 + 3 + 3 * 2 + 3 * 2 * 1


async def test_no_more_lanes_are_opened_than_may_work() -> None:
    width = Width(16)
    width.now = 3
    lanes = lanes_of(width)

    async def work(lane: Lane, _: int) -> None:
        await lane.run(lambda _: time.sleep(0.002))

    await lanes.work_through(Todo(range(50)), work)
    assert len(lanes.opened) == 3


def test_operators_caps_and_open_files_limit_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_lanes(TransferSettings(max_connections=5)) == 5
    assert most_lanes(TransferSettings(memory_bytes=3 * LANE_BYTES)) == 3
    assert most_lanes(TransferSettings(memory_bytes=1)) == 1
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert most_lanes(TransferSettings(max_connections=1000)) == 38


async def test_a_request_that_stalls_is_given_up_for_a_new_connection(workdir: WorkDir) -> None:
    memory = MemoryStore(read_faults=deque([None] * 20 + [Stall(after_bytes=100)]))
    memory.put("memory://b/big", NOISE)
    plan = a_plan(workdir, downloads=(download(workdir, "memory://b/big", "/in/big"),))
    async with asyncio.timeout(60), stores_with(memory) as stores:
        await stage_in(plan, workdir, stores, TRANSFER, Recorder())
    assert workdir.place("/in/big").read_bytes() == NOISE
    assert memory.bytes_served == len(NOISE), "it went on at the byte where it stalled"


async def test_a_storm_of_refusals_is_weathered(workdir: WorkDir) -> None:
    refusal = Fault(ThrottledError("503 SlowDown", retry_after_seconds=0))
    memory = MemoryStore(read_faults=deque([None, refusal, refusal] * 20))
    for number in range(60):
        memory.put(f"memory://b/{number}", b"x" * number)
    names = range(60)
    plan = a_plan(workdir, downloads=tuple(download(workdir, f"memory://b/{n}", f"/in/{n}") for n in names))
    patient = replace(TRANSFER, patience=Patience(attempts=60, first_wait_seconds=0.001))
    async with stores_with(memory) as stores:
        await stage_in(plan, workdir, stores, patient, Recorder())
    assert [len(workdir.place(f"/in/{n}").read_bytes()) for n in names] == list(names)


async def test_all_tries_of_a_phase_together_are_bounded() -> None:
    allowance, tried = Allowance(tries=5.0), 0
    patience = Patience(attempts=4, first_wait_seconds=0.0001)

    async def failing() -> None:
        nonlocal tried
        async for attempt in patience.tries(allowance):
            with attempt:
                tried += 1
                raise TransientError("down")

    for _ in range(10):
        with pytest.raises(TransientError):
            await failing()
    assert 10 < tried <= 10 + 5, "four times ten without the allowance"


def test_what_goes_well_earns_tries_back() -> None:
    allowance = Allowance(tries=0.0, most=1.0, earned=0.25)
    assert not allowance.take()
    for _ in range(100):
        allowance.earn()
    assert (allowance.take(), allowance.take()) == (True, False)


async def test_what_goes_well_earns_tries_back_for_small_files_as_well(workdir: WorkDir) -> None:
    dropped = Fault(TransientError("dropped"))
    memory = MemoryStore(read_faults=deque(([None] * 29 + [dropped]) * 20))
    names = range(600)
    for number in names:
        memory.put(f"memory://b/{number}", b"x")
    plan = a_plan(workdir, downloads=tuple(download(workdir, f"memory://b/{n}", f"/in/{n}") for n in names))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("taskrunner.storage.opening.Allowance", partial(Allowance, tries=5.0, most=5.0))
        async with stores_with(memory) as stores:
            await stage_in(plan, workdir, stores, TRANSFER, Recorder())
    assert len(list(workdir.place("/in").iterdir())) == 600


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_open_files_stay_as_few_as_lanes_however_many_have_failed(workdir: WorkDir) -> None:
    refusal = Fault(ThrottledError("503", retry_after_seconds=0))
    memory = MemoryStore(read_faults=deque([refusal] * 300))
    names = range(300)
    for number in names:
        memory.put(f"memory://b/{number}", b"x")
    plan = a_plan(workdir, downloads=tuple(download(workdir, f"memory://b/{n}", f"/in/{n}") for n in names))
    before = open_files()
    most = 0
    patient = replace(TRANSFER, patience=Patience(attempts=400, first_wait_seconds=0.001))

    def count(*_: object) -> None:
        nonlocal most
        most = max(most, open_files() - before)

    async with stores_with(memory) as stores:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("taskrunner.staging.width.Width.throttled", count)
            await stage_in(plan, workdir, stores, patient, Recorder())
    assert len(list(workdir.place("/in").iterdir())) == 300
    assert 0 < most <= 5 * TRANSFER.max_connections + 10


async def test_a_lane_that_hangs_in_a_write_never_writes_into_another_file(
    workdir: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr("taskrunner.staging.lanes._CUT_OFF_SECONDS", 0.05)
    write = FileSlice.append

    def slow(piece: FileSlice, chunk: memoryview) -> None:
        hanging.set()
        go_on.wait(30)
        write(piece, chunk)

    monkeypatch.setattr(FileSlice, "append", slow)
    memory = MemoryStore()
    memory.put("memory://b/big", NOISE)
    plan = a_plan(workdir, downloads=(download(workdir, "memory://b/big", "/in/big"),))
    async with stores_with(memory) as stores:
        running = asyncio.ensure_future(stage_in(plan, workdir, stores, TRANSFER, Recorder()))
        await asyncio.to_thread(hanging.wait, 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    others = [os.open(workdir.root / f"other{number}", os.O_RDWR | os.O_CREAT) for number in range(30)]
    lanes = [thread for thread in threading.enumerate() if thread.name.startswith("lane-")]
    go_on.set()
    for lane in lanes:
        await asyncio.to_thread(lane.join, 30)
    sizes = [os.fstat(fd).st_size for fd in others]
    for fd in others:
        os.close(fd)
    assert lanes
    assert sizes == [0] * 30


async def test_the_large_files_of_one_directory_are_asked_about_side_by_side(workdir: WorkDir) -> None:
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME)
    for number in range(12):
        memory.put(f"memory://b/d/{number}", bytes(2 * PART_BYTES))
    asking, most = 0, 0
    lock = threading.Lock()
    stat = MemoryStore.stat

    def counted(store: MemoryStore, connections: Connections, url: str) -> StoredObject:
        nonlocal asking, most
        with lock:
            asking += 1
            most = max(most, asking)
        time.sleep(0.02)
        try:
            return stat(store, connections, url)
        finally:
            with lock:
                asking -= 1

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryStore, "stat", counted)
        plan = a_plan(workdir, downloads=(download(workdir, "memory://b/d", "/in/d", FileType.DIRECTORY),))
        async with stores_with(memory) as stores:
            await stage_in(plan, workdir, stores, TRANSFER, Recorder())
    assert most == TRANSFER.max_connections
