"""When and how often something is tried again: one way for transfers, small files and image pulls.

Only a `TransientError` is worth another try; everything else is told at once. Waits grow exponentially with
jitter, a server's own Retry-After is honoured, and the number of tries is bounded and with it the time spent
waiting. The time a try itself takes does not count: a connection that worked well for an hour and then breaks
is as much worth another try as one that broke at once. This is the only module that imports stamina.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskrunner.errors import ConnectionCutError, TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stamina import Attempt


@dataclass(slots=True)
class Allowance:
    """How many tries all transfers of a task may cost beyond the first ones, taken together.

    A store that refuses half of ten thousand requests is not to be asked each one eight times. What goes well
    earns a little back, so that a long task is not judged by its first hour.
    """

    tries: float = 1000.0
    most: float = 1000.0
    earned: float = 0.1

    def take(self) -> bool:
        """Whether one more try may be made."""
        if self.tries < 1:
            return False
        self.tries -= 1
        return True

    def earn(self) -> None:
        """Something went well."""
        self.tries = min(self.most, self.tries + self.earned)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is tried, and how long is waited in between."""

    attempts: int
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 20.0

    def tries(self, allowance: Allowance | None = None) -> AsyncIterator[Attempt]:
        """Attempts for `async for attempt in …: with attempt: …`; the last one's error comes through.

        Where an `allowance` is shared with others, an error also comes through once that is used up.
        """
        import stamina  # noqa: PLC0415  # settings hold a Patience, and `--help` must not load this
        from stamina.instrumentation import set_on_retry_hooks  # noqa: PLC0415

        # Left alone, stamina tells every retry through structlog's default logger, on standard output.
        set_on_retry_hooks([])
        return aiter(
            stamina.retry_context(
                on=lambda error: self._wait(error, allowance),
                attempts=self.attempts,
                timeout=None,
                wait_initial=self.first_wait_seconds,
                wait_max=self.longest_wait_seconds,
                wait_jitter=5 * self.first_wait_seconds,
            )
        )

    def _wait(self, error: Exception, allowance: Allowance | None) -> bool | float:
        """Whether to try again and, where that is known, after how many seconds."""
        if not isinstance(error, TransientError):
            return False
        if isinstance(error, ConnectionCutError):
            return 0.0  # our own doing, to be faster
        if allowance is not None and not allowance.take():
            return False
        if error.retry_after_seconds is None:
            return True
        return min(error.retry_after_seconds, self.longest_wait_seconds)
