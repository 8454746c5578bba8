"""The vocabulary itself: each kind is told apart, its keys clash with nothing, its values are what Funnel's are."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

import pytest

from taskrunner import events
from taskrunner.events import EVENT_KINDS, FUNNEL_KINDS, OUR_KINDS, Event, SystemLog, rfc3339, rfc3339_nano
from tests.events.samples import NOON_NS, SAMPLES

COMMON_KEYS = {"attempt", "index", "level", "msg", "ns", "taskID", "time", "timestamp"}


@pytest.fixture
def local_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone named by the test's parameter, for as long as it runs."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    if before is None:
        monkeypatch.delenv("TZ")
    else:
        monkeypatch.setenv("TZ", before)
    time.tzset()


def test_every_kind_has_a_message_of_its_own() -> None:
    assert len({kind.msg for kind in EVENT_KINDS}) == len(EVENT_KINDS)


def test_every_class_of_event_is_in_the_vocabulary() -> None:
    classes = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, Event) and "msg" in vars(value)
    }

    assert classes == set(EVENT_KINDS)
    assert {type(sample) for sample in SAMPLES} == set(EVENT_KINDS)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: event.msg)
def test_keys_of_a_kind_clash_with_no_common_key(event: Event) -> None:
    assert not set(event.fields()) & COMMON_KEYS


@pytest.mark.parametrize(
    "event", [event for event in SAMPLES if isinstance(event, SystemLog)], ids=lambda event: event.msg
)
def test_values_of_a_system_log_are_strings(event: SystemLog) -> None:
    assert all(isinstance(value, str) for value in event.fields().values())


def test_our_own_kinds_are_system_logs() -> None:
    assert all(issubclass(kind, SystemLog) for kind in OUR_KINDS)
    assert not set(OUR_KINDS) & set(FUNNEL_KINDS)


def test_sizes_of_outputs_are_numbers_and_left_out_when_zero() -> None:
    outputs = tuple(events.OutputLog(url="s3://b/k", path="/k", size_bytes=size) for size in (3, 0))

    fields = events.TaskOutputs(outputs=outputs).fields()

    assert [list(item.items()) for item in fields["outputs"]] == [  # type: ignore[attr-defined]
        [("url", "s3://b/k"), ("path", "/k"), ("size_bytes", 3)],
        [("url", "s3://b/k"), ("path", "/k")],
    ]


def test_metadata_stands_in_byte_order() -> None:
    fields = events.TaskMetadata(metadata={"b": "2", "B": "1", "a": "3"}).fields()

    assert list(fields["metadata"]) == ["B", "a", "b"]  # type: ignore[call-overload]


def test_urls_are_told_without_their_secrets() -> None:
    url = "https://me:password@host/file?X-Amz-Signature=abcdef&part=1"

    told = [
        events.DownloadStarted(url=url).fields()["url"],
        events.SystemErrorEvent(error=f"can't read {url}: 403").fields()["error"],
        events.TaskOutputs(outputs=(events.OutputLog(url=url, path="/f", size_bytes=1),)).fields()["outputs"],
        events.TaskMetadata(metadata={"url": url}).fields()["metadata"],
    ]

    assert "password" not in str(told)
    assert "abcdef" not in str(told)
    assert str(told).count("https://***@host/file?X-Amz-Signature=***&part=1") == len(told)


def test_what_an_executor_prints_is_told_as_it_came() -> None:
    text = "https://me:password@host/?sig=abc\n"

    assert events.ExecutorStdout(stdout=text).fields() == {"stdout": text}
    assert events.ExecutorStderr(stderr=text).fields() == {"stderr": text}


def test_an_event_knows_when_it_happened() -> None:
    before = time.time_ns()
    event = events.TaskState(state="RUNNING")

    assert before <= event.timestamp_ns <= time.time_ns()
    assert dataclasses.replace(event, timestamp_ns=NOON_NS).timestamp_ns == NOON_NS


@pytest.mark.parametrize(
    ("local_zone", "expected"),
    [
        ("UTC", "2020-01-01T12:00:00.12Z"),
        ("Europe/London", "2020-01-01T12:00:00.12Z"),
        ("America/New_York", "2020-01-01T07:00:00.12-05:00"),
        ("Asia/Kolkata", "2020-01-01T17:30:00.12+05:30"),
    ],
    indirect=["local_zone"],
)
def test_times_carry_the_local_offset_and_z_for_none(local_zone: None, expected: str) -> None:
    assert rfc3339_nano(NOON_NS) == expected
    assert rfc3339(NOON_NS) == expected.replace(".12", "")


@pytest.mark.parametrize("local_zone", ["UTC"], indirect=True)
@pytest.mark.parametrize(
    ("nanoseconds", "fraction"),
    [(0, ""), (1, ".000000001"), (100_000_000, ".1"), (999_999_999, ".999999999")],
)
def test_zeros_at_the_end_of_a_fraction_are_trimmed(
    local_zone: None, nanoseconds: int, fraction: str
) -> None:
    whole_second = NOON_NS // 1_000_000_000 * 1_000_000_000

    assert rfc3339_nano(whole_second + nanoseconds) == f"2020-01-01T12:00:00{fraction}Z"
