"""What dead runners left on the engine's host is removed, and nothing else is.

Killed, a runner leaves its containers behind; the next one on the same host removes them. Whose a container is
stands in its labels, and who is gone or alive is known only of two kinds of runner: a container, of which the
engine knows; a process of this very host, seen from this very PID namespace. Of everybody else it is not known,
and their containers stay, but for those of our own task in our own directory: we hold its lease, so no runner
lives that had it before.

Labels may also come from an image that somebody made of one of our containers (`docker commit`). What runs from
such an image is not ours, so a container counts only where its labels are not its image's.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.containers.convert import owner_labels
from taskrunner.containers.engine import RefusedError
from taskrunner.containers.labels import RUNNER_ID_LABEL, TASK_ID_LABEL, WATCHDOG_LABEL
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import ContainerNotRemoved, ContainerOrphanRemoved, SweepFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskrunner.containers.engine import Engine, Labelled
    from taskrunner.events import Reporter

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_PROCESS = re.compile(r"(.+)/([0-9]{1,19})/([1-9][0-9]{0,9})/([0-9]{1,19})")
_ENDED = frozenset(("exited", "dead"))
_STATE, _STARTED_TICKS = 0, 19
"""Where `_stat` has what a process is doing, and when it began, in clock ticks since the host did."""
_ZOMBIES = ("Z", "X")
_ANSWER_SECONDS = 5.0
"""How long the engine has for each runner: somebody else's container that is stuck must not stop our task."""


class Life(Enum):
    """What is known of a runner."""

    GONE = auto()
    ALIVE = auto()
    UNKNOWN = auto()


def runner_id(own_container: str | None) -> str:
    """Who we are, for the label of our containers: our own container's full id, or outside one a process.

    That is `HOST/PIDNS/PID/START`: the host's name, the inode of the PID namespace, the process id in it, and
    when the process began, in clock ticks since the host did.
    """
    if own_container is not None:
        return own_container
    stat = _stat("self")
    started_ticks = stat[_STARTED_TICKS] if stat else "unknown"
    return f"{socket.gethostname()}/{_pid_namespace()}/{os.getpid()}/{started_ticks}"


async def every_runners(engine: Engine, reporter: Reporter) -> tuple[Labelled, ...]:
    """All containers of all runners on the engine's host, for `sweep`; to be asked before we make any.

    Raises EngineUnavailableError where the engine does not answer; a refusal is told, and the task goes on.
    """
    try:
        return await engine.labelled(TASK_ID_LABEL)
    except RefusedError as error:
        reporter.report(SweepFailed(error=str(error)))
        return ()


async def sweep(
    engine: Engine,
    found: Iterable[Labelled],
    *,
    runner: str,
    task_id: str,
    host_root: str,
    reporter: Reporter,
) -> None:
    """Remove every container of `found` whose runner is gone, and tell it.

    Who had this very task in this directory before (`host_root`, as the Docker host calls it), and is not known to
    be alive, is gone: we hold the lease. That may have our own id, `runner`, where our container was started again
    or where a runner before us in it was killed.

    What goes wrong is told, and never raised.
    """
    ours = owner_labels(task_id, host_root)
    others = dict.fromkeys(one.labels.get(RUNNER_ID_LABEL, runner) for one in found)
    others.pop(runner, None)
    lives = dict(
        zip(others, await asyncio.gather(*(_asked(engine, one, reporter) for one in others)), strict=True)
    )

    def is_orphan(one: Labelled) -> bool:
        life = lives.get(one.labels.get(RUNNER_ID_LABEL, runner), Life.UNKNOWN)
        return life is Life.GONE or (life is Life.UNKNOWN and ours.items() <= one.labels.items())

    orphans = [one for one in found if is_orphan(one)]
    # Should we be killed meanwhile, their own watchdogs are still there.
    for watchdogs in (False, True):
        batch = [one for one in orphans if _is_watchdog(one) is watchdogs]
        await asyncio.gather(*(_remove(engine, orphan, reporter) for orphan in batch))


async def _asked(engine: Engine, runner: str, reporter: Reporter) -> Life:
    """What is known of a runner; one that the engine does not answer about counts as alive, which is told."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await life_of(engine, runner)
    except (EngineUnavailableError, TimeoutError) as error:
        why = str(error) or f"no answer within {_ANSWER_SECONDS:g} s"
        reporter.report(
            SweepFailed(error=f"the engine does not say whether the runner {runner} lives: {why}")
        )
        return Life.ALIVE


def _is_watchdog(container: Labelled) -> bool:
    labels = container.labels
    return WATCHDOG_LABEL in labels and labels[WATCHDOG_LABEL] == labels.get(RUNNER_ID_LABEL)


async def _remove(engine: Engine, orphan: Labelled, reporter: Reporter) -> None:
    runner = orphan.labels.get(RUNNER_ID_LABEL)
    try:
        if not await _is_of_a_runner(engine, orphan):
            return
        await engine.remove(orphan.container_id)
    except EngineUnavailableError as error:
        reporter.report(ContainerNotRemoved(container=orphan.name, error=str(error)))
    else:
        reporter.report(ContainerOrphanRemoved(container=orphan.name, runner=runner or ""))


async def _is_of_a_runner(engine: Engine, container: Labelled) -> bool:
    """Whether a runner gave it its labels, and not its image; where that can't be known any more it did not."""
    inherited = await engine.image_labels(container.image_id)
    told_by = RUNNER_ID_LABEL if RUNNER_ID_LABEL in container.labels else TASK_ID_LABEL
    return inherited is not None and inherited.get(told_by) != container.labels[told_by]


async def life_of(engine: Engine, runner: str) -> Life:
    """What is known of a runner.

    Raises EngineUnavailableError where the engine does not answer.
    """
    if not _CONTAINER_ID.fullmatch(runner):
        # Another host of the same name, on the same engine, could have had such a process.
        return _life_of_process(runner) if engine.host.startswith("unix://") else Life.UNKNOWN
    try:
        return Life.GONE if (await engine.inspect(runner)).status in _ENDED else Life.ALIVE
    except RefusedError as error:
        return Life.GONE if error.status == 404 else Life.UNKNOWN


def _life_of_process(runner: str) -> Life:
    named = _PROCESS.fullmatch(runner)
    if named is None or named[1] != socket.gethostname() or int(named[2]) != _pid_namespace():
        return Life.UNKNOWN
    try:
        os.kill(int(named[3]), 0)
    except ProcessLookupError:
        return Life.GONE
    except (PermissionError, OverflowError):
        pass  # somebody else's, and perhaps hidden from us in /proc
    stat = _stat(named[3])
    if stat is None:
        return Life.UNKNOWN
    same = stat[_STARTED_TICKS] == named[4]
    return Life.ALIVE if same and stat[_STATE] not in _ZOMBIES else Life.GONE


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _stat(pid: str) -> list[str] | None:
    """A process's fields in /proc/PID/stat (proc(5)), from the third on; the second may hold anything.

    None where /proc does not show (our) processes.
    """
    try:
        if pid != "self" and Path("/proc/self").readlink() != Path(str(os.getpid())):
            return None  # the /proc of another PID namespace
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return stat.rpartition(b")")[2].decode().split()
