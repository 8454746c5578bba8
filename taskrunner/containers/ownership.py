"""Giving files back: what executors made as root, a runner that is not root can neither read nor remove.

The engine can, so it does: `chown` of one of the task's own images runs in a small container of its own, with
no network and nothing but the task's directory in it. Links are changed themselves and never followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskrunner.containers.convert import give_back_config
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.errors import ImageUnavailableError
from taskrunner.events import OwnershipNotChanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskrunner.containers.engine import Engine
    from taskrunner.events import Reporter


async def give_back(
    engine: Engine,
    host_root: str,
    *,
    task_id: str,
    images: Iterable[str],
    uid: int,
    gid: int,
    reporter: Reporter,
) -> bool:
    """Make everything below a task's directory (its path on the Docker host) belong to `uid`:`gid`.

    The first of `images` that has a `chown` does it. Returns whether one did; else there is a warning event
    that says why.
    """
    reasons: list[str] = []
    for image in dict.fromkeys(images):
        config = give_back_config(image, host_root, uid, gid, task_id)
        try:
            async with created(engine, f"{task_id}-give-back", config, reporter) as container:
                await start(engine, container)
                exit_code = await engine.wait(container)
        except (StartFailedError, ImageUnavailableError) as error:
            reasons.append(f"{image}: {error}")
            continue
        if exit_code == 0:
            return True
        reasons.append(f"{image}: chown ended with {exit_code}")
    reporter.report(OwnershipNotChanged(path=host_root, error="; ".join(reasons) or "no image to do it with"))
    return False
