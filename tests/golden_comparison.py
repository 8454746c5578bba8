"""Compares a run of ours with a recorded run of Funnel's worker, line by line.

`tests/goldens/<case>/` holds what Funnel was given and what it said: `task.json` (or `task.txt`), `case.json`
(what to set up, options, a signal to send, deviations), `events.jsonl` (its lines as they came) and
`outcome.json`. `{LOCAL}`, `{WORK}`, `{HTTP}`, `{S3}`, `{IMAGE}`, `{REGISTRY}` and `{HOST}` stand for what
belongs to the machine. Before two lines are compared, ids, times, etags and error texts are masked (after their
form was checked), and what Funnel leaves to chance is put in order: transfers, `-e` options, the moments at
which executors' output is told. A deviation says where we want something else than Funnel, and why.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskrunner.events import OUR_KINDS

GOLDENS = Path(__file__).parent / "goldens"

Line = dict[str, Any]
Stream = tuple[int, str]
"""An executor's index and `stdout` or `stderr`."""

_SLIP = re.compile(r"Command %s Complete exit=%s|args: \[.*", re.DOTALL)
_OUR_MESSAGES = frozenset(kind.msg for kind in OUR_KINDS)
_STREAM_KEYS = {"EXECUTOR_STDOUT": "stdout", "EXECUTOR_STDERR": "stderr"}
_OUTPUT_LINE = {
    "attempt": 0,
    "level": "info",
    "ns": "worker",
    "taskID": "<id>",
    "time": "<time>",
    "timestamp": "<timestamp>",
}
"""What every line of output has, beside `index`, `msg` and the text."""
_TRANSFER = re.compile(r"(download|upload) (started|finished|failed|source directory is empty)")

_SECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
_ZONE = r"(Z|[+-]\d\d:\d\d)"
_NANO = rf"{_SECONDS}(\.\d{{0,8}}[1-9])?{_ZONE}"
_MASKED_FORMS = {
    "time": f"{_SECONDS}{_ZONE}",
    "timestamp": _NANO,
    "start_time": _NANO,
    "end_time": _NANO,
    "containerID": "[0-9a-f]{64}",
    "containerImageHash": "sha256:[0-9a-f]{64}",
    **dict.fromkeys(("BuildDate", "GitBranch", "GitCommit", "GitUpstream", "Version"), ".*"),
}


@dataclass(frozen=True)
class Golden:
    """One recorded run, its placeholders filled or not."""

    name: str
    document: str
    setup: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    action: Mapping[str, Any] | None
    patterns: Mapping[str, str]
    deviations: tuple[Mapping[str, Any], ...]
    lines: tuple[Line, ...]
    outcome: Mapping[str, Any]

    @property
    def own_id(self) -> str | None:
        """The id that the document has, if it has one."""
        try:
            return json.loads(self.document).get("id")  # type: ignore[no-any-return]
        except ValueError:
            return None


@dataclass(frozen=True)
class Observed:
    """One run of ours (or a recording, to test the comparison)."""

    exit_code: int
    event_lines: tuple[str, ...]
    stderr_text: str
    """The lines on standard error that are no JSON."""
    stdout: str
    outputs: Mapping[str, Mapping[str, Any]]
    """What was made or changed: URL to `sha256` and `size`."""
    inputs_gone: tuple[str, ...]
    containers_left: tuple[str, ...]
    work_dir_left: tuple[str, ...]


def cases() -> list[str]:
    """The names of all recorded runs."""
    return sorted(path.parent.name for path in GOLDENS.glob("*/case.json"))


def load(name: str, places: Mapping[str, str] | None = None) -> Golden:
    """The recorded run `name`, with `places` (`LOCAL`, `S3`, …) in its placeholders' stead."""
    folder = GOLDENS / name

    def read(file: str) -> str:
        text = (folder / file).read_text("utf-8")
        for key, value in (places or {}).items():
            text = text.replace(f"{{{key}}}", value)
        return text

    case = json.loads(read("case.json"))
    return Golden(
        name=name,
        document=read("task.json" if (folder / "task.json").exists() else "task.txt"),
        setup=case.get("setup", {}),
        options=case.get("options", {}),
        action=case.get("action"),
        patterns=case.get("patterns", {}),
        deviations=tuple(case["deviations"]),
        lines=tuple(json.loads(line) for line in read("events.jsonl").splitlines()),
        outcome=json.loads(read("outcome.json")),
    )


