"""Inputs over a bad link: right to the byte, or an error with its exit code and nothing half-made."""

from __future__ import annotations

import pytest

from taskrunner.errors import (
    AccessDeniedError,
    DamagedError,
    ExitCode,
    InputMissingError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
)
from taskrunner.task import FileType
from tests.faults.scene import ATTEMPTS, LANES, LARGE, LARGE_PARTS, PART_BYTES, SMALL, Scene
from tests.faulty_link import (
    Act,
    When,
    anything,
    cut_answer,
    damage,
    every_other_time,
    from_byte,
    hang_up,
    instead,
    is_bucket,
    is_get,
    is_list,
    is_look,
    lose_answer,
    meanwhile,
    refuse,
    stall,
    stall_answer,
)

PASSING: dict[str, tuple[When, Act, dict[str, int | None]]] = {
    "503 SlowDown to the first three of everything": (anything, refuse(503, "SlowDown"), {"times": 3}),
    "503 without a word": (anything, refuse(503, retry_after=None), {"times": 3}),
    "500 InternalError": (is_get, refuse(500, "InternalError"), {"times": 3}),
    "429": (is_get, refuse(429, "TooManyRequests"), {"times": 3}),
    "408": (is_get, refuse(408, "RequestTimeout", retry_after=None), {"times": 3}),
    "504 of a load balancer": (is_get, instead(504, b"<html>Gateway Timeout</html>"), {"times": 3}),
    "503 to every second request": (every_other_time(), refuse(503, "SlowDown"), {"times": None}),
    "503 to a bucket's look-up": (is_bucket, refuse(503), {"times": 3}),
    "503 to an object's look-up": (is_look, refuse(503), {"times": 3}),
    "hung up before the head": (anything, hang_up, {"times": 3}),
    "answers are lost": (anything, lose_answer, {"times": 3}),
    "cut off before the first byte": (is_get, cut_answer(0), {"times": 3}),
    "cut off midway": (is_get, cut_answer(500), {"times": 3}),
    "cut off before the last byte": (is_get, cut_answer(999), {"times": 3}),
    "reset midway": (is_get, cut_answer(500, rudely=True), {"times": 3}),
    "stalled before the head": (is_get, stall, {"times": 1}),
    "stalled midway": (is_get, stall_answer(500), {"times": 1}),
    "a byte flipped": (is_get, damage(at=500), {"times": 1}),
}


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", list(PASSING))
async def test_what_passes_costs_some_more_requests_and_nothing_else(
    scene: Scene, trouble: str, content: bytes
) -> None:
    scene.put("a", content)
    when, act, often = PASSING[trouble]
    met = scene.link.trouble(when, act, **often)  # type: ignore[arg-type]
    if "stalled" in trouble:
        scene.soon_tired_of_silence()

    workdir = await scene.bring("a")

    assert workdir.place("/in/a").read_bytes() == content
    assert met.done >= 1
    parts = LARGE_PARTS if content is LARGE else 1
    healthy = 2 + parts  # the bucket, the object, its ranges
    again = parts if "flipped" in trouble else met.done
    assert "stalled" in trouble or len(scene.link.exchanges) <= healthy + again
    assert [msg for msg, _ in scene.recorder.told()] == ["download started", "download finished"]


async def test_a_connection_cut_again_and_again_goes_on_where_it_was_and_brings_no_byte_twice(
    scene: Scene,
) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(is_get, cut_answer(10_000), times=5 * LARGE_PARTS)

    workdir = await scene.bring("a")

    assert workdir.place("/in/a").read_bytes() == LARGE
    assert scene.link.received_bytes(is_get) == len(LARGE)


async def test_a_small_object_that_is_cut_goes_on_where_it_was(scene: Scene) -> None:
    scene.put("a", SMALL)
    scene.link.trouble(is_get, cut_answer(100), times=8)
    workdir = await scene.bring("a")
    assert workdir.place("/in/a").read_bytes() == SMALL
    # The first try of a small file is a quick one, with others; only then its bytes are counted on.
    assert scene.link.received_bytes(is_get) <= len(SMALL) + 100


async def test_a_storm_over_many_small_objects_is_weathered(scene: Scene) -> None:
    keys = [f"dir/{number:03}" for number in range(60)]
    for key in keys:
        scene.client.put_object(Bucket=scene.bucket, Key=key, Body=key.encode())
    scene.link.trouble(every_other_time(), refuse(503, "SlowDown"), times=None)

    workdir = await scene.bring("dir", kind=FileType.DIRECTORY)

    assert {path.name: path.read_text() for path in workdir.place("/in/dir").iterdir()} == {
        key.removeprefix("dir/"): key for key in keys
    }
    assert len(scene.link.exchanges) == 2 * (1 + 1 + len(keys))  # the bucket, the listing, each object


