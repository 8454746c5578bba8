"""An executor's image on the engine's host, while inputs download.

What may pass (the network, throttling, a registry's 5xx) is tried again a few times. What remains is an
`ImageUnavailableError` in a sentence of ours (no such image, no access, no network: each its own), followed by
the engine's words.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from taskrunner.containers.engine import RefusedError
from taskrunner.errors import ImageUnavailableError, TransientError
from taskrunner.events import ImagePullFinished, ImagePullStarted, PullFailed
from taskrunner.reference import parse_reference
from taskrunner.retrying import Patience
from taskrunner.settings import PullPolicy

if TYPE_CHECKING:
    from taskrunner.containers.engine import Engine
    from taskrunner.containers.registry import Credentials, RegistryLogin
    from taskrunner.events import Reporter
    from taskrunner.reference import ImageReference


PULL_PATIENCE = Patience(attempts=4, first_wait_seconds=1.0, longest_wait_seconds=8.0)


class PullFault(Enum):
    """Why a registry did not give an image, as the engine's words tell; the value is our sentence's middle."""

    MISSING = "the registry has no such image"
    WRONG_PLATFORM = "the image is not made for this machine's kind of processor"
    NO_ACCESS = "the registry does not allow it; check the Docker config file's credentials for"
    MISSING_OR_NO_ACCESS = "there is no such image, or it needs credentials in the Docker config file for"
    DISK_FULL = "the Docker host's disk is full"
    THROTTLED = "the registry throttles us or is in trouble"
    NETWORK = "the registry can't be reached from the Docker host"
    OTHER = "the engine could not pull it"

    @property
    def temporary(self) -> bool:
        """Whether another try may help."""
        return self in (PullFault.THROTTLED, PullFault.NETWORK)


_SIGNS: tuple[tuple[PullFault, tuple[str, ...]], ...] = (
    # In order: the first sign found decides, so the specific stand before the general.
    (PullFault.MISSING_OR_NO_ACCESS, ("repository does not exist or may require",)),
    (PullFault.THROTTLED, ("toomanyrequests", "too many requests", "rate limit", "http status: 5")),
    (PullFault.DISK_FULL, ("no space left on device",)),
    (PullFault.WRONG_PLATFORM, ("no matching manifest", "does not match the specified platform")),
    (PullFault.MISSING, ("manifest unknown", "name unknown", "repository does not exist", "not found:")),
    (
        PullFault.NO_ACCESS,
        ("unauthorized", "denied", "authentication required", "no basic auth", "forbidden"),
    ),
    (
        PullFault.NETWORK,
        ("dial tcp", "timeout", "no such host", "connection re", "deadline exceeded", "eof", "unreachable"),
    ),
    (PullFault.MISSING, ("not found",)),
)


def pull_fault(words: str) -> PullFault:
    """Read the engine's words for a failed pull."""
    lower = words.lower()
    return next((fault for fault, signs in _SIGNS if any(sign in lower for sign in signs)), PullFault.OTHER)


async def ensure_image(
    engine: Engine,
    image: str,
    *,
    policy: PullPolicy,
    login: RegistryLogin,
    reporter: Reporter,
    patience: Patience = PULL_PATIENCE,
) -> None:
    """See that an image is on the engine's host, by the pull policy (`always`: a pull that fails is a failure).

    Raises:
        ImageUnavailableError: it is not to be had: no such image, no access, no network (after retries).
        EngineUnavailableError: the engine does not answer.
    """
    try:
        reference = parse_reference(image)
    except ValueError as error:
        raise ImageUnavailableError(f"{image!r} is not the name of an image: {error}") from error
    if policy is not PullPolicy.ALWAYS:
        if await engine.image_id(str(reference)) is not None:
            return
        if policy is PullPolicy.NEVER:
            raise ImageUnavailableError(
                f"the image {image} is not on the Docker host, and the pull policy is never"
            )
    reporter.report(ImagePullStarted(image=image))
    begun = time.monotonic()
    try:
        await _Pull(engine, image, reference, login).persistently(patience)
    except (ImageUnavailableError, TransientError) as error:
        reporter.report(PullFailed(error=str(error)))
        raise ImageUnavailableError(str(error)) from error
    seconds = round(time.monotonic() - begun, 3)
    reporter.report(ImagePullFinished(image=image, seconds=seconds))


@dataclass(frozen=True, slots=True)
class _Pull:
    engine: Engine
    image: str
    reference: ImageReference
    login: RegistryLogin

    async def persistently(self, patience: Patience) -> None:
        async for attempt in patience.tries():
            with attempt:
                await self.once()

    async def once(self) -> None:
        credentials = await self.login.credentials(self.reference.registry)
        try:
            await self.engine.pull(str(self.reference), credentials.auth)
        except RefusedError as error:
            raise self._error(error.words, credentials) from error
        # The engine's progress stream can break off without a word.
        if await self.engine.image_id(str(self.reference)) is None:
            raise TransientError(f"can't pull the image {self.image}: the engine broke the pull off")

    def _error(self, words: str, credentials: Credentials) -> ImageUnavailableError | TransientError:
        fault = pull_fault(words)
        sentence = f"can't pull the image {self.image}: {fault.value}"
        if fault in (PullFault.NO_ACCESS, PullFault.MISSING_OR_NO_ACCESS):
            sentence += f" {self.reference.registry}"
            if credentials.remark:
                sentence += f" ({credentials.remark})"
        sentence += f". The engine says: {words}"
        return TransientError(sentence) if fault.temporary else ImageUnavailableError(sentence)