def differences(golden: Golden, observed: Observed, places: Mapping[str, str] | None = None) -> list[str]:
    """Everything in which `observed` is not what `golden` and its deviations ask for; empty if all is well."""
    found = list(_dialect_mistakes(observed.event_lines))
    lines = [json.loads(line) for line in observed.event_lines]
    stories = [deviation for deviation in golden.deviations if deviation["kind"] == "story"]
    golden = _with_deviations(golden, places)
    as_recorded = [*_line_differences(golden, lines), *_outcome_differences(golden, observed)]
    for story in stories:
        told = [*_story_differences(story, lines), *_stream_patterns(golden, lines)]
        if observed.exit_code not in story["exit_code"]:
            told.append(f"exit code {observed.exit_code}, expected one of {story['exit_code']}")
        if not (story.get("or_golden") and not as_recorded):
            found += told
    if not stories:
        found += as_recorded
    return [*found, *_remains(golden, observed)]


def without_slips(lines: Sequence[Line]) -> list[Line]:
    """`lines` without those that Funnel writes by mistake."""
    return [line for line in lines if not _SLIP.fullmatch(line["msg"])]


# --- Deviations


def _with_deviations(golden: Golden, places: Mapping[str, str] | None) -> Golden:
    for deviation in golden.deviations:
        match deviation["kind"]:
            case "like":
                other = load(deviation["case"], places)
                golden = replace(golden, lines=other.lines, outcome=other.outcome)
            case "exit_code":
                golden = replace(golden, outcome={**golden.outcome, "exit_code": deviation["expect"]})
            case "outputs":
                outputs = {**golden.outcome["outputs"], **deviation["add"]}
                golden = replace(golden, outcome={**golden.outcome, "outputs": outputs})
            case "insert":
                golden = replace(golden, lines=tuple(_inserted(golden.lines, deviation)))
            case "stream":
                golden = replace(golden, lines=tuple(_with_stream(golden.lines, deviation)))
            case "mounts" | "story":
                pass
            case unknown:
                raise ValueError(f"a deviation of an unknown kind: {unknown}")
    return golden


def _inserted(lines: Sequence[Line], deviation: Mapping[str, Any]) -> Iterator[Line]:
    waiting = True
    for line in lines:
        yield line
        if waiting and deviation["after"].items() <= line.items():
            waiting = False
            common = {key: line[key] for key in ("attempt", "ns", "taskID", "time", "timestamp")}
            yield from ({**common, **new} for new in deviation["lines"])


def _with_stream(lines: Sequence[Line], deviation: Mapping[str, Any]) -> Iterator[Line]:
    stream = (deviation["index"], deviation["stream"])
    for line in lines:
        if _stream_of(line) != stream:
            yield line
        elif deviation["text"]:
            yield {**line, deviation["stream"]: deviation["text"]}


# --- Lines


def _line_differences(golden: Golden, lines: Sequence[Line]) -> Iterator[str]:
    expected = without_slips(golden.lines)
    actual = [line for line in lines if line["msg"] not in _OUR_MESSAGES]
    yield from _id_mistakes(golden, lines)
    yield from _transfer_mistakes(actual)
    yield from _stream_differences(golden, expected, actual)
    yield from _diff(_normal(expected, golden), _normal(actual, golden))


def _diff(expected: Sequence[Line], actual: Sequence[Line]) -> Iterator[str]:
    texts = [[json.dumps(line, ensure_ascii=False) for line in lines] for lines in (expected, actual)]
    if texts[0] != texts[1]:
        yield "\n".join(difflib.unified_diff(texts[0], texts[1], "Funnel", "taskrunner", lineterm="", n=1))


def _dialect_mistakes(event_lines: Sequence[str]) -> Iterator[str]:
    for text in event_lines:
        line = json.loads(text)
        written = json.dumps(dict(sorted(line.items())), ensure_ascii=False, separators=(",", ":"))
        written = written.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        if written != text:
            yield f"not in Funnel's dialect: {text}\n             expected: {written}"


