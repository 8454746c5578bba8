"""`stage-in` and `stage-out`: a task's files alone, for a script that does the work itself.

    dir=$(taskrunner stage-in task.json)     inputs are at $dir/<container path>, output directories are there
    …                                        whatever makes the outputs, at $dir/<container path>
    taskrunner stage-out task.json           outputs are uploaded by the document's rules

Both work in the very directory `<work-dir>/<taskID>`, so that the second finds what the first has made. Events
go to standard error, as a run's do, and the exit codes are the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from taskrunner.batch.job import Job
from taskrunner.cli.options import (
    FILL_IN_URLS,
    LEAVE_WORK_DIR,
    LOG_FORMAT,
    PLACES,
    PROGRESS,
    S3,
    TRANSFER,
    SettingOption,
    settings_from,
)
from taskrunner.cli.source import PARAMETERS, read_task, task_id_for
from taskrunner.cli.telling import as_text, remove_told, tell_line, telling
from taskrunner.errors import ExitCode, TaskrunnerError, TransientError, UsageError, several
from taskrunner.stopping import until_stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from taskrunner.events import OutputLog, Reporter
    from taskrunner.plan import Plan
    from taskrunner.settings import Settings
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import Lease

_TASK_ID = click.Option(
    ["--task-id"],
    envvar="TASKRUNNER_TASK_ID",
    show_envvar=True,
    metavar="ID",
    help="The id of a task whose document has none; in Batch the job's unless told, else stage-out needs it.",
)
_JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="Tell the files on standard output, as one JSON object."
)
_LEAVE = SettingOption(
    "leave-work-dir",
    LEAVE_WORK_DIR.field,
    "Keep the task's files when all outputs are uploaded.",
    default=True,
)
_COMMON: tuple[click.Parameter, ...] = (
    *PARAMETERS,
    _TASK_ID,
    *PLACES,
    *TRANSFER,
    FILL_IN_URLS,
    PROGRESS,
    LOG_FORMAT,
)
_IN: list[click.Parameter] = [*_COMMON, *S3, _JSON]
_OUT: list[click.Parameter] = [*_COMMON, *S3, _LEAVE, _JSON]


def _stage_in(**values: Any) -> int:
    return asyncio.run(until_stopped(_staged(values, settings_from(_IN, values), task_id_for, _bring)))


def _stage_out(**values: Any) -> int:
    return asyncio.run(until_stopped(_staged(values, settings_from(_OUT, values), _no_id, _send)))


STAGE_IN = click.Command(
    "stage-in",
    callback=_stage_in,
    params=_IN,
    help=(
        "Make the work directory of TASK, download its inputs to it, and print its path: a container path /a/b "
        "is at PATH/a/b. What an earlier stage-in of the same task left there is removed first."
    ),
)
STAGE_OUT = click.Command(
    "stage-out",
    callback=_stage_out,
    params=_OUT,
    help="Upload the outputs of TASK from the work directory that stage-in made.",
)


async def _staged(
    values: dict[str, Any],
    settings: Settings,
    missing_id: Callable[[Job], str],
    phase: Callable[[_Phase], Awaitable[int]],
) -> int:
    from taskrunner.storage.opening import Stores  # noqa: PLC0415  # `--help` loads no HTTP library

    async with Stores(settings) as stores:
        job = Job.read(os.environ)
        plan = await _planned(values, settings, stores, job, missing_id)
        text, attempt = as_text(values["log_format"]), job.event_attempt
        with telling(
            plan.task.id, settings.logs, stream=sys.stderr, text=text, copy=None, attempt=attempt
        ) as told:
            return await phase(_Phase(plan, stores, settings, told.reporter, as_json=values["as_json"]))


async def _planned(
    values: dict[str, Any],
    settings: Settings,
    stores: Stores,
    job: Job,
    missing_id: Callable[[Job], str],
) -> Plan:
    """The plan of a task whose id is certain: the document's, else --task-id. Raises TaskrunnerError."""
    from taskrunner.planning import make_plan  # noqa: PLC0415  # pydantic comes with the model

    task_id: str | None = values["task_id"]
    if task_id is not None:
        _require_id(task_id)
    new_id = (lambda: missing_id(job)) if task_id is None else (lambda: task_id)
    loaded = await read_task(values, settings, stores, job, new_id=new_id, makes_containers=False)
    if task_id not in (None, loaded.task.id):
        raise UsageError(f"--task-id is {task_id}, but the document's own id is {loaded.task.id}")
    return make_plan(loaded, settings)


