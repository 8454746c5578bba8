"""`run`: one task from its document to its verdict.

This is the frame around `runner.run_task`: read and check the document before anything is touched, take the
work directory, listen for stop signals, and afterwards write the result, hand in the events and clean up,
whatever happened in between.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from taskrunner.cli.deliver import check_destination, deliver, deliver_file, path_of
from taskrunner.cli.options import PLANNING, RUNNING, S3, settings_from
from taskrunner.cli.source import PARAMETERS, read_document
from taskrunner.errors import ExitCode, TaskrunnerError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from taskrunner.cli.telling import Telling
    from taskrunner.plan import Plan
    from taskrunner.report import Report
    from taskrunner.settings import Settings
    from taskrunner.storage.opening import Stores
    from taskrunner.workdir import WorkDir

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_LOG_FORMAT = click.Option(
    ["--log-format"],
    envvar="TASKRUNNER_LOG_FORMAT",
    show_envvar=True,
    show_default=True,
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    help="How events are told on standard error; auto: text on a terminal, else JSON.",
)
_PARAMETERS: list[click.Parameter] = [*PARAMETERS, *PLANNING, *RUNNING, _LOG_FORMAT, *S3]


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

    async with Stores(settings) as stores:
        with _stoppable():
            try:
                return await _run_checked(values, settings, stores)
            except asyncio.CancelledError:
                raise TransientError("stopped by a signal before the task began") from None
            except TaskrunnerError as error:
                await _deliver_rejection(error, settings, stores)
                raise


async def _run_checked(values: dict[str, Any], settings: Settings, stores: Stores) -> int:
    from taskrunner.document import parse_task  # noqa: PLC0415
    from taskrunner.identity import new_task_id  # noqa: PLC0415  # as above: pydantic comes with the model
    from taskrunner.planning import make_plan  # noqa: PLC0415
    from taskrunner.workdir import leased  # noqa: PLC0415

    for option, destination in (("--result", settings.logs.result), ("--events", settings.logs.events)):
        if destination is not None:
            await check_destination(option, destination, stores)
    loaded = parse_task(await read_document(values, settings), new_id=new_task_id)
    plan = make_plan(loaded, settings)
    with leased(plan.root) as workdir:
        if workdir.root != plan.root:
            plan = make_plan(loaded, settings, root=workdir.root)
        return await _run_plan(plan, workdir, settings, stores, values["log_format"])


async def _run_plan(plan: Plan, workdir: WorkDir, settings: Settings, stores: Stores, log_format: str) -> int:
    from taskrunner.cli.telling import telling  # noqa: PLC0415
    from taskrunner.runner import run_task  # noqa: PLC0415  # `--help` loads no Docker library

    copy = _events_path(settings, workdir)
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    with telling(plan.task.id, settings.logs, stream=sys.stderr, text=text, copy=copy) as told:
        report = await run_task(plan, workdir, stores, settings, told.reporter)
        failures = await _deliver_result(plan, report, told, settings, stores)
        if not settings.work.leave_work_dir:
            await asyncio.to_thread(_remove, workdir.root, told)
    failures += await _deliver_events(copy, settings, stores)
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if report.verdict.exit_code == ExitCode.COMPLETE and failures:
        return failures[0].exit_code
    return report.verdict.exit_code


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT cancel the current task, with the signal's name as the message."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine always runs in a task
    for signal_number in _STOP_SIGNALS:
        loop.add_signal_handler(signal_number, task.cancel, signal_number.name)
    try:
        yield
    finally:
        for signal_number in _STOP_SIGNALS:
            loop.remove_signal_handler(signal_number)


def _events_path(settings: Settings, workdir: WorkDir) -> Path | None:
    """Where the copy of the events is written: its destination, or a file on its way to one."""
    if settings.logs.events is None:
        return None
    return path_of(settings.logs.events) or workdir.staging / "events.jsonl"


async def _deliver_result(
    plan: Plan, report: Report, told: Telling, settings: Settings, stores: Stores
) -> list[TaskrunnerError]:
    from taskrunner.report import result_document  # noqa: PLC0415  # as above

    if settings.logs.result is None:
        return []
    document = result_document(plan.task, report, told.log.system_logs)
    return await _failures_of(deliver(settings.logs.result, _as_bytes(document), stores))


async def _deliver_events(copy: Path | None, settings: Settings, stores: Stores) -> list[TaskrunnerError]:
    if copy is None or settings.logs.events is None or path_of(settings.logs.events) is not None:
        return []
    return await _failures_of(deliver_file(settings.logs.events, copy, stores))


async def _deliver_rejection(error: TaskrunnerError, settings: Settings, stores: Stores) -> None:
    """The result document of a task that never began; where that fails too, the first error is the one to tell."""
    from taskrunner.report import rejection_document  # noqa: PLC0415  # as above

    if settings.logs.result is None:
        return
    document = rejection_document(str(error))
    for failure in await _failures_of(deliver(settings.logs.result, _as_bytes(document), stores)):
        click.echo(f"Error: {failure}", err=True)


async def _failures_of(delivery: Awaitable[None]) -> list[TaskrunnerError]:
    try:
        await delivery
    except TaskrunnerError as error:
        return [error]
    return []


def _as_bytes(document: dict[str, object]) -> bytes:
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode(errors="replace")


def _remove(root: Path, told: Telling) -> None:
    from taskrunner.events import WorkDirNotRemoved  # noqa: PLC0415  # as above
    from taskrunner.workdir import remove_tree  # noqa: PLC0415

    def tell(path: str, error: OSError) -> None:
        told.reporter.report(WorkDirNotRemoved(path=path, error=error.strerror or str(error)))

    remove_tree(root, tell)
