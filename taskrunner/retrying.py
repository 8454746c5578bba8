"""When and how often something is tried again: one policy for all transfers.

Only a `TransientError` is worth another try; everything else is told at once. Waits grow exponentially with
jitter, a server's own Retry-After is honoured, and both the number of tries and their time are bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import stamina

from taskrunner.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskrunner.settings import TransferSettings

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 20.0


def tries(transfer: TransferSettings) -> AsyncIterator[stamina.Attempt]:
    """Attempts for `async for attempt in …: with attempt: …`; the last one's error comes through."""
    return aiter(
        stamina.retry_context(
            on=_patience,
            attempts=transfer.attempts,
            timeout=transfer.retry_seconds,
            wait_initial=_FIRST_WAIT_SECONDS,
            wait_max=_LONGEST_WAIT_SECONDS,
            wait_jitter=1.0,
        )
    )


def _patience(error: Exception) -> bool | float:
    """Whether to try again and, where the server said so, after how many seconds."""
    if not isinstance(error, TransientError):
        return False
    if error.retry_after_seconds is None:
        return True
    return min(error.retry_after_seconds, _LONGEST_WAIT_SECONDS)
