"""One step from its first event to its last: files opened, image awaited, container made, followed, removed.

What is told, in Funnel's order: EXECUTOR_START_TIME, `Running command`, the tails of the streams and (once the
container has run three seconds) `container metadata`, EXECUTOR_END_TIME, EXECUTOR_EXIT_CODE. Wherever the start
was told the end is, too, and the streams' last words stand before it. A container that can't be started is an
executor's error with the docker command's exit code; only what is no executor's fault is raised. However a
step ends (stopped, failed, cancelled at any point), its container is removed before we return.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.containers.capture import StepFiles, open_files
from taskrunner.containers.convert import container_config, too_long
from taskrunner.containers.engine import RefusedError
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.containers.streams import OutputTeller
from taskrunner.errors import EngineUnavailableError, TaskrunnerError, the_error_in
from taskrunner.events import (
    ContainerMetadata,
    ExecutorEndTime,
    ExecutorExitCode,
    ExecutorStartTime,
    ExecutorStderr,
    ExecutorStdout,
    LogFilesFailed,
    RunningCommand,
    StoppingContainer,
    rfc3339_nano,
)
from taskrunner.mounts import host_path
from taskrunner.plan import docker_run_command
from taskrunner.shielded import to_the_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskrunner.containers.engine import ContainerStdin, Engine, StreamName
    from taskrunner.events import Reporter
    from taskrunner.plan import Step
    from taskrunner.settings import Settings
    from taskrunner.workdir import WorkDir

_METADATA_SECONDS = 3.0
_ENGINE_SECONDS = 3.0
"""How long one call to the engine may take while we are being stopped."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one executor went; `exit_code` is None for one that was stopped or never ran."""

    index: int
    exit_code: int | None
    start_time: str
    """RFC 3339 with nanoseconds, as `end_time`."""
    end_time: str
    stdout: str
    """The last `tail_bytes` of it, as `stderr`."""
    stderr: str
    oom_killed: bool = False
    error: str | None = None
    """Why there is no exit code, why the container could not be started, or that it ran out of memory."""


@dataclass(slots=True)
class _Outcome:
    """What is known so far of a step that runs."""

    exit_code: int | None = None
    oom_killed: bool = False
    error: str | None = None


async def run_step(
    engine: Engine,
    step: Step,
    *,
    workdir: WorkDir,
    settings: Settings,
    reporter: Reporter,
    image_ready: Awaitable[None],
    on_end: Callable[[StepResult], None] = lambda _result: None,
) -> StepResult:
    """Run one step and return how it went; `on_end` gets the same even where an error is raised instead.

    Raises:
        InputMissingError, OutputFailedError, TransferIOError: its stdin, stdout or stderr file can't be used.
        ImageUnavailableError: as `image_ready` raises it.
        EngineUnavailableError: the engine went away.
        CancelledError: when cancelled, after the container was stopped and removed and its last output told.
    """
    run = _Run(engine, step, settings, reporter, host_path(workdir.root, settings.work.host_paths))
    files = await _opened(step, workdir, reporter)
    outcome = _Outcome()
    begun_ns = time.time_ns()
    start_time = rfc3339_nano(begun_ns)
    reporter.report(ExecutorStartTime(index=step.index, timestamp_ns=begun_ns, start_time=start_time))
    try:
        await run.to_its_end(files, image_ready, outcome)
    except asyncio.CancelledError:
        outcome.error = "stopped before its end"
        raise
    except BaseException as error:
        outcome.error = str(error) or type(error).__name__
        raise
    finally:
        result = run.tell_end(start_time, outcome)
        on_end(result)
    return result


async def _opened(step: Step, workdir: WorkDir, reporter: Reporter) -> StepFiles:
    files = StepFiles()
    opening = asyncio.to_thread(open_files, files, workdir, step)
    try:
        await to_the_end(opening, name="open log files", limit_seconds=_ENGINE_SECONDS)
    except BaseException as error:
        await files.close()
        if isinstance(error, TaskrunnerError):
            reporter.report(LogFilesFailed(index=step.index, error=str(error)))
        raise
    return files


