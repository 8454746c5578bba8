"""From create to remove: a container that can't be left behind, whenever its step is cancelled or fails.

Its name is the plan's, `<taskID>-<index>`; where that is taken (one task run twice on one host, or what a dead
runner left is still there) ours gets a suffix.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.containers.convert import start_failure_code
from taskrunner.containers.engine import RefusedError, persistently
from taskrunner.containers.labels import WORK_DIR_LABEL
from taskrunner.errors import EngineUnavailableError, ImageUnavailableError
from taskrunner.events import ContainerNotRemoved
from taskrunner.paths import is_within
from taskrunner.shielded import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from taskrunner.containers.engine import Engine
    from taskrunner.events import Reporter

_LIMIT_SECONDS = 5.0
"""How long creating and removing may each take once we are being stopped."""


_MISSING_SOURCE = re.compile(r"bind source path does not exist: (.+)")


class StartFailedError(Exception):
    """The engine could not make or start a container: its owner's failure, with the docker command's code."""

    def __init__(self, exit_code: int, words: str) -> None:
        super().__init__(words)
        self.exit_code = exit_code


@asynccontextmanager
async def created(
    engine: Engine,
    name: str,
    config: Mapping[str, object],
    reporter: Reporter,
    index: int = 0,
    *,
    may_go: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncIterator[str]:
    """A new container's id; it is removed, running or not, when the context is left, unless it may not go then.

    Raises:
        StartFailedError: the engine refuses the configuration.
        EngineUnavailableError: the Docker host does not have what the operator wants mounted.
        ImageUnavailableError: the image is not there (any more).
    """
    made: list[str] = []

    async def make() -> None:
        made.append(await _create(engine, name, config))

    def tell(error: str) -> None:
        reporter.report(ContainerNotRemoved(index=index, container=name, error=error))

    try:
        await to_the_end(make(), name=f"create {name}", limit_seconds=_LIMIT_SECONDS)
        yield made[0]
    finally:
        for container in made:
            removing = _remove(engine, container, may_go, tell)
            await to_the_end(removing, name=f"remove {name}", limit_seconds=_LIMIT_SECONDS)


async def start(engine: Engine, container: str, gpus: Sequence[str] = ()) -> None:
    """Start a container that asks for `gpus`.

    Raises:
        StartFailedError: the image has no such command, or can't execute it.
        EngineUnavailableError: the Docker host can't hand GPUs to containers.
    """
    try:
        # Starting what runs already does nothing, so an answer that was lost does no harm.
        await persistently(partial(engine.start, container), _LIMIT_SECONDS)
    except RefusedError as error:
        if "could not select device driver" in error.words:
            raise EngineUnavailableError(
                f"the Docker engine can't give executors the job's GPUs ({', '.join(gpus)}): {error.words}; "
                "the NVIDIA container toolkit has to be installed on the Docker host, as in the ECS "
                "GPU-optimized AMI"
            ) from error
        raise StartFailedError(start_failure_code(error.words), error.words) from error


async def _remove(
    engine: Engine,
    container: str,
    may_go: Callable[[], Awaitable[bool]] | None,
    tell: Callable[[str], None],
) -> None:
    """Remove a container; the step's own outcome counts, so what stays on the host is told and not raised."""
    try:
        if may_go is None or await may_go():
            await persistently(partial(engine.remove, container), _LIMIT_SECONDS)
    except EngineUnavailableError as error:
        tell(str(error))
    except asyncio.CancelledError:  # `to_the_end` gives no more time
        tell(f"the Docker engine did not do it within {_LIMIT_SECONDS:g} s")
        raise


async def _create(engine: Engine, name: str, config: Mapping[str, object]) -> str:
    try:
        return await engine.create(name, config)
    except RefusedError as error:
        if error.status != 409:
            raise _create_failure(error, config) from error
    name = f"{name}-{secrets.token_hex(2)}"
    try:
        return await engine.create(name, config)
    except RefusedError as error:
        raise _create_failure(error, config) from error


def _create_failure(
    error: RefusedError, config: Mapping[str, object]
) -> StartFailedError | ImageUnavailableError | EngineUnavailableError:
    if error.status == 404 and "image" in error.words.lower():
        return ImageUnavailableError(f"the image {config['Image']} is not on the Docker host: {error.words}")
    words = error.words
    missing, work_dir = _MISSING_SOURCE.search(words), _work_dir(config)
    if missing and work_dir:
        if not is_within(missing[1], work_dir):
            return EngineUnavailableError(
                f"the Docker host has no {missing[1]}, which is to be mounted: give --mount only what is there"
            )
        words += " (is the work directory at the same path on the Docker host?)"
    return StartFailedError(start_failure_code(words), words)


def _work_dir(config: Mapping[str, object]) -> str | None:
    """Where a task's own mounts come from; None for a container that has no task's."""
    labels = config.get("Labels")
    return labels.get(WORK_DIR_LABEL) if isinstance(labels, dict) else None
