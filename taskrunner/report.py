"""How a task ended: what happened in, verdict and TES document out. Pure.

`conclude` is the only place where an outcome becomes a state and an exit code. A stop outweighs a system
error, a system error an executor's, as in Funnel; but trouble with uploading what a failed executor left never
hides that the executor failed.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskrunner.errors import ExitCode, TaskrunnerError
from taskrunner.redaction import redact
from taskrunner.stopping import Stop, StopKind
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
    """The executor that failed the task: the first whose error is not to be ignored.

    An exit code of 0 is no success where the executor ran out of memory or time.
    """
    for step, result in zip(steps, results, strict=False):
        failed = result.exit_code != 0 or result.oom_killed or result.timed_out
        if failed and not step.ignore_error:
            return result
    return None


_STOPPED: Mapping[StopKind, tuple[State, ExitCode]] = {
    StopKind.SIGNAL: (State.CANCELED, ExitCode.RETRY),
    StopKind.RECLAIM: (State.PREEMPTED, ExitCode.RETRY),
    StopKind.TIME_LIMIT: (State.SYSTEM_ERROR, ExitCode.TIMED_OUT),
}


def conclude(error: BaseException | None, failed: StepResult | None, stop: Stop | None = None) -> Verdict:
    """The verdict on a task that raised `error` (or nothing), whose executor `failed` (or none).

    `stop` is what ended it before its end, if something did.
    """
    if stop is not None:
        state, code = _STOPPED[stop.kind]
        return Verdict(state, code, f"stopped before its end by {stop.reason}")
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
        why = f": {failed.error}" if failed.error else ""
        return Verdict(State.EXECUTOR_ERROR, _exit_code(failed), f"exit status {failed.exit_code}{why}")
    return Verdict(State.COMPLETE, ExitCode.COMPLETE)


def _exit_code(failed: StepResult) -> int:
    """The process's exit code after an executor's failure: its own, unless we know better why it ended."""
    if failed.timed_out:
        return ExitCode.TIMED_OUT
    if failed.oom_killed:
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.RETRY if failed.exit_code is None else failed.exit_code


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