def _id_mistakes(golden: Golden, lines: Sequence[Line]) -> Iterator[str]:
    ids = {line["taskID"] for line in lines}
    if golden.own_id is not None and ids != {golden.own_id}:
        yield f"taskID {ids}, expected the document's: {golden.own_id}"
    elif len(ids) > 1 or not all(re.fullmatch(r"[0-9a-v]{20}", id_) for id_ in ids - {golden.own_id}):
        yield f"taskID {ids}, expected one of 20 characters, 0 to 9 and a to v"


def _normal(lines: Sequence[Line], golden: Golden) -> list[Line]:
    """Lines without output events, masked, and with transfers in one order."""
    may_lack_mounts = any(deviation["kind"] == "mounts" for deviation in golden.deviations)
    masked = [
        _masked(line, may_lack_mounts=may_lack_mounts) for line in lines if line["msg"] not in _STREAM_KEYS
    ]
    ordered: list[Line] = []
    phase: list[Line] = []
    for line in masked:
        if phase and _phase(line) != _phase(phase[0]):
            ordered += sorted(phase, key=lambda each: (each["msg"], each["url"]))
            phase = []
        (phase if _phase(line) else ordered).append(line)
    return ordered + sorted(phase, key=lambda each: (each["msg"], each["url"]))


def _phase(line: Line) -> str | None:
    match = _TRANSFER.fullmatch(line["msg"])
    return match and match[1]


def _masked(line: Line, *, may_lack_mounts: bool) -> Line:
    text = json.dumps(line, ensure_ascii=False).replace(line["taskID"], "<id>")
    masked: Line = json.loads(text)
    masked.pop("src", None)
    for key, form in _MASKED_FORMS.items():
        if isinstance(value := masked.get(key), str) and re.fullmatch(form, value):
            masked[key] = f"<{key}>"
    if masked.get("metadata", {}).get("hostname"):
        masked["metadata"]["hostname"] = "<hostname>"
    if re.fullmatch('".+"', str(masked.get("etag"))):
        masked["etag"] = '"<etag>"'
    for key in ("error", "unknown"):
        text = str(masked.get(key, ""))
        if text and not (line["msg"] == "Exec error" and re.fullmatch(r"exit status \d+", text)):
            masked[key] = "<error>"
    if "cmd" in masked:
        masked["cmd"] = _masked_command(masked["cmd"], may_lack_mounts=may_lack_mounts)
    return dict(sorted(masked.items()))


def _masked_command(cmd: str, *, may_lack_mounts: bool) -> str:
    """`cmd` with its `-e` options in order and, where they may be missing, without nested read-only mounts."""
    parts = re.fullmatch(r"(docker run -i --read-only --rm)(.*?)( --name .*)", cmd, re.DOTALL)
    if parts is None:
        return cmd
    before, environment, after = parts.groups()
    variables = sorted(part for part in environment.split(" -e ") if part)
    if may_lack_mounts:
        writable = re.findall(r" -v \S+:(/\S*):rw", after)

        def kept(mount: re.Match[str]) -> str:
            return "" if any(mount[1].startswith(f"{outer}/") for outer in writable) else mount[0]

        after = re.sub(r" -v \S+:(/\S*):ro", kept, after)
    return before + "".join(f" -e {variable}" for variable in variables) + after


def _transfer_mistakes(lines: Sequence[Line]) -> Iterator[str]:
    begun: set[tuple[str, str]] = set()
    for line in lines:
        match = _TRANSFER.fullmatch(line["msg"])
        if match and match[2] == "started":
            begun.add((match[1], line["url"]))
        elif match and match[2] in ("finished", "failed") and (match[1], line["url"]) not in begun:
            yield f"{line['msg']} before it started: {line['url']}"


# --- Executors' output


def _stream_of(line: Line) -> Stream | None:
    key = _STREAM_KEYS.get(line["msg"])
    return (line["index"], key) if key else None


def _texts(lines: Sequence[Line]) -> dict[Stream, list[str]]:
    """For each stream its events' texts, in their order."""
    texts: dict[Stream, list[str]] = {}
    for line in lines:
        if stream := _stream_of(line):
            texts.setdefault(stream, []).append(line[stream[1]])
    return texts


