"""What dead runners left in the work directory: swept when it is old, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskrunner import workdir
from taskrunner.events import SweepFailed, WorkDirNotRemoved, WorkDirSwept
from taskrunner.settings import WorkSettings
from taskrunner.staging import sweeping
from taskrunner.staging.sweeping import sweep_work_dir, sweeping_work_dir
from taskrunner.storage.memory import MemoryStore, OpenUpload
from taskrunner.workdir import leased, reserved
from tests.staging.plans import TRANSFER, Recorder, stores_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

DAY_SECONDS = 24 * 3600.0


def killed(root: Path, hold: str = "leased(root)") -> None:
    """A runner that was killed while it had a file in its directory, an input in the making, and a partial file."""
    script = (
        "import os, sys; from pathlib import Path; from taskrunner.workdir import leased, reserved\n"
        f"root = Path(sys.argv[1])\nwith {hold} as lease:\n"
        "  lease.workdir.resumable_inputs.mkdir(); (lease.workdir.resumable_inputs / 'x').touch()\n"
        "  lease.workdir.partial_path().touch(); (root / 'made').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(root)], check=False, timeout=60)
    assert (root / "made").exists()


def grow_old(root: Path, seconds: float = DAY_SECONDS + 60) -> None:
    """As if the last sign of life had been so long ago."""
    then = time.time() - seconds
    os.utime(root.with_name(f".{root.name}") / "taskrunner-lease", (then, then))


async def sweep(work_dir: Path, memory: MemoryStore | None = None, seconds: float = DAY_SECONDS) -> Recorder:
    told = Recorder()
    async with stores_with(memory or MemoryStore()) as stores:
        await sweep_work_dir(WorkSettings(work_dir=work_dir, sweep_seconds=seconds), stores, TRANSFER, told)
    return told


def names(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.iterdir())


@pytest.mark.parametrize("hold", ["leased(root)", "reserved(root, empty=True)"], ids=["run", "stage-in"])
async def test_what_a_killed_runner_left_is_swept_a_day_after_its_last_sign_of_life(
    tmp_path: Path, hold: str
) -> None:
    killed(tmp_path / "T", hold)
    grow_old(tmp_path / "T")
    told = await sweep(tmp_path)
    assert names(tmp_path) == []
    assert [event.fields() for event in told.events] == [{"path": str(tmp_path / "T")}]
    assert isinstance(told.events[0], WorkDirSwept)


async def test_what_a_runner_left_that_was_killed_a_moment_ago_stays(tmp_path: Path) -> None:
    killed(tmp_path / "T")
    told = await sweep(tmp_path)
    assert (names(tmp_path), told.events) == ([".T", "T"], [])


async def test_the_age_is_a_setting(tmp_path: Path) -> None:
    killed(tmp_path / "T")
    grow_old(tmp_path / "T", 120)
    await sweep(tmp_path, seconds=60)
    assert names(tmp_path) == []


async def test_a_live_runners_directory_stays_however_old(tmp_path: Path) -> None:
    with leased(tmp_path / "T") as lease:
        (lease.workdir.root / "x").touch()
        grow_old(tmp_path / "T")
        told = await sweep(tmp_path)
        assert (names(tmp_path), told.events) == ([".T", "T"], [])
        assert (lease.workdir.root / "x").exists()


def test_a_live_runner_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one which was killed after days has not been dead for days."""
    monkeypatch.setattr(workdir, "_SIGN_SECONDS", 0.01)
    with leased(tmp_path / "T"):
        grow_old(tmp_path / "T")
        lease = tmp_path / ".T/taskrunner-lease"
        while lease.stat().st_mtime < time.time() - DAY_SECONDS:
            time.sleep(0.01)


async def test_what_was_left_on_purpose_stays_however_old(tmp_path: Path) -> None:
    """By stage-in for a script; by a run to be looked at, which also has inputs to go on with."""
    with reserved(tmp_path / "A", empty=True):
        pass
    with leased(tmp_path / "B") as lease:
        lease.workdir.resumable_inputs.mkdir()
        (lease.workdir.resumable_inputs / "x").touch()
        lease.keep_for_retry = True
    for name in ("A", "B"):
        grow_old(tmp_path / name)
    await sweep(tmp_path)
    assert names(tmp_path) == [".A", ".B", "A", "B"]


