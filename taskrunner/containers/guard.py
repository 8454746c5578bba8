"""No container outlives its runner: what dead runners left goes before the task, and somebody watches over ours.

The watchdog has to be there before anything kills us: a sibling container where we are in one ourselves (with
ours, everything in it ends), else a process in a session of its own. It starts while images and inputs come, is
on duty before the first executor's container is made, and ends when all of these are gone. Where there can't be
one, a warning says so and the task goes on.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import TYPE_CHECKING

from taskrunner.containers.convert import owner_labels
from taskrunner.containers.engine import RefusedError
from taskrunner.containers.labels import RUNNER_ID_LABEL, WATCHDOG_LABEL
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.containers.reaper import runner_id, sweep
from taskrunner.errors import EngineUnavailableError, ImageUnavailableError
from taskrunner.events import SweepFailed, WatchdogFailed
from taskrunner.mounts import host_path
from taskrunner.shielded import in_daemon_thread, to_the_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from taskrunner.containers.engine import Engine
    from taskrunner.containers.surroundings import Surroundings
    from taskrunner.events import Reporter
    from taskrunner.plan import Plan
    from taskrunner.settings import HostPath, Settings

_SWEEP_SECONDS = 60.0
"""How long the first executor waits at most for what dead runners left to be gone."""
_END_SECONDS = 3.0
_AGAIN_SECONDS = 5.0
_SCRIPT = Path(__file__).with_name("watchdog.py")
_PYTHON = ("-I", "-S")
_SOCKET = "/taskrunner-engine.sock"
"""Where the watchdog's container has the engine's socket."""
_WATCHDOG_MEMORY_BYTES = 64 * 1024 * 1024
_WATCHDOG_PIDS = 16


class Guard:
    """The watch over one runner."""

    def __init__(self) -> None:
        self.swept = asyncio.Event()
        self.on_duty = asyncio.Event()

    async def ready(self) -> None:
        """Wait until what dead runners left is gone, and the watchdog on duty."""
        await self.swept.wait()
        await self.on_duty.wait()


@asynccontextmanager
async def guarded(
    engine: Engine, surroundings: Surroundings, plan: Plan, settings: Settings, reporter: Reporter
) -> AsyncIterator[Guard]:
    """Sweep, and keep a watchdog for as long as the context lasts; both begin beside what is done in it.

    The task's lease must be ours. Raises EngineUnavailableError (in a group) where the engine does not answer
    the sweep.
    """
    runner = runner_id(surroundings.own_container)
    host_root = host_path(plan.root, surroundings.host_paths)
    labels = {**surroundings.labels, **owner_labels(plan.task.id, host_root), RUNNER_ID_LABEL: runner}
    watch = _Watch(engine, surroundings, runner, f"{plan.task.id}-watchdog", labels, reporter)
    guard = Guard()

    async def sweeping() -> None:
        try:
            async with asyncio.timeout(_SWEEP_SECONDS):
                await sweep(engine, runner, plan.task.id, host_root, reporter)
        except TimeoutError:
            reporter.report(SweepFailed(error=f"removing did not end within {_SWEEP_SECONDS:g} s"))
        guard.swept.set()

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(sweeping(), name="container sweep")]
        if settings.containers.watchdog:
            beside.append(group.create_task(watch.keep(guard.on_duty), name="watchdog"))
        else:
            guard.on_duty.set()
        try:
            yield guard
        finally:
            for task in beside:
                task.cancel()


@dataclass(frozen=True, slots=True)
class _Watch:
    """Who is to be watched over, and how."""

    engine: Engine
    surroundings: Surroundings
    runner: str
    name: str
    """Of the watchdog's container."""
    labels: Mapping[str, str]
    reporter: Reporter

    async def keep(self, on_duty: asyncio.Event) -> None:
        """Keep a watchdog until cancelled; where there is none (any more) that is told, and we return."""
        try:
            async with self._watchdog() as ended:
                on_duty.set()
                error = f"it ended by itself, with {await ended()}"
        except (StartFailedError, ImageUnavailableError, EngineUnavailableError, OSError) as failure:
            error = str(failure)
        self.reporter.report(WatchdogFailed(error=error))
        on_duty.set()

    def _watchdog(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[int]]]:
        """A running watchdog; what comes in waits for its end and returns its exit code."""
        kind, _, address = self.engine.host.partition("://")
        if kind not in ("unix", "tcp") or (kind == "tcp" and os.environ.get("DOCKER_TLS_VERIFY") == "1"):
            raise OSError(
                f"it can't speak to {self.engine.host}, but only to unix:// and to tcp:// without TLS"
            )
        who = (RUNNER_ID_LABEL, self.runner, WATCHDOG_LABEL)
        own_container = self.surroundings.own_container
        if own_container is None:
            return self._process((self.engine.host, *who))
        if kind == "tcp":
            return self._sibling(own_container, None, (self.engine.host, *who, own_container))
        source = _on_host(Path(address), self.surroundings.host_paths)
        return self._sibling(own_container, source, (f"unix://{_SOCKET}", *who, own_container))

    @asynccontextmanager
    async def _process(self, arguments: Sequence[str]) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        watchdog = _start(arguments)
        try:
            yield partial(in_daemon_thread, watchdog.wait, name="watchdog's end")
        finally:
            try:
                await to_the_end(self._dismiss(watchdog), name="end watchdog", limit_seconds=_END_SECONDS)
            finally:
                if watchdog.stdin is not None:
                    watchdog.stdin.close()

    async def _dismiss(self, watchdog: Popen[bytes]) -> None:
        """End a watchdog that is not needed any more. Else it goes on where our own removing failed."""
        try:
            labelled = await self.engine.labelled(RUNNER_ID_LABEL)
        except EngineUnavailableError:
            return  # it has more patience than we have time
        if not any(one.labels[RUNNER_ID_LABEL] == self.runner for one in labelled):
            watchdog.kill()
            await in_daemon_thread(watchdog.wait, name="watchdog's end")

    @asynccontextmanager
    async def _sibling(
        self, own_container: str, socket: str | None, arguments: Sequence[str]
    ) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        own = await self.engine.inspect(own_container)
        source = await asyncio.to_thread(_SCRIPT.read_text)
        config = watchdog_config(
            own.image_hash,
            [sys.executable, *_PYTHON, "-c", source, *arguments],
            socket=socket,
            network="none" if socket else own.network_mode,
            labels=self.labels,
        )
        async with created(self.engine, self.name, config, self.reporter) as container:
            await start(self.engine, container)
            yield partial(self._end_of, container)

    async def _end_of(self, container: str) -> int:
        """The watchdog's exit code. A connection that breaks changes nothing for the watchdog."""
        while True:
            try:
                return await self.engine.wait(container)
            except RefusedError:
                raise
            except EngineUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)


