"""Our reader of answers: strict, quick, and the same however the bytes come in pieces."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.errors import TransferIOError, TransientError
from taskrunner.storage.answers import Answer
from taskrunner.storage.heads import (
    AnswerError,
    NoAnswerError,
    chunk_size,
    date_seconds,
    head_length,
    parsed_head,
    told_number,
)
from taskrunner.storage.network import Network
from taskrunner.storage.streams import Stream
from taskrunner.storage.wire import Connections, Request
from tests.servers import raw_server, read_head

BUFFER_BYTES = 80 * 1024


class Pieces(socket.socket):
    """A socket on which bytes come in given pieces, and then the end."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = [piece for piece in pieces if piece]

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]  # noqa: ARG002
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if piece[count:]:
            self._pieces.insert(0, piece[count:])
        return count


@contextmanager
def answer_of(*pieces: bytes, method: str = "GET") -> Iterator[Answer]:
    with Pieces(list(pieces)) as sock:
        stream = Stream(sock, memoryview(bytearray(BUFFER_BYTES)), lambda: None, None)
        yield Answer(stream.head(), stream, method, "host")


def content_of(*pieces: bytes) -> bytes:
    with answer_of(*pieces) as answer:
        return answer.content()


SIZED = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\n\r\nhello'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;a=b\r\nhel\r\n02\r\nlo\r\n0\r\nX-Trailer: 1\r\nX-More: 2\r\n\r\n"
)
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nhello"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED


# --- heads


def test_a_head_is_read() -> None:
    head = parsed_head(
        b'HTTP/1.1 206 Partial Content\r\nETag:"a" \r\nx-empty:\r\nContent-Length: 5\r\nVia: a\r\nvia:\tb\r\n\r\n'
    )

    assert (head.status, head.length, head.chunked, head.kept) == (206, 5, False, True)
    assert head.headers == {"etag": '"a"', "x-empty": "", "content-length": "5", "via": "a, b"}


@pytest.mark.parametrize(
    "first", ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 Tr\xe8s bien", "HTTP/1.1 999 Denied"]
)
def test_a_status_needs_no_words(first: str) -> None:
    head = parsed_head(first.encode("latin-1") + b"\r\n\r\n")

    assert (head.status, head.headers) == (int(first[9:12]), {})


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", False),
    ],
)
def test_servers_say_whether_they_keep_a_connection(head: bytes, kept: bool) -> None:
    assert parsed_head(head).kept is kept


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 020 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 OK\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: no name",
        b"HTTP/1.1 200 OK\r\nName : space",
        b"HTTP/1.1 200 OK\r\nA: folded\r\n line",
        b"HTTP/1.1 200 OK\r\nA: folded\r\n\tline",
        b"HTTP/1.1 200 OK\r\nA: bare\nB: line feed",
        b"HTTP/1.1 200 OK\r\nA: bare\rB: carriage return",
        b"HTTP/1.1 200 OK\r\nA: \x00",
        b"HTTP/1.1 200 OK\r\n\xc4: b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2",
        b"HTTP/1.1 200 OK\r\nContent-Length:",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1234567890123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
        b"HTTP/1.1 200 OK" + b"\r\nA: b" * 201,
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(AnswerError):
        parsed_head(head + b"\r\n\r\n")


@pytest.mark.parametrize(
    "beginning", [b"SSH-2.0", b"\r\nHTTP/1.1", b"http/1.1", b"HTTP/2.0 200", b"HTTP/1.1 200\n\n"]
)
def test_what_will_be_no_head_is_not_waited_for(beginning: bytes) -> None:
    with pytest.raises(AnswerError):
        head_length(beginning)


@pytest.mark.parametrize(
    ("line", "size"), [(b"0", 0), (b"1f", 31), (b"1F;name=value", 31), (b"5 ;x", 5), (b"0000000005", 5)]
)
def test_a_chunks_size_is_hexadecimal(line: bytes, size: int) -> None:
    assert chunk_size(line) == size


@pytest.mark.parametrize("line", [b"", b"-1", b"+1", b"0x1", b"1_0", b"g", b" 1", b"1 1", b"1" * 16])
def test_what_is_no_chunks_size_is_refused(line: bytes) -> None:
    with pytest.raises(AnswerError):
        chunk_size(line)


# --- bodies


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, ENDLESS, INTERIM])
def test_an_answer_is_the_same_wherever_it_is_split(raw: bytes) -> None:
    for place in range(1, len(raw)):
        assert content_of(raw[:place], raw[place:]) == b"hello"
    assert content_of(*(raw[i : i + 1] for i in range(len(raw)))) == b"hello"


@pytest.mark.parametrize("raw", [SIZED, CHUNKED, INTERIM])
def test_an_answer_that_breaks_off_is_never_whole(raw: bytes) -> None:
    for end in range(len(raw)):
        with pytest.raises(AnswerError, match="closed the connection"):
            content_of(raw[:end])


@pytest.mark.parametrize(
    ("raw", "reusable"),
    [
        (SIZED, True),
        (CHUNKED, True),
        (INTERIM, True),
        (ENDLESS, False),
        (SIZED + b"HTTP/1.1 200 OK\r\n\r\n", False),
        (CHUNKED + b"\r\n", False),
        (SIZED.replace(b"1.1", b"1.0"), False),
        (SIZED.replace(b"ETag", b"Connection: close\r\nETag"), False),
    ],
)
def test_a_connection_is_used_again_only_as_it_was_before(raw: bytes, reusable: bool) -> None:
    with answer_of(raw) as answer:
        assert not answer.reusable
        assert answer.content() == b"hello"
        assert answer.drained
        assert answer.reusable is reusable