async def test_what_a_script_made_stays_where_its_stage_out_was_killed(tmp_path: Path) -> None:
    with reserved(tmp_path / "T", empty=True):
        pass
    killed(tmp_path / "T", "reserved(root, empty=False)")
    grow_old(tmp_path / "T")
    await sweep(tmp_path)
    assert (tmp_path / "T/made").exists()


async def test_what_could_not_be_cleaned_up_in_time_is_swept(tmp_path: Path) -> None:
    with leased(tmp_path / "T") as lease:
        lease.stays = False
    grow_old(tmp_path / "T")
    await sweep(tmp_path)
    assert names(tmp_path) == []


async def test_inputs_that_no_attempt_went_on_with_are_swept(tmp_path: Path) -> None:
    with leased(tmp_path / "T") as lease:
        lease.workdir.resumable_inputs.mkdir()
        (lease.workdir.resumable_inputs / "x").touch()
        lease.keep_for_retry = True
        lease.workdir.root.rmdir()
    grow_old(tmp_path / "T")
    await sweep(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("what", ["no lease", "a lease in a link", "a link", "open to others"])
async def test_what_no_runner_made_stays(tmp_path: Path, what: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    work_dir = tmp_path / "work"
    elsewhere.mkdir(mode=0o700)
    (work_dir / "T").mkdir(parents=True)
    (elsewhere / "taskrunner-lease").write_text("x")
    hidden = work_dir / ".T"
    if what == "a link":
        hidden.symlink_to(elsewhere)
    else:
        hidden.mkdir(mode=0o700)
        if what == "a lease in a link":
            (hidden / "taskrunner-lease").symlink_to(elsewhere / "taskrunner-lease")
        elif what == "open to others":
            (hidden / "taskrunner-lease").write_text("x")
            hidden.chmod(0o777)
    told = await sweep(work_dir, seconds=0)
    assert (names(work_dir), names(elsewhere), told.events) == ([".T", "T"], ["taskrunner-lease"], [])


async def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/x").touch()
    killed(tmp_path / "work/T")
    (tmp_path / "work/T/link").symlink_to(tmp_path / "precious")
    grow_old(tmp_path / "work/T")
    await sweep(tmp_path / "work")
    assert (names(tmp_path / "work"), names(tmp_path / "precious")) == ([], ["x"])


def with_open_upload(tmp_path: Path, memory: MemoryStore) -> None:
    """A killed runner's directory, and the journal of an upload that it had begun."""
    killed(tmp_path / "T")
    memory.uploads["u1"] = OpenUpload("memory://b/out")
    (tmp_path / ".T/outputs").mkdir()
    begun = time.time() - 2 * DAY_SECONDS
    line = f'{{"url":"memory://b/out","resume_id":"u1","begun_seconds":{begun}}}\n'
    (tmp_path / ".T/outputs/x.journal").write_text(line)
    grow_old(tmp_path / "T")


async def test_an_upload_that_is_still_open_is_ended_first(tmp_path: Path) -> None:
    memory = MemoryStore(resumable=True)
    with_open_upload(tmp_path, memory)
    await sweep(tmp_path, memory)
    assert (memory.open_uploads, names(tmp_path)) == (0, [])


async def test_the_journal_of_an_upload_that_can_not_be_ended_stays_for_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_arguments: object) -> None:
        await asyncio.sleep(1000)

    memory = MemoryStore(resumable=True)
    with_open_upload(tmp_path, memory)
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "take_back_uploads", hang)
        patch.setattr(sweeping, "_TAKE_BACK_SECONDS", 0.1)
        told = await sweep(tmp_path, memory)
    assert [type(event) for event in told.events] == [SweepFailed]
    assert names(tmp_path / ".T") == ["outputs", "taskrunner-lease"]
    assert names(tmp_path) == [".T"]
    assert (await sweep(tmp_path, memory)).events == []
    grow_old(tmp_path / "T")
    await sweep(tmp_path, memory)
    assert (memory.open_uploads, names(tmp_path)) == (0, [])


