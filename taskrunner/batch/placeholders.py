"""`{array_index}`, `{job_id}` and `{attempt}` in URLs: one text for all children and attempts of a job. Pure.

Only exactly these are replaced; any other brace is part of its URL. What Batch did not tell can't be guessed: a
placeholder without a value is a mistake of the operator's, not an empty text that lets jobs overwrite each other's
files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from taskrunner.errors import UsageError

if TYPE_CHECKING:
    from taskrunner.batch.job import Job
    from taskrunner.settings import LogSettings
    from taskrunner.task import Task

_VARIABLES = {
    "array_index": "AWS_BATCH_JOB_ARRAY_INDEX",
    "job_id": "AWS_BATCH_JOB_ID",
    "attempt": "AWS_BATCH_JOB_ATTEMPT",
}
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(_VARIABLES)})\}}")


def fill_in(text: str, job: Job, *, place: str) -> str:
    """`text` with the job's values for its placeholders; attempts as Batch counts them, from 1.

    Raises UsageError, naming the `place` of the text and the variable, where Batch did not tell a value.
    """
    values = {"array_index": job.array_index, "job_id": job.job_id, "attempt": job.attempt}

    def value_of(found: re.Match[str]) -> str:
        value = values[found[1]]
        if value is None:
            raise UsageError(
                f"{place}: can't fill in {found[0]}: {_VARIABLES[found[1]]} holds no such value; AWS Batch sets "
                f"it for {'children of array jobs' if found[1] == 'array_index' else 'its jobs'}"
            )
        return str(value)

    return _PLACEHOLDER.sub(value_of, text)


def filled_in(task: Task, job: Job) -> Task:
    """The task with the placeholders in its inputs' and outputs' URLs filled in. Raises UsageError."""
    inputs = tuple(
        item.model_copy(update={"url": fill_in(item.url, job, place=f"inputs[{index}].url")})
        if item.url and item.literal is None
        else item
        for index, item in enumerate(task.inputs)
    )
    outputs = tuple(
        output.model_copy(update={"url": fill_in(output.url, job, place=f"outputs[{index}].url")})
        for index, output in enumerate(task.outputs)
    )
    return task.model_copy(update={"inputs": inputs, "outputs": outputs})


def filled_in_destinations(logs: LogSettings, job: Job) -> LogSettings:
    """The same for --result and --events, the operator's own words. Raises UsageError, also for empty ones."""

    def destination(option: str, text: str | None) -> str | None:
        if text == "":
            raise UsageError(f"{option} is empty: expected a path or s3://BUCKET/KEY")
        return text and fill_in(text, job, place=option)

    return replace(
        logs, result=destination("--result", logs.result), events=destination("--events", logs.events)
    )
