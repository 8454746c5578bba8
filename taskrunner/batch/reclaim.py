"""Spot reclaims, announced by the instance metadata service two minutes ahead.

The ECS agent does not stop Batch's jobs for them, so a runner asks for itself, by IMDSv2 alone: a session token
first, then, every five seconds as EC2 recommends, whether the item is there.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from taskrunner.batch.endpoint import Answer, ask
from taskrunner.errors import TaskrunnerError, TransferIOError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0
_TOKEN_SECONDS = 21600
"""The most that IMDSv2 grants."""
_FAILURES_UNTIL_TOLD = 3
_MARGIN_SECONDS = 5.0
_LEAST_SECONDS = 5.0
_MOST_SECONDS = 115.0
_USED_OF_A_TOKEN = 0.9
"""How much of its life passes before a new one is fetched."""
_ADVICE = (
    "a Spot reclaim will come unannounced (behind a bridge the instance's metadata hop limit must be 2; "
    "AWS_EC2_METADATA_DISABLED=true turns the watch off)"
)


@dataclass(frozen=True, slots=True)
class ReclaimNotice:
    """What EC2 will do to the instance, and when."""

    action: str
    """terminate, stop or hibernate."""
    time: str
    """RFC 3339, UTC."""

    def seconds_left(self, now_seconds: float) -> float:
        """How long work can go on from now (since the epoch), a few seconds before the instance goes.

        Some seconds in any case: hibernation begins at once, and clocks differ.
        """
        try:
            moment = datetime.fromisoformat(self.time)
        except ValueError:
            return _MOST_SECONDS
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        left_seconds = moment.timestamp() - now_seconds - _MARGIN_SECONDS
        return min(_MOST_SECONDS, max(_LEAST_SECONDS, left_seconds))


async def reclaim_notice(
    endpoint: str,
    on_failure: Callable[[Exception], None],
    *,
    interval_seconds: float = _INTERVAL_SECONDS,
    token_seconds: int = _TOKEN_SECONDS,
) -> ReclaimNotice:
    """Wait for the notice, for as long as it takes.

    While the service (at `endpoint`) does not answer it is asked more and more seldom; `on_failure` is told once,
    when that is no mere hiccup any more.
    """
    service = _Service(endpoint, token_seconds)
    failures, told, pause_seconds = 0, False, interval_seconds
    while True:
        try:
            notice = await service.notice()
        except TaskrunnerError as error:
            failures += 1
            pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * pause_seconds)
            if failures == _FAILURES_UNTIL_TOLD and not told:
                told = True
                on_failure(TransientError(f"{error}: {_ADVICE}"))
        else:
            if notice is not None:
                return notice
            failures, pause_seconds = 0, interval_seconds
        await asyncio.sleep(pause_seconds)


@dataclass(slots=True)
class _Service:
    """The instance metadata service, and our session with it."""

    endpoint: str
    token_seconds: int
    _token: str = ""
    _renew_at: float = 0.0
    """By the loop's clock."""

    async def notice(self) -> ReclaimNotice | None:
        """The notice, if there is one. Raises TaskrunnerError."""
        url = f"{self.endpoint}/latest/meta-data/spot/instance-action"
        answer = await self._asked(url)
        if answer.status == 401:  # the token is not known any more
            self._token = ""
            answer = await self._asked(url)
        if answer.status == 404:
            return None
        notice = _parsed(answer.body) if answer.status == 200 else None
        if notice is None:
            raise TransferIOError(f"{url} answered {answer.status}, and not with a Spot instance's action")
        return notice

    async def _asked(self, url: str) -> Answer:
        if not self._token or asyncio.get_running_loop().time() >= self._renew_at:
            await self._renew()
        return await ask(url, headers={"X-aws-ec2-metadata-token": self._token})

    async def _renew(self) -> None:
        url = f"{self.endpoint}/latest/api/token"
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(self.token_seconds)}
        answer = await ask(url, method="PUT", headers=lifetime)
        token = answer.body.decode("ascii", errors="replace").strip()
        if answer.status != 200 or not (token.isascii() and token.isprintable() and token):
            raise TransferIOError(f"{url} answered {answer.status}, and not with a token")
        self._token = token
        self._renew_at = asyncio.get_running_loop().time() + _USED_OF_A_TOKEN * self.token_seconds


def _parsed(body: bytes) -> ReclaimNotice | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    action = told.get("action") if isinstance(told, dict) else None
    if not isinstance(action, str) or not action:
        return None
    time = told.get("time")
    return ReclaimNotice(action, time if isinstance(time, str) else "")
