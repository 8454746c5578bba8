"""From create to remove: a container that can't be left behind, whenever its step is cancelled or fails.

Its name is the plan's, `<taskID>-<index>`. What a dead runner of the same task left under that name goes before
the first step (`remove_orphans`); where the name is taken all the same (one task run twice on one host), ours
gets a suffix.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from taskrunner.containers.convert import owner_labels, start_failure_code
from taskrunner.containers.engine import RefusedError
from taskrunner.errors import EngineUnavailableError, ImageUnavailableError
from taskrunner.events import ContainerNotRemoved, ContainerOrphanRemoved
from taskrunner.shielded import to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from taskrunner.containers.engine import Engine
    from taskrunner.events import Reporter

_LIMIT_SECONDS = 5.0
"""How long creating and removing may each take once we are being stopped."""


class StartFailedError(Exception):
    """The engine could not make or start a container: its owner's failure, with the docker command's code."""

    def __init__(self, exit_code: int, words: str) -> None:
        super().__init__(words)
        self.exit_code = exit_code


@asynccontextmanager
async def created(
    engine: Engine, name: str, config: Mapping[str, object], reporter: Reporter, index: int = 0
) -> AsyncIterator[str]:
    """A new container's id; it is removed, running or not, when the context is left.

    Raises:
        StartFailedError: the engine refuses the configuration.
        ImageUnavailableError: the image is not there (any more).
    """
    made: list[str] = []

    async def make() -> None:
        made.append(await _create(engine, name, config))

    try:
        await to_the_end(make(), name=f"create {name}", limit_seconds=_LIMIT_SECONDS)
        yield made[0]
    finally:
        for container in made:
            removing = _remove(engine, container, name, reporter, index)
            await to_the_end(removing, name=f"remove {name}", limit_seconds=_LIMIT_SECONDS)


async def remove_orphans(engine: Engine, task_id: str, host_root: str, reporter: Reporter) -> None:
    """Remove every container, running or not, that an earlier runner left in this task's directory.

    `host_root` is that directory as the Docker host calls it. To be called once, by the runner that holds the
    lease of it and has made no container yet: the lease proves that theirs is dead. A live runner of the same
    task has another directory.

    Raises EngineUnavailableError where the engine does not answer.
    """
    for container, name in await engine.labelled(owner_labels(task_id, host_root)):
        if await _remove(engine, container, name, reporter, 0):
            reporter.report(ContainerOrphanRemoved(container=name))


async def start(engine: Engine, container: str) -> None:
    """Start a container. Raises StartFailedError: the image has no such command, or can't execute it."""
    try:
        await engine.start(container)
    except RefusedError as error:
        raise StartFailedError(start_failure_code(error.words), error.words) from error


async def _remove(engine: Engine, container: str, name: str, reporter: Reporter, index: int) -> bool:
    try:
        await engine.remove(container)
    except EngineUnavailableError as error:
        # The step's own outcome counts; what stays on the host is told.
        reporter.report(ContainerNotRemoved(index=index, container=name, error=str(error)))
        return False
    return True


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
) -> StartFailedError | ImageUnavailableError:
    if error.status == 404 and "image" in error.words.lower():
        return ImageUnavailableError(f"the image {config['Image']} is not on the Docker host: {error.words}")
    words = error.words
    if "bind source path does not exist" in words:
        words += " (is the work directory at the same path on the Docker host?)"
    return StartFailedError(start_failure_code(words), words)