@pytest.mark.parametrize("act", [refuse(503, "SlowDown"), cut_answer(200), hang_up, stall])
async def test_a_listing_that_breaks_is_asked_for_again_and_whole(scene: Scene, act: Act) -> None:
    for key in ("dir/a", "dir/b"):
        scene.put(key, key.encode())
    scene.link.trouble(is_list, act)
    if act is stall:
        scene.soon_tired_of_silence()
    workdir = await scene.bring("dir", kind=FileType.DIRECTORY)
    assert sorted(path.name for path in workdir.place("/in/dir").iterdir()) == ["a", "b"]


# --- what does not pass

Expected = tuple[type[TaskrunnerError], ExitCode, str]
RETRY: Expected = (TransientError, ExitCode.RETRY, "")

STAYING: dict[str, tuple[When, Act, Expected]] = {
    "503 SlowDown": (is_get, refuse(503, "SlowDown"), (TransientError, ExitCode.RETRY, "SlowDown")),
    "500": (is_get, refuse(500, "InternalError"), (TransientError, ExitCode.RETRY, "InternalError")),
    "hung up": (is_get, hang_up, (TransientError, ExitCode.RETRY, "closed the connection")),
    "cut off before the first byte": (
        is_get,
        cut_answer(0),
        (TransientError, ExitCode.RETRY, "before the end"),
    ),
    "stalled": (is_get, stall, (TransientError, ExitCode.RETRY, "silent")),
    "a byte flipped": (is_get, damage(at=3), (DamagedError, ExitCode.IO_ERROR, "arrived damaged.*expected")),
    "not allowed": (
        is_get,
        refuse(403, "AccessDenied"),
        (AccessDeniedError, ExitCode.ACCESS_DENIED, "GetObject"),
    ),
    "gone": (is_get, refuse(404, "NoSuchKey"), (InputMissingError, ExitCode.INPUT_MISSING, "does not exist")),
    "archived": (is_get, refuse(403, "InvalidObjectState"), (TransferIOError, ExitCode.IO_ERROR, "restore")),
    "fewer bytes than were told first": (
        is_get,
        instead(200, b"short"),
        (TransferIOError, ExitCode.IO_ERROR, ""),
    ),
    "no HTTP": (is_get, lambda exchange: exchange.answer(200, [("a\0b", "c")], [], 0), RETRY),
}
ASKED_ONCE = ("not allowed", "gone", "archived", "fewer bytes than were told first")


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", list(STAYING))
async def test_what_stays_is_given_up_after_the_tries_told_once_and_leaves_nothing(
    scene: Scene, trouble: str, content: bytes
) -> None:
    when, act, (kind, exit_code, words) = STAYING[trouble]
    scene.put("a", content)
    scene.link.trouble(when, act, times=None)
    if trouble == "stalled":
        scene.soon_tired_of_silence()

    with pytest.raises(kind, match=f"(?s){words}") as raised:
        await scene.bring("a")

    assert raised.value.exit_code is exit_code
    parts = LARGE_PARTS if content is LARGE else 1
    tries = 1 if trouble in ASKED_ONCE else 2 * parts if "flipped" in trouble else ATTEMPTS
    lanes = 1 if "flipped" in trouble else min(LANES, parts)
    assert len(scene.link.seen(is_get)) <= tries * lanes
    assert [msg for msg, _ in scene.recorder.told()] == ["download started", "download failed"]
    resumable = [".journal", ""] if content is LARGE and exit_code is ExitCode.RETRY else []
    assert [kind for kind in scene.left_for_another_attempt() if kind == ".journal"] == resumable[:1]


@pytest.mark.parametrize("when", [is_bucket, is_look])
@pytest.mark.parametrize(
    ("act", "tries", "exit_code"),
    [
        (refuse(503), ATTEMPTS, ExitCode.RETRY),
        (stall, ATTEMPTS, ExitCode.RETRY),
        (refuse(404), 1, ExitCode.INPUT_MISSING),
    ],
)
async def test_a_look_up_that_fails_is_tried_so_often_and_nothing_is_downloaded(
    scene: Scene, when: When, act: Act, tries: int, exit_code: ExitCode
) -> None:
    scene.put("a", SMALL)
    scene.link.trouble(when, act, times=None)
    if act is stall:
        scene.soon_tired_of_silence()
    with pytest.raises(TaskrunnerError) as raised:
        await scene.bring("a")
    assert raised.value.exit_code is exit_code
    assert (len(scene.link.seen(when)), scene.link.seen(is_get)) == (tries, [])


