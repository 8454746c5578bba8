"""What the ECS agent tells a job, asked on real sockets."""

import asyncio
import json
import socket
import threading
from typing import Any

import pytest

from taskrunner.batch.ecs import EcsMetadata, parse_metadata, read_metadata
from taskrunner.batch.endpoint import Answer, ask
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


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, True, "2048", [], {}, float("nan"), float("inf"), 1e-9, 1e20, 1e305, 10**400, -(10**400)],
)
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
    metadata.container = body
    with pytest.raises(TransferIOError, match=CONTAINER_PATH):
        await read_metadata(metadata.metadata_uri)


@pytest.mark.parametrize("body", [None, b"<html>"])
async def test_what_our_container_is_told_holds_without_the_tasks_answer(
    metadata: MetadataServer, body: bytes | None
) -> None:
    metadata.task = body
    ecs = await read_metadata(metadata.metadata_uri)
    assert (ecs.docker_id, ecs.memory_bytes, ecs.cpus) == (CONTAINER["DockerId"], 4096 * MIB, 2)
    assert TASK_PATH in str(ecs.failure)


async def test_what_our_container_is_told_holds_although_the_other_question_is_never_answered(
    metadata: MetadataServer,
) -> None:
    def serve(connection: socket.socket) -> None:
        if b"/task" not in read_head(connection):
            body = json.dumps(metadata.container).encode()
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    with raw_server(serve) as url:
        ecs = await read_metadata(url)
    assert ecs.docker_id == CONTAINER["DockerId"]
    assert f"{url}/task does not answer" in str(ecs.failure)


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


@pytest.mark.parametrize("dripped", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_an_answer_that_drips_is_given_up_and_holds_nothing(dripped: bytes) -> None:
    """Each byte comes in time, the answer never does; the endpoint sees us hang up."""
    hung_up = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(dripped)
        connection.settimeout(0.05)
        while True:
            try:
                if not connection.recv(1):
                    break
            except TimeoutError:
                connection.sendall(b"x")
            except ConnectionError:
                break
        hung_up.set()

    with raw_server(serve) as url:
        with pytest.raises(TransientError, match="did not answer within"):
            await ask(url, limit_seconds=0.3)
        assert await asyncio.to_thread(hung_up.wait, 30)


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense",
        "https://127.0.0.1/v4",
        "http://",
        "http://h:x/",
        "http://h:99999999/",
        "SERVER/a b",
        "http://[fe80::1%25lo]/",
    ],
)
async def test_a_url_that_nobody_can_be_asked_at_is_told_at_once(
    uri: str, metadata: MetadataServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = uri.replace("SERVER", metadata.url)
    asked: list[str] = []

    async def counted(url: str) -> Answer:
        asked.append(url)
        return await ask(url)

    monkeypatch.setattr("taskrunner.batch.endpoint.ask", counted)
    with pytest.raises(TransferIOError, match="can't ask"):
        await read_metadata(uri)
    assert asked == [uri.rstrip("/")]


async def test_an_ipv6_address_without_a_port_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As EC2's own is; the port is HTTP's."""
    asked: list[Any] = []

    def refused(address: tuple[str, int], *_: object) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refused)
    with pytest.raises(TransientError):
        await ask("http://[fd00:ec2::254]/latest")
    assert asked == [("fd00:ec2::254", 80)]


async def test_an_endpoint_that_is_not_there_is_told_with_its_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v4/x"
    with pytest.raises(TransientError, match=url):
        await read_metadata(url)


async def test_proxies_are_never_asked(metadata: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await read_metadata(metadata.metadata_uri)).docker_id == CONTAINER["DockerId"]
