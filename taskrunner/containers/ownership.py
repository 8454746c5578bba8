"""Giving files back: what executors made as root, a runner that is not root can neither read nor remove.

The engine can, so it does: `chown` of one of the task's own images runs in a small container of its own, with
no network and nothing but the task's directory in it. Links are changed themselves and never followed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskrunner.containers.convert import give_back_config, owner_labels
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.errors import EngineUnavailableError, ImageUnavailableError
from taskrunner.events import OwnershipNotChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from taskrunner.containers.engine import Engine
    from taskrunner.events import Reporter

_LIMIT_SECONDS = 60.0
"""Far more than `chown` needs for a million files; a task must end although the engine hangs."""


async def give_back(
    engine: Engine,
    host_root: str,
    *,
    labels: Mapping[str, str],
    task_id: str,
    images: Iterable[str],
    uid: int,
    gid: int,
    reporter: Reporter,
    limit_seconds: float = _LIMIT_SECONDS,
) -> bool:
    """Make everything below a task's directory (its path on the Docker host) belong to `uid`:`gid`.

    The first of `images` that has a `chown` does it, within `limit_seconds`. Returns whether one did; else there
    is a warning event that says why. Nothing that goes wrong here is raised: the task's own end is not changed.
    """
    reasons: list[str] = []
    try:
        async with asyncio.timeout(limit_seconds):
            for image in dict.fromkeys(images):
                config = give_back_config(
                    image, host_root, uid, gid, {**labels, **owner_labels(task_id, host_root)}
                )
                reason = await _run_once(engine, f"{task_id}-give-back", config, reporter)
                if reason is None:
                    return True
                reasons.append(f"{image}: {reason}")
    except TimeoutError:
        reasons.append(f"chown did not end within {limit_seconds:g} s")
    reporter.report(OwnershipNotChanged(path=host_root, error="; ".join(reasons) or "no image to do it with"))
    return False


async def _run_once(
    engine: Engine, name: str, config: Mapping[str, object], reporter: Reporter
) -> str | None:
    """Run a container to its end; why that did not go well, or None."""
    try:
        async with created(engine, name, config, reporter) as container:
            await start(engine, container)
            exit_code = await engine.wait(container)
    except (StartFailedError, ImageUnavailableError, EngineUnavailableError) as error:
        return str(error)
    return f"chown ended with {exit_code}" if exit_code else None
