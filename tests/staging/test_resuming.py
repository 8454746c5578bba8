"""A later attempt goes on where a killed one stopped; nothing that was left behind is trusted."""

import json
import random
from collections import deque
from pathlib import Path

import pytest

from taskrunner.errors import TransferIOError
from taskrunner.events import DownloadTotals, UploadTotals
from taskrunner.staging.journal import Journal
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import stage_out, take_back_uploads
from taskrunner.storage.checksums import Algorithm
from taskrunner.storage.memory import Fault, MemoryStore, OpenUpload
from taskrunner.storage.store import Receipt
from taskrunner.workdir import WorkDir, leased
from tests.staging.plans import PART_BYTES, TRANSFER, Recorder, a_plan, download, stores_with, upload

NOISE = random.Random(5).randbytes(20 * PART_BYTES + 17)
URL = "memory://b/big"
BROKEN = Fault(TransferIOError("the process was killed here"))


def a_store(**knobs: object) -> MemoryStore:
    memory = MemoryStore(algorithm=Algorithm.CRC64NVME, **knobs)  # type: ignore[arg-type]
    memory.put(URL, NOISE)
    return memory


async def attempt(memory: MemoryStore, root: Path, path: str = "/in/big") -> Recorder:
    """One attempt at staging in; what a later one can go on with stays."""
    recorder = Recorder()
    with leased(root) as lease:
        lease.keep_for_retry = True
        plan = a_plan(lease.workdir, downloads=(download(lease.workdir, URL, path),))
        async with stores_with(memory) as stores:
            await stage_in(plan, lease.workdir, stores, TRANSFER, recorder)
        assert lease.workdir.place(path).read_bytes() == memory.get(URL)
    return recorder


async def killed_attempt(root: Path, path: str = "/in/big") -> None:
    memory = a_store(read_faults=deque([None] * 12 + [BROKEN] * 30))
    with pytest.raises(TransferIOError, match="killed here"):
        await attempt(memory, root, path)


def resumable(root: Path) -> list[Path]:
    return sorted(WorkDir(root, root.with_name(f".{root.name}")).resumable_inputs.iterdir())


def resumed_bytes(recorder: Recorder) -> int:
    return next(event.bytes_resumed for event in recorder.events if isinstance(event, DownloadTotals))


async def test_a_later_attempt_brings_only_what_is_missing(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    memory = a_store()
    recorder = await attempt(memory, tmp_path / "t")
    assert memory.bytes_served + resumed_bytes(recorder) == len(NOISE)
    assert 9 * PART_BYTES <= resumed_bytes(recorder) <= 12 * PART_BYTES


async def test_once_all_inputs_are_there_nothing_is_kept_for_another_attempt(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    await attempt(a_store(), tmp_path / "t")
    memory = a_store()
    await attempt(memory, tmp_path / "t")
    assert memory.bytes_served == len(NOISE)


async def test_an_object_that_has_changed_is_brought_anew_and_the_old_one_is_removed(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    memory = a_store(read_faults=deque([BROKEN] * 30))
    memory.put(URL, bytes(len(NOISE)))
    with pytest.raises(TransferIOError):
        await attempt(memory, tmp_path / "t")
    assert len([path for path in resumable(tmp_path / "t") if path.suffix == ".journal"]) == 1
    memory.read_faults.clear()
    await attempt(memory, tmp_path / "t")


async def test_parts_that_are_no_longer_what_was_written_are_brought_again(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    [partial] = [path for path in resumable(tmp_path / "t") if path.suffix != ".journal"]
    with partial.open("r+b") as file:
        file.write(b"\0" * 10)
    memory = a_store()
    recorder = await attempt(memory, tmp_path / "t")
    assert memory.bytes_served + resumed_bytes(recorder) == len(NOISE)


@pytest.mark.parametrize("kept_bytes", [0, 1, 100, -1, -20])
async def test_a_journal_that_is_cut_off_counts_as_far_as_it_can_be_read(
    tmp_path: Path, kept_bytes: int
) -> None:
    await killed_attempt(tmp_path / "t")
    [journal] = [path for path in resumable(tmp_path / "t") if path.suffix == ".journal"]
    journal.write_bytes(journal.read_bytes()[:kept_bytes])
    memory = a_store()
    recorder = await attempt(memory, tmp_path / "t")
    assert memory.bytes_served + resumed_bytes(recorder) == len(NOISE)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe garbage \n",
        b"[]\n",
        b'{"part": "1", "etag": ""}\n',
        b'{"part": 1, "etag": "", "algorithm": "ROT13", "value": "AAAA"}\n',
        b'{"part": 1, "etag": "", "algorithm": "CRC64NVME", "value": "****"}\n',
        b'{"part": 999999, "etag": ""}\n',
        b'{"part": 1, "etag": "", "algorithm": "CRC64NVME", "value": "AAAAAAAAAAA="}\n',
    ],
)
async def test_a_damaged_line_in_a_journal_costs_a_download_and_no_more(tmp_path: Path, line: bytes) -> None:
    await killed_attempt(tmp_path / "t")
    [journal] = [path for path in resumable(tmp_path / "t") if path.suffix == ".journal"]
    first, *others = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, line, *others]))
    await attempt(a_store(), tmp_path / "t")


