"""The real program, ended at every stage: what is there afterwards is whole, and another attempt mends the rest."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskrunner.workdir import reserved
from tests.faults.scene import MEBIBYTE, NOISE, SMALL, Scene
from tests.faulty_link import (
    Act,
    Gate,
    When,
    hang_up,
    is_begin,
    is_bucket,
    is_complete,
    is_get,
    is_look,
    is_part,
    is_put,
    refuse,
)
from tests.program import ROOT, command, environment, typed

TERM, KILL = signal.SIGTERM, signal.SIGKILL
PART_BYTES = 8 * MEBIBYTE
BIG = NOISE + NOISE[: 8 * MEBIBYTE]
"""Four parts: three of 8 MiB, one of 1 MiB."""
PARTS = 4
LANES = 2
ATTEMPTS = 8
EXECUTORS = [{"image": "busybox", "command": ["true"]}]


@dataclass
class Program:
    """A scene whose task the real program runs."""

    scene: Scene

    def __post_init__(self) -> None:
        self.place = self.scene.tmp_path / "out"
        self.place.mkdir()
        self.work = self.scene.tmp_path / "work"
        self.source = self.scene.tmp_path / "source"
        self.source.write_bytes(BIG)
        self.document = self.scene.tmp_path / "task.json"
        task = {
            "id": "T-1",
            "inputs": [{"url": self.scene.url("big"), "path": "/in/big"}],
            "outputs": [{"url": self.scene.url("made"), "path": "/res/made"}],
            "executors": EXECUTORS,
        }
        self.document.write_text(json.dumps(task))

    @property
    def get(self) -> list[object]:
        return ["storage", "get", "--max-connections", LANES, self.scene.url("big"), f"{self.place}/"]

    @property
    def put(self) -> list[object]:
        return ["storage", "put", "--max-connections", LANES, self.source, self.scene.url("made")]

    @property
    def stage_in(self) -> list[object]:
        return ["stage-in", self.document, "--work-dir", self.work, "--max-connections", LANES]

    @property
    def stage_out(self) -> list[object]:
        return ["stage-out", self.document, "--work-dir", self.work, "--max-connections", LANES]

    def make_output(self) -> None:
        """A work directory as a stage-in without inputs and a script leave it."""
        with reserved(self.work / "T-1", empty=True) as lease:
            lease.workdir.place("/res").mkdir()
            lease.workdir.place("/res/made").write_bytes(BIG)

    def run(self, arguments: Sequence[object]) -> tuple[int, str]:
        """Exit code and standard error."""
        code, _, stderr = typed(*map(str, arguments))
        return code, stderr

    def ended_at(self, gate: Gate, arguments: Sequence[object], number: signal.Signals) -> tuple[int, str]:
        """Start the program and send it a signal as soon as it is at the gate, which then opens."""
        with subprocess.Popen(
            command(*map(str, arguments)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            try:
                gate.wait()
                process.send_signal(number)
                if number is KILL:
                    process.wait()
                gate.open()
                _, stderr = process.communicate(timeout=60)
            finally:
                process.kill()
        assert "Traceback" not in stderr
        return process.returncode, stderr

    def hidden(self) -> list[str]:
        """Hidden files beside what `storage get` makes."""
        return [path.name for path in self.place.iterdir() if path.name.startswith(".")]


@pytest.fixture
def program(scene: Scene) -> Program:
    return Program(scene)


@pytest.fixture
def with_big(program: Program) -> Program:
    """The big object is in the bucket."""
    program.scene.put("big", BIG)
    return program


HELD_AT_A_DOWNLOAD: dict[str, tuple[When, Callable[[Gate], Act], int]] = {
    "a bucket's look-up": (is_bucket, lambda gate: gate.hold, 0),
    "an object's look-up": (is_look, lambda gate: gate.hold, 0),
    "the first range": (is_get, lambda gate: gate.hold, 0),
    "the middle of a range": (is_get, lambda gate: gate.hold_answer(MEBIBYTE), 1),
    "the last byte of a range": (is_get, lambda gate: gate.hold_answer(MEBIBYTE - 1), PARTS - LANES),
}


@pytest.mark.parametrize("number", [TERM, KILL])
@pytest.mark.parametrize(
    "stage", ["an object's look-up", "the middle of a range", "the last byte of a range"]
)
def test_a_get_that_is_ended_leaves_no_partial_file_under_its_name(
    with_big: Program, stage: str, number: signal.Signals
) -> None:
    when, hold, after = HELD_AT_A_DOWNLOAD[stage]
    gate, link = Gate(), with_big.scene.link
    link.trouble(when, hold(gate), after=after, times=None)

    code, stderr = with_big.ended_at(gate, with_big.get, number)

    assert not (with_big.place / "big").exists()
    if number is TERM:
        assert (code, "SIGTERM" in stderr, with_big.hidden()) == (75, True, [])
        return
    assert code == -KILL
    link.heal()
    assert with_big.run(with_big.get)[0] == 0
    assert (with_big.place / "big").read_bytes() == BIG


@pytest.mark.parametrize("number", [TERM, KILL])
@pytest.mark.parametrize("stage", list(HELD_AT_A_DOWNLOAD))
def test_a_stage_in_that_is_ended_leaves_nothing_half_made_and_the_next_one_completes_it(
    with_big: Program, stage: str, number: signal.Signals
) -> None:
    when, hold, after = HELD_AT_A_DOWNLOAD[stage]
    gate, link = Gate(), with_big.scene.link
    link.trouble(when, hold(gate), after=after, times=None)

    code, stderr = with_big.ended_at(gate, with_big.stage_in, number)

    assert not (with_big.work / "T-1/in/big").exists()
    assert code == (75 if number is TERM else -KILL)
    assert ("SIGTERM" in stderr) == (number is TERM)
    if number is TERM:
        assert not (with_big.work / "T-1").exists()
    link.heal()
    assert with_big.run(with_big.stage_in)[0] == 0
    assert (with_big.work / "T-1/in/big").read_bytes() == BIG
    assert not (with_big.work / ".T-1/inputs").exists()


@pytest.mark.parametrize("number", [TERM, KILL])
def test_the_attempt_after_an_ended_stage_in_brings_only_what_is_missing(
    with_big: Program, number: signal.Signals
) -> None:
    gate, link = Gate(waiting=LANES), with_big.scene.link
    link.trouble(is_get, gate.hold, after=2, times=None)
    with_big.ended_at(gate, with_big.stage_in, number)
    there = link.received_bytes(is_get)
    assert there >= PART_BYTES
    link.heal()

    assert with_big.run(with_big.stage_in)[0] == 0

    assert (with_big.work / "T-1/in/big").read_bytes() == BIG
    assert link.received_bytes(is_get) == len(BIG) - there


def test_an_attempt_after_several_killed_ones_completes_it_and_no_part_comes_twice(with_big: Program) -> None:
    link, brought = with_big.scene.link, 0
    for _ in range(2):
        gate = Gate(waiting=LANES)
        link.trouble(is_get, gate.hold, after=1, times=None)
        with_big.ended_at(gate, with_big.stage_in, KILL)
        brought += link.received_bytes(is_get)
        link.heal()
    assert with_big.run(with_big.stage_in)[0] == 0
    assert brought + link.received_bytes(is_get) == len(BIG)
    assert (with_big.work / "T-1/in/big").read_bytes() == BIG


# --- right before the file gets its name

ENDS_ITSELF = """
import os, sys
from taskrunner.staging.files import PartialFile

