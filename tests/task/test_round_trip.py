"""Whole tasks, written out and read again, in every client's dialect."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from taskrunner.document import LoadedTask, parse_task
from taskrunner.errors import InvalidTaskError
from taskrunner.task import (
    Executor,
    ExecutorLog,
    FileType,
    Input,
    Output,
    OutputFileLog,
    Resources,
    State,
    Task,
    TaskLog,
    task_as_json,
)

TEXT = st.text(max_size=8)
NAMES = st.text("abcXYZ_.- é*", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
MAPS = st.dictionaries(st.text("AB_c ", min_size=1, max_size=4), st.text("ab=\n€", max_size=5), max_size=3)
COUNTS = st.integers(0, 2**53)
AMOUNTS = st.floats(0, 1e12)
INT64 = st.integers(-(2**63), 2**63 - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def paths_below(directory: str) -> st.SearchStrategy[str]:
    """Container paths with odd but lawful spellings, none of them a wildcard's."""
    names = st.lists(NAMES.map(lambda name: name.replace("*", "s")), min_size=1, max_size=3)
    return names.map(lambda parts: f"{directory}//" + "/./".join(parts))


def tuples_of(strategy: st.SearchStrategy[Any], min_size: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=min_size, max_size=3).map(tuple)


FILE_INPUTS = st.builds(
    Input,
    name=maybe(TEXT),
    description=maybe(TEXT),
    url=st.sampled_from(["s3://b/k", "https://h/x", "file:///f", "/bare"]),
    path=paths_below("/in"),
    content=maybe(TEXT),
    streamable=st.booleans(),
)
CONTENT_INPUTS = st.builds(Input, path=paths_below("/in"), content=TEXT)
DIRECTORY_INPUTS = st.builds(
    Input, path=paths_below("/in"), url=st.just("s3://b"), type=st.just(FileType.DIRECTORY)
)
FILE_OUTPUTS = st.builds(Output, name=maybe(TEXT), url=st.just("s3://b/k"), path=paths_below("/out"))
PATTERN_OUTPUTS = st.builds(
    Output,
    url=st.just("s3://b/"),
    path=NAMES.map(lambda name: f"/out/{name}*"),
    path_prefix=st.sampled_from(["/", "/out", "/out/"]),
    type=st.sampled_from(FileType),
)
EXECUTORS = st.builds(
    Executor,
    image=st.from_regex(r"([a-c]{1,3}/){0,2}[a-c]{1,3}(:[a-cA-C]{1,3})?", fullmatch=True),
    command=tuples_of(st.text(max_size=5).filter(lambda text: "\0" not in text), min_size=1),
    workdir=maybe(st.just("/") | paths_below("/w")),
    stdin=maybe(st.just("/w/in")),
    stdout=maybe(st.sampled_from(["/w//one", "/w/./two"])),
    stderr=maybe(st.just("")),
    env=MAPS,
    ignore_error=st.booleans(),
)
RESOURCES = st.builds(
    Resources,
    cpu_cores=maybe(COUNTS),
    preemptible=maybe(st.booleans()),
    ram_gb=maybe(AMOUNTS),
    disk_gb=maybe(AMOUNTS),
    zones=tuples_of(TEXT),
    backend_parameters_strict=st.booleans(),
)
LOGS = st.builds(
    TaskLog,
    logs=tuples_of(st.builds(ExecutorLog, start_time=maybe(TEXT), stdout=maybe(TEXT), exit_code=INT64)),
    metadata=MAPS,
    end_time=maybe(TEXT),
    outputs=tuples_of(st.builds(OutputFileLog, url=TEXT, path=TEXT, size_bytes=INT64)),
    system_logs=tuples_of(TEXT),
)


def _apart(items: list[Any]) -> tuple[Any, ...]:
    """The same items, each below a directory of its own, so that none is in another's place."""
    return tuple(
        item.model_copy(update={"path": f"/{index}{item.path}"})
        if not (getattr(item, "path_prefix", None))
        else item
        for index, item in enumerate(items)
    )


