"""Outputs over a bad link: right to the byte at their URLs, or an error, and never an open multipart upload."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from taskrunner.errors import ExitCode
from taskrunner.retrying import Patience
from tests.faults.scene import ATTEMPTS, LANES, NOISE, SMALL, UPLOAD_PART_BYTES, Scene
from tests.faulty_link import (
    Act,
    When,
    anything,
    asks,
    damage_sent,
    done_but,
    every_other_time,
    hang_up,
    hang_up_while_sent,
    instead,
    is_abort,
    is_begin,
    is_bucket,
    is_complete,
    is_look,
    is_part,
    is_put,
    lose_answer,
    meanwhile,
    refuse,
    stall,
    stall_while_sent,
)

PARTS = 4
ERROR_AFTER_YES = instead(
    200, b'<?xml version="1.0"?>\n<Error><Code>InternalError</Code><Message>try again</Message></Error>'
)


@pytest.fixture(autouse=True)
def _nothing_is_left_open(scene: Scene) -> Iterator[None]:
    """Whatever happens in a test of this module."""
    yield
    assert scene.open_uploads() == []


PASSING: dict[str, tuple[When, Act, int | None]] = {
    "503 SlowDown to the first three of everything": (anything, refuse(503, "SlowDown"), 3),
    "503 to everything the first time": (every_other_time(), refuse(503, "SlowDown"), None),
    "503 to a bucket's look-up": (is_bucket, refuse(503), 3),
    "503 before the bytes were read": (is_put, refuse(503, "SlowDown", unread=True), 3),
    "500 InternalError": (is_put, refuse(500, "InternalError"), 3),
    "429": (is_put, refuse(429, "TooManyRequests"), 3),
    "408": (is_put, refuse(408, "RequestTimeout"), 3),
    "400 RequestTimeout": (is_put, refuse(400, "RequestTimeout"), 3),
    "hung up without an answer": (is_put, hang_up, 3),
    "reset before the first byte": (is_put, hang_up_while_sent(0), 3),
    "reset midway": (is_put, hang_up_while_sent(500), 3),
    "answers are lost": (is_put, lose_answer, 3),
    "stored, and then 500": (is_put, done_but(refuse(500, "InternalError")), 3),
    "stalled before the answer": (is_put, stall, 1),
    "a byte flipped on its way": (is_put, damage_sent(at=500), 3),
}


@pytest.mark.parametrize("content", [SMALL, NOISE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", list(PASSING))
async def test_what_passes_costs_some_more_requests_and_nothing_else(
    scene: Scene, trouble: str, content: bytes
) -> None:
    when, act, times = PASSING[trouble]
    met = scene.link.trouble(when, act, times=times)
    if "stalled" in trouble:
        scene.soon_tired_of_silence()

    result = await scene.send(("a", content))

    assert (result.errors, scene.get("a") == content, met.done >= 1) == ((), True, True)
    # bucket, begin, parts, complete, look; and after a begin that failed a question what it may have begun
    healthy = 2 if content is SMALL else 1 + 1 + PARTS + 1 + 1 + 1
    assert "stalled" in trouble or len(scene.link.exchanges) <= healthy + met.done
    assert [msg for msg, _ in scene.recorder.told()] == ["upload started", "upload finished"]


async def test_a_part_that_stalls_while_it_is_sent_is_sent_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.storage.link._EARLY_ANSWER_SECONDS", 0.1)
    scene.link.trouble(is_part(2), stall_while_sent(100_000))
    scene.soon_tired_of_silence()
    result = await scene.send(("a", NOISE))
    assert (result.errors, scene.get("a") == NOISE) == ((), True)
    assert len(scene.link.seen(is_part(2))) > 1


BEGINNING_AND_END: dict[str, tuple[When, Act]] = {
    "begin: 503": (is_begin, refuse(503, "SlowDown")),
    "begin: hung up": (is_begin, hang_up),
    "begin: no id": (is_begin, instead(200, b"<InitiateMultipartUploadResult/>")),
    "complete: 503": (is_complete, refuse(503, "SlowDown")),
    "complete: hung up": (is_complete, hang_up),
    "complete: yes, and then nothing": (is_complete, instead(200, b"")),
    "complete: yes, and then an error": (is_complete, ERROR_AFTER_YES),
    "look: 503": (is_look, refuse(503)),
    "look: not there yet": (is_look, refuse(404)),
    "look: hung up": (is_look, hang_up),
}


@pytest.mark.parametrize("trouble", list(BEGINNING_AND_END))
async def test_beginning_and_completing_are_tried_again_and_no_part_is_sent_twice(
    scene: Scene, trouble: str
) -> None:
    when, act = BEGINNING_AND_END[trouble]
    met = scene.link.trouble(when, act, times=2)

    result = await scene.send(("a", NOISE))

    assert (result.errors, scene.get("a") == NOISE, met.done) == ((), True, 2)
    assert scene.link.sent_bytes(is_part()) == len(NOISE)


DONE: dict[str, Act] = {
    "the answer is lost": lose_answer,
    "500 is said": done_but(refuse(500, "InternalError")),
    "an error is said after a yes": done_but(ERROR_AFTER_YES),
    "the answer is empty": done_but(instead(200, b"")),
}


@pytest.mark.parametrize("server", ["scene", "moto_scene"])
@pytest.mark.parametrize("told", list(DONE))
async def test_an_upload_that_was_completed_although_nobody_said_so_is_no_failure(
    request: pytest.FixtureRequest, server: str, told: str
) -> None:
    scene: Scene = request.getfixturevalue(server)
    scene.link.trouble(is_complete, DONE[told])

    result = await scene.send(("a", NOISE))

    assert (result.errors, scene.get("a") == NOISE, scene.open_uploads()) == ((), True, [])


@pytest.mark.parametrize("told", list(DONE))
async def test_a_store_that_knows_nothing_of_a_completed_upload_any_more_is_believed_its_object(
    moto_scene: Scene, told: str
) -> None:
    """S3 repeats its yes for a while, many of its relatives don't; the object's ETag is proof enough."""
    moto_scene.link.trouble(is_complete, DONE[told])
    moto_scene.link.trouble(is_complete, refuse(404, "NoSuchUpload"), times=None)

    result = await moto_scene.send(("a", NOISE))

    assert (result.errors, moto_scene.get("a") == NOISE) == ((), True)


async def test_an_upload_that_was_begun_and_whose_answer_was_lost_is_not_left_open(scene: Scene) -> None:
    scene.link.trouble(is_begin, lose_answer)
    result = await scene.send(("a", NOISE))
    assert (result.errors, scene.get("a") == NOISE) == ((), True)


# --- what does not pass

STAYING: dict[str, tuple[When, Act, ExitCode, str]] = {
    "503": (is_put, refuse(503, "SlowDown"), ExitCode.RETRY, "SlowDown"),
    "503 before the bytes were read": (
        is_put,
        refuse(503, "SlowDown", unread=True),
        ExitCode.RETRY,
        "SlowDown",
    ),
    "hung up": (is_put, hang_up, ExitCode.RETRY, "closed the connection"),
    "reset midway": (is_put, hang_up_while_sent(100), ExitCode.RETRY, ""),
    "stalled": (is_put, stall, ExitCode.RETRY, "silent"),
    "always damaged": (is_put, damage_sent(at=7), ExitCode.RETRY, "BadDigest"),
    "not allowed": (is_put, refuse(403, "AccessDenied"), ExitCode.ACCESS_DENIED, "PutObject"),
    "no such bucket any more": (is_put, refuse(404, "NoSuchBucket"), ExitCode.OUTPUT_FAILED, "no bucket"),
    "refused for a reason of its own": (
        is_put,
        refuse(400, "InvalidStorageClass", message="who knows"),
        ExitCode.OUTPUT_FAILED,
        "who knows",
    ),
    "one part": (is_part(2), refuse(503), ExitCode.RETRY, "503"),
    "beginning": (is_begin, refuse(503), ExitCode.RETRY, "503"),
    "beginning is not allowed": (is_begin, refuse(403, "AccessDenied"), ExitCode.ACCESS_DENIED, "PutObject"),
    "completing": (is_complete, refuse(503), ExitCode.RETRY, "503"),
    "completing: yes, and then an error": (is_complete, ERROR_AFTER_YES, ExitCode.RETRY, "InternalError"),
    "completing: not these parts": (
        is_complete,
        refuse(400, "InvalidPart", message="one is not there"),
        ExitCode.OUTPUT_FAILED,
        "one is not there",
    ),
}
ASKED_ONCE = (ExitCode.ACCESS_DENIED, ExitCode.OUTPUT_FAILED)


@pytest.mark.parametrize("content", [SMALL, NOISE], ids=["small", "large"])
@pytest.mark.parametrize("trouble", list(STAYING))
async def test_what_stays_is_given_up_after_the_tries_and_nothing_is_at_the_url(
    scene: Scene, trouble: str, content: bytes
) -> None:
    when, act, exit_code, words = STAYING[trouble]
    if content is SMALL and when is not is_put:
        return  # a small object has no such request
    scene.link.trouble(lambda one: when(one) and "/other" not in one.path, act, times=None)
    if trouble == "stalled":
        scene.soon_tired_of_silence()

    result = await scene.send(("a", content), ("other", b"arrives all the same"))

    [error] = result.errors
    assert (
        error.exit_code,
        words in str(error),
        scene.url("a") in str(error) or "127.0.0.1" in str(error),
    ) == (
        exit_code,
        True,
        True,
    )
    assert (scene.keys(), scene.open_uploads()) == (["other"], [])
    assert [log.url for log in result.outputs] == [scene.url("other")]
    tries = 1 if exit_code in ASKED_ONCE else ATTEMPTS
    unanswered = trouble in ("hung up", "reset midway")  # on a connection kept alive: asked again for nothing
    asked = scene.link.seen(lambda one: when(one) and "/other" not in one.path)
    assert len(asked) <= (tries + unanswered) * LANES
    assert [msg for msg, url in scene.recorder.told() if url == scene.url("a")] == [
        "upload started",
        "upload failed",
    ]


async def test_an_upload_that_somebody_else_ends_midway_fails_and_nothing_is_at_the_url(scene: Scene) -> None:
    def end_it() -> None:
        for upload_id in scene.open_uploads():
            scene.client.abort_multipart_upload(Bucket=scene.bucket, Key="a", UploadId=upload_id)

    scene.link.trouble(is_part(3), meanwhile(end_it))
    result = await scene.send(("a", NOISE))
    [error] = result.errors
    assert (error.exit_code, "somebody else ended" in str(error)) == (ExitCode.IO_ERROR, True)
    assert scene.keys() == []


async def test_an_upload_that_somebody_else_ends_before_it_is_completed_fails(scene: Scene) -> None:
    def end_it() -> None:
        [upload_id] = scene.open_uploads()
        scene.client.abort_multipart_upload(Bucket=scene.bucket, Key="a", UploadId=upload_id)

    scene.link.trouble(is_complete, meanwhile(end_it))
    result = await scene.send(("a", NOISE))
    [error] = result.errors
    assert (error.exit_code, scene.keys()) == (ExitCode.IO_ERROR, [])


@pytest.mark.parametrize("lost", [True, False], ids=["after a lost answer", "after a yes"])
async def test_an_object_that_somebody_else_replaces_at_the_end_is_not_told_as_ours(
    scene: Scene, *, lost: bool
) -> None:
    """The look at the new object finds another one."""
    if lost:
        scene.link.trouble(is_complete, lose_answer)
    scene.link.trouble(is_look, meanwhile(lambda: scene.put("a", b"another")))
    result = await scene.send(("a", NOISE))
    if result.errors:
        assert [error.exit_code for error in result.errors] == [ExitCode.IO_ERROR]
        assert result.outputs == ()
    else:  # it was sent once more
        assert scene.get("a") == NOISE


async def test_an_output_that_becomes_shorter_while_it_is_sent_fails_and_leaves_nothing(scene: Scene) -> None:
    output = scene.root / "out" / "a"
    scene.link.trouble(is_part(1), meanwhile(lambda: os.truncate(output, UPLOAD_PART_BYTES + 1)))
    scene.patient(max_connections=1)
    result = await scene.send(("a", NOISE))
    [error] = result.errors
    assert (error.exit_code, "was changed" in str(error), scene.keys()) == (ExitCode.IO_ERROR, True, [])


async def test_an_output_that_is_removed_while_it_is_sent_fails_and_leaves_nothing(scene: Scene) -> None:
    scene.link.trouble(is_part(1), meanwhile((scene.root / "out" / "a").unlink))
    scene.patient(max_connections=1)
    result = await scene.send(("a", NOISE))
    [error] = result.errors
    assert (error.exit_code, "can't read /out/a" in str(error), scene.keys()) == (
        ExitCode.OUTPUT_FAILED,
        True,
        [],
    )


async def test_taking_back_is_tried_again(scene: Scene) -> None:
    scene.link.trouble(is_part(2), refuse(403, "AccessDenied"), times=None)
    scene.link.trouble(is_abort, refuse(503), times=ATTEMPTS - 1)
    result = await scene.send(("a", NOISE))
    assert [error.exit_code for error in result.errors] == [ExitCode.ACCESS_DENIED]
    assert len(scene.link.seen(is_abort)) == ATTEMPTS


async def test_an_upload_that_can_not_be_taken_back_is_told(scene: Scene) -> None:
    scene.link.trouble(is_part(2), refuse(503), times=None)
    scene.link.trouble(is_abort, refuse(403, "AccessDenied"), times=None)
    await scene.send(("a", NOISE))
    told = [
        str(event.fields().get("error")) for event in scene.recorder.events if event.msg == "upload failed"
    ]
    assert len(scene.link.seen(is_abort)) == 1
    assert any("s3:AbortMultipartUpload" in text and "remove it by hand" in text for text in told)
    [upload_id] = scene.open_uploads()
    scene.client.abort_multipart_upload(Bucket=scene.bucket, Key="a", UploadId=upload_id)


async def test_a_storm_over_many_small_outputs_is_weathered(scene: Scene) -> None:
    files = [(f"{number:03}", f"content of {number}".encode()) for number in range(60)]
    scene.link.trouble(every_other_time(), refuse(503, "SlowDown"), times=None)
    result = await scene.send(*files)
    assert (result.errors, scene.keys()) == ((), [name for name, _ in files])
    assert all(scene.get(name) == content for name, content in files)
    assert len(scene.link.seen(asks("PUT"))) == 2 * len(files)


async def test_a_server_that_refuses_every_one_of_many_outputs_is_not_asked_for_ever(scene: Scene) -> None:
    """All tries beyond the first ones, of all files together, are a thousand at most."""
    files = [(f"{number:03}", b"x") for number in range(150)]
    scene.patient(patience=Patience(attempts=20, first_wait_seconds=0.01), max_connections=16)
    scene.link.trouble(is_put, refuse(503, "SlowDown"), times=None)

    result = await scene.send(*files)

    assert {error.exit_code for error in result.errors} == {ExitCode.RETRY}
    assert (len(result.errors), scene.keys()) == (len(files), [])
    assert len(scene.link.seen(is_put)) <= len(files) + 1000


async def test_the_object_that_was_at_the_url_stays_when_its_successor_fails(scene: Scene) -> None:
    scene.put("a", b"the old one")
    scene.link.trouble(is_complete, refuse(503), times=None)
    result = await scene.send(("a", NOISE))
    assert ([error.exit_code for error in result.errors], scene.get("a")) == (
        [ExitCode.RETRY],
        b"the old one",
    )
