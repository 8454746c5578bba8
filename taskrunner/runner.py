"""The story of one task, on one page; the only place that wires the parts together.

Version, INITIALIZING          what will be done is already planned, nothing is touched yet
stores and engine answer?      a missing bucket or engine ends the task before the first byte
where are we?                  the Batch job, our own container, its mounts and limits; what dead runners left goes
inputs download                while the executors' images are pulled
RUNNING                        executors one after the other, in sibling containers
outputs upload                 also after an executor failed or the task was stopped, those that exist
the verdict                    end time, why it failed, final state: told whatever happened
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner import __version__, events
from taskrunner.batch.ecs import EcsMetadata, read_metadata
from taskrunner.batch.reclaim import reclaim_notice
from taskrunner.containers.engine import Engine
from taskrunner.containers.executor import StepResult, run_step
from taskrunner.containers.guard import guarded
from taskrunner.containers.images import ensure_image
from taskrunner.containers.limits import Limits, limits_for
from taskrunner.containers.ownership import give_back
from taskrunner.containers.registry import RegistryLogin, read_docker_config
from taskrunner.containers.surroundings import Surroundings, survey
from taskrunner.errors import (
    ExitCode,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    several,
    the_error_in,
)
from taskrunner.events import OutputLog, Reporter, rfc3339_nano
from taskrunner.mounts import host_path
from taskrunner.plan import Plan, on_host
from taskrunner.report import Report, Verdict, conclude, failed_step
from taskrunner.settings import OnExecutorError, Settings
from taskrunner.shielded import to_the_end
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import stage_out, take_back_uploads
from taskrunner.staging.sweeping import sweeping_work_dir
from taskrunner.stopping import Stop, StopKind, Stops
from taskrunner.storage.opening import check_store
from taskrunner.task import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from contextlib import AbstractAsyncContextManager

    from taskrunner.batch.job import Job
    from taskrunner.containers.guard import Guard
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import WorkDir

_PULLS_AT_ONCE = 4
_RESERVE_SECONDS = 6.0
"""Of the time a stop leaves, what uploads leave to their own winding up, the result and the clean-up."""
_GIVE_BACK_SECONDS = 5.0
"""How long files may take to change hands while the task is being stopped."""


async def run_task(
    plan: Plan,
    workdir: WorkDir,
    stores: Stores,
    settings: Settings,
    reporter: Reporter,
    *,
    job: Job,
    stops: Stops,
) -> Report:
    """Run the whole task and tell it. Never raises for what can go wrong with a task, nor when stopped.

    `stops` listens for what ends the calling task; what runs is then stopped in a bounded time, and the report
    says CANCELED, PREEMPTED or, after a time limit, SYSTEM_ERROR.
    """
    run = _Run(plan, workdir, stores, settings, reporter, job, stops)
    async with run.watching():
        verdict = await run.to_verdict()
    if verdict.exit_code != ExitCode.RETRY:
        await run.take_back_uploads()
    return run.tell(verdict)


async def _trouble(work: Awaitable[None]) -> BaseException | None:
    """What goes wrong with `work`, as a value; cancelling it, too."""
    try:
        await work
    except BaseExceptionGroup as group:
        return the_error_in(group)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # told as the verdict
        return error
    return None


def _stop_behind(error: BaseException | None, stops: Stops) -> Stop | None:
    """The stop that `error` comes from: what breaks while everything winds up is not the reason."""
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    while task is not None and task.cancelling():
        task.uncancel()
    if error is not None and (cancelled or isinstance(error, asyncio.CancelledError)):
        return stops.first
    return None


@dataclass(slots=True)
class _Run:
    """One task under way: what it works with, and what has happened so far."""

    plan: Plan
    workdir: WorkDir
    stores: Stores
    settings: Settings
    reporter: Reporter
    job: Job
    stops: Stops
    start_time: str = field(default_factory=lambda: rfc3339_nano(time.time_ns()))
    metadata: Mapping[str, str] = field(default_factory=lambda: {"hostname": socket.gethostname()})
    steps: list[StepResult] = field(default_factory=list)
    outputs: list[OutputLog] = field(default_factory=list)

    async def to_verdict(self) -> Verdict:
        """Run the task, save what it has made, and judge it."""
        error = await _trouble(self._carry_out())
        self.stops.nothing_to_cancel()
        stop = _stop_behind(error, self.stops)
        failed = failed_step(self.plan.steps, self.steps)
        if stop is not None and self._executors_ended(failed):
            error, stop = None, None  # it broke off nothing but tidying up
        if error is None:
            error, stop = await self._save_all(failed)
        elif stop is not None and self.steps:
            await self._save_some()
        return conclude(error, failed, stop)

    async def _save_all(self, failed: StepResult | None) -> tuple[BaseException | None, Stop | None]:
        """Upload the outputs of executors that have ended; what is wrong with a success then.

        That a stop left too little time is nothing new where an executor has `failed`, nor is other trouble.
        """
        if failed is not None:
            await self._save_some()
            return None, None
        trouble = await _trouble(self._save(succeeded=True))
        if isinstance(trouble, TimeoutError) and self.stops.first is not None:
            self.reporter.report(events.OutputsNotSaved(error=str(trouble)))
            return None, self.stops.first
        return trouble, None

    async def _save_some(self) -> None:
        """Upload what there is of the outputs of a task that has failed or was stopped."""
        if self.settings.on_executor_error is OnExecutorError.SKIP:
            return
        trouble = await _trouble(self._save(succeeded=False))
        if trouble is not None:
            self.reporter.report(events.OutputsNotSaved(error=str(trouble)))

    def _executors_ended(self, failed: StepResult | None) -> bool:
        """Whether no executor was, or would have been, cut short by a stop."""
        if failed is not None:
            return failed.ended
        return len(self.steps) == len(self.plan.steps) and all(step.ended for step in self.steps)

    def _tell_beginning(self) -> None:
        self.reporter.report(events.Version(version=__version__))
        self.reporter.report(events.TaskState(state=State.INITIALIZING))
        self.reporter.report(events.TaskStartTime(start_time=self.start_time))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """For as long as the task runs, watch what may end it before its end."""
        loop = asyncio.get_running_loop()
        self.stops.on_stop = self._tell_stop
        limit_seconds = self.settings.stops.timeout_seconds
        timer = None if limit_seconds is None else loop.call_later(limit_seconds, self._out_of_time)
        watch = asyncio.create_task(self._watch_reclaim(), name="reclaim watch")
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            watch.cancel()
            await asyncio.wait([watch])

    def _tell_stop(self, stop: Stop, seconds_left: float) -> None:
        self.reporter.report(events.TaskStopping(reason=stop.reason, seconds_left=round(seconds_left, 1)))

    def _out_of_time(self) -> None:
        limit_seconds = self.settings.stops.timeout_seconds
        reason = f"its time limit (--timeout, {limit_seconds:g} s)"
        self.stops.stop(Stop(StopKind.TIME_LIMIT, reason), self.settings.stops.stop_seconds)

    async def _watch_reclaim(self) -> None:
        endpoint = self.job.instance_metadata
        if endpoint is None:
            return

        def tell(error: Exception) -> None:
            self.reporter.report(events.ReclaimWatchFailed(error=str(error)))

        try:
            notice = await reclaim_notice(endpoint, tell)
        except Exception as error:  # noqa: BLE001  # whatever it is, the task itself can go on
            tell(error)
            return
        self.reporter.report(events.InstanceReclaimed(action=notice.action, time=notice.time))
        reason = f"a Spot reclaim of the instance ({notice.action} at {notice.time})"
        self.stops.stop(Stop(StopKind.RECLAIM, reason), notice.seconds_left(time.time()))

    async def _carry_out(self) -> None:
        """Everything from the first event to the last executor; what goes wrong is raised."""
        self._tell_beginning()
        ecs = await self._look_around()
        await self._check_stores()
        async with Engine() as engine:
            surroundings = await survey(
                engine, self.job, ecs, plan=self.plan, settings=self.settings, reporter=self.reporter
            )
            self.plan = on_host(self.plan, surroundings.host_paths)
            async with guarded(engine, surroundings, self.plan, self.settings, self.reporter) as guard:
                try:
                    async with self._pulling(engine) as images, self._sweeping(guard):
                        await stage_in(
                            self.plan, self.workdir, self.stores, self.settings.transfer, self.reporter
                        )
                        self.reporter.report(events.TaskState(state=State.RUNNING))
                        await guard.ready()
                        await self._execute(engine, images, surroundings)
                finally:
                    await self._give_back(engine, surroundings)

    async def _look_around(self) -> EcsMetadata:
        """What ECS tells about the job; the task goes on without, where it does not answer."""
        ecs = EcsMetadata()
        if self.job.metadata_uri is not None:
            try:
                ecs = await read_metadata(self.job.metadata_uri)
            except TaskrunnerError as error:
                self.reporter.report(events.JobMetadataFailed(error=str(error)))
        if ecs.failure is not None:
            self.reporter.report(events.JobMetadataFailed(error=ecs.failure))
        self.metadata = {**self.metadata, **self.job.metadata(), **ecs.described}
        self.reporter.report(events.TaskMetadata(metadata=self.metadata))
        for path in self.plan.unknown_fields:
            self.reporter.report(events.UnknownField(field_path=path))
        for name in self.plan.unsupported_parameters:
            self.reporter.report(events.UnsupportedParameter(parameter=name))
        return ecs

    async def _check_stores(self) -> None:
        """Ask every store, inputs' and outputs' alike, whether it could serve; tell all that can't."""
        errors: dict[str, TaskrunnerError] = {}
        for url in dict.fromkeys(download.url for download in self.plan.downloads):
            try:
                await check_store(self.stores, url)
            except TaskrunnerError as error:
                errors[url] = error
        for url in dict.fromkeys(upload.url for upload in self.plan.uploads):
            try:
                await check_store(self.stores, url)
            except InputMissingError as error:
                errors[url] = OutputFailedError(str(error))
            except TaskrunnerError as error:
                errors[url] = error
        if errors:
            raise several(list(errors.values()))

    @asynccontextmanager
    async def _pulling(self, engine: Engine) -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
        """Every image on its way to the host, side by side; the first that is not to be had ends all."""
        policy = self.settings.containers.pull_policy
        config = await asyncio.to_thread(read_docker_config)
        turns = asyncio.Semaphore(_PULLS_AT_ONCE)
        login = RegistryLogin(config, ecr_login=self.stores.aws.ecr_login)

        async def pull(image: str) -> None:
            async with turns:
                await ensure_image(engine, image, policy=policy, login=login, reporter=self.reporter)

        async with asyncio.TaskGroup() as group:
            pulls = {
                image: group.create_task(pull(image), name=f"image {image}")
                for image in dict.fromkeys(step.image for step in self.plan.steps)
            }
            yield pulls
            for unneeded in pulls.values():
                unneeded.cancel()

    def _sweeping(self, guard: Guard) -> AbstractAsyncContextManager[None]:
        return sweeping_work_dir(
            self.settings.work, self.stores, self.settings.transfer, self.reporter, after=guard.ready
        )

    async def _execute(
        self, engine: Engine, images: Mapping[str, asyncio.Task[None]], surroundings: Surroundings
    ) -> None:
        limits = await self._limits(engine, surroundings)
        for step in self.plan.steps:
            await run_step(
                engine,
                step,
                workdir=self.workdir,
                settings=self.settings,
                reporter=self.reporter,
                surroundings=surroundings,
                limits=limits,
                stops=self.stops,
                image_ready=images[step.image],
                on_end=self.steps.append,
            )
            if failed_step(self.plan.steps, self.steps) is not None:
                return

    async def _limits(self, engine: Engine, surroundings: Surroundings) -> Limits:
        """What every executor may use of the machine; where that is less than the task asks for, it is told."""
        limits = limits_for(
            self.plan.task.resources,
            surroundings.bounds,
            self.settings.containers,
            host_cpus=await engine.cpus(),
        )
        for short in limits.shortages:
            self.reporter.report(
                events.ResourceLimited(resource=short.resource, asked=short.asked, given=short.given)
            )
        return limits

    async def _give_back(self, engine: Engine, surroundings: Surroundings) -> None:
        """What executors made as root is the runner's again, so that it can be read and removed."""
        if os.geteuid() == 0 or not self.steps:
            return
        giving_back = give_back(
            engine,
            host_path(self.workdir.root, surroundings.host_paths),
            labels=surroundings.labels,
            task_id=self.plan.task.id,
            images=[step.image for step in self.plan.steps],
            uid=os.geteuid(),
            gid=os.getegid(),
            reporter=self.reporter,
        )
        await to_the_end(giving_back, name="give back", limit_seconds=_GIVE_BACK_SECONDS)

    async def _save(self, *, succeeded: bool) -> None:
        """Upload the outputs; a stop does not break that off while there is time (TimeoutError)."""
        work = self._stage_out(succeeded=succeeded)
        await self.stops.in_time(work, least_seconds=0, reserve_seconds=_RESERVE_SECONDS)

    async def _stage_out(self, *, succeeded: bool) -> None:
        staged_out = await stage_out(
            self.plan,
            self.workdir,
            self.stores,
            self.settings.transfer,
            self.reporter,
            succeeded=succeeded,
            on_uploaded=self.outputs.append,
        )
        self.outputs = list(staged_out.outputs)
        if staged_out.outputs:
            self.reporter.report(events.TaskOutputs(outputs=staged_out.outputs))
        if staged_out.errors and succeeded:
            raise several(staged_out.errors)

    async def take_back_uploads(self) -> None:
        """No other attempt will go on with what a killed one has left open."""
        taking = take_back_uploads(self.workdir, self.stores, self.settings.transfer, self.reporter)
        try:
            await self.stops.in_time(taking, least_seconds=0, reserve_seconds=_RESERVE_SECONDS)
        except (
            TaskrunnerError,
            TimeoutError,
        ) as error:  # the verdict stands; what is left open keeps its journal
            self.reporter.report(events.UploadFailed(url=str(self.workdir.staging), error=str(error)))

    def tell(self, verdict: Verdict) -> Report:
        end_time = rfc3339_nano(time.time_ns())
        self.reporter.report(events.TaskEndTime(end_time=end_time))
        if verdict.error is not None:
            kind = events.ExecError if verdict.state is State.EXECUTOR_ERROR else events.SystemErrorEvent
            self.reporter.report(kind(error=verdict.error))
        self.reporter.report(events.TaskState(state=verdict.state))
        return Report(
            verdict=verdict,
            start_time=self.start_time,
            end_time=end_time,
            metadata=self.metadata,
            steps=tuple(self.steps),
            outputs=tuple(self.outputs),
        )
