"""The real program in the environment of a Batch job: what it knows, what it tells, and how a reclaim ends it."""

import json
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.engine import containers_of
from tests.metadata_server import CONTAINER, CONTAINER_PATH, NOTICE_PATH, TASK, TASK_PATH, MetadataServer
from tests.program import run, typed
from tests.servers import S3Server

JOB_ID = "1d828f65-7a4d-42e8-996d-3b900ed59dc4"
JOB = {
    "AWS_BATCH_JOB_ID": f"{JOB_ID}:7",
    "AWS_BATCH_JOB_ATTEMPT": "3",
    "AWS_BATCH_JQ_NAME": "queue",
    "AWS_BATCH_CE_NAME": "spot",
    "AWS_BATCH_JOB_ARRAY_INDEX": "7",
    "AWS_BATCH_JOB_ARRAY_SIZE": "10",
}
KNOWN = {
    "aws_batch_job_id": f"{JOB_ID}:7",
    "aws_batch_job_attempt": "3",
    "aws_batch_job_queue": "queue",
    "aws_batch_compute_environment": "spot",
    "aws_batch_array_index": "7",
    "aws_batch_array_size": "10",
}


def told_by_ecs(server: MetadataServer) -> None:
    """Nothing about a container of ours: there is none around these tests."""
    server.container = {key: value for key, value in CONTAINER.items() if key not in ("DockerId", "Limits")}
    server.task = {key: value for key, value in TASK.items() if key != "Limits"}


def shell(image: str, script: str, **more: Any) -> dict[str, Any]:
    return {"executors": [{"image": image, "command": ["sh", "-c", script]}], **more}


def result_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "result.json").read_text())


