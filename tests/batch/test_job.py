"""What the environment of a Batch job says."""

import pytest

from taskrunner.batch.job import Job

JOB_ID = "1d828f65-7a4d-42e8-996d-3b900ed59dc4"

CHILD = {
    "AWS_BATCH_JOB_ID": f"{JOB_ID}:7",
    "AWS_BATCH_JOB_ATTEMPT": "2",
    "AWS_BATCH_JQ_NAME": "queue",
    "AWS_BATCH_CE_NAME": "spot",
    "AWS_BATCH_JOB_ARRAY_INDEX": "7",
    "AWS_BATCH_JOB_ARRAY_SIZE": "10",
}
NODE = {
    "AWS_BATCH_JOB_ID": f"{JOB_ID}#1",
    "AWS_BATCH_JOB_ATTEMPT": "1",
    "AWS_BATCH_JOB_NODE_INDEX": "1",
    "AWS_BATCH_JOB_NUM_NODES": "4",
    "AWS_BATCH_JOB_MAIN_NODE_INDEX": "0",
    "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.2.7",
}


def test_an_arrays_child_knows_its_job_attempt_queue_environment_and_index() -> None:
    assert Job.read(CHILD).metadata() == {
        "aws_batch_job_id": f"{JOB_ID}:7",
        "aws_batch_job_attempt": "2",
        "aws_batch_job_queue": "queue",
        "aws_batch_compute_environment": "spot",
        "aws_batch_array_index": "7",
        "aws_batch_array_size": "10",
    }


def test_a_node_of_a_multi_node_job_knows_which_one_it_is() -> None:
    assert Job.read(NODE).metadata() == {
        "aws_batch_job_id": f"{JOB_ID}#1",
        "aws_batch_job_attempt": "1",
        "aws_batch_node_index": "1",
        "aws_batch_node_count": "4",
        "aws_batch_main_node_index": "0",
        "aws_batch_main_node_address": "10.0.2.7",
    }


def test_outside_batch_nothing_is_known() -> None:
    assert Job.read({}) == Job()
    assert (Job().metadata(), Job().event_attempt, Job().default_task_id) == ({}, 0, None)


@pytest.mark.parametrize(("attempt", "told"), [("1", 0), ("3", 2), ("0", 0), ("", 0), ("x", 0)])
def test_events_count_attempts_from_zero(attempt: str, told: int) -> None:
    assert Job.read({"AWS_BATCH_JOB_ATTEMPT": attempt}).event_attempt == told


@pytest.mark.parametrize("text", ["", " 1", "-1", "1.5", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 5000])
def test_what_is_no_number_counts_as_absent(text: str) -> None:
    assert Job.read({"AWS_BATCH_JOB_ARRAY_INDEX": text}).array_index is None


@pytest.mark.parametrize(
    ("job_id", "task_id"),
    [
        (JOB_ID, JOB_ID),
        (f"{JOB_ID}:7", f"{JOB_ID}-7"),
        (f"{JOB_ID}#1", f"{JOB_ID}-1"),
        ("a" * 128, "a" * 128),
        ("", None),
    ],
)
def test_a_task_without_an_id_is_named_after_its_job_in_every_attempt(
    job_id: str, task_id: str | None
) -> None:
    assert Job.read({"AWS_BATCH_JOB_ID": job_id}).default_task_id == task_id


@pytest.mark.parametrize("text", ["../../x", "a/b", "a.b", ":7", "#", "a b", "a\n", "ä", "a" * 129])
def test_what_is_no_jobs_id_counts_as_absent(text: str) -> None:
    job = Job.read({"AWS_BATCH_JOB_ID": text})
    assert (job.job_id, job.default_task_id) == (None, None)


ON_EC2 = {"AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
ELSEWHERE = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1338/"}


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"AWS_EXECUTION_ENV": "AWS_ECS_FARGATE"}, None),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, None),
        (ON_EC2, "http://169.254.169.254"),
        ({**ON_EC2, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv4"}, "http://169.254.169.254"),
        ({**ON_EC2, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "ipv6"}, "http://[fd00:ec2::254]"),
        (ELSEWHERE, "http://127.0.0.1:1338"),
        ({**ON_EC2, **ELSEWHERE, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, "http://127.0.0.1:1338"),
        ({**ON_EC2, "AWS_EC2_METADATA_DISABLED": "True"}, None),
        ({**ELSEWHERE, "AWS_EC2_METADATA_DISABLED": "true"}, None),
        ({**ON_EC2, "AWS_EC2_METADATA_DISABLED": "false"}, "http://169.254.169.254"),
    ],
)
def test_reclaims_are_watched_for_on_ec2_or_at_a_given_endpoint_unless_that_is_disabled(
    variables: dict[str, str], endpoint: str | None
) -> None:
    assert Job.read(variables).instance_metadata == endpoint
