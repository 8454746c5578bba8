"""Credentials that expire in the midst of a task: renewed where they can be, told at once where they can't."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from taskrunner.errors import AccessDeniedError, ExitCode, TransientError
from tests.faults.scene import ATTEMPTS, LANES, LARGE, NOISE, Scene
from tests.faulty_link import Exchange, When, anything, is_get, is_look, is_part, refuse
from tests.servers import web_server

EXPIRED = refuse(403, "ExpiredToken", message="The provided token has expired.")


class Issuer:
    """A container's credentials endpoint: every time it is asked it gives a new token."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.issued: list[str] = []
        self.out_of_order = 0
        """So many questions it answers with an error."""
        self.lifetime = timedelta(minutes=5)  # so short that the SDK renews them at every turn

    async def serve(self, _request: web.Request) -> web.Response:
        if self.out_of_order:
            self.out_of_order -= 1
            return web.Response(status=500)
        self.issued.append(f"token-{len(self.issued) + 1}")
        document = {
            "AccessKeyId": self._scene.server.access_key,
            "SecretAccessKey": self._scene.server.secret_key,
            "Token": self.issued[-1],
            "Expiration": f"{datetime.now(UTC) + self.lifetime:%Y-%m-%dT%H:%M:%SZ}",
        }
        return web.Response(text=json.dumps(document))


@asynccontextmanager
async def issuer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    """The environment of a container with a role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    one = Issuer(scene)
    async with web_server({"/role": one.serve}) as base:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{base}/role")
        yield one


async def test_renewable_credentials_that_expire_midway_are_renewed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put("a", LARGE)
    expired: set[str] = set()

    def has_expired(exchange: Exchange) -> bool:
        """Three tokens do so while they are in use, and stay it."""
        token = exchange.headers["x-amz-security-token"]
        if is_get(exchange) and len(expired) < 3:
            expired.add(token)
        return token in expired

    async with issuer(scene, monkeypatch) as role:
        scene.link.trouble(has_expired, EXPIRED, times=None)
        workdir = await scene.bring("a")
    assert workdir.place("/in/a").read_bytes() == LARGE
    assert (len(expired), expired < set(role.issued)) == (3, True)


def of_the_object(exchange: Exchange) -> bool:
    """Its look-up, and the question why that was refused; its ranges."""
    return is_look(exchange) or is_get(exchange)


@pytest.mark.parametrize(("when", "times"), [(of_the_object, 2 * (ATTEMPTS - 1)), (is_get, ATTEMPTS - 1)])
async def test_a_download_with_renewable_credentials_outlives_their_refusal(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, when: When, times: int
) -> None:
    scene.put("a", LARGE)
    async with issuer(scene, monkeypatch):
        scene.link.trouble(when, EXPIRED, times=times)
        workdir = await scene.bring("a")
    assert workdir.place("/in/a").read_bytes() == LARGE


async def test_an_upload_with_renewable_credentials_outlives_their_refusal(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with issuer(scene, monkeypatch):
        scene.link.trouble(is_part(), EXPIRED, times=ATTEMPTS - 1)
        result = await scene.send(("a", NOISE))
    assert (result.errors, scene.get("a") == NOISE, scene.open_uploads()) == ((), True, [])


async def test_credentials_that_can_not_be_had_just_now_are_asked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put("a", LARGE)
    async with issuer(scene, monkeypatch) as role:
        role.out_of_order = 1
        workdir = await scene.bring("a")
    assert workdir.place("/in/a").read_bytes() == LARGE


async def test_renewable_credentials_that_stay_expired_are_worth_a_retry_and_the_tries_are_bounded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put("a", LARGE)
    async with issuer(scene, monkeypatch):
        scene.link.trouble(is_get, EXPIRED, times=None)
        with pytest.raises(TransientError, match="have expired") as raised:
            await scene.bring("a")
    assert raised.value.exit_code is ExitCode.RETRY
    assert len(scene.link.seen(is_get)) <= ATTEMPTS * LANES


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
async def test_static_credentials_that_are_refused_are_told_at_once(scene: Scene, code: str) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(is_get, refuse(403, code), times=None)
    with pytest.raises(AccessDeniedError, match=code) as raised:
        await scene.bring("a")
    assert (raised.value.exit_code, len(scene.link.seen(is_get)) <= LANES) == (ExitCode.ACCESS_DENIED, True)
    assert scene.left_for_another_attempt() == []


async def test_static_credentials_that_expire_while_parts_are_sent_leave_nothing_that_could_be_taken_back(
    scene: Scene,
) -> None:
    scene.link.trouble(is_part(), EXPIRED, after=2, times=None)
    result = await scene.send(("a", NOISE))
    assert [error.exit_code for error in result.errors] == [ExitCode.ACCESS_DENIED]
    assert (scene.keys(), scene.open_uploads()) == ([], [])


async def test_no_secret_is_in_an_error(scene: Scene) -> None:
    scene.put("a", LARGE)
    scene.link.trouble(anything, refuse(403, "SignatureDoesNotMatch"), times=None)
    with pytest.raises(AccessDeniedError) as raised:
        await scene.bring("a")
    assert scene.server.secret_key not in str(raised.value)
