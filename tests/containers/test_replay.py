"""What of a log that is read again is new, byte by byte, as a table of streams and breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.containers.replay import MisplacedError, Replay

PIECE = 16 * 1024


def logged(stream: bytes) -> list[tuple[bytes, bytes]]:
    """A stream as engine 20.10 keeps and tells it: lines, and pieces whose line's newline is not told."""
    entries: list[tuple[bytes, bytes]] = []
    for number, line in enumerate(stream.splitlines(keepends=True) if stream else []):
        moment = f"{number:09}".encode()
        text = line.removesuffix(b"\n")
        if len(text) < PIECE:
            entries.append((moment, line))
            continue
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
        if len(text) % PIECE == 0 and line.endswith(b"\n"):
            pieces.append(b"")
        entries += [(moment, piece) for piece in pieces]
    return entries


def read(replay: Replay, entries: list[tuple[bytes, bytes]]) -> bytes:
    replay.begin()
    return b"".join(replay.new(*entry) for entry in entries)


def lines(data: bytes) -> bytes:
    """Without what bytes.splitlines takes for the end of a line beside the newline."""
    return data.replace(b"\r", b"")


streams = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: lines(data).replace(b"\n", b"") + b"\n"),
        st.sampled_from([PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 7]).map(
            lambda n: b"x" * n + b"\n"
        ),
    ),
    max_size=12,
).map(b"".join)


@given(streams, st.binary(max_size=20).map(lambda data: lines(data).replace(b"\n", b"")), st.data())
def test_whatever_we_had_the_rest_is_exact(stream: bytes, last: bytes, data: st.DataObject) -> None:
    whole = stream + last
    replay = Replay()
    had = data.draw(st.integers(0, len(whole)))
    replay.took(whole[:had])
    entries = logged(whole)
    got = read(replay, entries[: data.draw(st.integers(0, len(entries)))])  # broken once more
    got += read(replay, entries)

    if replay.ends_in_doubt:
        assert whole[:had] + got + b"\n" == whole
    else:
        assert whole[:had] + got == whole


def test_whether_a_long_last_line_has_an_end_is_in_doubt() -> None:
    for whole in (b"x" * (PIECE + 1), b"x" * (PIECE + 1) + b"\n"):
        replay = Replay()
        assert read(replay, logged(whole)) == b"x" * (PIECE + 1)
        assert replay.ends_in_doubt


def test_it_is_not_where_we_had_it_ourselves() -> None:
    replay = Replay()
    replay.took(b"x" * (PIECE + 1) + b"\n")

    assert read(replay, logged(b"x" * (PIECE + 1) + b"\n")) == b""
    assert not replay.ends_in_doubt


def test_an_unfinished_line_that_a_restarted_engine_has_lost_stays_ours() -> None:
    replay = Replay()
    replay.took(b"one\nunfinished")

    assert read(replay, logged(b"one\n finished\nmore\n")) == b" finished\nmore\n"
    assert read(replay, logged(b"one\n finished\nmore\nand more\n")) == b"and more\n"


def test_a_log_that_begins_elsewhere_is_not_taken_for_ours() -> None:
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    replay = Replay()
    replay.took(text)

    with pytest.raises(MisplacedError):
        read(replay, logged(text[100_003:] + text))
