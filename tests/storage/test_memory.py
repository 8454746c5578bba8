"""The knobs of the store in memory, which other tests turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskrunner.errors import (
    ConnectionCutError,
    DamagedError,
    InputMissingError,
    OutputFailedError,
    ThrottledError,
    TransferIOError,
    TransientError,
)
from taskrunner.storage.checksums import Algorithm, Checksum, composite, new_digest
from taskrunner.storage.memory import Damage, Fault, MemoryStore, Stall
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import StoredObject
from taskrunner.storage.wire import Connections
from tests.storage.moving import (
    begin,
    check,
    complete,
    cut,
    lane,
    listed,
    opened,
    put,
    read_whole,
    received,
    send,
    stat,
)

URL = "memory://bucket/file"


def value(algorithm: Algorithm, content: bytes) -> bytes:
    digest = new_digest(algorithm)
    digest.update(content)
    return digest.digest()


@contextmanager
def reading(store: MemoryStore, found: StoredObject) -> Iterator[tuple[Connections, FileSlice, Future[None]]]:
    """A reading at work in a thread: its connections, its slice, and its outcome."""
    fd = os.memfd_create("target")
    with ThreadPoolExecutor() as threads, lane() as connections:
        piece = FileSlice(fd, 0, found.size_bytes)
        yield connections, piece, threads.submit(store.read, connections, found, piece)
    os.close(fd)


# --- faults


def test_faults_come_in_their_order_and_end(tmp_path: Path) -> None:
    store = MemoryStore()
    found = store.put(URL, b"content")
    store.read_faults.extend(
        [Fault(TransientError("first"), after_bytes=3), None, Fault(ThrottledError("slow down"))]
    )

    with pytest.raises(TransientError, match="first"):
        read_whole(store, found, tmp_path)
    assert (tmp_path / "whole").read_bytes() == b"con"
    assert read_whole(store, found, tmp_path) == b"content"
    with pytest.raises(ThrottledError, match="slow down"):
        read_whole(store, found, tmp_path)
    assert read_whole(store, found, tmp_path) == b"content"


def test_parts_may_fail_and_be_sent_again(tmp_path: Path) -> None:
    store = MemoryStore()
    store.write_faults.append(Fault(TransientError("first"), after_bytes=1))
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    parts = cut(10, 4)
    upload = begin(store, URL, parts)
    with pytest.raises(TransientError, match="first"):
        send(upload, parts, source)

    complete(upload, send(upload, parts, source))

    assert store.get(URL) == b"0123456789"
    assert (store.urls(), store.open_uploads) == ([URL], 0)


def test_a_missing_bucket_is_missing(tmp_path: Path) -> None:
    store = MemoryStore(missing_buckets={"bucket"})

    with pytest.raises(InputMissingError, match="no bucket bucket"):
        check(store, URL)
    with pytest.raises(InputMissingError, match="no bucket bucket"):
        listed(store, "memory://bucket/dir")
    with pytest.raises(OutputFailedError, match="no bucket bucket"):
        put(store, URL, b"", tmp_path)


def test_one_byte_of_a_reading_arrives_changed(tmp_path: Path) -> None:
    store = MemoryStore()
    found = store.put(URL, bytes(600_000))
    store.read_faults.extend([Damage(at_byte=300_000), Damage(at_byte=0)])

    whole = read_whole(store, found, tmp_path)
    part = received(store, found, tmp_path / "part", 10, 5)

    assert [n for n, byte in enumerate(whole) if byte] == [300_000]
    assert part == b"\xff\0\0\0\0"
    assert read_whole(store, found, tmp_path) == bytes(600_000)


def test_a_damaged_part_is_noticed_only_where_checksums_are_kept(tmp_path: Path) -> None:
    plain, checked = MemoryStore(), MemoryStore(algorithm=Algorithm.CRC32C)
    for store in (plain, checked):
        store.write_faults.extend([None, Damage(at_byte=1)])

    put(plain, URL, b"0123456789", tmp_path, 5)
    with pytest.raises(DamagedError, match="part 2 arrived damaged"):
        put(checked, URL, b"0123456789", tmp_path, 5)

    assert plain.get(URL) == b"01234" + bytes([ord("5"), ord("6") ^ 0xFF]) + b"789"
    assert (checked.urls(), checked.open_uploads) == ([], 1)


# --- pace


def test_a_stalled_reading_ends_when_its_lane_is_stopped() -> None:
    store = MemoryStore()
    store.read_faults.append(Stall(after_bytes=3))
    with reading(store, store.put(URL, b"content")) as (connections, piece, outcome):
        while piece.done < 3:
            time.sleep(0.001)
        connections.abort()

        with pytest.raises(TransientError, match="stopped"):
            outcome.result(60)
        assert os.pread(piece.fd, 10, 0) == b"con"


def test_a_stalled_reading_ends_when_its_connection_is_cut_and_goes_on_with_another() -> None:
    store = MemoryStore()
    store.read_faults.append(Stall(after_bytes=3))
    found = store.put(URL, b"content")
    with reading(store, found) as (connections, piece, outcome):
        while not outcome.done():  # what is cut before it stalls is not hit
            time.sleep(0.001)
            connections.cut()

        with pytest.raises(ConnectionCutError):
            outcome.result(60)
        store.read(connections, found, piece)
        assert os.pread(piece.fd, 10, 0) == b"content"


def test_a_stalled_part_ends_too(tmp_path: Path) -> None:
    store = MemoryStore()
    store.write_faults.append(Stall(after_bytes=3))
    (tmp_path / "source").write_bytes(b"content")
    (part,) = cut(7, 7)
    upload = begin(store, URL, [part])
    with ThreadPoolExecutor() as threads, lane() as connections, opened(tmp_path / "source") as fd:
        source = FileSlice(fd, 0, 7)
        outcome = threads.submit(upload.write_part, connections, part, source)
        while source.done < 3:
            time.sleep(0.001)
        connections.abort()

        with pytest.raises(TransientError, match="stopped"):
            outcome.result(60)
    assert store.bytes_taken == 3


@pytest.mark.parametrize("pace", [{"bytes_per_second": 1e-3}, {"total_bytes_per_second": 1e-3}])
def test_a_slow_reading_can_be_stopped(pace: dict[str, float]) -> None:
    store = MemoryStore(**pace)  # type: ignore[arg-type]
    with reading(store, store.put(URL, b"content")) as (connections, piece, outcome):
        connections.abort()

        with pytest.raises(TransientError, match="stopped"):
            outcome.result(60)
        assert piece.done == 0


class Clockless(Connections):
    """Connections that only note how long they were to pause."""

    def __init__(self) -> None:
        self.paused_seconds: list[float] = []

    def pause(self, seconds: float) -> None:
        self.paused_seconds.append(seconds)


def test_a_connection_takes_the_time_its_bytes_need(tmp_path: Path) -> None:
    store = MemoryStore(latency_seconds=3, bytes_per_second=100)
    found = store.put(URL, bytes(200))
    connections = Clockless()
    with opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        store.read(connections, found, FileSlice(fd, 0, 200))

    assert connections.paused_seconds[0] == 3
    assert sum(connections.paused_seconds[1:]) == pytest.approx(2)
    assert len(connections.paused_seconds) > 20


def test_all_connections_together_take_the_time_their_bytes_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    store = MemoryStore(total_bytes_per_second=100)
    found = store.put(URL, bytes(5))
    ends = []
    with opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        for _ in range(3):
            connections = Clockless()
            store.read(connections, found, FileSlice(fd, 0, 5))
            ends.append(connections.paused_seconds[-1])

    assert ends == pytest.approx([0.05, 0.1, 0.15])


# --- checksums


def test_checksums_are_told_by_stat_and_whole_readings_and_by_nothing_else(tmp_path: Path) -> None:
    store = MemoryStore(algorithm=Algorithm.CRC64NVME)
    store.put("memory://bucket/dir/file", b"content")
    expected = Checksum(Algorithm.CRC64NVME, value(Algorithm.CRC64NVME, b"content"))

    assert stat(store, "memory://bucket/dir/file").checksum == expected
    (found,) = listed(store, "memory://bucket/dir")
    assert found.checksum is None
    with lane() as connections, opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        store.read(connections, found, whole := FileSlice(fd, 0, 7))
        store.read(connections, found, part := FileSlice(fd, 0, 6))
        store.read(connections, found, rest := FileSlice(fd, 1, 6))

    assert (whole.expected, part.expected, rest.expected) == (expected, None, None)
    whole.verify(found.url)


def test_a_damaged_whole_is_noticed(tmp_path: Path) -> None:
    store = MemoryStore(algorithm=Algorithm.SHA1)
    found = store.put(URL, b"content")
    store.read_faults.append(Damage(at_byte=6))
    with lane() as connections, opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        piece = FileSlice(fd, 0, 7)
        assert found.checksum is not None
        piece.expect(found.checksum)
        store.read(connections, found, piece)

        with pytest.raises(DamagedError, match=r"file arrived damaged: its SHA1 is .+, expected .+"):
            piece.verify(URL)


@pytest.mark.parametrize("algorithm", [Algorithm.SHA256, Algorithm.CRC32C])
def test_objects_in_parts_have_composites_where_nothing_better_can_be(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    store = MemoryStore(algorithm=algorithm)
    stored = put(store, URL, b"0123456789", tmp_path, 4)
    parts = composite(algorithm, [value(algorithm, part) for part in (b"0123", b"4567", b"89")])
    whole = Checksum(algorithm, value(algorithm, b"0123456789"))

    assert stored.checksum == (whole if algorithm.combinable else Checksum(algorithm, parts, 4))
    assert stat(store, URL).checksum == stored.checksum
    assert store.put(URL, b"0123456789", part_bytes=4).checksum == Checksum(algorithm, parts, 4)
    assert read_whole(store, listed(store, "memory://bucket")[0], tmp_path) == b"0123456789"


# --- uploads that go on


def test_an_upload_left_open_goes_on_where_it_was(tmp_path: Path) -> None:
    store = MemoryStore(resumable=True, algorithm=Algorithm.CRC32)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    parts = cut(10, 4)
    first = begin(store, URL, parts)
    (receipt,) = send(first, parts[1:2], source)

    again = begin(store, URL, parts, first.resume_id)
    with lane() as connections:
        sent = dict(again.sent_parts(connections))
    assert (sent, store.open_uploads) == ({2: receipt}, 1)
    one, three = send(again, [parts[0], parts[2]], source)
    complete(again, [one, sent[2], three])

    assert (store.get(URL), store.open_uploads) == (b"0123456789", 0)


def test_an_upload_goes_on_for_its_own_object_only_and_with_its_own_parts(tmp_path: Path) -> None:
    store = MemoryStore(resumable=True)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    first = begin(store, URL, cut(10, 4))
    send(first, cut(10, 4), source)

    assert begin(store, "memory://bucket/other", cut(10, 4), first.resume_id).resume_id != first.resume_id
    assert begin(store, URL, cut(10, 4), "upload-of-nobody").resume_id != first.resume_id
    with lane() as connections:
        other_cut = begin(store, URL, [*cut(9, 3), *cut(10, 4)[2:]], first.resume_id)
        assert set(other_cut.sent_parts(connections)) == {3}


def test_what_has_ended_takes_nothing_more(tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "source").write_bytes(b"x")
    upload = begin(store, URL, cut(1, 1))
    assert upload.resume_id is None
    receipts = send(upload, cut(1, 1), tmp_path / "source")
    complete(upload, receipts)

    with pytest.raises(TransferIOError, match="has ended"):
        send(upload, cut(1, 1), tmp_path / "source")
    with pytest.raises(TransferIOError, match="no upload"):
        complete(upload, receipts)


# --- counts


def test_what_passes_is_counted(tmp_path: Path) -> None:
    store = MemoryStore()
    put(store, URL, b"0123456789", tmp_path, 4)
    store.read_faults.append(Fault(TransientError("broken"), after_bytes=3))
    found = stat(store, URL)
    with pytest.raises(TransientError):
        read_whole(store, found, tmp_path)
    read_whole(store, found, tmp_path)

    assert (store.parts_begun, store.bytes_taken) == (3, 10)
    assert (store.reads_begun, store.bytes_served) == (2, 13)


def test_a_listing_takes_a_request_a_page() -> None:
    store = MemoryStore(page_size=2, latency_seconds=1)
    for n in range(5):
        store.put(f"memory://bucket/dir/{n}", b"")
    connections = Clockless()

    assert len(list(store.list_directory(connections, "memory://bucket/dir"))) == 5
    assert connections.paused_seconds == [1, 1, 1]
