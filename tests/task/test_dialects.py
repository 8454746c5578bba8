"""What clients really send: both spellings, strings for numbers, nulls, read-only fields, fields of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from taskrunner.task import FileType, State
from tests.task.documents import EXECUTOR, load, load_text, mistakes, mistakes_in_text


def test_snake_case_and_camel_case_name_the_same_fields() -> None:
    snake = load(
        id="t",
        creation_time="2020-01-02T03:04:05Z",
        resources={
            "cpu_cores": 2,
            "ram_gb": 0.5,
            "disk_gb": 1,
            "backend_parameters_strict": True,
        },
        outputs=[{"url": "s3://b/", "path": "/w/*", "path_prefix": "/w"}],
        executors=[EXECUTOR | {"ignore_error": True}],
    )
    camel = load(
        id="t",
        creationTime="2020-01-02T03:04:05Z",
        resources={
            "cpuCores": 2,
            "ramGb": 0.5,
            "diskGb": 1,
            "backendParametersStrict": True,
        },
        outputs=[{"url": "s3://b/", "path": "/w/*", "pathPrefix": "/w"}],
        executors=[EXECUTOR | {"ignoreError": True}],
    )
    assert camel.task == snake.task
    assert snake.unknown_fields == camel.unknown_fields == ()


@pytest.mark.parametrize("cores", [2, 2.0, "2", "2.0", "2e0"])
def test_a_whole_number_may_be_written_in_many_ways(cores: object) -> None:
    resources = load(resources={"cpu_cores": cores}).task.resources
    assert resources is not None
    assert resources.cpu_cores == 2


@pytest.mark.parametrize("cores", [1.5, "1.5", True, "two", "", " 2", "1_0", "\u0662", [2], 1e300, "NaN"])
def test_what_is_no_whole_number_is_a_mistake(cores: object) -> None:
    (mistake,) = mistakes(resources={"cpuCores": cores})
    assert mistake.startswith("resources.cpuCores: expected a whole number, got ")


@pytest.mark.parametrize("gigabytes", [1.5, "1.5", "15e-1"])
def test_a_number_may_be_a_string(gigabytes: object) -> None:
    resources = load(resources={"ram_gb": gigabytes}).task.resources
    assert resources is not None
    assert resources.ram_gb == 1.5


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), ("true", True), ("True", True), ("false", False), (False, False)]
)
def test_a_boolean_may_be_a_string(value: object, expected: bool) -> None:
    assert load(executors=[EXECUTOR | {"ignore_error": value}]).task.executors[0].ignore_error is expected


def test_a_number_is_no_boolean() -> None:
    assert mistakes(executors=[EXECUTOR | {"ignore_error": 1}]) == [
        "executors[0].ignore_error: expected true or false, got 1"
    ]


@pytest.mark.parametrize("written", ["DIRECTORY", 1, "1"])
def test_a_file_type_is_a_name_or_a_number(written: object) -> None:
    (found,) = load(inputs=[{"url": "s3://b/d/", "path": "/d", "type": written}]).task.inputs
    assert found.type is FileType.DIRECTORY


@pytest.mark.parametrize("written", ["file", 2, True, ["FILE"]])
def test_a_file_type_of_another_name_is_a_mistake(written: object) -> None:
    (mistake,) = mistakes(inputs=[{"url": "s3://b/k", "path": "/d", "type": written}])
    assert mistake.startswith("inputs[0].type: expected one of FILE, DIRECTORY, got ")


def test_a_missing_type_is_filled_in_as_file() -> None:
    task = load(
        inputs=[{"url": "s3://b/k", "path": "/i"}], outputs=[{"url": "s3://b/o", "path": "/o", "type": None}]
    ).task
    assert task.inputs[0].type is FileType.FILE
    assert task.outputs[0].type is FileType.FILE


@pytest.mark.parametrize(
    ("written", "state"),
    [("RUNNING", State.RUNNING), (3, State.RUNNING), ("8", State.CANCELED), (10, State.CANCELING)],
)
def test_a_state_is_a_name_or_the_number_of_funnels_protobuf(written: object, state: State) -> None:
    assert load(state=written).task.state is state


def test_null_is_the_same_as_absent_everywhere() -> None:
    document = {
        "id": None,
        "state": None,
        "logs": None,
        "inputs": None,
        "resources": None,
        "volumes": ["/v", None],
        "tags": {"kept": "yes", "dropped": None},
        "outputs": [None, {"url": "s3://b/k", "path": "/o", "path_prefix": None}],
        "executors": [EXECUTOR | {"env": {"A": None, "B": ""}, "stdin": None}],
    }
    task = load(**document).task
    assert task.id == "made-up-id"
    assert task.volumes == ("/v",)
    assert task.tags == {"kept": "yes"}
    assert len(task.outputs) == 1
    assert task.executors[0].env == {"B": ""}
    assert task.executors[0].stdin is None


def test_mistakes_behind_a_dropped_null_keep_the_documents_index() -> None:
    assert mistakes(volumes=["/v", None, "x"]) == ['volumes[2]: expected an absolute path, got "x"']


def test_a_null_argument_is_not_dropped_from_a_command() -> None:
    assert mistakes(executors=[{"image": "i", "command": ["echo", None, "x"]}]) == [
        "executors[0].command[1]: expected a string, got null"
    ]


def test_read_only_fields_are_taken_as_they_came() -> None:
    logs = [
        {"system_logs": ["earlier"], "logs": [{"exit_code": 1}], "outputs": [{"url": "u", "size_bytes": "7"}]}
    ]
    task = load(id="own-id", state="RUNNING", logs=logs, creation_time="2020-01-01T00:00:00Z").task
    assert task.id == "own-id"
    assert task.state is State.RUNNING
    assert task.logs[0].system_logs == ("earlier",)
    assert task.logs[0].logs[0].exit_code == 1
    assert task.logs[0].outputs[0].size_bytes == 7
    assert task.creation_time == "2020-01-01T00:00:00Z"


def test_a_large_size_keeps_every_digit() -> None:
    logs = [{"logs": [], "outputs": [{"url": "u", "path": "/p", "size_bytes": "9007199254740993"}]}]
    assert load(logs=logs).task.logs[0].outputs[0].size_bytes == 9007199254740993


def test_an_unknown_field_is_told_with_its_path_and_is_no_mistake() -> None:
    loaded = load_text(
        """{"surprise": {"a": [1]}, "projekt": null, "odd key": 1,
            "executors": [{"image": "i", "command": ["c"], "environ": {"A": "b"}}],
            "resources": {"size_gb": 1}}"""
    )
    assert loaded.unknown_fields == (
        "surprise",
        "projekt",
        '["odd key"]',
        "executors[0].environ",
        "resources.size_gb",
    )


def test_both_spellings_of_a_field_are_a_mistake() -> None:
    assert mistakes(resources={"ram_gb": 1, "ramGb": 2}) == [
        'resources.ram_gb: expected once, got it again as "ramGb"'
    ]


def test_a_null_beside_the_other_spelling_is_none() -> None:
    resources = load(resources={"ram_gb": None, "ramGb": 2}).task.resources
    assert resources is not None
    assert resources.ram_gb == 2


def test_a_key_given_twice_is_a_mistake() -> None:
    assert mistakes_in_text(
        '{"name": "a", "name": "b", "executors": [{"image": "i", "command": ["c"]}]}'
    ) == ['name: expected once, got it again as "name"']


def test_a_map_key_given_twice_is_a_mistake() -> None:
    text = '{"executors": [{"image": "i", "command": ["c"], "env": {"A": "1", "A": "2"}}]}'
    assert mistakes_in_text(text) == ["executors[0].env.A: expected once, got it again"]


def test_paths_in_mistakes_keep_the_users_spelling() -> None:
    assert mistakes(resources={"backendParameters": {"a b": 1, "c": []}}) == [
        'resources.backendParameters["a b"]: expected a string, got a number',
        "resources.backendParameters.c: expected a string, got a list",
    ]


def test_an_environments_value_is_never_told() -> None:
    (mistake,) = mistakes(executors=[EXECUTOR | {"env": {"PIN": 271828}}])
    assert mistake == "executors[0].env.PIN: expected a string, got a number"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("executors", "x", "executors: expected a list, got a string"),
        ("executors", [[]], "executors[0]: expected an object, got a list"),
        ("inputs", {}, "inputs: expected a list, got an object"),
        ("tags", [], "tags: expected an object with strings in it, got a list"),
        ("name", 5, "name: expected a string, got 5"),
        ("name", {"secret": "s"}, "name: expected a string, got an object"),
        ("resources", 5, "resources: expected an object, got a number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_mistake(field: str, value: object, expected: str) -> None:
    assert mistakes(**{field: value}) == [expected]


def test_half_a_surrogate_pair_is_a_mistake_wherever_it_stands() -> None:
    text = (
        r'{"name": "\ud800", "tags": {"\udc00": "x"}, "executors": [{"image": "i", "command": ["c\udfff"]}]}'
    )
    told = mistakes_in_text(text)
    assert [mistake.partition(":")[0] for mistake in told] == [
        "name",
        r'tags["\udc00"]',
        "executors[0].command[0]",
    ]
    assert all("surrogate" in mistake for mistake in told)


def test_a_missing_id_is_made_up() -> None:
    assert load(id="").task.id == "made-up-id"


_SENT: dict[str, dict[str, Any]] = {
    "snakemake": {
        "name": "snakejob.a.1.sh",
        "description": "",
        "inputs": [{"path": "/tmp/run_snakemake.sh", "type": "FILE", "content": "#!/bin/sh\ntrue\n"}],
        "outputs": [],
        "resources": {"cpu_cores": 2, "ram_gb": 2, "disk_gb": 3},
        "executors": [
            {
                "image": "snakemake/snakemake",
                "command": ["/bin/bash", "/tmp/run_snakemake.sh"],
                "workdir": "/tmp",
            }
        ],
    },
    "pulsar": {
        "volumes": ["/pulsar_staging/"],
        "executors": [
            {
                "image": "galaxy/pulsar",
                "command": ["pulsar-submit", "--base64", "x" * 40_000],
                "workdir": "/",
            },
            {"image": "tool", "command": ["sh", "-c", "true"]},
            {"image": "galaxy/pulsar", "command": ["pulsar-finish"]},
        ],
    },
    "nextflow": {
        "inputs": [{"url": "s3://w/.command.sh", "path": "/work/.command.sh"}],
        "outputs": [
            {"url": "s3://w/.exitcode", "path": "/work/.exitcode"},
            {"url": "s3://w", "path": "/work/*.txt", "path_prefix": "/work", "type": "FILE"},
            {"url": "s3://w/{a,b}.txt", "path": "/work/{a,b}.txt", "type": "FILE"},
        ],
        "executors": [{"image": "i", "command": ["bash", "-c", "x"], "workdir": "/work"}],
    },
    "cromwell": {
        "tags": {"workflow": None},
        "resources": {"backend_parameters": {"zone": None}, "preemptible": None},
        "inputs": [{"name": "script", "url": "s3://w/script", "path": "/cromwell/execution/script"}],
        "outputs": [
            {"url": "s3://w/script", "path": "/cromwell/execution/script"},
            {"url": "s3://w/glob-a/", "path": "/cromwell/execution/glob-a/", "type": "DIRECTORY"},
        ],
        "executors": [{"image": "i", "command": ["/bin/bash", "/cromwell/execution/script"]}],
    },
}


@pytest.mark.parametrize("client", sorted(_SENT))
def test_what_known_clients_send_is_taken(client: str) -> None:
    assert load_text(json.dumps(_SENT[client])).unknown_fields == ()


def test_goldens_of_the_plan_are_tasks_too() -> None:
    goldens = Path(__file__).parents[1] / "plan" / "goldens"
    for path in goldens.glob("*.task.json"):
        assert load_text(path.read_text()).task.executors