def _own_urls(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return tuple(
        output if output.path_prefix else output.model_copy(update={"url": f"{output.url}{index}"})
        for index, output in enumerate(outputs)
    )


TASKS = st.builds(
    Task,
    id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    state=st.sampled_from(State),
    name=maybe(TEXT),
    description=maybe(TEXT),
    inputs=st.lists(FILE_INPUTS | CONTENT_INPUTS | DIRECTORY_INPUTS, max_size=3).map(_apart),
    outputs=st.lists(FILE_OUTPUTS | PATTERN_OUTPUTS, max_size=3).map(_apart).map(_own_urls),
    resources=maybe(RESOURCES),
    executors=tuples_of(EXECUTORS, min_size=1),
    volumes=tuples_of(paths_below("/vol")),
    tags=MAPS,
    logs=tuples_of(LOGS),
    creation_time=maybe(TEXT),
)


def _load(document: object) -> LoadedTask:
    return parse_task(json.dumps(document).encode(), new_id=lambda: "unused")


@given(TASKS)
def test_a_task_that_is_written_out_is_read_as_it_was(task: Task) -> None:
    loaded = _load(task_as_json(task))
    assert loaded.task == task
    assert loaded.unknown_fields == ()


_MAPS = {"env", "tags", "metadata"}


def _translated(value: Any, coin: Callable[[], bool], field: str = "") -> object:
    """The same document by another client: camelCase here and there, numbers as strings, nulls strewn in."""
    if isinstance(value, dict):
        in_map = field in _MAPS
        members = {
            to_camel(key) if not in_map and coin() else key: _translated(member, coin, "" if in_map else key)
            for key, member in value.items()
        }
        return members | ({"null": None} if in_map else {})
    if isinstance(value, list):
        items = [_translated(item, coin, field) for item in value]
        return items if field == "command" else [*items, None]
    return _other_spelling(value, field) if coin() else value


def _other_spelling(value: Any, field: str) -> object:
    if field == "type":
        return list(FileType).index(FileType(value))
    if field == "state":
        return str(list(State).index(State(value)))
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else value


@given(TASKS, st.data())
def test_every_dialect_means_the_same_task(task: Task, data: st.DataObject) -> None:
    loaded = _load(_translated(task_as_json(task), lambda: data.draw(st.booleans())))
    assert loaded.task == task
    assert loaded.unknown_fields == ()


@given(TASKS)
def test_nothing_absent_is_written_out(task: Task) -> None:
    """py-tes stops at a null, and so may other readers."""
    assert "null" not in json.dumps(_without_texts(task_as_json(task)))


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {"k" + str(index): _without_texts(member) for index, member in enumerate(value.values())}
    if isinstance(value, list):
        return [_without_texts(item) for item in value]
    return "" if isinstance(value, str) else value


def test_a_result_has_the_types_and_the_sizes_as_tes_writes_them() -> None:
    task = Task(
        id="t",
        state=State.COMPLETE,
        inputs=(Input(path="/i", content=""),),
        outputs=(Output(path="/o/x", url="s3://b/x"),),
        executors=(Executor(image="i", command=("c",)),),
        logs=(
            TaskLog(
                logs=(ExecutorLog(exit_code=0),),
                outputs=(OutputFileLog(url="s3://b/x", path="/o/x", size_bytes=0),),
            ),
        ),
    )
    assert task_as_json(task) == {
        "id": "t",
        "state": "COMPLETE",
        "inputs": [{"path": "/i", "content": "", "type": "FILE"}],
        "outputs": [{"url": "s3://b/x", "path": "/o/x", "type": "FILE"}],
        "executors": [{"image": "i", "command": ["c"]}],
        "logs": [
            {
                "logs": [{"exit_code": 0}],
                "outputs": [{"url": "s3://b/x", "path": "/o/x", "size_bytes": "0"}],
            }
        ],
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["executors", "inputs", "url", "path", "type", "env", "command", "image", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_task_or_a_list_of_mistakes(document: object) -> None:
    """Nothing else escapes."""
    with suppress(InvalidTaskError):
        assert _load(document).task.executors