@pytest.mark.parametrize(
    ("status", "method"),
    [(b"200", "HEAD"), (b"206", "HEAD"), (b"204", "GET"), (b"304", "GET"), (b"200", "CONNECT")],
)
def test_some_answers_have_no_body_whatever_they_tell(status: bytes, method: str) -> None:
    with answer_of(b"HTTP/1.1 " + status + b" OK\r\nContent-Length: 5\r\n\r\n", method=method) as answer:
        assert (answer.length, answer.header("content-LENGTH")) == (0, "5")
        assert answer.drained
        assert answer.content() == b""
        assert answer.reusable


def test_a_connection_that_ends_before_an_answer_is_told_from_one_that_ends_within() -> None:
    with pytest.raises(NoAnswerError), answer_of():
        pass
    with pytest.raises(AnswerError, match="in the middle"), answer_of(b"H"):
        pass


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_heads_without_end_are_refused(raw: bytes) -> None:
    with pytest.raises(AnswerError), answer_of(raw):
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"hello",
    ],
)
def test_chunks_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(AnswerError):
        content_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)


def test_bodies_larger_than_the_buffer_are_read() -> None:
    body = bytes(range(256)) * 2000
    chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n"

    assert content_of(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body) == body
    assert content_of(b"HTTP/1.1 200 OK\r\n\r\n" + body) == body
    assert (
        content_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
        == body * 3
    )


def test_a_small_body_has_its_limit() -> None:
    with answer_of(SIZED) as answer:
        assert answer.content(5) == b"hello"
    with answer_of(SIZED) as answer, pytest.raises(TransferIOError, match="more than 4 bytes"):
        answer.content(4)


def test_an_excerpt_is_what_can_be_read() -> None:
    with answer_of(SIZED[:-2]) as answer:
        assert answer.excerpt() == b"hel"
    with answer_of(b"HTTP/1.1 500 No\r\n\r\n" + b"a" * 100_000) as answer:
        assert answer.excerpt() == b"a" * 65536


# --- fuzzing

NAMES = st.from_regex(r"X-[A-Za-z0-9-]{1,10}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Valid answers of every framing."""
    status = draw(st.sampled_from([200, 206, 301, 403, 404, 416, 500, 503]))
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=8))
    body = draw(st.binary(max_size=300))
    framing = draw(st.sampled_from(["sized", "chunked", "endless"]))
    if framing == "sized":
        headers.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        sizes = draw(st.integers(1, 100))
        pieces = [body[i : i + sizes] for i in range(0, len(body), sizes)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    lines = [f"HTTP/1.1 {status} Some words", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + body


@st.composite
def pieces_of(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Answers with a few bytes taken away, put in or doubled."""
    raw = draw(answers())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 40)))
        new = draw(
            st.one_of(
                st.binary(max_size=6),
                st.sampled_from(
                    [b"\r\n", b"\n", b"\r\n\r\n", b":", b"\0", b"Content-Length: 3\r\n", b"ffffffff"]
                ),
                st.just(raw[start:end] * 2),
            )
        )
        raw = raw[:start] + new + raw[end:]
    return raw


@given(st.data())
def test_valid_answers_are_read_as_the_standard_library_reads_them(data: st.DataObject) -> None:
    raw = data.draw(answers())
    with answer_of(*data.draw(pieces_of(raw))) as ours:
        body = ours.content()
    theirs = http.client.HTTPResponse(_Replaying(raw), method="GET")  # type: ignore[arg-type]
    theirs.begin()

    assert (ours.status, body) == (theirs.status, theirs.read())
    for name in theirs.headers:
        values = theirs.headers.get_all(name, [])
        assert ours.header(name) == ", ".join(value.strip() for value in values)


class _Replaying:
    """A socket for the standard library."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._raw)


@given(st.data())
def test_damaged_answers_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = data.draw(
        st.one_of(damaged(), st.binary(max_size=200), st.binary(max_size=200).map(b"HTTP/1.1 ".__add__))
    )
    pieces = data.draw(pieces_of(raw))
    try:
        whole = content_of(raw)
    except AnswerError:
        with pytest.raises(AnswerError):
            content_of(*pieces)
    else:
        assert content_of(*pieces) == whole


def test_no_answer_makes_an_exchange_fail_in_another_way_than_ours() -> None:
    payload = [b""]

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(payload[0])
        connection.shutdown(socket.SHUT_WR)

    @given(st.one_of(damaged(), st.binary(max_size=100)))
    def check(raw: bytes) -> None:
        payload[0] = raw
        connections = Connections(Network(read_timeout_seconds=30))
        with suppress(TransientError, TransferIOError), connections.exchange(Request("GET", url)) as answer:
            answer.content()
        connections.close()

    with raw_server(serve) as url:
        check()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:00:10 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:10 -0000", 10.0),
        ("Fri, 31 Dec 9999 23:59:59 -1400", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("soon", None),
        (None, None),
    ],
)
def test_a_date_is_a_moment_or_nothing(value: str | None, seconds: float | None) -> None:
    assert date_seconds(value) == seconds


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "\u0665", "9" * 19, "9" * 5000, None])
def test_what_no_file_can_have_is_no_number(text: str | None) -> None:
    assert told_number(text) is None
    assert told_number("9" * 18) == 10**18 - 1
