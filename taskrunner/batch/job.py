"""What the environment says about the job we run in. Pure: variables in, a frozen value out.

AWS Batch sets the AWS_BATCH_ variables, the ECS agent the others
(https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html). Outside Batch all of it is absent, and
nothing needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_INSTANCE_METADATA = "http://169.254.169.254"
_INSTANCE_METADATA_IPV6 = "http://[fd00:ec2::254]"
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:#_-]{0,127}")
"""Nothing that means something in a path: ids get into the URLs that `{job_id}` stands in."""
_NOT_IN_A_TASK_ID = re.compile("[:#]")
_LONGEST_NUMBER = 18  # digits


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of a Batch job; every field is None (or empty) where the environment does not say."""

    job_id: str | None = None
    """An array's child is `ID:INDEX`, a node of a multi-node job `ID#NODE`."""
    attempt: int | None = None
    """From 1, as Batch counts; events count from 0."""
    queue: str | None = None
    compute_environment: str | None = None
    array_index: int | None = None
    array_size: int | None = None
    node_index: int | None = None
    node_count: int | None = None
    main_node_index: int | None = None
    main_node_address: str | None = None
    metadata_uri: str | None = None
    """ECS_CONTAINER_METADATA_URI_V4."""
    credentials_uri: str | None = None
    """AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: whoever asks for it gets the job role's keys."""
    visible_gpus: str | None = None
    """NVIDIA_VISIBLE_DEVICES: in Batch the ids of the GPUs that are the job's."""
    instance_metadata: str | None = None
    """The endpoint of the instance metadata service, where Spot reclaims are announced to us; None: nowhere."""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Job:
        """What `variables` say; what is no number, or no job's id, where one belongs counts as absent."""
        job_id = variables.get("AWS_BATCH_JOB_ID", "")
        return cls(
            job_id=job_id if _JOB_ID.fullmatch(job_id) else None,
            attempt=_number(variables, "AWS_BATCH_JOB_ATTEMPT"),
            queue=variables.get("AWS_BATCH_JQ_NAME") or None,
            compute_environment=variables.get("AWS_BATCH_CE_NAME") or None,
            array_index=_number(variables, "AWS_BATCH_JOB_ARRAY_INDEX"),
            array_size=_number(variables, "AWS_BATCH_JOB_ARRAY_SIZE"),
            node_index=_number(variables, "AWS_BATCH_JOB_NODE_INDEX"),
            node_count=_number(variables, "AWS_BATCH_JOB_NUM_NODES"),
            main_node_index=_number(variables, "AWS_BATCH_JOB_MAIN_NODE_INDEX"),
            main_node_address=variables.get("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS") or None,
            metadata_uri=variables.get("ECS_CONTAINER_METADATA_URI_V4") or None,
            credentials_uri=variables.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or None,
            visible_gpus=variables.get("NVIDIA_VISIBLE_DEVICES") or None,
            instance_metadata=_instance_metadata(variables),
        )

    @property
    def event_attempt(self) -> int:
        """The attempt as events count it: from 0, as Funnel does."""
        return max(0, (self.attempt or 1) - 1)

    @property
    def default_task_id(self) -> str | None:
        """The id of a task whose document has none; None outside Batch.

        The same in each attempt of a job, so that one finds what the one before has left.
        """
        return self.job_id and _NOT_IN_A_TASK_ID.sub("-", self.job_id)

    def metadata(self) -> dict[str, str]:
        """What the job is, as text by name; only what is known."""
        known = {
            "aws_batch_job_id": self.job_id,
            "aws_batch_job_attempt": self.attempt,
            "aws_batch_job_queue": self.queue,
            "aws_batch_compute_environment": self.compute_environment,
            "aws_batch_array_index": self.array_index,
            "aws_batch_array_size": self.array_size,
            "aws_batch_node_index": self.node_index,
            "aws_batch_node_count": self.node_count,
            "aws_batch_main_node_index": self.main_node_index,
            "aws_batch_main_node_address": self.main_node_address,
        }
        return {name: str(value) for name, value in known.items() if value is not None}


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "")
    fits = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER
    return int(text) if fits else None


def _instance_metadata(variables: Mapping[str, str]) -> str | None:
    """By the variables that the SDKs heed too; elsewhere than on EC2 nobody would answer at the usual address.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-client.html
    """
    if variables.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    if endpoint := variables.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return endpoint.rstrip("/")
    if variables.get("AWS_EXECUTION_ENV") != "AWS_ECS_EC2":
        return None
    ipv6 = variables.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
    return _INSTANCE_METADATA_IPV6 if ipv6 else _INSTANCE_METADATA
