"""The story of one task, on one page; the only place that wires the parts together.

Version, INITIALIZING          what will be done is already planned, nothing is touched yet
stores and engine answer?      a missing bucket or engine ends the task before the first byte
inputs download                while the executors' images are pulled
RUNNING                        executors one after the other, in sibling containers
outputs upload                 also after an executor failed, those that exist
the verdict                    end time, why it failed, final state: told whatever happened
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskrunner import __version__, events
from taskrunner.containers.engine import Engine
from taskrunner.containers.executor import StepResult, run_step
from taskrunner.containers.images import ensure_image
from taskrunner.containers.lifetime import remove_orphans
from taskrunner.containers.ownership import give_back
from taskrunner.containers.registry import RegistryLogin, read_docker_config
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
from taskrunner.report import Report, Verdict, conclude, failed_step
from taskrunner.settings import OnExecutorError, Settings
from taskrunner.shielded import to_the_end
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import stage_out, take_back_uploads
from taskrunner.storage.opening import check_store
from taskrunner.task import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from taskrunner.plan import Plan
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import WorkDir

_PULLS_AT_ONCE = 4
_TAKE_BACK_SECONDS = 10.0
_GIVE_BACK_SECONDS = 5.0
"""How long files may take to change hands while the task is being stopped."""


async def run_task(
    plan: Plan, workdir: WorkDir, stores: Stores, settings: Settings, reporter: Reporter
) -> Report:
    """Run the whole task and tell it. Never raises for what can go wrong with a task, nor when cancelled.

    Cancelling the calling task (a stop signal) stops what runs, in a bounded time; the report then says CANCELED.
    """
    run = _Run(plan, workdir, stores, settings, reporter)
    error: BaseException | None = None
    try:
        run.tell_beginning()
        await run.carry_out()
    except BaseExceptionGroup as group:
        error = the_error_in(group)
    except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001  # told as the verdict
        error = raised
    verdict = conclude(_stop_or(error), failed_step(plan.steps, run.steps))
    if verdict.exit_code != ExitCode.RETRY:
        await run.take_back_uploads()
    return run.tell(verdict)


def _stop_or(error: BaseException | None) -> BaseException | None:
    """`error`, or the stop that came before it: what breaks while everything winds up is not the reason."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return error
    while task.cancelling():
        task.uncancel()
    return error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError()


@dataclass(slots=True)
class _Run:
    """One task under way: what it works with, and what has happened so far."""

    plan: Plan
    workdir: WorkDir
    stores: Stores
    settings: Settings
    reporter: Reporter
    start_time: str = field(default_factory=lambda: rfc3339_nano(time.time_ns()))
    metadata: Mapping[str, str] = field(default_factory=lambda: {"hostname": socket.gethostname()})
    steps: list[StepResult] = field(default_factory=list)
    outputs: list[OutputLog] = field(default_factory=list)

    def tell_beginning(self) -> None:
        self.reporter.report(events.Version(version=__version__))
        self.reporter.report(events.TaskState(state=State.INITIALIZING))
        self.reporter.report(events.TaskStartTime(start_time=self.start_time))
        self.reporter.report(events.TaskMetadata(metadata=self.metadata))
        for path in self.plan.unknown_fields:
            self.reporter.report(events.UnknownField(field_path=path))
        for name in self.plan.unsupported_parameters:
            self.reporter.report(events.UnsupportedParameter(parameter=name))

    async def carry_out(self) -> None:
        await self._check_stores()
        async with Engine() as engine:
            await remove_orphans(engine, self.plan.task.id, self._host_root, self.reporter)
            try:
                async with self._pulling(engine) as images:
                    await stage_in(
                        self.plan, self.workdir, self.stores, self.settings.transfer, self.reporter
                    )
                    self.reporter.report(events.TaskState(state=State.RUNNING))
                    await self._execute(engine, images)
            finally:
                await self._give_back(engine)
        await self._stage_out()

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

    async def _execute(self, engine: Engine, images: Mapping[str, asyncio.Task[None]]) -> None:
        for step in self.plan.steps:
            await run_step(
                engine,
                step,
                workdir=self.workdir,
                settings=self.settings,
                reporter=self.reporter,
                image_ready=images[step.image],
                on_end=self.steps.append,
            )
            if failed_step(self.plan.steps, self.steps) is not None:
                return

    @property
    def _host_root(self) -> str:
        """The task's directory as the Docker host calls it."""
        return host_path(self.workdir.root, self.settings.work.host_paths)

    async def _give_back(self, engine: Engine) -> None:
        """What executors made as root is the runner's again, so that it can be read and removed."""
        if os.geteuid() == 0 or not self.steps:
            return
        giving_back = give_back(
            engine,
            self._host_root,
            task_id=self.plan.task.id,
            images=[step.image for step in self.plan.steps],
            uid=os.geteuid(),
            gid=os.getegid(),
            reporter=self.reporter,
        )
        await to_the_end(giving_back, name="give back", limit_seconds=_GIVE_BACK_SECONDS)

    async def _stage_out(self) -> None:
        failed = failed_step(self.plan.steps, self.steps)
        if failed is not None and self.settings.on_executor_error is OnExecutorError.SKIP:
            return
        staged_out = await stage_out(
            self.plan,
            self.workdir,
            self.stores,
            self.settings.transfer,
            self.reporter,
            succeeded=failed is None,
            on_uploaded=self.outputs.append,
        )
        self.outputs = list(staged_out.outputs)
        if staged_out.outputs:
            self.reporter.report(events.TaskOutputs(outputs=staged_out.outputs))
        if staged_out.errors and failed is None:
            raise several(staged_out.errors)

    async def take_back_uploads(self) -> None:
        """No other attempt will go on with what a killed one has left open."""
        taking = take_back_uploads(self.workdir, self.stores, self.settings.transfer, self.reporter)
        with suppress(asyncio.CancelledError):  # the verdict stands; what is left open keeps its journal
            try:
                await to_the_end(taking, name="take back uploads", limit_seconds=_TAKE_BACK_SECONDS)
            except TaskrunnerError as error:
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
