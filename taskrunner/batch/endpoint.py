"""Questions to the metadata endpoints of ECS and EC2: small answers, from the host itself, over plain HTTP.

The ECS agent lets 40 questions a second through for all containers of an instance, those for credentials included,
so few are asked and 429 is waited out. No proxy is ever asked: link-local addresses lead nowhere from there.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskrunner.errors import ThrottledError, TransferIOError, TransientError
from taskrunner.retrying import Patience
from taskrunner.shielded import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

_LIMIT_SECONDS = 3.0
"""For one whole answer; the endpoints are on the same machine."""
_MOST_BYTES = 1024 * 1024
_PATIENCE = Patience(attempts=5, first_wait_seconds=0.2, longest_wait_seconds=3.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said; no 429 and no 5xx."""

    status: int
    body: bytes


async def ask(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    limit_seconds: float = _LIMIT_SECONDS,
) -> Answer:
    """Ask once.

    Raises:
        TransientError: there was no answer in time, or one that asks for patience (429, 5xx).
        TransferIOError: nobody can be asked at such a URL, or the answer is far too long.
    """
    try:
        async with asyncio.timeout(limit_seconds):
            answer = await in_daemon_thread(
                lambda: _answered(url, method, headers or {}, limit_seconds), name="metadata"
            )
    except TimeoutError as error:
        raise TransientError(f"{url} did not answer within {limit_seconds:g} s") from error
    if answer.status == 429 or answer.status >= 500:
        kind = ThrottledError if answer.status in (429, 503) else TransientError
        raise kind(f"{url} can't answer just now ({answer.status})")
    return answer


async def ask_patiently(url: str) -> Answer:
    """Ask, and a few times again where that may help. Raises as `ask` does, in the end."""
    async for attempt in _PATIENCE.tries():
        with attempt:
            return await ask(url)
    raise AssertionError("the last try either returns or raises")


class _HurriedSocket(socket.socket):
    """One whose reads all end by the same moment, so that no endpoint that drips holds a thread for ever."""

    ends_at_seconds: float
    """By the monotonic clock."""

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        left_seconds = self.ends_at_seconds - monotonic()
        if left_seconds <= 0:
            raise TimeoutError
        self.settimeout(left_seconds)
        return super().recv_into(buffer, nbytes, flags)


def _answered(url: str, method: str, headers: Mapping[str, str], limit_seconds: float) -> Answer:
    """One request over a connection of its own. Blocking; raises TimeoutError, and as `ask` does."""
    from http.client import HTTPException, InvalidURL  # noqa: PLC0415  # only a job on EC2 needs it

    try:
        answer = _exchange(url, method, headers, limit_seconds)
    except TimeoutError:
        raise
    except (InvalidURL, ValueError) as error:  # of the URL's parts: a port, a host's name, a path
        raise TransferIOError(f"can't ask {url}: {error}") from error
    except (OSError, HTTPException) as error:
        if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
            raise TransferIOError(f"can't ask {url}: there is no such host ({error.strerror})") from error
        raise TransientError(f"{url} does not answer: {error or type(error).__name__}") from error
    if len(answer.body) > _MOST_BYTES:
        raise TransferIOError(f"{url} answered with more than {_MOST_BYTES:,} bytes")
    return answer


def _exchange(url: str, method: str, headers: Mapping[str, str], limit_seconds: float) -> Answer:
    from http.client import HTTPConnection  # noqa: PLC0415  # as above

    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise TransferIOError(f"can't ask {url}: expected an http:// URL with a host")
    ends_at_seconds = monotonic() + limit_seconds
    # Without a port it would take the last part of an IPv6 address for one.
    port = 80 if parts.port is None else parts.port
    with closing(HTTPConnection(parts.hostname, port, timeout=limit_seconds)) as connection:
        connection.connect()
        connection.sock = _HurriedSocket(fileno=connection.sock.detach())
        connection.sock.ends_at_seconds = ends_at_seconds
        connection.request(method, parts.path or "/", headers={**headers, "Connection": "close"})
        with connection.getresponse() as response:
            return Answer(response.status, response.read(_MOST_BYTES + 1))
