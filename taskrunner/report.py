"""How a task ended: what happened in, verdict and TES document out. Pure.

`conclude` is the only place where an outcome becomes a state and an exit code. Cancelled outweighs a system
error, a system error an executor's, as in Funnel; but trouble with uploading what a failed executor left never
hides that the executor failed.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskrunner.errors import ExitCode, TaskrunnerError
from taskrunner.redaction import redact
from taskrunner.task import ExecutorLog, OutputFileLog, State, Task, TaskLog, task_as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskrunner.containers.executor import StepResult
    from taskrunner.events import OutputLog
    from taskrunner.plan import Step

_NEVER_ENDED = -1
"""TES wants an exit code of every executor; one that was stopped before its end has none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A final state, the process's exit code (an executor's own, or one of `ExitCode`), and why."""

    state: State
    exit_code: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a task that has ended. Times are RFC 3339 with nanoseconds."""

    verdict: Verdict
    start_time: str
    end_time: str
    metadata: Mapping[str, str]
    steps: tuple[StepResult, ...]
    """Of the executors that were started."""
    outputs: tuple[OutputLog, ...]


def failed_step(steps: Sequence[Step], results: Sequence[StepResult]) -> StepResult | None:
    """The executor that failed the task: the first with a code other than 0 whose error is not to be ignored."""
    for step, result in zip(steps, results, strict=False):
        if result.exit_code != 0 and not step.ignore_error:
            return result
    return None


def conclude(error: BaseException | None, failed: StepResult | None) -> Verdict:
    """The verdict on a task that raised `error` (or nothing) and whose executor `failed` (or none)."""
    if isinstance(error, asyncio.CancelledError):
        reason = error.args[0] if error.args else "a stop signal"
        return Verdict(State.CANCELED, ExitCode.RETRY, f"stopped before its end by {reason}")
    if isinstance(error, TaskrunnerError):
        return Verdict(State.SYSTEM_ERROR, error.exit_code, str(error))
    if error is not None:
        lines = "".join(traceback.format_exception(error))
        return Verdict(
            State.SYSTEM_ERROR,
            ExitCode.BUG,
            f"a mistake in taskrunner, please report it with this log:\n{lines}",
        )
    if failed is not None:
        code = failed.exit_code if failed.exit_code is not None else ExitCode.RETRY
        why = f": {failed.error}" if failed.error else ""
        return Verdict(State.EXECUTOR_ERROR, code, f"exit status {code}{why}")
    return Verdict(State.COMPLETE, ExitCode.COMPLETE)


def result_document(task: Task, report: Report, system_logs: Sequence[str]) -> dict[str, object]:
    """The final TES Task (FULL view) as JSON values: the document with its id, state and log filled in."""
    log = TaskLog(
        logs=tuple(_executor_log(result) for result in report.steps),
        metadata=dict(report.metadata),
        start_time=report.start_time,
        end_time=report.end_time,
        outputs=tuple(
            OutputFileLog(url=one.url, path=one.path, size_bytes=one.size_bytes) for one in report.outputs
        ),
        system_logs=tuple(system_logs),
    )
    return task_as_json(
        task.model_copy(
            update={
                "state": report.verdict.state,
                "creation_time": task.creation_time or report.start_time,
                "logs": (log,),
            }
        )
    )


def _executor_log(result: StepResult) -> ExecutorLog:
    return ExecutorLog(
        exit_code=_NEVER_ENDED if result.exit_code is None else result.exit_code,
        start_time=result.start_time,
        end_time=result.end_time,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def rejection_document(message: str, state: State) -> dict[str, object]:
    """The same for a document that could not be run at all: there is no task to tell, only why."""
    log = {"logs": [], "outputs": [], "system_logs": [redact(message)]}
    return {"state": state.value, "executors": [], "logs": [log]}
