"""Inputs from the web over a bad link: ranges where the server has them, from the start where it has not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.errors import ExitCode, InputMissingError, TaskrunnerError, TransferIOError, TransientError
from taskrunner.workdir import WorkDir
from tests.faults.scene import ATTEMPTS, LARGE, LARGE_PARTS, PART_BYTES, Scene
from tests.faulty_link import (
    Act,
    When,
    anything,
    cut_answer,
    damage,
    every_other_time,
    faulty_link,
    from_byte,
    hang_up,
    instead,
    is_get,
    lose_answer,
    meanwhile,
    refuse,
    stall,
    stall_answer,
)
from tests.servers import WebHandler, web_server

OTHER = LARGE[::-1]


@asynccontextmanager
async def served(scene: Scene, handler: WebHandler) -> AsyncIterator[Scene]:
    """The scene with a link to a web server of one file."""
    async with web_server({"/a": handler}) as base:
        with faulty_link(base) as link:
            try:
                yield Scene(scene.server, link, scene.tmp_path)
            finally:
                await asyncio.to_thread(link.close)


def file_of(scene: Scene) -> Path:
    """What the web server serves, with ranges, ETag and Last-Modified."""
    path = scene.tmp_path / "served"
    path.write_bytes(LARGE)
    return path


def with_ranges(path: Path) -> WebHandler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path)

    return handle


def without_ranges(path: Path) -> WebHandler:
    content = path.read_bytes()

    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, headers={"ETag": '"one"'})

    return handle


def without_a_length(path: Path) -> WebHandler:
    content = path.read_bytes()

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(content)
        return answer

    return handle


async def brought(scene: Scene) -> WorkDir:
    return await scene.bring("a", url=f"{scene.link.url}/a")


PASSING: dict[str, tuple[When, Act, int | None]] = {
    "503 to the first three": (anything, refuse(503), 3),
    "503 to everything the first time": (every_other_time(), refuse(503), None),
    "429": (from_byte(PART_BYTES), instead(429, b"slowly", [("Retry-After", "0")]), 3),
    "500": (anything, instead(500, b"oops"), 3),
    "hung up": (anything, hang_up, 3),
    "answers are lost": (anything, lose_answer, 3),
    "cut off midway": (from_byte(PART_BYTES), cut_answer(10_000), 1),
    "reset midway": (from_byte(PART_BYTES), cut_answer(10_000, rudely=True), 1),
    "stalled before the head": (from_byte(PART_BYTES), stall, 1),
    "stalled midway": (from_byte(PART_BYTES), stall_answer(10_000), 1),
}


@pytest.mark.parametrize("trouble", list(PASSING))
async def test_what_passes_costs_some_more_requests_and_nothing_else(scene: Scene, trouble: str) -> None:
    when, act, times = PASSING[trouble]
    async with served(scene, with_ranges(file_of(scene))) as web_scene:
        met = web_scene.link.trouble(when, act, times=times)
        if "stalled" in trouble:
            web_scene.soon_tired_of_silence()
        workdir = await brought(web_scene)
        assert (workdir.place("/in/a").read_bytes() == LARGE, met.done >= 1) == (True, True)
        assert "stalled" in trouble or len(web_scene.link.exchanges) <= 1 + LARGE_PARTS + met.done
        if trouble == "cut off midway":
            assert web_scene.link.received_bytes(is_get) == len(LARGE) + 1  # one for the look


@pytest.mark.parametrize("make", [without_ranges, without_a_length])
@pytest.mark.parametrize("act", [cut_answer(PART_BYTES), stall_answer(PART_BYTES), hang_up])
async def test_a_server_without_ranges_that_breaks_off_is_begun_with_anew(
    scene: Scene, make: Callable[[Path], WebHandler], act: Act
) -> None:
    async with served(scene, make(file_of(scene))) as web_scene:
        web_scene.link.trouble(is_get, act, after=1)
        web_scene.soon_tired_of_silence()
        workdir = await brought(web_scene)
        assert workdir.place("/in/a").read_bytes() == LARGE
        assert all("range" not in one.headers for one in web_scene.link.seen(is_get)[1:])


@pytest.mark.parametrize("make", [without_ranges, without_a_length])
async def test_a_server_without_ranges_that_always_breaks_off_is_given_up(
    scene: Scene, make: Callable[[Path], WebHandler]
) -> None:
    async with served(scene, make(file_of(scene))) as web_scene:
        web_scene.link.trouble(is_get, cut_answer(PART_BYTES), after=1, times=None)
        with pytest.raises(TransientError) as raised:
            await brought(web_scene)
        assert raised.value.exit_code is ExitCode.RETRY
        assert len(web_scene.link.seen(is_get)) == 1 + ATTEMPTS
        assert web_scene.left_for_another_attempt() == []


STAYING: dict[str, tuple[Act, type[TaskrunnerError], ExitCode, int]] = {
    "503": (refuse(503), TransientError, ExitCode.RETRY, ATTEMPTS),
    "hung up": (hang_up, TransientError, ExitCode.RETRY, ATTEMPTS + 1),
    "stalled": (stall, TransientError, ExitCode.RETRY, ATTEMPTS),
    "gone": (instead(404, b"no"), InputMissingError, ExitCode.INPUT_MISSING, 1),
    "the whole in place of a range": (instead(200, LARGE), TransferIOError, ExitCode.IO_ERROR, 1),
    "other bytes": (
        instead(206, b"x", [("Content-Range", f"bytes 0-0/{len(LARGE)}")]),
        TransferIOError,
        ExitCode.IO_ERROR,
        1,
    ),
    "no such range any more": (
        instead(416, b"", [("Content-Range", "bytes */7")]),
        TransferIOError,
        ExitCode.IO_ERROR,
        1,
    ),
}


@pytest.mark.parametrize("trouble", list(STAYING))
async def test_what_stays_is_given_up_and_leaves_nothing_under_the_final_name(
    scene: Scene, trouble: str
) -> None:
    act, kind, exit_code, tries = STAYING[trouble]
    async with served(scene, with_ranges(file_of(scene))) as web_scene:
        late = from_byte(3 * PART_BYTES)
        web_scene.link.trouble(late, act, times=None)
        if trouble == "stalled":
            web_scene.soon_tired_of_silence()
        with pytest.raises(kind) as raised:
            await brought(web_scene)
        assert (raised.value.exit_code, len(web_scene.link.seen(late)) <= tries) == (exit_code, True)
        kept = web_scene.left_for_another_attempt()
        assert kept.count(".journal") == (1 if exit_code is ExitCode.RETRY else 0)


@pytest.mark.parametrize("content", [OTHER, OTHER + b"longer", OTHER[: 7 * PART_BYTES]])
@pytest.mark.parametrize("after", [1, 5])
async def test_a_file_replaced_between_ranges_is_never_mixed_with_the_other(
    scene: Scene, content: bytes, after: int
) -> None:
    path = file_of(scene)

    def replace_it() -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        os.utime(new, (1, 1))
        new.rename(path)

    async with served(scene, with_ranges(path)) as web_scene:
        web_scene.link.trouble(is_get, meanwhile(replace_it), after=after)
        with pytest.raises(TransferIOError) as raised:
            await brought(web_scene)
        assert raised.value.exit_code is ExitCode.IO_ERROR
        assert web_scene.left_for_another_attempt() == []


async def test_a_file_replaced_while_a_server_without_ranges_broke_off_is_not_mixed(scene: Scene) -> None:
    etags = iter(['"one"', '"one"', '"two"'])

    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=LARGE, headers={"ETag": next(etags)})

    async with served(scene, handle) as web_scene:
        web_scene.link.trouble(is_get, cut_answer(PART_BYTES), after=1)
        with pytest.raises(TransferIOError, match="changed"):
            await brought(web_scene)


async def test_a_second_attempt_brings_only_what_is_missing(scene: Scene) -> None:
    async with served(scene, with_ranges(file_of(scene))) as web_scene:
        web_scene.patient(max_connections=1)
        web_scene.link.trouble(is_get, refuse(503), after=1 + 6, times=None)
        with pytest.raises(TransientError):
            await brought(web_scene)
        web_scene.link.heal()
        workdir = await brought(web_scene)
        assert workdir.place("/in/a").read_bytes() == LARGE
        assert web_scene.link.received_bytes(is_get) == 1 + len(LARGE) - 6 * PART_BYTES


async def test_bytes_damaged_on_their_way_are_brought_again_where_the_server_tells_a_checksum(
    scene: Scene,
) -> None:
    told = base64.b64encode(hashlib.md5(LARGE[:PART_BYTES], usedforsecurity=False).digest()).decode()

    async def handle(_request: web.Request) -> web.StreamResponse:
        headers = {"ETag": '"one"', "Content-MD5": told}
        return web.Response(body=LARGE[:PART_BYTES], headers=headers)

    async with served(scene, handle) as web_scene:
        web_scene.link.trouble(is_get, damage(at=77), after=1)
        workdir = await brought(web_scene)
        assert workdir.place("/in/a").read_bytes() == LARGE[:PART_BYTES]