async def test_one_input_that_fails_for_good_ends_the_others_and_none_is_half_there(scene: Scene) -> None:
    for key in ("a", "b", "c"):
        scene.put(key, LARGE)
    scene.link.trouble(
        lambda one: one.path.endswith("/b") and is_get(one), refuse(403, "AccessDenied"), after=5
    )
    with pytest.raises(AccessDeniedError, match="/b"):
        await scene.bring("a", "b", "c")
    assert scene.left_for_another_attempt() == []


# --- an object that becomes another one

OTHER = LARGE[::-1]


def replaced(scene: Scene, content: bytes) -> Act:
    return meanwhile(lambda: scene.put("a", content))


@pytest.mark.parametrize("conditions", ["heeded", "ignored"])
@pytest.mark.parametrize("content", [OTHER, OTHER + b"longer", OTHER[:-PART_BYTES]])
@pytest.mark.parametrize("first", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_replaced_after_it_was_looked_at_is_never_mixed_with_the_other(
    request: pytest.FixtureRequest, conditions: str, first: bytes, content: bytes
) -> None:
    scene: Scene = request.getfixturevalue("moto_scene" if conditions == "heeded" else "scene")
    scene.put("a", first)
    scene.link.trouble(is_get, replaced(scene, content), after=4 if first is LARGE else 0)

    with pytest.raises(TransferIOError, match="changed while it was downloaded") as raised:
        await scene.bring("a")

    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert scene.left_for_another_attempt() == []


async def test_an_object_replaced_between_a_cut_and_the_next_try_is_never_mixed(scene: Scene) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(from_byte(0), cut_answer(100))
    scene.link.trouble(from_byte(100), replaced(scene, OTHER))
    with pytest.raises(TransferIOError, match="changed while it was downloaded"):
        await scene.bring("a")


async def test_an_object_deleted_midway_is_missing(scene: Scene) -> None:
    scene.put("a", LARGE)
    delete = meanwhile(lambda: scene.client.delete_object(Bucket=scene.bucket, Key="a"))
    scene.link.trouble(is_get, delete, after=4)
    with pytest.raises(InputMissingError, match="does not exist") as raised:
        await scene.bring("a")
    assert raised.value.exit_code is ExitCode.INPUT_MISSING


@pytest.mark.parametrize(
    "act",
    [
        instead(200, LARGE),
        instead(206, LARGE[:PART_BYTES], [("Content-Range", f"bytes 0-{PART_BYTES - 1}/{len(LARGE)}")]),
        instead(206, LARGE[:PART_BYTES]),
        instead(206, LARGE[PART_BYTES:-1], [("Content-Range", f"bytes {PART_BYTES}-99999999/{len(LARGE)}")]),
    ],
    ids=["the whole", "another range", "no range told", "more than asked for"],
)
async def test_other_bytes_than_the_range_asked_for_are_refused(scene: Scene, act: Act) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(from_byte(PART_BYTES), act)
    with pytest.raises(TransferIOError, match=scene.url("a")) as raised:
        await scene.bring("a")
    assert raised.value.exit_code is ExitCode.IO_ERROR
    assert scene.left_for_another_attempt() == []


# --- later attempts


async def test_a_second_attempt_after_exit_code_75_brings_only_what_is_missing(scene: Scene) -> None:
    scene.patient(max_connections=1)  # else some lane may have been ended with a part half-received
    scene.put("a", LARGE)
    scene.link.trouble(is_get, refuse(503), after=6, times=None)
    with pytest.raises(TransientError):
        await scene.bring("a")
    brought = scene.link.received_bytes(is_get)
    assert scene.left_for_another_attempt().count(".journal") == 1

    scene.link.heal()
    workdir = await scene.bring("a")

    assert workdir.place("/in/a").read_bytes() == LARGE
    assert (brought, scene.link.received_bytes(is_get)) == (6 * PART_BYTES, len(LARGE) - 6 * PART_BYTES)


async def test_a_second_attempt_at_an_object_that_is_another_now_mixes_nothing(scene: Scene) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(is_get, refuse(503), after=6, times=None)
    with pytest.raises(TransientError):
        await scene.bring("a")
    scene.put("a", OTHER)
    scene.link.heal()
    workdir = await scene.bring("a")
    assert workdir.place("/in/a").read_bytes() == OTHER
    assert scene.link.received_bytes(is_get) == len(OTHER)


async def test_tries_of_all_parts_together_are_bounded(scene: Scene) -> None:
    """A server that refuses two of three requests is not asked for ever."""
    scene.put("a", LARGE)
    scene.link.trouble(is_get, refuse(503), times=None, after=1)
    with pytest.raises(TransientError):
        await scene.bring("a")
    assert len(scene.link.seen(is_get)) <= 1 + LANES * ATTEMPTS