put_in_place = PartialFile.put_in_place

number = int(sys.argv.pop(1))

def end_before(self, size_bytes):
    os.kill(os.getpid(), number)
    put_in_place(self, size_bytes)

PartialFile.put_in_place = end_before
from taskrunner.__main__ import main
main()
"""


def ended_before_the_rename(arguments: Sequence[object], number: signal.Signals) -> int:
    """Run a program that gets a signal when the first file is whole and has not got its name yet."""
    run = [sys.executable, "-c", ENDS_ITSELF, str(int(number)), *map(str, arguments)]
    return subprocess.run(
        run, env=environment(), cwd=ROOT, capture_output=True, timeout=60, check=False
    ).returncode


@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize("number", [TERM, KILL])
def test_an_end_right_before_a_file_gets_its_name_leaves_it_whole_or_not_at_all(
    program: Program, content: bytes, number: signal.Signals
) -> None:
    program.scene.put("big", content)
    for arguments, target in (
        (program.get, program.place / "big"),
        (program.stage_in, program.work / "T-1/in/big"),
    ):
        code = ended_before_the_rename(arguments, number)
        assert code in ((75, 0) if number is TERM else (-KILL,))
        assert not target.exists() or target.read_bytes() == content
        assert number is KILL or program.hidden() == []

        assert program.run(arguments)[0] == 0
        assert target.read_bytes() == content


def test_a_stage_in_that_is_killed_right_before_the_name_brings_nothing_again(with_big: Program) -> None:
    assert ended_before_the_rename(with_big.stage_in, KILL) == -KILL
    with_big.scene.link.heal()
    assert with_big.run(with_big.stage_in)[0] == 0
    assert (with_big.work / "T-1/in/big").read_bytes() == BIG
    assert with_big.scene.link.received_bytes(is_get) == 0


# --- uploads

HELD_AT_AN_UPLOAD: dict[str, tuple[When, Callable[[Gate], Act], int]] = {
    "a bucket's look-up": (is_bucket, lambda gate: gate.hold_back, 0),
    "the beginning": (is_begin, lambda gate: gate.hold_back, 0),
    "the first part": (is_part(), lambda gate: gate.hold, 0),
    "the middle of a part": (is_part(), lambda gate: gate.hold_sent(MEBIBYTE), 1),
    "the last parts": (is_part(), lambda gate: gate.hold, 2),
    "a part's answer": (is_part(), lambda gate: gate.hold_done, 1),
    "completing": (is_complete, lambda gate: gate.hold, 0),
    "completing: done, not answered": (is_complete, lambda gate: gate.hold_done, 0),
    "looking at it": (is_look, lambda gate: gate.hold, 0),
}
MADE = ("completing: done, not answered", "looking at it")


@pytest.mark.parametrize(
    ("verb", "stage"),
    [
        *(("stage_out", stage) for stage in HELD_AT_AN_UPLOAD),
        ("put", "the beginning"),
        ("put", "the middle of a part"),
        ("put", "completing: done, not answered"),
    ],
)
def test_an_upload_that_is_stopped_leaves_no_open_upload_and_nothing_half_made(
    program: Program, verb: str, stage: str
) -> None:
    when, hold, after = HELD_AT_AN_UPLOAD[stage]
    if verb == "stage_out":
        program.make_output()
    gate, scene = Gate(), program.scene
    scene.link.trouble(when, hold(gate), after=after, times=None)

    code, stderr = program.ended_at(gate, getattr(program, verb), TERM)

    assert (code, "SIGTERM" in stderr, scene.open_uploads()) == (75, True, [])
    assert scene.keys() == (["made"] if stage in MADE else [])
    if stage in MADE:
        assert scene.get("made") == BIG
    elif verb == "stage_out":
        scene.link.heal()
        assert program.run(program.stage_out)[0] == 0
        assert (scene.get("made") == BIG, scene.open_uploads()) == (True, [])


def test_an_upload_that_is_stopped_while_it_is_begun_is_taken_back(program: Program) -> None:
    gate, scene = Gate(), program.scene
    scene.link.trouble(is_begin, gate.hold_done)
    scene.link.trouble(is_part(), Gate().hold, times=None)
    code, _ = program.ended_at(gate, program.put, TERM)
    assert (code, scene.open_uploads(), scene.keys()) == (75, [], [])


@pytest.mark.parametrize("stage", list(HELD_AT_AN_UPLOAD))
def test_the_attempt_after_a_killed_stage_out_leaves_no_open_upload(program: Program, stage: str) -> None:
    when, hold, after = HELD_AT_AN_UPLOAD[stage]
    program.make_output()
    gate, scene = Gate(), program.scene
    scene.link.trouble(when, hold(gate), after=after, times=None)

    code, _ = program.ended_at(gate, program.stage_out, KILL)

    assert code == -KILL
    assert scene.keys() == (["made"] if stage in MADE else [])
    scene.link.heal()
    assert program.run(program.stage_out)[0] == 0
    assert (scene.get("made") == BIG, scene.open_uploads()) == (True, [])


def test_the_attempt_after_a_killed_stage_out_sends_only_what_is_missing(program: Program) -> None:
    program.make_output()
    gate, link = Gate(waiting=LANES), program.scene.link
    link.trouble(is_part(), gate.hold, after=2, times=None)
    program.ended_at(gate, program.stage_out, KILL)
    held = {one.query["partNumber"] for one in link.seen(is_part())[2:]}
    [upload_id] = program.scene.open_uploads()
    link.heal()

    assert program.run(program.stage_out)[0] == 0

    assert program.scene.get("made") == BIG
    sent = link.seen(is_part())
    assert {one.query["partNumber"] for one in sent} == held
    assert {one.query["uploadId"] for one in sent} == {upload_id}
    assert (link.seen(is_begin), program.scene.open_uploads()) == ([], [])


def test_the_attempt_after_a_killed_stage_out_of_another_output_takes_the_open_upload_back(
    program: Program,
) -> None:
    program.make_output()
    gate, scene = Gate(waiting=LANES), program.scene
    scene.link.trouble(is_part(), gate.hold, after=2, times=None)
    program.ended_at(gate, program.stage_out, KILL)
    assert len(scene.open_uploads()) == 1
    scene.link.heal()
    (program.work / "T-1/res/made").write_bytes(SMALL)

    assert program.run(program.stage_out)[0] == 0

    assert (scene.get("made"), scene.open_uploads()) == (SMALL, [])


@pytest.mark.parametrize("server", ["scene", "moto_scene"])
def test_an_output_of_the_same_size_and_other_bytes_is_sent_wholly_after_a_kill(
    request: pytest.FixtureRequest, server: str
) -> None:
    """Not every server takes other bytes for a part that it has already."""
    program = Program(request.getfixturevalue(server))
    program.make_output()
    gate, scene = Gate(waiting=LANES), program.scene
    scene.link.trouble(is_part(), gate.hold, after=2, times=None)
    program.ended_at(gate, program.stage_out, KILL)
    scene.link.heal()
    (program.work / "T-1/res/made").write_bytes(BIG[::-1])

    assert program.run(program.stage_out)[0] == 0

    assert (scene.get("made") == BIG[::-1], scene.open_uploads()) == (True, [])


def test_an_upload_that_was_begun_by_a_process_killed_before_it_knew_is_not_left_open(
    program: Program,
) -> None:
    program.make_output()
    gate, scene = Gate(), program.scene
    scene.link.trouble(is_begin, gate.hold_done)
    program.ended_at(gate, program.stage_out, KILL)
    scene.link.heal()
    assert program.run(program.stage_out)[0] == 0
    assert (scene.get("made") == BIG, scene.open_uploads()) == (True, [])


# --- what the program says in the end


@pytest.mark.parametrize(
    ("act", "exit_code", "most"),
    [
        (refuse(503, "SlowDown"), 75, ATTEMPTS),
        (refuse(500, "InternalError"), 75, ATTEMPTS),
        (refuse(403, "AccessDenied"), 77, 1),
        (refuse(404, "NoSuchKey"), 66, 1),
        (refuse(403, "ExpiredToken"), 77, 1),
    ],
)
def test_a_get_that_fails_says_why_in_one_sentence_and_its_exit_code(
    program: Program, act: Act, exit_code: int, most: int
) -> None:
    program.scene.put("big", SMALL)
    program.scene.link.trouble(is_get, act, times=None)
    code, stderr = program.run(program.get)
    assert (code, program.scene.url("big") in stderr, "Traceback" in stderr) == (exit_code, True, False)
    assert (len(program.scene.link.seen(is_get)), list(program.place.iterdir())) == (most, [])


@pytest.mark.parametrize(
    ("act", "exit_code", "most"),
    [(refuse(503, "SlowDown"), 75, ATTEMPTS), (refuse(403, "AccessDenied"), 77, 1)],
)
def test_a_put_that_fails_says_why_in_one_sentence_and_its_exit_code(
    program: Program, act: Act, exit_code: int, most: int
) -> None:
    program.scene.link.trouble(is_put, act, times=None)
    program.source.write_bytes(SMALL)
    code, stderr = program.run(program.put)
    assert (code, program.scene.url("made") in stderr, "Traceback" in stderr) == (exit_code, True, False)
    assert (len(program.scene.link.seen(is_put)), program.scene.keys()) == (most, [])


# --- few descriptors

COUNT = 2000
DESCRIPTORS = 256


def with_few_descriptors(*arguments: object) -> tuple[int, str]:
    """Run the program as after `ulimit -n 256`."""
    ended = subprocess.run(
        command(*map(str, arguments)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)),
    )
    return ended.returncode, ended.stderr


@pytest.fixture
def many(tmp_path: Path) -> Path:
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(COUNT):
        (directory / f"{number:04}").write_bytes(b"%d" % number)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_two_thousand_small_objects_come_and_go_with_few_descriptors(
    program: Program, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", program.scene.server.url)  # no link, as fast as can be
    url = program.scene.url("many/")
    for arguments in (("put", many, url), ("get", url, program.place)):
        code, stderr = with_few_descriptors("storage", *arguments)
        assert (code, f"{COUNT} files" in stderr, stderr.count("\n")) == (0, True, 1)
    assert contents(program.place) == contents(many)


def test_a_storm_over_small_objects_is_weathered_with_few_descriptors(program: Program, many: Path) -> None:
    for number in range(200, COUNT):
        (many / f"{number:04}").unlink()
    link, url = program.scene.link, program.scene.url("many/")
    link.trouble(lambda one: is_put(one) or is_get(one), refuse(503, "SlowDown"), times=20, after=50)
    link.trouble(lambda one: is_put(one) or is_get(one), hang_up, times=10, after=300)
    assert with_few_descriptors("storage", "put", many, url)[0] == 0
    assert with_few_descriptors("storage", "get", url, program.place)[0] == 0
    assert contents(program.place) == contents(many)
