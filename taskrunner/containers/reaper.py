"""What dead runners left on the engine's host is removed, and nothing else is.

Killed, a runner leaves its containers behind; the next one on the same host removes them. Whose a container is
stands in its labels, and who is gone is known only of two kinds of runner: a container that the engine does not
have any more, or has seen end; a process that this very host, seen from this very PID namespace, does not have
any more. Everybody else counts as alive, and so does whoever an engine that refuses to answer was asked about.

Labels may also come from an image that somebody made of one of our containers (`docker commit`). What runs from
such an image is not ours, so a container counts only where its labels are not its image's.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.containers.convert import owner_labels
from taskrunner.containers.engine import RefusedError
from taskrunner.containers.labels import RUNNER_ID_LABEL, TASK_ID_LABEL, WATCHDOG_LABEL
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import ContainerNotRemoved, ContainerOrphanRemoved, SweepFailed

if TYPE_CHECKING:
    from taskrunner.containers.engine import Engine, Labelled
    from taskrunner.events import Reporter

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_PROCESS = re.compile(r"(.+)/([0-9]{1,19})/([1-9][0-9]{0,9})/([0-9]{1,19})")
_ENDED = frozenset(("exited", "dead"))


def runner_id(own_container: str | None) -> str:
    """Who we are, for the label of our containers: our own container's full id, or outside one a process.

    That is `HOST/PIDNS/PID/START`: the host's name, the inode of the PID namespace, the process id in it, and
    when the process began, in clock ticks since the host did.
    """
    if own_container is not None:
        return own_container
    return f"{socket.gethostname()}/{_pid_namespace()}/{os.getpid()}/{_started_ticks('self')}"


async def sweep(engine: Engine, runner: str, task_id: str, host_root: str, reporter: Reporter) -> None:
    """Remove every container, running or not, whose runner is gone, and tell it; `runner` is our own id.

    An earlier runner of this very task in the same directory (`host_root`, as the Docker host calls it) is gone
    wherever it was: that we hold the directory's lease proves it. To be called once, while we do.

    Raises EngineUnavailableError where the engine does not answer; a refusal is told, and the task goes on.
    """
    ours = owner_labels(task_id, host_root)
    try:
        found = [
            one for one in await engine.labelled(TASK_ID_LABEL) if one.labels.get(RUNNER_ID_LABEL) != runner
        ]
        others = dict.fromkeys(one.labels[RUNNER_ID_LABEL] for one in found if RUNNER_ID_LABEL in one.labels)
        gone = {other for other in others if await is_gone(engine, other)}
    except RefusedError as error:
        reporter.report(SweepFailed(error=str(error)))
        return
    orphans = [
        one for one in found if one.labels.get(RUNNER_ID_LABEL) in gone or ours.items() <= one.labels.items()
    ]
    # Should we be killed meanwhile, their own watchdogs are still there.
    for watchdogs in (False, True):
        batch = [one for one in orphans if (WATCHDOG_LABEL in one.labels) is watchdogs]
        await asyncio.gather(*(_remove(engine, orphan, reporter) for orphan in batch))


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


async def is_gone(engine: Engine, runner: str) -> bool:
    """Whether a runner is known to be gone.

    Raises EngineUnavailableError where the engine does not answer.
    """
    if not _CONTAINER_ID.fullmatch(runner):
        return _is_gone_process(runner)
    try:
        return (await engine.inspect(runner)).status in _ENDED
    except RefusedError as error:
        return error.status == 404


def _is_gone_process(runner: str) -> bool:
    named = _PROCESS.fullmatch(runner)
    if named is None or named[1] != socket.gethostname() or int(named[2]) != _pid_namespace():
        return False
    try:
        os.kill(int(named[3]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # somebody else's, and perhaps hidden from us in /proc
    begun_ticks = _started_ticks(named[3])
    return begun_ticks is not None and begun_ticks != int(named[4])


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _started_ticks(pid: str) -> int | None:
    """When a process began, in clock ticks since the host did; None where /proc does not show (our) processes.

    The 22nd field of /proc/PID/stat (proc(5)); the second is a name in parentheses that may hold anything.
    """
    try:
        if pid != "self" and Path("/proc/self").readlink() != Path(str(os.getpid())):
            return None  # the /proc of another PID namespace
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])