def _no_id(job: Job) -> str:
    if job.default_task_id is None:
        raise UsageError(
            "the task document has no id: give --task-id, the last part of the path that stage-in printed"
        )
    return job.default_task_id


def _require_id(task_id: str) -> None:
    """By the rule that documents' own ids follow. Raises UsageError."""
    from taskrunner.rules import check  # noqa: PLC0415  # pydantic comes with the model
    from taskrunner.task import Task  # noqa: PLC0415

    if not task_id:
        raise UsageError("--task-id: expected an id, got nothing")
    for finding in check(Task(id=task_id, executors=()), None):
        if finding.at == ("id",):
            raise UsageError(f"--task-id: {finding.text}")


@dataclass(frozen=True, slots=True)
class _Phase:
    """What one phase works with."""

    plan: Plan
    stores: Stores
    settings: Settings
    reporter: Reporter
    as_json: bool

    async def told(self, lease: Lease, work: Awaitable[None]) -> int:
        """Do the work and tell how it went wrong, if it does; the exit code."""
        from taskrunner.events import SystemErrorEvent  # noqa: PLC0415  # as above

        error: TaskrunnerError
        try:
            await work
        except asyncio.CancelledError as stop:
            error = TransientError(f"stopped by {stop or 'a signal'}")
        except TaskrunnerError as raised:
            error = raised
        else:
            return ExitCode.COMPLETE
        lease.keep_for_retry = error.exit_code is ExitCode.RETRY
        self.reporter.report(SystemErrorEvent(error=str(error)))
        return error.exit_code


async def _bring(phase: _Phase) -> int:
    """Stage in. A directory that is not complete does not stay."""
    from taskrunner.staging.stage_in import stage_in  # noqa: PLC0415  # as above
    from taskrunner.workdir import held, reserved  # noqa: PLC0415

    # A script may write to its inputs: none of them may be another name of a local original.
    downloads = tuple(replace(download, shareable=False) for download in phase.plan.downloads)
    plan = replace(phase.plan, downloads=downloads)
    async with held(reserved(plan.root, empty=True)) as lease:
        work = stage_in(plan, lease.workdir, phase.stores, phase.settings.transfer, phase.reporter)
        code = await phase.told(lease, work)
        if code != ExitCode.COMPLETE:
            await remove_told(plan.root, phase.reporter)
            return code
        files = await asyncio.to_thread(_files, plan.root) if phase.as_json else []
    _print(phase, files)
    return code


async def _send(phase: _Phase) -> int:
    """Stage out. The directory stays, but where it is not wanted any more."""
    from taskrunner.workdir import held, reserved  # noqa: PLC0415

    outputs: list[OutputLog] = []
    async with held(reserved(phase.plan.root, empty=False)) as lease:
        code = await phase.told(lease, _upload(phase, lease, outputs))
        if code == ExitCode.COMPLETE and not phase.settings.work.leave_work_dir:
            await remove_told(phase.plan.root, phase.reporter)
    if phase.as_json:
        told = [{"url": one.url, "path": one.path, "size_bytes": one.size_bytes} for one in outputs]
        _print(phase, told)
    return code


async def _upload(phase: _Phase, lease: Lease, outputs: list[OutputLog]) -> None:
    """Upload what the rules find. Raises with all failures together; `outputs` has what arrived."""
    from taskrunner.events import TaskOutputs  # noqa: PLC0415  # as above
    from taskrunner.staging.stage_out import stage_out  # noqa: PLC0415

    staged_out = await stage_out(
        phase.plan,
        lease.workdir,
        phase.stores,
        phase.settings.transfer,
        phase.reporter,
        succeeded=True,
        on_uploaded=outputs.append,
    )
    outputs[:] = staged_out.outputs
    if outputs:
        phase.reporter.report(TaskOutputs(outputs=staged_out.outputs))
    if staged_out.errors:
        raise several(staged_out.errors)


def _files(root: Path) -> list[dict[str, object]]:
    """Every file of a work directory, with its path in the container, in byte order of these. Blocking."""
    return sorted(
        (
            {"path": f"/{path.relative_to(root)}", "file": str(path), "size_bytes": path.stat().st_size}
            for path in _below(root)
        ),
        key=lambda file: str(file["path"]).encode(errors="surrogateescape"),
    )


def _below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())


def _print(phase: _Phase, files: list[dict[str, object]]) -> None:
    root = str(phase.plan.root)
    if phase.as_json:
        tell_line(json.dumps({"id": phase.plan.task.id, "root": root, "files": files}, ensure_ascii=False))
    else:
        tell_line(root)
