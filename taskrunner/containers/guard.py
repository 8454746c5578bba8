"""No container outlives its runner: what dead runners left goes before the task, and somebody watches over ours.

The watchdog has to be there before anything kills us: a process in a session of its own sees our process end.
Where we are in a container, everything in it ends with it; there a sibling container is a second watchdog and
sees our container end. They start while images and inputs come, are on duty before the first executor's container
is made, and end when all of these are gone. One that ends by itself is replaced, once. Where there can't be one,
a warning says so and the task goes on.
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
from taskrunner.containers.labels import RUN_LABEL, RUNNER_ID_LABEL, WATCHDOG_LABEL
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.containers.reaper import every_runners, runner_id, sweep
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

    _Ended = Callable[[], Awaitable[int | str]]
    """Waits for a watchdog's end, and returns its exit code, or why there is none."""
    _Way = Callable[[], AbstractAsyncContextManager[_Ended]]
    """Starts a watchdog; it runs in the context that it gives."""

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
_WHOSE = (RUNNER_ID_LABEL, RUN_LABEL)
"""What all containers of one run, and no others, have in common: in one container another may have followed it."""


class Guard:
    """The watch over one runner."""

    def __init__(self) -> None:
        self._awaited: list[asyncio.Event] = []

    def awaits(self) -> asyncio.Event:
        """Something more that has to be set before we are ready."""
        self._awaited.append(asyncio.Event())
        return self._awaited[-1]

    async def ready(self) -> None:
        """Wait until what dead runners left is gone, and the watchdogs on duty."""
        for event in self._awaited:
            await event.wait()


@asynccontextmanager
async def guarded(
    engine: Engine, surroundings: Surroundings, plan: Plan, settings: Settings, reporter: Reporter
) -> AsyncIterator[Guard]:
    """Sweep, and keep watchdogs for as long as the context lasts; both begin beside what is done in it.

    The task's lease must be ours. Raises EngineUnavailableError where the engine does not answer.
    """
    found = await every_runners(engine, reporter)
    runner = runner_id(surroundings.own_container)
    host_root = host_path(plan.root, surroundings.host_paths)
    labels = {**surroundings.labels, **owner_labels(plan.task.id, host_root), RUNNER_ID_LABEL: runner}
    watch = _Watch(engine, surroundings, runner, f"{plan.task.id}-watchdog", labels, reporter)
    guard = Guard()

    async def sweeping(swept: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_SWEEP_SECONDS):
                await sweep(
                    engine,
                    found,
                    runner=runner,
                    task_id=plan.task.id,
                    host_root=host_root,
                    reporter=reporter,
                )
        except TimeoutError:
            reporter.report(SweepFailed(error=f"removing did not end within {_SWEEP_SECONDS:g} s"))
        swept.set()

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(sweeping(guard.awaits()), name="container sweep")]
        beside += [
            group.create_task(watch.keep(begin, guard.awaits()), name="watchdog")
            for begin in (watch.ways() if settings.containers.watchdog else ())
        ]
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

    def ways(self) -> list[_Way]:
        """The kinds of watchdog that we need; none, which is told, where a watchdog could not reach the engine."""
        kind, _, _ = self.engine.host.partition("://")
        if kind not in ("unix", "tcp") or (kind == "tcp" and os.environ.get("DOCKER_TLS_VERIFY") == "1"):
            error = f"it can't speak to {self.engine.host}, but only to unix:// and to tcp:// without TLS"
            self.reporter.report(WatchdogFailed(error=error))
            return []
        own_container = self.surroundings.own_container
        return (
            [self._process]
            if own_container is None
            else [self._process, partial(self._sibling, own_container)]
        )

    async def keep(self, begin: _Way, on_duty: asyncio.Event) -> None:
        """Keep a watchdog until cancelled; where there is none (any more) that is told, and we return."""
        for what_now in ("another one is started", "no further one is started"):
            try:
                async with begin() as ended:
                    on_duty.set()
                    error = f"it ended by itself, with {await ended()}; {what_now}"
            except (StartFailedError, ImageUnavailableError, EngineUnavailableError, OSError) as failure:
                self.reporter.report(WatchdogFailed(error=str(failure)))
                break
            self.reporter.report(WatchdogFailed(error=error))
        on_duty.set()

    async def _nothing_left(self) -> bool:
        """Whether no container is there that a watchdog would have to remove: else it stays, and does that."""
        return not any(
            all(one.labels.get(name) == self.labels[name] for name in _WHOSE)
            for one in await self.engine.labelled(RUNNER_ID_LABEL)
            if one.labels.get(WATCHDOG_LABEL) != self.runner
        )

    def _arguments(self, docker_host: str, runners_container: str = "") -> list[str]:
        """Of the script, as it tells."""
        whose = (f"{name}={self.labels[name]}" for name in _WHOSE)
        return [docker_host, runners_container, f"{WATCHDOG_LABEL}={self.runner}", *whose]

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[_Ended]:
        watchdog = _start(self._arguments(self.engine.host))
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
            needed = not await self._nothing_left()
        except EngineUnavailableError:
            needed = True  # it has more patience than we have time
        if not needed:
            watchdog.kill()
            await in_daemon_thread(watchdog.wait, name="watchdog's end")

    @asynccontextmanager
    async def _sibling(self, own_container: str) -> AsyncIterator[_Ended]:
        own = await self.engine.inspect(own_container)
        kind, _, address = self.engine.host.partition("://")
        socket = _on_host(Path(address), self.surroundings.host_paths) if kind == "unix" else None
        arguments = self._arguments(f"unix://{_SOCKET}" if socket else self.engine.host, own_container)
        source = await asyncio.to_thread(_SCRIPT.read_text)
        config = watchdog_config(
            own.image_hash,
            [sys.executable, *_PYTHON, "-c", source, *arguments],
            socket=socket,
            network="none" if socket else own.network_mode,
            labels=self.labels,
        )
        async with created(
            self.engine, self.name, config, self.reporter, may_go=self._nothing_left
        ) as container:
            await start(self.engine, container)
            yield partial(self._end_of, container)

    async def _end_of(self, container: str) -> int | str:
        """The watchdog's exit code, or why there is none. A connection that breaks changes nothing for it."""
        while True:
            try:
                return await self.engine.wait(container)
            except RefusedError as error:
                return error.words
            except EngineUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)


def watchdog_config(
    image: str, command: Sequence[str], *, socket: str | None, network: str, labels: Mapping[str, str]
) -> dict[str, object]:
    """The body of `POST /containers/create` for a watchdog: it can do nothing but talk to the engine.

    `socket` is the engine's on the Docker host, None where it is spoken to over the `network`. The user and the
    groups are our own, since they may use the engine. It is not in the job's cgroup: it has to outlive that. The
    `labels` tell its runner.
    """
    mounts = [{"Type": "bind", "Source": socket, "Target": _SOCKET, "ReadOnly": True}] if socket else []
    return {
        "Image": image,
        "Entrypoint": list(command),
        "Cmd": [],
        "User": f"{os.geteuid()}:{os.getegid()}",
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**labels, WATCHDOG_LABEL: labels[RUNNER_ID_LABEL]},
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
