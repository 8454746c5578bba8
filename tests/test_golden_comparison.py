"""The comparison itself: Funnel's own lines pass, and whatever is changed in them is noticed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.golden_comparison import (
    Golden,
    Line,
    Observed,
    cases,
    differences,
    load,
    without_slips,
)

OUTPUT = ("EXECUTOR_STDOUT", "EXECUTOR_STDERR")
RECORDED = [name for name in cases() if load(name).lines]


def as_it_was(name: str) -> Golden:
    """A recording that is to be compared with itself, so without the deviations we want."""
    return replace(load(name), deviations=())


def dialect(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def observed(golden: Golden, lines: list[Line] | None = None) -> Observed:
    outcome = golden.outcome
    return Observed(
        exit_code=outcome["exit_code"],
        event_lines=tuple(dialect(line) for line in (tidy(golden) if lines is None else lines)),
        stderr_text=outcome["stderr_text"],
        stdout=outcome["stdout"],
        outputs=outcome["outputs"],
        inputs_gone=tuple(outcome["inputs_gone"]),
        containers_left=tuple(outcome["containers_left"]),
        work_dir_left=tuple(outcome["work_dir_left"]),
    )


def tidy(golden: Golden) -> list[Line]:
    """The recorded lines as a better Funnel would write them: no slips, output told before the end."""
    lines = without_slips(golden.lines)
    told = [line for line in lines if line["msg"] in OUTPUT]
    ordered: list[Line] = []
    for line in lines:
        if line["msg"] == "EXECUTOR_END_TIME":
            ordered += [output for output in told if output["index"] == line["index"]]
        if line not in told:
            ordered.append(line)
    return ordered


def test_all_recordings_are_there() -> None:
    assert (len(cases()), len(RECORDED)) == (60, 56)


@pytest.mark.parametrize("name", cases())
def test_a_recording_is_equal_to_itself(name: str) -> None:
    golden = as_it_was(name)

    assert differences(golden, observed(golden)) == []


@pytest.mark.parametrize("name", ["hello-world", "ignore-error", "exit-code-2"])
def test_slips_of_funnel_are_not_accepted_from_us(name: str) -> None:
    golden = as_it_was(name)
    lines = tidy(golden)
    slip = next(line for line in golden.lines if line not in without_slips(golden.lines))
    lines.insert(next(i for i, line in enumerate(lines) if line["msg"] == "EXECUTOR_END_TIME"), slip)

    assert differences(golden, observed(golden, lines))


@pytest.mark.parametrize("name", RECORDED)
def test_every_missing_line_is_noticed(name: str) -> None:
    golden = as_it_was(name)
    lines = tidy(golden)
    for i, line in enumerate(lines):
        if line["msg"] in OUTPUT and (golden.patterns or _stream_goes_on(lines, i)):
            continue  # an earlier tail need not be told; a pattern may match it as well as the last
        assert differences(golden, observed(golden, lines[:i] + lines[i + 1 :])), line


@pytest.mark.parametrize("name", RECORDED)
def test_every_doubled_line_is_noticed(name: str) -> None:
    golden = as_it_was(name)
    lines = tidy(golden)
    for i, line in enumerate(lines):
        if line["msg"] not in OUTPUT:  # a tail may be told twice
            assert differences(golden, observed(golden, [*lines[:i], line, *lines[i:]])), line


@pytest.mark.parametrize("name", RECORDED)
def test_every_pair_of_lines_in_the_wrong_order_is_noticed(name: str) -> None:
    golden = as_it_was(name)
    lines = tidy(golden)
    for i, (line, following) in enumerate(itertools.pairwise(lines)):
        if _may_be_swapped(line, following):
            continue
        swapped = [*lines[:i], following, line, *lines[i + 2 :]]
        assert differences(golden, observed(golden, swapped)), (line, following)


def _stream_goes_on(lines: list[Line], i: int) -> bool:
    return any(
        later["msg"] == lines[i]["msg"] and later["index"] == lines[i]["index"] for later in lines[i + 1 :]
    )


def _may_be_swapped(line: Line, following: Line) -> bool:
    """Transfers of different URLs, and output with whatever is told while its executor runs or has just ended."""
    messages = (line["msg"], following["msg"])
    if all(message.startswith(("download ", "upload ")) for message in messages):
        return messages[0] == messages[1] or bool(line["url"] != following["url"])
    may_surround_output = (*OUTPUT, "container metadata", "Stopping container", "EXECUTOR_END_TIME")
    return any(message in OUTPUT for message in messages) and all(
        message in may_surround_output for message in messages
    )


def _set(key: str, value: object) -> Callable[[Line], Line]:
    return lambda line: {**line, key: value}


def _reordered(line: Line) -> Line:
    return dict(reversed(line.items()))


def _without_common_key(line: Line) -> Line:
    return {key: value for key, value in line.items() if key != "ns"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_set("level", "debug"), id="another level"),
        pytest.param(_set("index", 7), id="another index"),
        pytest.param(_set("attempt", 1), id="another attempt"),
        pytest.param(_set("ns", "server"), id="another ns"),
        pytest.param(_set("taskID", "0123456789abcdefghij"), id="another task"),
        pytest.param(_set("time", "2020-01-01 00:00:00"), id="a time of another form"),
        pytest.param(_set("time", "2020-01-01T00:00:00.5Z"), id="a time with a fraction"),
        pytest.param(_set("timestamp", "2020-01-01T00:00:00.500Z"), id="zeros at the end of a fraction"),
        pytest.param(_set("timestamp", 1577836800), id="a time as a number"),
        pytest.param(_set("zzz", "new"), id="one more key"),
        pytest.param(_without_common_key, id="one key less"),
        pytest.param(_reordered, id="keys in another order"),
    ],
)
def test_a_change_of_what_every_line_has_is_noticed_in_every_line(change: Callable[[Line], Line]) -> None:
    golden = as_it_was("several-inputs-and-outputs")
    lines = tidy(golden)
    for i, line in enumerate(lines):
        if line["msg"] in OUTPUT:
            continue
        assert differences(golden, observed(golden, [*lines[:i], change(line), *lines[i + 1 :]])), line


@pytest.mark.parametrize(
    ("name", "msg", "key", "value"),
    [
        ("several-inputs-and-outputs", "download finished", "size", "14"),
        ("several-inputs-and-outputs", "download finished", "size", 10),
        ("several-inputs-and-outputs", "upload finished", "etag", "without quotes"),
        ("several-inputs-and-outputs", "upload started", "url", "s3://elsewhere/x"),
        ("several-inputs-and-outputs", "TASK_OUTPUTS", "outputs", []),
        (
            "several-inputs-and-outputs",
            "Running command",
            "cmd",
            "docker run -i --read-only --rm busybox true",
        ),
        ("several-inputs-and-outputs", "EXECUTOR_STDOUT", "stdout", "from the web\n"),
        ("several-inputs-and-outputs", "EXECUTOR_STDOUT", "level", "warning"),
        ("hello-world", "TASK_METADATA", "metadata", {}),
        ("hello-world", "TASK_STATE", "state", "PAUSED"),
        ("exit-code-2", "EXECUTOR_EXIT_CODE", "exit_code", 3),
        ("exit-code-2", "EXECUTOR_EXIT_CODE", "exit_code", "2"),
        ("exit-code-2", "Exec error", "error", "exit status 3"),
        ("exit-code-2", "Exec error", "error", ""),
        ("container-metadata", "container metadata", "containerID", "abc"),
        ("container-metadata", "container metadata", "containerName", "another"),
        ("env-several", "Running command", "cmd", "docker run -i --read-only --rm -e ONE=1 --name a-0 b"),
        ("own-id", "TASK_STATE", "taskID", "not-mine"),
    ],
)
def test_a_change_of_a_value_is_noticed(name: str, msg: str, key: str, value: object) -> None:
    golden = as_it_was(name)
    lines = tidy(golden)
    i = next(i for i, line in enumerate(lines) if line["msg"] == msg)
    assert lines[i][key] != value

    assert differences(golden, observed(golden, [*lines[:i], {**lines[i], key: value}, *lines[i + 1 :]]))


def test_order_of_environment_variables_is_left_to_chance() -> None:
    golden = as_it_was("env-several")
    lines = [
        {
            **line,
            "cmd": line["cmd"].replace(
                "-e ONE=first value -e TWO=a=b&c<d>", "-e TWO=a=b&c<d> -e ONE=first value"
            ),
        }
        if "cmd" in line
        else line
        for line in tidy(golden)
    ]
    assert lines != tidy(golden)

    assert differences(golden, observed(golden, lines)) == []


def test_events_of_our_own_are_left_out() -> None:
    golden = as_it_was("hello-world")
    lines = tidy(golden)
    ours = {**lines[0], "msg": "image pull started", "image": "busybox"}
    ours = {key: ours[key] for key in sorted(ours) if key[0].islower()}

    assert differences(golden, observed(golden, [*lines[:4], ours, *lines[4:]])) == []


def test_an_event_that_nobody_knows_is_noticed() -> None:
    golden = as_it_was("hello-world")
    lines = tidy(golden)

    assert differences(
        golden, observed(golden, [*lines[:4], {**lines[1], "msg": "TASK_CREATED"}, *lines[4:]])
    )


def test_a_nested_read_only_mount_may_be_missing_only_where_the_case_says_so() -> None:
    golden = load("s3-get-put")
    lines = [
        {**line, "cmd": re.sub(r" -v \S+:ro", "", line["cmd"])} if "cmd" in line else line
        for line in tidy(golden)
    ]
    assert lines != tidy(golden)

    assert differences(golden, observed(golden, lines)) == []
    assert differences(replace(golden, deviations=()), observed(golden, lines))


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 3},
        {"stdout": "noise"},
        {"stderr_text": "noise"},
        {"outputs": {}},
        {"containers_left": ("one",)},
        {"inputs_gone": ("input",)},
        {"work_dir_left": ("folder 0775 leave-1",)},
    ],
)
def test_a_change_of_the_outcome_is_noticed(change: dict[str, object]) -> None:
    golden = as_it_was("leave-work-dir")

    assert differences(golden, replace(observed(golden), **change))  # type: ignore[arg-type]


def test_keys_of_outputs_in_another_order_are_noticed() -> None:
    golden = as_it_was("several-inputs-and-outputs")
    lines = [
        {**line, "outputs": [dict(sorted(output.items())) for output in line["outputs"]]}
        if "outputs" in line
        else line
        for line in tidy(golden)
    ]

    assert differences(golden, observed(golden, lines))


def test_outputs_after_a_failed_executor_are_asked_for() -> None:
    golden = load("first-of-three-fails")

    found = differences(golden, observed(golden))

    assert any("+" in each or "-" in each for each in found)
    assert any(each.startswith("outputs:") for each in found)


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 1},
        {"event_lines": ()},
    ],
)
def test_a_story_holds_the_exit_code_and_the_order_of_its_events(change: dict[str, object]) -> None:
    golden = load("sigterm-while-running")
    good = replace(observed(golden), exit_code=75)
    assert differences(golden, good) == []

    assert differences(golden, replace(good, **change))  # type: ignore[arg-type]