async def test_a_foreign_journal_is_ignored(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    [journal] = [path for path in resumable(tmp_path / "t") if path.suffix == ".journal"]
    first, *others = journal.read_bytes().splitlines(keepends=True)
    foreign = {**json.loads(first), "etag": '"another"'}
    journal.write_bytes(b"".join([json.dumps(foreign).encode() + b"\n", *others]))
    memory = a_store()
    await attempt(memory, tmp_path / "t")
    assert memory.bytes_served == len(NOISE)


async def test_a_journal_without_its_file_is_ignored(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    [partial] = [path for path in resumable(tmp_path / "t") if path.suffix != ".journal"]
    partial.unlink()
    memory = a_store()
    await attempt(memory, tmp_path / "t")
    assert memory.bytes_served == len(NOISE)


async def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path: Path) -> None:
    await killed_attempt(tmp_path / "t")
    [partial] = [path for path in resumable(tmp_path / "t") if path.suffix != ".journal"]
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(len(NOISE)))
    partial.unlink()
    partial.symlink_to(precious)
    await attempt(a_store(), tmp_path / "t")
    assert precious.read_bytes() == bytes(len(NOISE))


async def test_a_run_that_is_not_to_be_retried_leaves_nothing_for_a_later_one(tmp_path: Path) -> None:
    memory = a_store(read_faults=deque([None] * 12 + [BROKEN] * 30))
    with leased(tmp_path / "t") as lease:
        plan = a_plan(lease.workdir, downloads=(download(lease.workdir, URL, "/in/big"),))
        async with stores_with(memory) as stores:
            with pytest.raises(TransferIOError):
                await stage_in(plan, lease.workdir, stores, TRANSFER, Recorder())
    assert not (tmp_path / ".t").exists()


OUTPUT = random.Random(6).randbytes(50 * 1024 * 1024)
OUT_URL = "memory://b/out"


async def staging_out(
    memory: MemoryStore, root: Path, content: bytes, *, killed: bool = False, url: str = OUT_URL
) -> Recorder:
    recorder = Recorder()
    with leased(root) as lease:
        lease.keep_for_retry = True
        lease.workdir.place("/out").mkdir()
        lease.workdir.place("/out/f").write_bytes(content)
        plan = a_plan(lease.workdir, uploads=(upload(lease.workdir, "/out/f", url),))
        async with stores_with(memory) as stores:
            result = await stage_out(plan, lease.workdir, stores, TRANSFER, recorder, succeeded=True)
        assert bool(result.errors) is killed
    return recorder