@dataclass(slots=True)
class _Run:
    """What the parts of one step's story share."""

    engine: Engine
    step: Step
    settings: Settings
    reporter: Reporter
    host_root: str
    """The task's directory as the Docker host calls it."""
    teller: OutputTeller = field(init=False)

    def __post_init__(self) -> None:
        logs = self.settings.logs
        self.teller = OutputTeller(
            self._tell_output,
            asyncio.get_running_loop(),
            tail_bytes=logs.tail_bytes,
            update_seconds=logs.update_seconds,
        )

    async def to_its_end(self, files: StepFiles, image_ready: Awaitable[None], outcome: _Outcome) -> None:
        """Everything between the start time and the end time; `files` are closed at the end."""
        closing = partial(to_the_end, name="close captures", limit_seconds=_ENGINE_SECONDS)
        try:
            await image_ready
            command = docker_run_command(self.step, read_only_root=self.settings.containers.read_only_root)
            self.reporter.report(RunningCommand(index=self.step.index, cmd=command))
            await self._run(files, outcome)
        except BaseException:
            # The first failure is the one to tell.
            with suppress(TaskrunnerError):
                await closing(files.close())
            raise
        await closing(files.close())

    async def _run(self, files: StepFiles, outcome: _Outcome) -> None:
        """The container's life, or why it has none."""
        config = container_config(self.step, self.settings.containers, self.host_root)
        try:
            if reason := too_long(self.step):
                raise StartFailedError(126, reason)
            name, index = self.step.container_name, self.step.index
            async with created(self.engine, name, config, self.reporter, index) as container:
                await self._follow_or_stop(container, files, outcome)
        except StartFailedError as error:
            outcome.exit_code, outcome.error = error.exit_code, str(error)
            await self._take(files, "stderr", f"{error}\n".encode())

    def tell_end(self, start_time: str, outcome: _Outcome) -> StepResult:
        """The last events of the step, and the same as a value."""
        self.teller.close()
        ended_ns = time.time_ns()
        end_time = rfc3339_nano(ended_ns)
        index = self.step.index
        self.reporter.report(ExecutorEndTime(index=index, timestamp_ns=ended_ns, end_time=end_time))
        if outcome.exit_code is not None:
            self.reporter.report(ExecutorExitCode(index=index, exit_code=outcome.exit_code))
        return StepResult(
            index=index,
            exit_code=outcome.exit_code,
            start_time=start_time,
            end_time=end_time,
            stdout=self.teller.tail("stdout"),
            stderr=self.teller.tail("stderr"),
            oom_killed=outcome.oom_killed,
            error=outcome.error,
        )

    # --- the container

    async def _follow_or_stop(self, container: str, files: StepFiles, outcome: _Outcome) -> None:
        """Start the container and follow it to its end; when cancelled, stop it and hear it out."""
        started = asyncio.Event()
        following = asyncio.create_task(self._follow(container, files, started), name="follow container")
        try:
            # Not awaited itself: its output is still wanted when we are cancelled.
            await asyncio.wait([following])
        except asyncio.CancelledError:
            limit = self.settings.containers.stop_grace_seconds + 4 * _ENGINE_SECONDS
            stopping = self._stop(container, following, running=started.is_set())
            await to_the_end(stopping, name="stop container", limit_seconds=limit)
            raise
        outcome.exit_code = following.result()
        with suppress(RefusedError):
            outcome.oom_killed = (await self.engine.inspect(container)).oom_killed
        # The kernel may have killed one process of many, and the command got over it.
        if outcome.oom_killed and outcome.exit_code != 0:
            outcome.error = "the container ran out of memory"

    async def _stop(self, container: str, following: asyncio.Task[int], *, running: bool) -> None:
        """Stop a container (removing it is still to come) and take its last output, in bounded time."""
        if running:
            name = self.step.container_name
            self.reporter.report(StoppingContainer(index=self.step.index, container=name))
            await self._end(container)
            await asyncio.wait([following], timeout=_ENGINE_SECONDS)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def _end(self, container: str) -> None:
        grace_seconds = self.settings.containers.stop_grace_seconds
        try:
            async with asyncio.timeout(grace_seconds + _ENGINE_SECONDS):
                await self.engine.stop(container, grace_seconds)
        except (TimeoutError, EngineUnavailableError):
            # What the engine still does not do now, the removal will try, and tell if it can't.
            with suppress(TimeoutError, EngineUnavailableError):
                async with asyncio.timeout(_ENGINE_SECONDS):
                    await self.engine.kill(container)

    async def _follow(self, container: str, files: StepFiles, started: asyncio.Event) -> int:
        """Start the container, take its output until it ends, and return its exit code."""
        async with AsyncExitStack() as attached:
            output = await attached.enter_async_context(self.engine.attach_output(container))
            stdin: ContainerStdin | None = None
            if files.stdin_fd is not None:
                stdin = await attached.enter_async_context(self.engine.attach_stdin(container))
            await start(self.engine, container)
            started.set()
            try:
                async with asyncio.TaskGroup() as group:
                    beside = [group.create_task(self._describe(container), name="container metadata")]
                    if stdin is not None:
                        beside.append(group.create_task(_feed(stdin, files), name="feed stdin"))
                    async for stream, data in output:
                        await self._take(files, stream, data)
                    exit_code = await self.engine.wait(container)
                    for task in beside:
                        task.cancel()
            except BaseExceptionGroup as failures:
                raise the_error_in(failures) from failures
        return exit_code

    # --- its streams

    async def _take(self, files: StepFiles, stream: StreamName, data: bytes) -> None:
        self.teller.write(stream, data)
        await files.write(stream, data)

    async def _describe(self, container: str) -> None:
        """Tell which container it is, once it has run for three seconds."""
        await asyncio.sleep(_METADATA_SECONDS)
        try:
            state = await self.engine.inspect(container)
        except RefusedError:
            return
        self.reporter.report(
            ContainerMetadata(
                index=self.step.index,
                container_id=state.container_id,
                container_name=state.name,
                container_image_hash=state.image_hash,
            )
        )

    def _tell_output(self, stream: StreamName, text: str) -> None:
        index = self.step.index
        told = ExecutorStdout(index=index, stdout=text) if stream == "stdout" else None
        self.reporter.report(told or ExecutorStderr(index=index, stderr=text))


async def _feed(stdin: ContainerStdin, files: StepFiles) -> None:
    """Send the stdin file, then its end; a container that ends or does not read is within its rights."""
    with suppress(BrokenPipeError):
        async for chunk in files.read_stdin():
            await stdin.write(chunk)
    await stdin.end()
