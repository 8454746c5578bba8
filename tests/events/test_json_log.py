"""Lines of JSON as Funnel writes them, from a thread that never makes the reporter wait and loses nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner import events
from taskrunner.errors import OutputFailedError
from taskrunner.events import Event
from taskrunner.logs import JsonLog, Reporters, json_line
from tests.events.samples import NOON_NS, SAMPLES

TASK_ID = "d2q0f2t5v1mg00a1b2c3"


def lines_of(*told: Event, progress_seconds: float = 0.0) -> list[str]:
    """What a log writes for these events."""
    stream = io.BytesIO()
    log = JsonLog(TASK_ID, stream=stream, progress_seconds=progress_seconds)
    for event in told:
        log.report(event)
    log.close()
    return stream.getvalue().decode().splitlines()


def line_of(event: Event) -> dict[str, Any]:
    (line,) = lines_of(event)
    return json.loads(line)  # type: ignore[no-any-return]


@pytest.mark.parametrize("event", [e for e in SAMPLES if not e.live], ids=lambda event: event.msg)
def test_keys_stand_in_byte_order_and_nothing_is_spaced(event: Event) -> None:
    (text,) = lines_of(event)
    line = json.loads(text)

    assert list(line) == sorted(line)
    assert json.dumps(line, ensure_ascii=False, separators=(",", ":")) == text


def test_every_line_has_the_common_keys() -> None:
    line = line_of(events.TaskState(state="RUNNING", index=2, timestamp_ns=NOON_NS))

    assert line.pop("time")
    assert line.pop("timestamp") == events.rfc3339_nano(NOON_NS)
    assert line == {
        "attempt": 0,
        "index": 2,
        "level": "info",
        "msg": "TASK_STATE",
        "ns": "worker",
        "state": "RUNNING",
        "taskID": TASK_ID,
    }


def test_upper_case_keys_come_first() -> None:
    assert list(line_of(events.Version(version="1")))[:6] == [
        "BuildDate",
        "GitBranch",
        "GitCommit",
        "GitUpstream",
        "Version",
        "attempt",
    ]


def test_items_of_outputs_keep_their_own_order() -> None:
    outputs = (
        events.OutputLog(url="s3://b/k", path="/k", size_bytes=3),
        events.OutputLog(url="s3://b/e", path="/e", size_bytes=0),
    )

    (text,) = lines_of(events.TaskOutputs(outputs=outputs))

    assert '"outputs":[{"url":"s3://b/k","path":"/k","size_bytes":3},{"url":"s3://b/e","path":"/e"}]' in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("grün <a> & b", "grün <a> & b"),
        ("\b\f\n\r\t", r"\b\f\n\r\t"),
        ("\0\x0b\x1b\x7f\x85", "\\u0000\\u000b\\u001b\x7f\x85"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ('"\\/', r"\"\\/"),
        ("\ufffd", "\ufffd"),
        ("a\udcffb", "a\ufffdb"),
        ("🚀", "🚀"),
    ],
)
def test_text_is_escaped_as_gos_encoder_does(text: str, written: str) -> None:
    """Compared with `json.Encoder` of Go 1.26, SetEscapeHTML(false)."""
    assert json_line({"text": text}) == f'{{"text":"{written}"}}\n'.encode()


@given(st.dictionaries(st.text(), st.text(st.characters(codec="utf-8"))))
def test_whatever_is_told_is_one_line_that_reads_back(fields: dict[str, str]) -> None:
    line = json_line(fields)

    assert line.count(b"\n") == 1
    assert "\u2028" not in line.decode()
    assert json.loads(line) == fields


@given(st.text(st.characters()))
def test_no_text_of_an_executor_breaks_a_line(text: str) -> None:
    assert json.loads(json_line({"stdout": text}).decode("utf-8", errors="strict"))


def test_a_key_that_every_line_has_is_renamed() -> None:
    class Clashing(events.SystemLog):
        msg = "clashing"

        def fields(self) -> dict[str, object]:
            return {"time": "1", "msg": "2", "level": "3", "other": "4"}

    line = line_of(Clashing())

    assert (line["fields.time"], line["fields.msg"], line["fields.level"], line["other"]) == tuple("1234")
    assert line["msg"] == "clashing"


def test_progress_is_told_once_in_a_while() -> None:
    def progress(kind: type[events.DownloadProgress | events.UploadProgress], seconds: float) -> Event:
        return kind(
            bytes_done=int(seconds),
            bytes_total=100,
            files_done=0,
            files_total=1,
            bytes_per_second=1,
            timestamp_ns=NOON_NS + int(seconds * 1e9),
        )

    told = [progress(events.DownloadProgress, seconds) for seconds in range(70)]
    told.append(progress(events.UploadProgress, 70))

    lines = [json.loads(line) for line in lines_of(*told, progress_seconds=30)]

    assert [(line["msg"], line["bytes_done"]) for line in lines] == [
        ("download progress", "30"),
        ("download progress", "60"),
    ]


def test_warnings_and_errors_are_kept_as_text() -> None:
    log = JsonLog(TASK_ID, stream=None)
    log.report(events.DownloadStarted(url="s3://b/k"))
    log.report(events.DownloadFailed(url="s3://b/k", error="there's none", timestamp_ns=NOON_NS))
    log.report(events.ExecutorStderr(stderr="told elsewhere"))
    log.close()

    timestamp = events.rfc3339_nano(NOON_NS)
    (text,) = log.system_logs
    assert text == (
        f"level='error' msg='download failed' timestamp='{timestamp}' url='s3://b/k' error='there\\'s none'"
    )


def test_the_copy_holds_the_same_lines(tmp_path: Path) -> None:
    stream = io.BytesIO()
    copy = tmp_path / "events.jsonl"
    copy.write_text("of an earlier run\n")
    log = JsonLog(TASK_ID, stream=stream, copy=copy)
    for event in SAMPLES:
        log.report(event)
    log.close()

    assert copy.read_bytes() == stream.getvalue()
    assert copy.read_bytes().count(b"\n") == sum(not event.live for event in SAMPLES)


def test_a_copy_that_cannot_be_made_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(OutputFailedError, match=r"no/where\.jsonl: No such file or directory; .*--events"):
        JsonLog(TASK_ID, stream=None, copy=tmp_path / "no" / "where.jsonl")


def test_a_reader_that_goes_away_loses_its_stream_and_nothing_else(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    copy = tmp_path / "events.jsonl"
    with open(writer, "wb") as stream:
        log = JsonLog(TASK_ID, stream=stream, copy=copy)
        os.close(reader)
        for state in ("INITIALIZING", "RUNNING", "COMPLETE"):
            log.report(events.TaskState(state=state))
        log.close()

    lines = [json.loads(line) for line in copy.read_text().splitlines()]
    assert [line["state"] for line in lines if line["msg"] == "TASK_STATE"] == [
        "INITIALIZING",
        "RUNNING",
        "COMPLETE",
    ]
    (lost,) = [line for line in lines if line["msg"] == "log stream lost"]
    assert lost["stream"] == "standard error"
    assert "Broken pipe" in lost["error"]
    assert len(log.system_logs) == 1


def test_a_full_disk_ends_the_copy_and_is_told_on_the_stream() -> None:
    stream = io.BytesIO()
    log = JsonLog(TASK_ID, stream=stream, copy=Path("/dev/full"))
    log.report(events.TaskState(state="RUNNING"))
    log.report(events.TaskState(state="COMPLETE"))
    log.close()

    messages = [json.loads(line)["msg"] for line in stream.getvalue().splitlines()]
    assert messages == ["TASK_STATE", "log stream lost", "TASK_STATE"]


def test_a_stalled_reader_does_not_make_the_reporter_wait() -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as stream, open(reader, "rb") as pipe:
        log = JsonLog(TASK_ID, stream=stream)
        for number in range(100):  # far more than a pipe holds
            log.report(events.ExecutorStdout(stdout=f"{number}" + "x" * 10_000))
        log.close(patience_seconds=0.05)  # nor does the end, for ever

        received: list[bytes] = []
        consumer = threading.Thread(target=lambda: received.extend(iter(pipe.readline, b"")))
        consumer.start()
        log.close()
        stream.close()
        consumer.join()

    assert [json.loads(line)["stdout"].rstrip("x") for line in received] == [str(n) for n in range(100)]


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received: list[bytes] = []
    with open(writer, "wb") as stream, open(reader, "rb") as pipe:
        log = JsonLog(TASK_ID, stream=stream)
        consumer = threading.Thread(target=lambda: received.extend(iter(pipe.readline, b"")))
        for number in range(100):
            log.report(events.ExecutorStdout(stdout=f"{number}" + "x" * 10_000))
        consumer.start()
        log.close()
        stream.close()
        consumer.join()

    assert len([json.loads(line) for line in received]) == 100


def test_events_of_several_threads_are_whole_lines(tmp_path: Path) -> None:
    copy = tmp_path / "events.jsonl"
    log = JsonLog(TASK_ID, stream=None, copy=copy)

    def report(thread: int) -> None:
        for number in range(200):
            log.report(events.DownloadStarted(url=f"s3://{thread}/{number}"))

    threads = [threading.Thread(target=report, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    log.close()

    urls = [json.loads(line)["url"] for line in copy.read_text().splitlines()]
    assert sorted(urls) == sorted(f"s3://{thread}/{number}" for thread in range(4) for number in range(200))


def test_several_reporters_are_told_the_same() -> None:
    class Kept:
        def __init__(self) -> None:
            self.told: list[Event] = []

        def report(self, event: Event) -> None:
            self.told.append(event)

    first, second = Kept(), Kept()
    reporters = Reporters(first, second)
    for event in SAMPLES:
        reporters.report(event)

    assert first.told == second.told == list(SAMPLES)


@pytest.fixture
def program() -> list[str]:
    """A Python that logs to its standard error, as the real program does."""
    code = (
        "import sys; from taskrunner import events; from taskrunner.logs import JsonLog\n"
        "log = JsonLog('x', stream=sys.stderr)\n"
        "for n in range(1000): log.report(events.TaskState(state=str(n)))\n"
        "log.close(); print('done')\n"
    )
    return [sys.executable, "-c", code]


def test_the_exit_code_does_not_suffer_from_a_closed_standard_error(program: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(program, stderr=writer, stdout=subprocess.PIPE, check=False)
    finally:
        os.close(writer)

    assert (ended.returncode, ended.stdout) == (0, b"done\n")


def test_importing_the_log_brings_in_neither_structlog_nor_rich() -> None:
    code = "import sys, taskrunner.logs; print([m for m in ('structlog', 'rich', 'pygments') if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown == "[]\n"
