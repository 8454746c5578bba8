"""`{array_index}`, `{job_id}` and `{attempt}`: filled in where they stand, and nothing else touched."""

import pytest

from taskrunner.batch.job import Job
from taskrunner.batch.placeholders import fill_in, filled_in, filled_in_destinations
from taskrunner.errors import UsageError
from taskrunner.settings import LogSettings
from taskrunner.task import Executor, Input, Output, Task

JOB = Job(job_id="abc:7", attempt=2, array_index=7)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("s3://b/{job_id}/{array_index}.{attempt}.json", "s3://b/abc:7/7.2.json"),
        ("s3://b/{array_index}{array_index}", "s3://b/77"),
        ("s3://b/{{attempt}}", "s3://b/{2}"),
        (
            "s3://b/{Attempt}/{ attempt }/{attempt:02}/{queue}/{}/{",
            "s3://b/{Attempt}/{ attempt }/{attempt:02}/{queue}/{}/{",
        ),
        ("s3://b/plain", "s3://b/plain"),
    ],
)
def test_only_these_three_are_replaced(text: str, filled: str) -> None:
    assert fill_in(text, JOB, place="--result") == filled


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("r-{array_index}", "AWS_BATCH_JOB_ARRAY_INDEX"),
        ("r-{job_id}", "AWS_BATCH_JOB_ID"),
        ("r-{attempt}", "AWS_BATCH_JOB_ATTEMPT"),
    ],
)
def test_one_without_a_value_is_a_mistake_that_names_its_place_and_its_variable(
    text: str, variable: str
) -> None:
    with pytest.raises(UsageError) as caught:
        fill_in(text, Job(), place="outputs[3].url")
    assert "outputs[3].url" in str(caught.value)
    assert variable in str(caught.value)


def test_a_value_is_not_looked_at_for_placeholders_again() -> None:
    assert fill_in("{job_id}", Job(job_id="{attempt}", attempt=1), place="") == "{attempt}"


def test_in_a_task_urls_are_filled_in_and_nothing_else() -> None:
    task = Task(
        id="{job_id}",
        name="{job_id}",
        inputs=(
            Input(url="s3://in/{array_index}", path="/in/{array_index}"),
            Input(url="s3://unused/{array_index}", path="/script", content="echo {attempt}"),
        ),
        outputs=(Output(url="s3://out/{attempt}", path="/out/{attempt}"),),
        executors=(Executor(image="i", command=("echo", "{job_id}")),),
    )
    filled = filled_in(task, JOB)
    assert [item.url for item in filled.inputs] == ["s3://in/7", "s3://unused/{array_index}"]
    assert [output.url for output in filled.outputs] == ["s3://out/2"]
    unchanged = {"inputs": task.inputs, "outputs": task.outputs}
    assert filled.model_copy(update=unchanged) == task
    assert (filled.inputs[0].path, filled.outputs[0].path) == ("/in/{array_index}", "/out/{attempt}")


def test_places_in_a_task_are_told_as_in_its_document() -> None:
    task = Task(
        id="",
        outputs=(Output(url="s3://o/a", path="/a"), Output(url="s3://o/{job_id}", path="/b")),
        executors=(),
    )
    with pytest.raises(UsageError, match=r"^outputs\[1\]\.url: "):
        filled_in(task, Job())


def test_destinations_of_result_and_events_are_filled_in() -> None:
    logs = filled_in_destinations(LogSettings(result="/r/{job_id}", events="s3://b/{array_index}"), JOB)
    assert (logs.result, logs.events) == ("/r/abc:7", "s3://b/7")
    assert filled_in_destinations(LogSettings(), Job()) == LogSettings()
    with pytest.raises(UsageError, match=r"^--events: "):
        filled_in_destinations(LogSettings(events="s3://b/{array_index}"), Job())


@pytest.mark.parametrize("logs", [LogSettings(result=""), LogSettings(events="")])
def test_an_empty_destination_is_a_mistake(logs: LogSettings) -> None:
    with pytest.raises(UsageError, match=r"^--(result|events) is empty"):
        filled_in_destinations(logs, JOB)
