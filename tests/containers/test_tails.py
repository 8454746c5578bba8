"""What stream events carry: tails on whole characters, told now and then."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.containers.engine import StreamName
from taskrunner.containers.streams import OutputTeller, Tail

CHUNKS = st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=8).map(str.encode)), max_size=12)


def tail_of(data: bytes, limit_bytes: int) -> str:
    tail = Tail(limit_bytes)
    tail.append(data)
    return tail.text(ended=True)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(data=CHUNKS.map(b"".join), cuts=st.lists(st.integers(0, 500)), limit_bytes=st.integers(0, 40))
def test_however_the_output_is_chunked_the_final_tail_is_the_same(
    data: bytes, cuts: list[int], limit_bytes: int
) -> None:
    tail = Tail(limit_bytes)
    for chunk in split(data, cuts):
        tail.append(chunk)

    assert tail.text(ended=True) == tail_of(data, limit_bytes)


@given(text=st.text(), limit_bytes=st.integers(0, 40))
def test_a_tail_of_text_is_its_longest_end_that_fits(text: str, limit_bytes: int) -> None:
    tail = tail_of(text.encode("utf-8", "ignore"), limit_bytes)
    text = text.encode("utf-8", "ignore").decode()

    assert text.endswith(tail)
    assert len(tail.encode()) <= limit_bytes
    if len(tail) < len(text):
        assert len(text[-len(tail) - 1 :].encode()) > limit_bytes


@given(chunks=CHUNKS)
def test_a_live_tail_never_shows_half_a_character_that_the_next_bytes_complete(chunks: list[bytes]) -> None:
    tail = Tail(1_000_000)
    for chunk in chunks:
        tail.append(chunk)
        assert tail_of(b"".join(chunks), 1_000_000).startswith(tail.text(ended=False))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xe2\x82A", "\ufffd\ufffdA"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xc0\x80", "\ufffd\ufffd"),
        (b"a\0b", "a\0b"),
        (b"\xf0\x9f\x98", "\ufffd\ufffd\ufffd"),
    ],
)
def test_each_byte_that_is_not_utf8_becomes_one_replacement_character(data: bytes, text: str) -> None:
    assert tail_of(data, 100) == text


def test_a_tail_cut_within_a_character_begins_with_the_next() -> None:
    assert tail_of("aé€😀z".encode(), 4) == "z"
    assert tail_of("aé€😀z".encode(), 5) == "😀z"


@dataclass
class FakeTimer:
    at: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeClock:
    """A clock that stands still unless it is moved."""

    now: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> FakeTimer:
        self.timers.append(FakeTimer(self.now + delay, callback))
        return self.timers[-1]

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.callback()


@dataclass
class Told:
    """What an OutputTeller told, at which moment."""

    clock: FakeClock = field(default_factory=FakeClock)
    events: list[tuple[float, StreamName, str]] = field(default_factory=list)

    def teller(self, *, tail_bytes: int = 100, update_seconds: float = 5.0) -> OutputTeller:
        def tell(stream: StreamName, text: str) -> None:
            self.events.append((self.clock.now, stream, text))

        return OutputTeller(tell, self.clock, tail_bytes=tail_bytes, update_seconds=update_seconds)


def test_the_first_output_is_told_at_once_and_the_last_at_the_end() -> None:
    told = Told()
    teller = told.teller()
    teller.write("stdout", b"one\n")
    told.clock.move(1)
    teller.write("stdout", b"two\n")
    teller.close()

    assert told.events == [(0, "stdout", "one\n"), (1, "stdout", "one\ntwo\n")]


def test_between_two_events_at_least_the_interval_passes() -> None:
    told = Told()
    teller = told.teller()
    for second in range(14):
        teller.write("stdout", b"%d" % second)
        told.clock.move(1)
    teller.close()

    assert [moment for moment, _, _ in told.events] == [0, 5, 10, 14]


def test_what_waits_is_told_when_it_is_time_even_if_nothing_more_comes() -> None:
    told = Told()
    teller = told.teller()
    teller.write("stdout", b"a")
    teller.write("stdout", b"b")
    told.clock.move(5)

    assert told.events == [(0, "stdout", "a"), (5, "stdout", "ab")]


def test_both_streams_share_the_limiter_and_take_turns() -> None:
    told = Told()
    teller = told.teller()
    for _ in range(11):
        teller.write("stdout", b"o")
        teller.write("stderr", b"e")
        told.clock.move(1)

    assert [(moment, stream) for moment, stream, _ in told.events] == [
        (0, "stdout"),
        (5, "stderr"),
        (10, "stdout"),
    ]


def test_an_unchanged_tail_is_not_told_again() -> None:
    told = Told()
    teller = told.teller()
    teller.write("stdout", b"all\n")
    told.clock.move(60)
    teller.close()
    teller.close()

    assert told.events == [(0, "stdout", "all\n")]


def test_half_a_character_is_told_only_at_the_end() -> None:
    told = Told()
    teller = told.teller()
    teller.write("stdout", b"\xe2\x82")
    told.clock.move(60)
    assert told.events == []
    teller.close()

    assert told.events == [(60, "stdout", "\ufffd\ufffd")]


def test_an_interval_of_0_tells_each_stream_once() -> None:
    told = Told()
    teller = told.teller(update_seconds=0)
    teller.write("stdout", b"a")
    told.clock.move(60)
    teller.write("stdout", b"b")
    teller.close()

    assert told.events == [(60, "stdout", "ab")]