def test_the_job_is_told_in_the_metadata_event_and_in_the_result(
    tmp_path: Path, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    ended = run(
        shell(busybox_image, "true"),
        tmp_path,
        "--result",
        tmp_path / "result.json",
        env={**JOB, **metadata.environment()},
    )
    [told] = ended.fields("TASK_METADATA", "metadata")
    assert ended.exit_code == 0, ended.text
    assert KNOWN.items() <= told.items()
    assert (told["ecs_task_arn"], told["ecs_availability_zone"]) == (TASK["TaskARN"], "us-west-2d")
    assert result_of(tmp_path)["logs"][0]["metadata"] == told


def test_events_count_attempts_from_zero_where_batch_counts_from_one(
    tmp_path: Path, busybox_image: str
) -> None:
    ended = run(shell(busybox_image, "true"), tmp_path, env=JOB)
    assert {event["attempt"] for event in ended.events} == {2}


def test_the_metadata_endpoint_is_asked_twice_in_all(
    tmp_path: Path, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    run(shell(busybox_image, "true"), tmp_path, env={**JOB, **metadata.environment()})
    asked = [call for call in metadata.calls if "/v4/" in call]
    assert asked == [f"GET {CONTAINER_PATH}", f"GET {TASK_PATH}"]


def test_a_metadata_endpoint_that_asks_for_patience_is_given_it(
    tmp_path: Path, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    metadata.statuses = [429, 429]
    env = {**JOB, **metadata.environment(), "AWS_EC2_METADATA_DISABLED": "true"}
    ended = run(shell(busybox_image, "true"), tmp_path, env=env)
    [told] = ended.fields("TASK_METADATA", "metadata")
    assert (ended.exit_code, told["ecs_task_arn"]) == (0, TASK["TaskARN"])
    assert len(metadata.calls) == 4


def test_a_task_goes_on_without_a_metadata_endpoint(tmp_path: Path, busybox_image: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/v4/x"
    ended = run(shell(busybox_image, "true"), tmp_path, env={**JOB, "ECS_CONTAINER_METADATA_URI_V4": uri})
    [told] = ended.fields("TASK_METADATA", "metadata")
    [error] = ended.fields("job metadata failed", "error")
    assert (ended.exit_code, KNOWN.items() <= told.items(), uri in error) == (0, True, True)


def test_a_reclaim_stops_the_task_saves_its_outputs_and_preempts_it(
    tmp_path: Path, s3: S3Server, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    bucket = s3.make_bucket()
    task = shell(
        busybox_image,
        "echo so far > /out/x; echo begun; sleep 600",
        outputs=[{"url": f"s3://{bucket}/x", "path": "/out/x"}],
    )

    def reclaim() -> None:
        metadata.notice = {"action": "terminate", "time": "2099-01-01T00:00:00Z"}

    ended = run(
        task,
        tmp_path,
        "--result",
        tmp_path / "result.json",
        "--log-update-seconds",
        "0.2",
        "--stop-grace-seconds",
        "1",
        env={**s3.environment(), **JOB, **metadata.environment()},
        on_event={"EXECUTOR_STDOUT": reclaim},
    )
    assert (ended.exit_code, ended.states[-1]) == (75, "PREEMPTED")
    assert ended.fields("instance reclaimed", "action") == ["terminate"]
    assert ended.fields("instance reclaimed", "reclaim_time") == ["2099-01-01T00:00:00Z"]
    assert "Spot reclaim" in ended.fields("task stopping", "reason")[0]
    assert s3.client().get_object(Bucket=bucket, Key="x")["Body"].read() == b"so far\n"
    result = result_of(tmp_path)
    assert (result["state"], [one["url"] for one in result["logs"][0]["outputs"]]) == (
        "PREEMPTED",
        [f"s3://{bucket}/x"],
    )
    assert containers_of(ended.task_id) == []


def test_reclaims_are_not_watched_for_where_that_is_disabled(
    tmp_path: Path, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    metadata.notice = {"action": "terminate", "time": "2099-01-01T00:00:00Z"}
    env = {**JOB, **metadata.environment(), "AWS_EC2_METADATA_DISABLED": "true"}
    ended = run(shell(busybox_image, "true"), tmp_path, env=env)
    assert (ended.exit_code, f"GET {NOTICE_PATH}" in metadata.calls) == (0, False)


def test_a_result_and_events_of_their_own_for_each_child_and_attempt(
    tmp_path: Path, busybox_image: str
) -> None:
    ended = run(
        shell(busybox_image, "true"),
        tmp_path,
        "--result",
        tmp_path / "{job_id}.{attempt}.json",
        "--events",
        tmp_path / "{array_index}.jsonl",
        env=JOB,
    )
    assert (ended.exit_code, (tmp_path / f"{JOB_ID}:7.3.json").exists()) == (0, True)
    assert (tmp_path / "7.jsonl").exists()


def test_a_child_of_an_array_runs_its_own_task_named_after_its_job(
    tmp_path: Path, busybox_image: str
) -> None:
    """The same name in each attempt: a later one finds what an earlier one has left."""
    (tmp_path / "tasks.json").write_text(
        json.dumps([shell(busybox_image, f"echo I am {number}") for number in range(3)])
    )
    job_id = str(uuid4())
    env = {"AWS_BATCH_JOB_ID": f"{job_id}:1", "AWS_BATCH_JOB_ARRAY_INDEX": "1"}
    for attempt in ("1", "2"):
        exit_code, _, stderr = typed(
            "run",
            tmp_path / "tasks.json",
            "--work-dir",
            tmp_path / "work",
            env={**env, "AWS_BATCH_JOB_ATTEMPT": attempt},
        )
        events = [json.loads(line) for line in stderr.splitlines()]
        assert exit_code == 0, stderr
        assert {event["taskID"] for event in events} == {f"{job_id}-1"}
        assert [event["stdout"] for event in events if event["msg"] == "EXECUTOR_STDOUT"][-1] == "I am 1\n"


def test_a_metadata_endpoint_that_knows_no_task_is_told_and_what_it_knows_is_taken(
    tmp_path: Path, busybox_image: str, metadata: MetadataServer
) -> None:
    told_by_ecs(metadata)
    metadata.task = None
    ended = run(shell(busybox_image, "true"), tmp_path, env={**JOB, **metadata.environment()})
    [told] = ended.fields("TASK_METADATA", "metadata")
    [error] = ended.fields("job metadata failed", "error")
    assert (ended.exit_code, told["ecs_container_arn"]) == (0, CONTAINER["ContainerARN"])
    assert f"{metadata.url}{TASK_PATH} (ECS_CONTAINER_METADATA_URI_V4) answered 404" in error


def test_a_job_id_that_leads_elsewhere_is_never_filled_in(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    destination = tmp_path / "in" / "{job_id}.json"
    ended = run({"executors": []}, tmp_path, "--result", destination, env={"AWS_BATCH_JOB_ID": "../x"})
    assert (ended.exit_code, "AWS_BATCH_JOB_ID" in ended.text) == (64, True)
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("option", ["--result", "--events"])
@pytest.mark.parametrize(
    ("destination", "exit_code"), [("", 64), ("x" * 300, 73), ("/", 73), ("/dev/null/x", 73)]
)
def test_a_destination_that_can_be_none_is_told_before_the_task_begins(
    tmp_path: Path, option: str, destination: str, exit_code: int
) -> None:
    ended = run({"executors": [{"image": "i", "command": ["c"]}]}, tmp_path, option, destination)
    assert (ended.exit_code, ended.events) == (exit_code, ())
    assert (option in ended.text, "Traceback" in ended.text) == (True, False)


def test_a_result_that_needs_what_batch_did_not_tell_ends_with_64(tmp_path: Path) -> None:
    ended = run({"executors": []}, tmp_path, "--result", tmp_path / "{array_index}.json")
    assert (ended.exit_code, "--result" in ended.text) == (64, True)
    assert "AWS_BATCH_JOB_ARRAY_INDEX" in ended.text
