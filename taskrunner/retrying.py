"""When and how often something is tried again: one way for transfers, small files and image pulls.

Only a `TransientError` is worth another try; everything else is told at once. Waits grow exponentially with
jitter, a server's own Retry-After is honoured, and the number of tries is bounded and with it the time spent
waiting. The time a try itself takes does not count: a connection that worked well for an hour and then breaks
is as much worth another try as one that broke at once. This is the only module that imports stamina.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskrunner.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stamina import Attempt


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is tried, and how long is waited in between."""

    attempts: int
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 20.0

    def tries(self) -> AsyncIterator[Attempt]:
        """Attempts for `async for attempt in …: with attempt: …`; the last one's error comes through."""
        import stamina  # noqa: PLC0415  # settings hold a Patience, and `--help` must not load this
        from stamina.instrumentation import set_on_retry_hooks  # noqa: PLC0415

        # Left alone, stamina tells every retry through structlog's default logger, on standard output.
        set_on_retry_hooks([])
        return aiter(
            stamina.retry_context(
                on=self._wait,
                attempts=self.attempts,
                timeout=None,
                wait_initial=self.first_wait_seconds,
                wait_max=self.longest_wait_seconds,
                wait_jitter=5 * self.first_wait_seconds,
            )
        )

    def _wait(self, error: Exception) -> bool | float:
        """Whether to try again and, where the server said so, after how many seconds."""
        if not isinstance(error, TransientError):
            return False
        if error.retry_after_seconds is None:
            return True
        return min(error.retry_after_seconds, self.longest_wait_seconds)
