"""What a person sees: a line an event, executors' output as it comes, progress below; and no task drives the terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner import events
from taskrunner.events import EVENT_KINDS, Event
from taskrunner.terminal import TerminalLog, line, new_text, output_line, progress_text, safe
from tests.events.samples import SAMPLES

STYLES = re.compile(r"\x1b\[[0-9;]*m")


class Screen(io.StringIO):
    """A recorded terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same terminal wherever the tests run."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


def drawn(*told: Event) -> str:
    """Everything written to the terminal for these events."""
    screen = Screen()
    log = TerminalLog(screen)
    for event in told:
        log.report(event)
    log.close()
    return screen.getvalue()


def seen(*told: Event) -> list[str]:
    """The lines a person reads, without colours and times."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", text) for text in STYLES.sub("", drawn(*told)).splitlines()]


@pytest.mark.parametrize("event", [e for e in SAMPLES if not e.live], ids=lambda event: event.msg)
def test_every_kind_is_told_in_words_of_its_own(event: Event) -> None:
    shown = seen(event, events.TaskEndTime(end_time="now"))[:-1]

    assert len(shown) == 1
    assert not shown[0].startswith(f"· {event.msg} ")


def test_a_kind_without_words_is_still_told() -> None:
    class New(events.SystemLog):
        msg = "something new"

        def fields(self) -> dict[str, object]:
            return {"url": "s3://b/k"}

    assert seen(New()) == ["· something new url=s3://b/k"]


def test_transfers_are_told_with_their_sizes() -> None:
    assert seen(
        events.DownloadFinished(url="s3://b/k", size=6_000_000, etag=""),
        events.DownloadFinished(url="http://h/k", size=-1, etag=""),
        events.UploadFinished(url="s3://b/r", size=999, etag=""),
    ) == ["↓ s3://b/k 6.0 MB", "↓ http://h/k ", "↑ s3://b/r 999 B"]


@pytest.mark.parametrize(
    ("cmd", "shown"),
    [
        (
            "docker run -i --read-only --rm -e A=b c --name x-0 -w /w -v /h/x y:/tmp:rw -v /h:/d:ro busybox sh -c 'ls -v a:b:rw'",
            "busybox sh -c 'ls -v a:b:rw'",
        ),
        ("podman run busybox", "podman run busybox"),
    ],
)
def test_a_command_is_told_by_image_and_arguments(cmd: str, shown: str) -> None:
    assert seen(events.RunningCommand(cmd=cmd, index=1)) == [f"▶ [1] {shown}"]


def test_of_each_tail_only_what_is_new_is_shown() -> None:
    assert seen(
        events.ExecutorStdout(stdout="one\ntw"),
        events.ExecutorStderr(stderr="oops\n"),
        events.ExecutorStdout(stdout="one\ntwo\nthr"),
        events.ExecutorStdout(stdout="one\ntwo\nthree\n"),
        events.ExecutorStdout(stdout="first of the next\n", index=1),
    ) == [
        "           [0] │ one",
        "           [0] │ oops",
        "           [0] │ two",
        "           [0] │ three",
        "           [1] │ first of the next",
    ]


def test_a_line_without_an_end_is_shown_when_its_executor_ends() -> None:
    assert seen(
        events.ExecutorStdout(stdout="no end"),
        events.ExecutorEndTime(end_time="now"),
        events.ExecutorStdout(stdout="no end of it"),
        events.ExecutorExitCode(exit_code=0),
    ) == [
        "           [0] │ no end",
        "· [0] executor ended",
        "           [0] │  of it",
        "■ [0] exit code 0",
    ]


def test_of_a_line_drawn_over_itself_the_last_state_is_shown() -> None:
    assert seen(events.ExecutorStderr(stderr="10 %\r50 %\r100 %\r\n")) == ["           [0] │ 100 %"]


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("", "abc", "abc"),
        ("abc", "abc", ""),
        ("abc", "abcdef", "def"),
        ("abcdef", "cdefgh", "gh"),
        ("aaaa", "aaab", "b"),
        ("abc", "xyz", "xyz"),
        ("abc", "", ""),
    ],
)
def test_new_text_is_what_the_earlier_tail_lacks(before: str, after: str, new: str) -> None:
    assert new_text(before, after) == new


@given(st.text("ab\n", max_size=40), st.text("ab\n", max_size=40), st.integers(1, 20))
def test_two_tails_of_a_stream_join_without_loss(first: str, second: str, tail: int) -> None:
    """What is taken for new may be less than was written (the same text twice), never another text."""
    before, after = first[-tail:], (first + second)[-tail:]

    assert after.endswith(new_text(before, after))


def test_streams_and_endings_have_their_colours() -> None:
    assert "\x1b[34m" in drawn(events.ExecutorStdout(stdout="x\n"))
    assert "\x1b[33m" in drawn(events.ExecutorStderr(stderr="x\n"))
    assert "\x1b[1;32m✓ COMPLETE" in drawn(events.TaskState(state="COMPLETE"))
    assert "\x1b[1;31m✗ SYSTEM_ERROR" in drawn(events.TaskState(state="SYSTEM_ERROR"))
    assert "\x1b[1;33m■ [0] exit code 2" in drawn(events.ExecutorExitCode(exit_code=2))


def test_an_error_is_shown_whole() -> None:
    assert seen(events.SystemErrorEvent(error="one\n  two\nthree\n")) == [
        "✗ system error: one",
        "             two",
        "           three",
    ]


def test_nothing_is_read_as_markup() -> None:
    text = "s3://b/[red]x[/red][link=http://evil]y[/link] :warning: [/]"

    assert seen(events.DownloadStarted(url=text), events.ExecutorStdout(stdout=f"{text}\n")) == [
        f"↓ {text}",
        f"           [0] │ {text}",
    ]


def test_long_lines_are_neither_cut_nor_broken() -> None:
    url = "s3://bucket/" + "k" * 500

    assert seen(events.DownloadStarted(url=url)) == [f"↓ {url}"]


def test_secrets_in_urls_are_masked() -> None:
    shown = drawn(events.DownloadStarted(url="https://me:password@h/?sig=abc"))

    assert "https://***@h/?sig=***" in shown


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hover", "over"),
        ("\x1b]0;title\x07a\x1b]8;;http://evil\x1b\\b", "ab"),
        ("\x1bP+q544e\x1b\\c\x1b_apc\x1b\\d", "cd"),
        ("\x1b]52;c;ZXZpbA==", ""),
        ("\x9b31mx\x9d0;t\x9cy", "xy"),
        ("\x1bc\x1b(0z\x1b", "z"),
        ("a\x07\x08\x00\x7f\x85b\ud800", "ab"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
        ("tab\tgrün 🚀", "tab\tgrün 🚀"),
    ],
)
def test_what_could_drive_the_terminal_is_taken_out(hostile: str, shown: str) -> None:
    assert safe(hostile) == shown


@given(st.text(st.characters()) | st.text("\x1b[]0;m\x07\\P\x9b\x9c\r\nab"))
def test_no_control_character_is_left(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", safe(text))
    assert "\n" not in output_line(0, "stdout", text.replace("\n", "")).plain


@given(st.sampled_from([event for event in SAMPLES if not event.live]), st.text(st.characters()))
def test_no_value_of_any_event_reaches_the_terminal_raw(event: Event, text: str) -> None:
    names = [name for name in event.__slots__ if isinstance(getattr(event, name), str)]
    hostile: Any = dict.fromkeys(names, f"\x1b[2J{text}\x1b]0;t\x07")

    assert "\x1b" not in line(replace(event, **hostile)).plain


PROGRESS = events.DownloadProgress(
    bytes_done=1_200_000_000,
    bytes_total=6_000_000_000,
    files_done=3,
    files_total=7,
    bytes_per_second=310_000_000,
)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "1.2 GB of 6.0 GB, 310.0 MB/s, 15 s left, 3 of 7 files"),
        ({"bytes_per_second": 10_000_000}, "1.2 GB of 6.0 GB, 10.0 MB/s, 8:00 min left, 3 of 7 files"),
        ({"bytes_per_second": 1_000_000}, "1.2 GB of 6.0 GB, 1.0 MB/s, 1:20:00 h left, 3 of 7 files"),
        ({"bytes_per_second": 0}, "1.2 GB of 6.0 GB, 3 of 7 files"),
        ({"bytes_total": 0}, "1.2 GB, 310.0 MB/s, 3 of 7 files"),
        ({"bytes_done": 6_000_000_000}, "6.0 GB of 6.0 GB, 310.0 MB/s, 3 of 7 files"),
    ],
)
def test_progress_is_told_with_rate_and_time_left(changes: dict[str, int], shown: str) -> None:
    assert progress_text(replace(PROGRESS, **changes)) == shown


def test_progress_stands_below_and_goes_when_its_phase_ends() -> None:
    screen = drawn(
        PROGRESS,
        events.DownloadFinished(url="s3://b/k", size=3, etag=""),
        replace(PROGRESS, files_done=4),
        events.TaskState(state="RUNNING"),
        events.ExecutorStdout(stdout="x\n"),
    )

    hidden, shown = screen.index("\x1b[?25l"), screen.index("\x1b[?25h")
    assert (
        hidden
        < screen.index("1.2 GB of 6.0 GB")
        < screen.index("s3://b/k")
        < screen.index("4 of 7 files")
        < shown
    )
    assert shown < screen.index("RUNNING")
    assert "\x1b[?25l" not in screen[shown:]


def test_the_cursor_is_back_when_the_log_is_closed_amid_progress() -> None:
    screen = drawn(PROGRESS)

    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    class Gone(Screen):
        def write(self, _text: str, /) -> int:
            raise OSError("Input/output error")

    log = TerminalLog(Gone())
    log.report(events.TaskState(state="RUNNING"))
    log.report(events.TaskState(state="COMPLETE"))
    log.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, list[bytes], threading.Thread]]:
    """A pseudo-terminal: its end for a program, what was read from the other end, the thread that reads."""
    ours, theirs = pty.openpty()
    received: list[bytes] = []

    def read() -> None:
        while True:
            try:
                received.append(os.read(ours, 65536))
            except OSError:  # the last one has closed the other end
                return

    reader = threading.Thread(target=read)
    reader.start()
    yield theirs, received, reader
    reader.join()
    os.close(ours)


def test_on_a_real_terminal_every_kind_is_drawn_and_the_cursor_comes_back(
    terminal: tuple[int, list[bytes], threading.Thread],
) -> None:
    theirs, received, reader = terminal
    code = (
        "import sys; from taskrunner.terminal import TerminalLog; from tests.events.samples import SAMPLES\n"
        "log = TerminalLog(sys.stderr)\n"
        "for event in SAMPLES: log.report(event)\n"
        "log.close()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=theirs, check=False)
    os.close(theirs)
    reader.join()

    text = b"".join(received).decode()
    assert ended.returncode == 0
    assert text.count("\r\n") >= len(EVENT_KINDS) - 2
    assert "512.0 MB of 2.0 GB" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