async def killed_staging_out(memory: MemoryStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts arrive until one does not; what was begun is not withdrawn and the journal stays."""
    with monkeypatch.context() as patched:
        patched.setattr("taskrunner.staging.upload._Uploads.withdraw", no_time_for_that)
        memory.write_faults.extend([None, None, BROKEN, BROKEN, BROKEN, BROKEN])
        await staging_out(memory, root, OUTPUT, killed=True)
    memory.write_faults.clear()
    assert memory.open_uploads == 1


async def no_time_for_that(*_: object) -> None:
    """A killed process withdraws nothing."""


def sent_before(recorder: Recorder) -> int:
    return next(event.bytes_resumed for event in recorder.events if isinstance(event, UploadTotals))


@pytest.mark.parametrize("algorithm", [Algorithm.CRC64NVME, None])
async def test_an_interrupted_upload_goes_on_where_its_parts_still_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm | None
) -> None:
    memory = MemoryStore(resumable=True, algorithm=algorithm)
    await killed_staging_out(memory, tmp_path / "t", monkeypatch)
    taken_before = memory.bytes_taken
    recorder = await staging_out(memory, tmp_path / "t", OUTPUT)
    assert (memory.get(OUT_URL) == OUTPUT, memory.open_uploads) == (True, 0)
    if algorithm is not None:
        assert sent_before(recorder) > 0
        assert memory.bytes_taken - taken_before + sent_before(recorder) == len(OUTPUT)


async def test_an_output_that_is_another_now_is_sent_wholly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore(resumable=True, algorithm=Algorithm.CRC64NVME)
    await killed_staging_out(memory, tmp_path / "t", monkeypatch)
    other = OUTPUT[::-1]
    recorder = await staging_out(memory, tmp_path / "t", other)
    assert (memory.get(OUT_URL) == other, memory.open_uploads, sent_before(recorder)) == (True, 0, 0)


@pytest.mark.parametrize("content", [b"short", OUTPUT + b"more"])
async def test_an_upload_nobody_goes_on_with_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    memory = MemoryStore(resumable=True, algorithm=Algorithm.CRC64NVME)
    await killed_staging_out(memory, tmp_path / "t", monkeypatch)
    await staging_out(memory, tmp_path / "t", content)
    assert (memory.get(OUT_URL) == content, memory.open_uploads) == (True, 0)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_a_run_that_ends_for_good_takes_back_what_a_killed_one_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore(resumable=True)
    await killed_staging_out(memory, tmp_path / "t", monkeypatch)
    with leased(tmp_path / "t") as lease:
        async with stores_with(memory) as stores:
            await take_back_uploads(lease.workdir, stores, TRANSFER, Recorder())
    assert (memory.open_uploads, names_in(tmp_path)) == (0, ["t"])


async def test_the_journal_of_an_upload_that_is_still_open_outlives_every_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore(resumable=True)
    await killed_staging_out(memory, tmp_path / "t", monkeypatch)
    with leased(tmp_path / "t"):
        pass
    assert (memory.open_uploads, len(names_in(tmp_path / ".t/outputs"))) == (1, 1)


def test_a_journal_damaged_by_stray_line_ends_is_read_up_to_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"url": "u"})
    journal.begin()
    journal.record(1, Receipt("one"))
    with journal.path.open("ab") as file:
        file.write(b'{"part": 2, "etag"\r: "two"}\r\n\r\n')
    journal.record(3, Receipt("three"))
    assert journal.recall().parts.keys() == {1, 2}
    journal.record(4, Receipt("four"))
    assert journal.recall().parts.keys() == {1, 2, 4}


@pytest.mark.parametrize("which", ["", ".journal"])
async def test_a_hard_link_in_the_place_of_a_trace_leaves_its_other_name_alone(
    tmp_path: Path, which: str
) -> None:
    await killed_attempt(tmp_path / "t")
    [trace] = [path for path in resumable(tmp_path / "t") if path.suffix == which]
    precious = tmp_path / "precious"
    precious.write_bytes(trace.read_bytes())
    precious.chmod(0o600)
    before = precious.read_bytes()
    trace.unlink()
    trace.hardlink_to(precious)
    await attempt(a_store(), tmp_path / "t")
    assert (precious.read_bytes() == before, oct(precious.stat().st_mode)[-3:]) == (True, "600")


@pytest.mark.parametrize("which", ["inputs", "outputs"])
async def test_a_link_in_the_place_of_a_directory_of_traces_is_not_followed(
    tmp_path: Path, which: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a.journal").write_text("mine")
    (tmp_path / ".t").mkdir(mode=0o700)
    (tmp_path / ".t/taskrunner-lease").touch()
    (tmp_path / ".t" / which).symlink_to(precious)
    await attempt(a_store(), tmp_path / "t")
    assert names_in(precious) == ["a.journal"]


def test_a_hidden_directory_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / ".t").mkdir()
    (tmp_path / ".t").chmod(0o777)
    (tmp_path / ".t/taskrunner-lease").touch()
    with leased(tmp_path / "t") as lease:
        assert lease.workdir.root != tmp_path / "t"


@pytest.mark.parametrize(
    "first_line",
    [
        "[" * 100_000,
        '{"url":"memory://b/out","begun_seconds":1' + "0" * 400 + "}",
        '{"url":"memory://b/out","resume_id":"\\ud800","begun_seconds":1}',
        '{"url":"memory://b/out","begun_seconds":1}',
        '{"url":"memory://b/out","begun_seconds":1e308}',
        '{"url":1,"begun_seconds":[]}',
    ],
    ids=["deep", "huge", "surrogate", "ancient", "future", "wrong types"],
)
async def test_a_journal_that_can_not_be_one_of_ours_ends_no_upload(tmp_path: Path, first_line: str) -> None:
    memory = MemoryStore(resumable=True)
    memory.uploads["somebody's"] = OpenUpload("memory://b/out")
    with leased(tmp_path / "t") as lease:
        lease.workdir.resumable_outputs.mkdir()
        (lease.workdir.resumable_outputs / "x.journal").write_text(first_line + "\n")
        async with stores_with(memory) as stores:
            await take_back_uploads(lease.workdir, stores, TRANSFER, Recorder())
    assert memory.open_uploads == 1


@pytest.mark.parametrize("size_bytes", [100, 17 * 1024 * 1024])
async def test_a_file_that_is_changed_while_it_is_sent_is_an_error_and_is_not_at_its_url(
    tmp_path: Path, size_bytes: int
) -> None:
    memory = MemoryStore()
    with leased(tmp_path / "t") as lease:
        lease.workdir.place("/out").mkdir()
        output = lease.workdir.place("/out/f")
        output.write_bytes(bytes(size_bytes))
        taken = MemoryStore.take_part

        def changing(store: MemoryStore, *arguments: object) -> object:
            output.write_bytes(b"1" * size_bytes)
            return taken(store, *arguments)  # type: ignore[arg-type]

        plan = a_plan(lease.workdir, uploads=(upload(lease.workdir, "/out/f", OUT_URL),))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(MemoryStore, "take_part", changing)
            async with stores_with(memory) as stores:
                result = await stage_out(plan, lease.workdir, stores, TRANSFER, Recorder(), succeeded=True)
    assert [type(error) for error in result.errors] == [TransferIOError]
    assert "was changed while it was sent" in str(result.errors[0])
    assert (memory.urls(), memory.open_uploads) == ([], 0)
