"""The watch for Spot reclaims, on a fake instance metadata service that is as strict as EC2's."""

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from taskrunner.batch.reclaim import ReclaimNotice, reclaim_notice
from tests.metadata_server import NOTICE_PATH, TOKEN_PATH, MetadataServer

NOTICE = {"action": "terminate", "time": "2020-01-01T12:02:00Z"}
NOON = datetime.fromisoformat("2020-01-01T12:00:00Z").timestamp()
OFTEN_SECONDS = 0.01


def unexpected(error: Exception) -> None:
    raise AssertionError(str(error))


async def true(condition: Callable[[], bool]) -> None:
    """Wait until it is; the server counts in a thread of its own."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(OFTEN_SECONDS)


async def calls(server: MetadataServer, count: int) -> None:
    """Wait until there were at least so many."""
    await true(lambda: len(server.calls) >= count)


@pytest.fixture
async def watch(metadata: MetadataServer) -> Any:
    """The watch, started when it is called; ended with the test."""
    tasks: list[asyncio.Task[ReclaimNotice]] = []

    def start(url: str = metadata.url, **more: Any) -> asyncio.Task[ReclaimNotice]:
        settings = {"on_failure": unexpected, "interval_seconds": OFTEN_SECONDS, **more}
        tasks.append(asyncio.create_task(reclaim_notice(url, **settings), name="watch"))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_notice_that_comes_later_is_found(metadata: MetadataServer, watch: Any) -> None:
    watching = watch()
    await calls(metadata, 4)
    metadata.notice = NOTICE
    assert await watching == ReclaimNotice("terminate", "2020-01-01T12:02:00Z")


async def test_one_token_serves_many_looks(metadata: MetadataServer, watch: Any) -> None:
    watch()
    await calls(metadata, 6)
    assert metadata.calls[:6] == [f"PUT {TOKEN_PATH}"] + 5 * [f"GET {NOTICE_PATH}"]


async def test_a_token_that_is_known_no_more_is_renewed(metadata: MetadataServer, watch: Any) -> None:
    watching = watch()
    await calls(metadata, 3)
    metadata.expire_token()
    await calls(metadata, 8)
    metadata.notice = NOTICE
    assert (await watching).action == "terminate"
    assert metadata.tokens_granted == 2


async def test_a_token_is_renewed_before_its_end(metadata: MetadataServer, watch: Any) -> None:
    watch(token_seconds=1)
    await true(lambda: metadata.tokens_granted == 2)
    first, second = (at for at, call in enumerate(metadata.calls) if call == f"PUT {TOKEN_PATH}")
    assert second > first + 1


async def test_trouble_that_lasts_is_told_once_and_the_watch_goes_on(
    metadata: MetadataServer, watch: Any
) -> None:
    failures: list[Exception] = []
    metadata.statuses = [500] * 6
    watching = watch(on_failure=failures.append, interval_seconds=0.001)
    await calls(metadata, 8)
    metadata.notice = NOTICE
    assert (await watching).action == "terminate"
    [failure] = failures
    assert f"{metadata.url}{TOKEN_PATH}" in str(failure)
    assert "AWS_EC2_METADATA_DISABLED" in str(failure)


async def test_a_hiccup_is_not_told(metadata: MetadataServer, watch: Any) -> None:
    metadata.statuses = [429, 503]
    metadata.notice = NOTICE
    assert (await watch()).action == "terminate"


async def test_a_service_that_is_not_there_is_told(watch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    told = asyncio.Event()
    watching = watch(url, on_failure=lambda _: told.set(), interval_seconds=0.001)
    await told.wait()
    assert not watching.done()


@pytest.mark.parametrize("odd", [b"", b"<html>", [], 7, {}, {"action": ""}, {"action": 7, "time": "x"}])
async def test_an_odd_answer_is_no_notice_and_is_told(metadata: MetadataServer, watch: Any, odd: Any) -> None:
    told = asyncio.Event()
    metadata.notice = odd
    watching = watch(on_failure=lambda _: told.set(), interval_seconds=0.001)
    await told.wait()
    metadata.notice = NOTICE
    assert (await watching).action == "terminate"


async def test_a_notice_without_a_time_is_one(metadata: MetadataServer, watch: Any) -> None:
    metadata.notice = {"action": "stop"}
    notice = await watch()
    assert (notice.action, notice.seconds_left(NOON)) == ("stop", 115.0)


@pytest.mark.parametrize(
    ("time", "left_seconds"),
    [
        ("2020-01-01T12:02:00Z", 115.0),
        ("2020-01-01T12:01:00Z", 55.0),
        ("2020-01-01T13:01:00+01:00", 55.0),
        ("2020-01-01T12:01:00", 55.0),
        ("2020-01-01T12:00:07Z", 5.0),
        ("2020-01-01T11:00:00Z", 5.0),
        ("2020-01-02T12:00:00Z", 115.0),
        ("soon", 115.0),
        ("", 115.0),
    ],
)
def test_work_ends_a_few_seconds_before_the_instance_goes(time: str, left_seconds: float) -> None:
    assert ReclaimNotice("terminate", time).seconds_left(NOON) == left_seconds