def watchdog_config(
    image: str, command: Sequence[str], *, socket: str | None, network: str, labels: Mapping[str, str]
) -> dict[str, object]:
    """The body of `POST /containers/create` for a watchdog: it can do nothing but talk to the engine.

    `socket` is the engine's on the Docker host, None where it is spoken to over the `network`. The user and the
    groups are our own, since they may use the engine. It is not in the job's cgroup: it has to outlive that.
    """
    mounts = [{"Type": "bind", "Source": socket, "Target": _SOCKET, "ReadOnly": True}] if socket else []
    return {
        "Image": image,
        "Entrypoint": list(command),
        "Cmd": [],
        "User": f"{os.geteuid()}:{os.getegid()}",
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**labels, WATCHDOG_LABEL: "true"},
        "HostConfig": {
            "AutoRemove": True,
            "ReadonlyRootfs": True,
            "NetworkMode": network,
            "CapDrop": ["ALL"],
            # Where SELinux reigns, no confined container may use the engine's socket.
            "SecurityOpt": ["no-new-privileges", "label=disable"],
            "GroupAdd": [str(group) for group in os.getgroups()],
            "Mounts": mounts,
            "Memory": _WATCHDOG_MEMORY_BYTES,
            "PidsLimit": _WATCHDOG_PIDS,
            "LogConfig": {"Type": "none"},
        },
    }


def _on_host(socket: Path, host_paths: tuple[HostPath, ...]) -> str:
    """What the Docker host calls the engine's socket; it may be mounted where we use it, or where links lead."""
    candidates = (host_path(path, host_paths) for path in (socket, socket.resolve()))
    return next((found for found in candidates if found != str(socket)), str(socket))


def _start(arguments: Sequence[str]) -> Popen[bytes]:
    """A process that nothing connects with us (no session, no directory, no stream) but its standard input."""
    command = [sys.executable, *_PYTHON, str(_SCRIPT), *arguments]
    return Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, cwd="/", start_new_session=True)
