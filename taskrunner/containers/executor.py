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
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.containers.capture import StepFiles, open_files
from taskrunner.containers.convert import container_config, too_long
from taskrunner.containers.ending import ENGINE_SECONDS, end, ended_or_out_of_time, look_at_memory
from taskrunner.containers.engine import PATIENCE_SECONDS, persistently
from taskrunner.containers.following import Follower
from taskrunner.containers.lifetime import StartFailedError, created, start
from taskrunner.containers.streams import OutputTeller
from taskrunner.errors import EngineUnavailableError, TaskrunnerError, TransientError, the_error_in
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

    from taskrunner.containers.engine import Engine, StreamName
    from taskrunner.containers.limits import Limits
    from taskrunner.containers.surroundings import Surroundings
    from taskrunner.events import Reporter
    from taskrunner.plan import Step
    from taskrunner.settings import Settings
    from taskrunner.stopping import Stops
    from taskrunner.workdir import WorkDir

_METADATA_SECONDS = 3.0


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
    """Whether the kernel killed it, or one of its processes, for want of memory; its exit code may be any."""
    timed_out: bool = False
    """Whether it was stopped since it took longer than the operator allows."""
    error: str | None = None
    """Why there is no exit code, why the container could not be started, or that it ran out of memory or time."""
    ended: bool = True
    """Whether it came to an end that no stop brought about, and all of its output was taken."""


@dataclass(slots=True)
class _Outcome:
    """What is known so far of a step that runs."""

    exit_code: int | None = None
    oom_killed: bool = False
    timed_out: bool = False
    error: str | None = None
    ended: bool = False


async def run_step(
    engine: Engine,
    step: Step,
    *,
    workdir: WorkDir,
    settings: Settings,
    reporter: Reporter,
    surroundings: Surroundings,
    limits: Limits,
    stops: Stops,
    image_ready: Awaitable[None],
    on_end: Callable[[StepResult], None] = lambda _result: None,
) -> StepResult:
    """Run one step and return how it went; `on_end` gets the same even where an error is raised instead.

    Raises:
        InputMissingError, OutputFailedError, TransferIOError: its stdin, stdout or stderr file can't be used.
        ImageUnavailableError: as `image_ready` raises it.
        TransientError: the engine went away while the container ran, and what it did can't be vouched for.
        EngineUnavailableError: the engine went away before.
        CancelledError: when cancelled, after the container was stopped and removed and its last output told.
    """
    run = _Run(
        engine,
        step,
        settings,
        reporter,
        surroundings,
        limits,
        stops,
        host_path(workdir.root, surroundings.host_paths),
    )
    files = await _opened(step, workdir, reporter)
    outcome = _Outcome()
    begun_ns = time.time_ns()
    start_time = rfc3339_nano(begun_ns)
    reporter.report(ExecutorStartTime(index=step.index, timestamp_ns=begun_ns, start_time=start_time))
    try:
        await run.to_its_end(files, image_ready, outcome)
    except asyncio.CancelledError:
        if not outcome.ended:
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
        await to_the_end(opening, name="open log files", limit_seconds=ENGINE_SECONDS)
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
    surroundings: Surroundings
    limits: Limits
    stops: Stops
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
        closing = partial(to_the_end, name="close captures", limit_seconds=ENGINE_SECONDS)
        try:
            await image_ready
            command = docker_run_command(self.step, read_only_root=self.settings.containers.read_only_root)
            self.reporter.report(RunningCommand(index=self.step.index, cmd=command))
            await self._run(files, outcome)
        except BaseException:
            # The first failure is the one to tell.
            with suppress(TaskrunnerError):
                await closing(self._finish(files, outcome))
            raise
        await closing(self._finish(files, outcome))

    async def _finish(self, files: StepFiles, outcome: _Outcome) -> None:
        """Write out what was captured. With that, an executor that had its end before has nothing left to lose."""
        await files.close()
        outcome.ended = outcome.exit_code is not None or outcome.timed_out

    async def _run(self, files: StepFiles, outcome: _Outcome) -> None:
        """The container's life, or why it has none."""
        config = container_config(
            self.step, self.settings.containers, self.surroundings, self.limits, self.host_root
        )
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
            timed_out=outcome.timed_out,
            error=outcome.error,
            ended=outcome.ended,
        )

    # --- the container

    async def _follow_or_stop(self, container: str, files: StepFiles, outcome: _Outcome) -> None:
        """Start the container and follow it to its end; when cancelled or out of time, stop it and hear it out."""
        started = asyncio.Event()
        limit_seconds = self.settings.containers.timeout_seconds
        following = asyncio.create_task(self._follow(container, files, started), name="follow container")
        try:
            # Not awaited itself: its output is still wanted when we are cancelled.
            await ended_or_out_of_time(following, started, limit_seconds)
        except asyncio.CancelledError:
            await self._stopped(container, following, running=started.is_set())
            raise
        if following.done():
            judging = self._judge(container, following.result(), outcome)
            await to_the_end(judging, name="judge executor", limit_seconds=ENGINE_SECONDS)
            return
        await self._stopped(container, following, running=True)
        outcome.timed_out = True
        outcome.error = f"it did not end within {limit_seconds:g} s (--executor-timeout)"
        with suppress(EngineUnavailableError, TransientError, asyncio.CancelledError):
            outcome.exit_code = following.result()

    async def _judge(self, container: str, exit_code: int, outcome: _Outcome) -> None:
        memory = await look_at_memory(self.engine, container, exit_code, self.limits.memory_from)
        outcome.oom_killed, outcome.error = memory.killed, memory.error
        outcome.exit_code = exit_code

    async def _stopped(self, container: str, following: asyncio.Task[int], *, running: bool) -> None:
        """Stop a container (removing it is still to come) and take its last output, in bounded time."""
        limit_seconds = self.settings.containers.stop_grace_seconds + 4 * ENGINE_SECONDS
        stopping = self._stop(container, following, running=running)
        await to_the_end(stopping, name="stop container", limit_seconds=limit_seconds)

    async def _stop(self, container: str, following: asyncio.Task[int], *, running: bool) -> None:
        if running:
            name = self.step.container_name
            self.reporter.report(StoppingContainer(index=self.step.index, container=name))
            await end(self.engine, container, self.settings.containers.stop_grace_seconds, self.stops)
            await asyncio.wait([following], timeout=ENGINE_SECONDS)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, container: str, files: StepFiles, started: asyncio.Event) -> int:
        """Start the container, take its output until it ends, and return its exit code."""
        follower = Follower(
            self.engine,
            container,
            self.step.container_name,
            partial(self._take, files),
            self.reporter,
            has_stdin=files.stdin_fd is not None,
            has_log=self.settings.containers.engine_log,
        )
        async with follower.attached():
            await start(self.engine, container, self.surroundings.gpus)
            started.set()
            try:
                async with asyncio.TaskGroup() as group:
                    beside = (
                        group.create_task(self._describe(container), name="container metadata"),
                        group.create_task(follower.feed(files.read_stdin()), name="feed stdin"),
                    )
                    exit_code = await follower.to_the_end()
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
            state = await persistently(partial(self.engine.inspect, container), PATIENCE_SECONDS)
        except EngineUnavailableError:
            return  # whoever follows the container tells what is wrong
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
