"""`run`: one task from its document to its verdict.

This is the frame around `runner.run_task`: read and check the document before anything is touched, take the
work directory, listen for stop signals, and afterwards write the result, hand in the events and clean up,
whatever happened in between.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskrunner.batch.job import Job
from taskrunner.batch.placeholders import filled_in_destinations
from taskrunner.cli.deliver import check_destination, deliver, deliver_file, path_of
from taskrunner.cli.options import (
    CONTAINERS,
    FILL_IN_URLS,
    LIMITS,
    LOG_FORMAT,
    PLANNING,
    RUNNING,
    S3,
    TRANSFER,
    settings_from,
)
from taskrunner.cli.source import PARAMETERS, read_task
from taskrunner.cli.telling import Telling, as_text, remove_told, tell_error, telling
from taskrunner.errors import ExitCode, OutputFailedError, TaskrunnerError, TransientError
from taskrunner.parameters import settings_for
from taskrunner.stopping import Stops

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from taskrunner.plan import Plan
    from taskrunner.report import Report
    from taskrunner.settings import Settings
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import WorkDir

_PARAMETERS: list[click.Parameter] = [
    *PARAMETERS,
    *PLANNING,
    *CONTAINERS,
    *RUNNING,
    *LIMITS,
    FILL_IN_URLS,
    *TRANSFER,
    LOG_FORMAT,
    *S3,
]


def _run(**values: Any) -> int:
    return asyncio.run(_run_document(values, settings_from(_PARAMETERS, values)))


RUN = click.Command(
    "run",
    callback=_run,
    params=_PARAMETERS,
    help=(
        "Run TASK (a path, -, or an s3://, http(s):// or file:// URL): download its inputs, run its executors "
        "as sibling containers, upload its outputs. Events go to standard error. The exit code is the failing "
        "executor's own, or one of taskrunner's (docs/exit-codes.md)."
    ),
)


async def _run_document(values: dict[str, Any], settings: Settings) -> int:
    from taskrunner.storage.opening import Stores  # noqa: PLC0415  # `--help` loads no AWS or HTTP library

    stops = Stops(stop_seconds=settings.stops.stop_seconds)
    job = Job.read(os.environ)
    settings = replace(settings, logs=filled_in_destinations(settings.logs, job))
    async with Stores(settings) as stores:
        with stops.listening():
            frame = _Frame(values, settings, stores, stops, job)
            try:
                return await frame.run()
            except asyncio.CancelledError:
                error: Exception = TransientError("stopped by a signal before the task began")
                state = "CANCELED"
            except Exception as raised:  # noqa: BLE001  # raised again below
                error, state = raised, "SYSTEM_ERROR"
            if not frame.begun:
                await frame.deliver_rejection(error, state)
    raise error


@dataclass(slots=True)
class _Frame:
    """One run, around its task."""

    values: dict[str, Any]
    settings: Settings
    stores: Stores
    stops: Stops
    job: Job
    begun: bool = False
    """Whether the task's own story has begun; from then on it has a verdict."""

    async def run(self) -> int:
        from taskrunner.planning import make_plan  # noqa: PLC0415  # as above: pydantic comes with the model
        from taskrunner.workdir import held, leased  # noqa: PLC0415

        logs = self.settings.logs
        for option, destination in (("--result", logs.result), ("--events", logs.events)):
            if destination is not None:
                await check_destination(option, destination, self.stores)
        loaded = await read_task(self.values, self.settings, self.stores, self.job)
        self.settings = settings_for(loaded.task, self.settings)
        plan = make_plan(loaded, self.settings)
        async with held(leased(plan.root)) as lease:
            lease.stays = self.settings.work.leave_work_dir
            if lease.workdir.root != plan.root:
                plan = make_plan(loaded, self.settings, root=lease.workdir.root)
            code = await self._run_plan(plan, lease.workdir)
            lease.keep_for_retry = code == ExitCode.RETRY
            return code

    async def _run_plan(self, plan: Plan, workdir: WorkDir) -> int:
        from taskrunner.runner import run_task  # noqa: PLC0415  # `--help` loads no Docker library

        copy = self._events_path(workdir)
        text = as_text(self.values["log_format"])
        with telling(
            plan.task.id,
            self.settings.logs,
            stream=sys.stderr,
            text=text,
            copy=copy,
            attempt=self.job.event_attempt,
        ) as told:
            self.begun = True
            report = await run_task(
                plan, workdir, self.stores, self.settings, told.reporter, job=self.job, stops=self.stops
            )
            failures = await self._in_time(self._deliver_result(plan, report, told))
            await self._clean_up(workdir, told)
        if copy is not None:
            failures += await self._in_time(self._deliver_events(copy, told))
        for failure in failures:
            tell_error(failure)
        if report.verdict.exit_code == ExitCode.COMPLETE and failures:
            return failures[0].exit_code
        return report.verdict.exit_code

    async def _in_time(self, work: Coroutine[object, object, list[TaskrunnerError]]) -> list[TaskrunnerError]:
        try:
            return await self.stops.in_time(work)
        except TimeoutError as error:
            return [TransientError(f"stopped before result and events were written: {error}")]

    async def _deliver_result(self, plan: Plan, report: Report, told: Telling) -> list[TaskrunnerError]:
        from taskrunner.report import result_document  # noqa: PLC0415  # as above

        destination = self.settings.logs.result
        if destination is None:
            return []
        document = result_document(plan.task, report, told.log.system_logs)
        return await self._failures_of(destination, _as_bytes(document))

    async def _clean_up(self, workdir: WorkDir, told: Telling) -> None:
        """Remove the task's files. What there is no time for, a later run's sweep does: it changes no verdict."""
        from taskrunner.events import WorkDirNotRemoved  # noqa: PLC0415  # as above

        if self.settings.work.leave_work_dir:
            return
        try:
            await self.stops.in_time(remove_told(workdir.root, told.reporter))
        except TimeoutError as error:
            told.reporter.report(WorkDirNotRemoved(path=str(workdir.root), error=str(error)))

    def _events_path(self, workdir: WorkDir) -> Path | None:
        """Where the copy of the events is written: its destination, or a file on its way to one."""
        destination = self.settings.logs.events
        if destination is None:
            return None
        return path_of(destination) or workdir.staging / "events.jsonl"

    async def _deliver_events(self, copy: Path, told: Telling) -> list[TaskrunnerError]:
        destination = self.settings.logs.events
        assert destination is not None  # noqa: S101  # there is a copy
        if not told.copy_complete():
            return [OutputFailedError(f"the copy of the events for {destination} is not complete")]
        if path_of(destination) is not None:
            return []
        return await self._failures_of(destination, copy)

    async def deliver_rejection(self, error: Exception, state: str) -> None:
        """The result document of a task that never began; if that fails too, `error` is still the one to tell."""
        from taskrunner.report import rejection_document  # noqa: PLC0415  # as above
        from taskrunner.task import State  # noqa: PLC0415

        destination = self.settings.logs.result
        if destination is None:
            return
        document = _as_bytes(rejection_document(str(error), State(state)))
        for failure in await self._in_time(self._failures_of(destination, document)):
            tell_error(failure)

    async def _failures_of(self, destination: str, content: bytes | Path) -> list[TaskrunnerError]:
        """Deliver a document, or a file; what goes wrong is a value, since something else comes first."""
        try:
            if isinstance(content, Path):
                await deliver_file(destination, content, self.stores)
            else:
                await deliver(destination, content, self.stores)
        except TaskrunnerError as error:
            return [error]
        return []


def _as_bytes(document: dict[str, object]) -> bytes:
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode(errors="replace")