async def test_what_can_not_be_removed_is_told_once_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *, dir_fd: int | None = None) -> None:
        raise PermissionError(13, "Permission denied")

    killed(tmp_path / "T")
    grow_old(tmp_path / "T")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        (told,) = (await sweep(tmp_path)).events
    assert isinstance(told, WorkDirNotRemoved)
    assert told.fields() == {"path": str(tmp_path / "T"), "error": "Permission denied"}
    assert (await sweep(tmp_path)).events == []
    grow_old(tmp_path / "T")
    await sweep(tmp_path)
    assert names(tmp_path) == []


async def test_a_work_directory_that_is_not_there_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert (await sweep(tmp_path / "nowhere")).events == []


async def test_a_sweep_that_is_cancelled_leaves_the_rest_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang(*_arguments: object) -> None:
        begun.set()
        await asyncio.sleep(1000)

    memory = MemoryStore(resumable=True)
    with_open_upload(tmp_path, memory)
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "take_back_uploads", hang)
        sweeper = asyncio.create_task(sweep(tmp_path, memory))
        await begun.wait()
        sweeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sweeper
    assert names(tmp_path) == [".T", "T"]
    await sweep(tmp_path, memory)
    assert (memory.open_uploads, names(tmp_path)) == (0, [])


async def test_all_uploads_together_have_one_time_to_be_ended_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits_seconds: list[float] = []

    async def slow(*arguments: object) -> None:
        limit_seconds = arguments[-1]
        assert isinstance(limit_seconds, float)
        limits_seconds.append(limit_seconds)
        await asyncio.sleep(0.01)

    memory = MemoryStore(resumable=True)
    with_open_upload(tmp_path, memory)
    shutil.copytree(tmp_path / ".T", tmp_path / ".U")
    monkeypatch.setattr(sweeping, "_take_back", slow)
    await sweep(tmp_path, memory)
    first, second = limits_seconds
    assert second < first


@asynccontextmanager
async def sweeping_beside(work_dir: Path, after: Callable[[], Awaitable[None]]) -> AsyncIterator[Recorder]:
    told = Recorder()
    async with (
        stores_with(MemoryStore()) as stores,
        sweeping_work_dir(WorkSettings(work_dir=work_dir), stores, TRANSFER, told, after=after),
    ):
        yield told


async def at_once() -> None:
    pass


async def test_inputs_have_the_space_that_a_short_sweep_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_HEAD_START_SECONDS", 60)
    killed(tmp_path / "T")
    grow_old(tmp_path / "T")
    async with sweeping_beside(tmp_path, at_once):
        assert names(tmp_path) == []


async def test_a_long_sweep_does_not_hold_up_the_task_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(*_arguments: object) -> None:
        began.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    with_open_upload(tmp_path, MemoryStore())
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "take_back_uploads", hang)
        patch.setattr(sweeping, "_HEAD_START_SECONDS", 0.01)
        async with sweeping_beside(tmp_path, at_once) as told:
            await began.wait()
            assert not ended.is_set()
        assert ended.is_set()
    assert (names(tmp_path), told.events) == ([".T", "T"], [])
    async with sweeping_beside(tmp_path, at_once):
        pass
    assert "T" not in names(tmp_path)


async def test_nothing_is_swept_before_containers_that_may_still_write_to_it_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_HEAD_START_SECONDS", 0.01)
    killed(tmp_path / "T")
    grow_old(tmp_path / "T")
    gone, swept = asyncio.Event(), asyncio.Event()

    async def containers_gone() -> None:
        await gone.wait()

    async with sweeping_beside(tmp_path, containers_gone) as told:
        monkeypatch.setattr(told, "report", lambda _event: swept.set())
        assert names(tmp_path) == [".T", "T"]
        gone.set()
        await swept.wait()
    assert names(tmp_path) == []


def test_a_removal_that_was_stopped_is_gone_on_with_by_any_later_sweep(tmp_path: Path) -> None:
    killed(tmp_path / "T")
    grow_old(tmp_path / "T")
    stopped = threading.Event()
    stopped.set()
    (found,) = workdir.abandoned(tmp_path, DAY_SECONDS)
    assert not found.remove(stopped)
    (found,) = workdir.abandoned(tmp_path, DAY_SECONDS)
    assert found.remove(threading.Event())
    assert names(tmp_path) == []