def _stream_differences(golden: Golden, expected: Sequence[Line], actual: Sequence[Line]) -> Iterator[str]:
    wanted, got = _texts(expected), _texts(actual)
    yield from _stream_patterns(golden, actual)
    for stream in sorted(wanted.keys() | got.keys()):
        last_wanted, last_got = wanted.get(stream, [None])[-1], got.get(stream, [None])[-1]
        if _pattern(golden, stream) is None and last_wanted != last_got:
            yield f"{stream}: the last tail is {last_got!r}, expected {last_wanted!r}"
    tail_bytes = golden.options.get("log_tail_bytes", 10_000)
    for stream, texts in got.items():
        for before, after in itertools.pairwise(texts):
            if len(after.encode()) < tail_bytes - 3 and not after.startswith(before):
                yield f"{stream}: {after!r} does not go on from {before!r}"
        if any(len(text.encode()) > tail_bytes for text in texts):
            yield f"{stream}: a tail of more than {tail_bytes} bytes"
        if golden.options.get("log_update_seconds") == 0 and len(texts) != 1:
            yield f"{stream}: {len(texts)} events, expected a single one at the end"
    yield from _misplaced_output(actual)
    for line in filter(_stream_of, actual):
        masked = _masked(line, may_lack_mounts=False)
        if not (_OUTPUT_LINE.items() <= masked.items() and len(masked) == len(_OUTPUT_LINE) + 3):
            yield f"an output event of another form: {line}"


def _pattern(golden: Golden, stream: Stream) -> str | None:
    return golden.patterns.get(f"{stream[0]} {stream[1]}")


def _stream_patterns(golden: Golden, lines: Sequence[Line]) -> Iterator[str]:
    texts = _texts(lines)
    for key, pattern in golden.patterns.items():
        index, _, name = key.partition(" ")
        last = texts.get((int(index), name), [""])[-1]
        if not re.fullmatch(pattern, last):
            yield f"{key}: {last!r} does not match {pattern}"


def _misplaced_output(lines: Sequence[Line]) -> Iterator[str]:
    """Output is told after `Running command` and before EXECUTOR_END_TIME, or right after that."""
    previous = None
    running: int | None = None
    for line in lines:
        stream = _stream_of(line)
        if stream is None:
            previous = line["msg"]
            if previous == "Running command":
                running = line["index"]
            elif previous not in ("container metadata", "Stopping container", "EXECUTOR_END_TIME"):
                running = None
        elif stream[0] != running:
            yield f"{stream}: told at the wrong time, after {previous}"


# --- Outcome


def _outcome_differences(golden: Golden, observed: Observed) -> Iterator[str]:
    expected = golden.outcome["exit_code"]
    if observed.exit_code not in (expected if isinstance(expected, list) else [expected]):
        yield f"exit code {observed.exit_code}, expected {expected}"


def _remains(golden: Golden, observed: Observed) -> Iterator[str]:
    """What must hold however the run is told.

    Funnel repeats why a task failed as text. We need not, where an event says it; a good run has no text at all.
    """
    if observed.stderr_text and (observed.exit_code == 0 or not observed.stderr_text.startswith("Error: ")):
        yield f"text on standard error: {observed.stderr_text!r}"
    if observed.exit_code != 0 and not observed.event_lines and not observed.stderr_text:
        yield "nothing at all says why it failed"
    for name in ("stdout", "outputs", "inputs_gone", "containers_left", "work_dir_left"):
        expected = golden.outcome[name]
        actual = getattr(observed, name)
        if (list(actual) if isinstance(actual, tuple) else actual) != expected:
            yield f"{name}: {actual!r}, expected {expected!r}"


def _story_differences(story: Mapping[str, Any], lines: Sequence[Line]) -> Iterator[str]:
    messages = [line["msg"] for line in lines]
    rest = iter(messages)
    if not all(any(message == must for message in rest) for must in story["must"]):
        yield f"events {messages}, expected these in this order: {story['must']}"
    if unwanted := set(story["must_not"]) & set(messages):
        yield f"events {messages}, expected none of {unwanted}"
    states = [line["state"] for line in lines if line["msg"] == "TASK_STATE"]
    if story["last_state"] is not None and states[-1:] not in ([state] for state in story["last_state"]):
        yield f"states {states}, expected the last to be one of {story['last_state']}"
