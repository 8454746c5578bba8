"""What the ECS agent tells a job, asked on real sockets."""

import socket
from typing import Any

import pytest

from taskrunner.batch.ecs import EcsMetadata, parse_metadata, read_metadata
from taskrunner.errors import TransferIOError, TransientError
from tests.metadata_server import CONTAINER, CONTAINER_PATH, TASK, TASK_PATH, MetadataServer
from tests.servers import raw_server, read_head

MIB = 1024 * 1024


async def test_container_and_task_are_asked_once_each(metadata: MetadataServer) -> None:
    ecs = await read_metadata(metadata.metadata_uri)
    assert ecs.docker_id == CONTAINER["DockerId"]
    assert metadata.calls == [f"GET {CONTAINER_PATH}", f"GET {TASK_PATH}"]


def test_cpu_is_in_units_of_a_vcpu_for_the_container_and_in_vcpus_for_the_task() -> None:
    ecs = parse_metadata({"Limits": {"CPU": 1536}}, {"Limits": {"CPU": 1.5}})
    assert (ecs.cpus, ecs.task_cpus) == (1.5, 1.5)


def test_memory_is_in_mebibytes_in_both() -> None:
    ecs = parse_metadata({"Limits": {"Memory": 512}}, {"Limits": {"Memory": 4096}})
    assert (ecs.memory_bytes, ecs.task_memory_bytes) == (512 * MIB, 4096 * MIB)


def test_what_is_worth_telling_is_text_by_name() -> None:
    assert parse_metadata(CONTAINER, TASK).described == {
        "ecs_cluster": TASK["Cluster"],
        "ecs_task_arn": TASK["TaskARN"],
        "ecs_task_family": "md5sum",
        "ecs_task_revision": "1",
        "ecs_availability_zone": "us-west-2d",
        "ecs_launch_type": "EC2",
        "ecs_container_arn": CONTAINER["ContainerARN"],
        "ecs_container_name": "default",
        "ecs_docker_name": CONTAINER["DockerName"],
        "ecs_image": CONTAINER["Image"],
        "ecs_image_id": CONTAINER["ImageID"],
    }


@pytest.mark.parametrize("value", [None, 0, -1, True, "2048", [], {}, float("nan"), float("inf")])
def test_an_odd_limit_is_no_limit(value: Any) -> None:
    limits = {"Limits": {"CPU": value, "Memory": value}}
    assert parse_metadata(limits, limits) == EcsMetadata()


def test_the_least_share_of_cpu_is_no_limit() -> None:
    assert parse_metadata({"Limits": {"CPU": 2}}, {}).cpus is None


@pytest.mark.parametrize("odd", [None, 7, "text", [], {"a": "b"}, "../../containers/create", "ea32192c8553"])
def test_an_odd_field_is_left_out(odd: Any) -> None:
    container = dict.fromkeys(("DockerId", "Limits"), odd) | {"Name": ["x"], "Image": 7, "ContainerARN": None}
    assert parse_metadata(container, {"Cluster": {}, "TaskARN": 1, "Limits": odd}) == EcsMetadata()


async def test_being_asked_for_patience_is_no_failure(metadata: MetadataServer) -> None:
    metadata.statuses = [429, 503]
    assert (await read_metadata(metadata.metadata_uri)).docker_id == CONTAINER["DockerId"]
    assert metadata.calls == 3 * [f"GET {CONTAINER_PATH}"] + [f"GET {TASK_PATH}"]


async def test_patience_ends_after_a_few_calls(metadata: MetadataServer) -> None:
    metadata.statuses = [429] * 100
    with pytest.raises(TransientError, match="429"):
        await read_metadata(metadata.metadata_uri)
    assert len(metadata.calls) == 5


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"\xff", b"[" * 100_000])
async def test_an_answer_that_is_no_object_is_told_with_its_url(
    metadata: MetadataServer, body: bytes
) -> None:
    metadata.task = body
    with pytest.raises(TransferIOError, match=TASK_PATH):
        await read_metadata(metadata.metadata_uri)


async def test_a_refusal_is_told_at_once(metadata: MetadataServer) -> None:
    metadata.statuses = [403]
    with pytest.raises(TransferIOError, match="403"):
        await read_metadata(metadata.metadata_uri)
    assert len(metadata.calls) == 1


async def test_an_endless_answer_is_given_up() -> None:
    def endless(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with raw_server(endless) as url, pytest.raises(TransferIOError, match="more than"):
        await read_metadata(url)


@pytest.mark.parametrize(
    "uri", ["nonsense", "https://127.0.0.1/v4", "http://", "http://h:x/", "http://h:99999999/"]
)
async def test_a_url_that_nobody_can_be_asked_at_is_told(uri: str) -> None:
    with pytest.raises(TransferIOError, match="can't ask"):
        await read_metadata(uri)


async def test_an_endpoint_that_is_not_there_is_told_with_its_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v4/x"
    with pytest.raises(TransientError, match=url):
        await read_metadata(url)


async def test_proxies_are_never_asked(metadata: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await read_metadata(metadata.metadata_uri)).docker_id == CONTAINER["DockerId"]
