"""Many tasks in one document, and the one of them that an array job's child runs."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.collection import is_task_name, nth, pick_document
from taskrunner.document import parse_task
from taskrunner.errors import InputMissingError, InvalidTaskError, UsageError

INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"


def picked(document: bytes, index: int | None) -> object:
    """The value of the picked document."""
    return json.loads(pick_document(document, index, "tasks").document.decode("utf-8-sig"))


def tasks(count: int) -> list[dict[str, object]]:
    return [{"id": f"t{number}", "tags": {"é": "[{,}]\n"}} for number in range(count)]


def as_list(count: int) -> bytes:
    return json.dumps(tasks(count), indent=1, ensure_ascii=False).encode()


def as_lines(count: int, end: str = "\n") -> bytes:
    return "".join(f"{json.dumps(task, ensure_ascii=False)}{end}" for task in tasks(count)).encode()


SHAPES = {
    "list": as_list(5),
    "list on one line": json.dumps(tasks(5)).encode(),
    "list with a byte order mark": b"\xef\xbb\xbf \n" + as_list(5),
    "lines": as_lines(5),
    "lines of Windows": as_lines(5, "\r\n"),
    "lines without an end": as_lines(5).rstrip(),
    "lines with blank ones": b"\n \n" + as_lines(5, "\n\n  \n"),
    "lines with a byte order mark": b"\xef\xbb\xbf" + as_lines(5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_index_picks_one(shape: str) -> None:
    assert [picked(SHAPES[shape], index) for index in range(5)] == tasks(5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("index", [5, 6, 10_000])
def test_an_index_out_of_range_is_a_mistake_that_says_the_range(shape: str, index: int) -> None:
    with pytest.raises(UsageError, match=rf"{INDEX} is {index}, but tasks holds 5 tasks: .* 0 to 4"):
        pick_document(SHAPES[shape], index, "tasks")


@pytest.mark.parametrize("shape", SHAPES)
def test_many_tasks_without_an_index_say_how_many_they_are_and_what_to_set(shape: str) -> None:
    with pytest.raises(UsageError, match=rf"tasks holds 5 tasks, .* {INDEX}, from 0 to 4"):
        pick_document(SHAPES[shape], None, "tasks")


@pytest.mark.parametrize("index", [None, 0, 7])
@pytest.mark.parametrize(
    "document",
    [
        b'{"id": "a"}',
        b'{"id": "a"}\n\n',
        b'{\n "executors": [\n {},\n {}\n ]\n}\n',
        b'{"executors":\n[\n{}\n,\n{}\n]}',
        b'{"resources": {}\n}',
    ],
)
def test_a_single_task_is_taken_as_it_is_whatever_the_index(document: bytes, index: int | None) -> None:
    taken = pick_document(document, index, "tasks")
    assert (taken.document, taken.name) == (document, None)


@pytest.mark.parametrize("document", [b"", b" ", b"7", b"{} {}", b'{"a": 1}}', b"\xff\xfe{\0}\0"])
def test_what_is_no_task_at_all_is_left_to_whoever_reads_tasks(document: bytes) -> None:
    assert pick_document(document, 3, "tasks").document == document


@pytest.mark.parametrize("index", [None, 0, 1, 9_999])
def test_the_only_task_of_a_list_is_taken_whatever_the_index(index: int | None) -> None:
    assert picked(as_list(1), index) == tasks(1)[0]


@pytest.mark.parametrize("index", [None, 0])
@pytest.mark.parametrize("document", [b"[]", b" [\n] "])
def test_an_empty_list_holds_no_task(document: bytes, index: int | None) -> None:
    with pytest.raises(InputMissingError, match="no task in tasks"):
        pick_document(document, index, "tasks")


@pytest.mark.parametrize(
    ("document", "index", "mistake"),
    [
        (b'[{"a": 1},\n {"a": x}]', 1, 'line 2, column 8: expected a value, got "x"'),
        (b"[{},]", 1, 'line 1, column 5: expected a value, got "]"'),
        (b"[{} {}]", 1, 'line 1, column 5: expected a "," or the end of the list or object, got "{"'),
        (b"[{}", 1, 'expected a "," or the end of the list or object, got the end of the document'),
        (b"[{}] []", 1, 'line 1, column 6: expected the end of the document, got "["'),
        (b"[", 0, "expected a value, got the end of the document"),
        (b'[{"a": "\xff"}]', 0, "expected UTF-8 text, got the byte 0xff at offset 8"),
        (b"[" * 200_000, 0, "nested too deeply"),
        (b'[{"a": ' + b"1" * 5000 + b"}]", 0, "a number with too many digits"),
    ],
)
def test_a_list_that_is_no_json_says_where(document: bytes, index: int, mistake: str) -> None:
    with pytest.raises(InvalidTaskError) as caught:
        pick_document(document, index, "tasks")
    assert mistake in str(caught.value)


def test_what_comes_after_the_picked_task_is_not_looked_at() -> None:
    assert picked(b'[{"id": "a"}, {"broken', 0) == {"id": "a"}


def test_neighbours_in_lines_may_be_anything() -> None:
    document = b'{"a": }\n{"id": "b"}\nnonsense\n{"x\xff"}\n'
    assert picked(document, 1) == {"id": "b"}
    with pytest.raises(UsageError, match="holds 4 tasks"):
        pick_document(document, 4, "tasks")


@pytest.mark.parametrize(
    ("document", "index", "name", "mistake"),
    [
        (b'{}\n\n{"a": x}\n', 1, "line 3 of tasks", 'line 3, column 7: expected a value, got "x"'),
        (
            b'{"\xc3\xa9": 1}\n{"a": "\xff"}',
            1,
            "line 2 of tasks",
            "expected UTF-8 text, got the byte 0xff at offset 17",
        ),
        (
            '[{"é": "é"},\n {"é": 1}, {"a": NaN}]'.encode(),
            2,
            "task 2 (from 0) of tasks",
            "line 2, column 18: expected a value, got NaN, which JSON does not know",
        ),
    ],
)
def test_a_mistake_in_the_picked_task_is_where_it_is_in_the_whole(
    document: bytes, index: int, name: str, mistake: str
) -> None:
    taken = pick_document(document, index, "tasks")
    assert taken.name == name
    with pytest.raises(InvalidTaskError) as caught:
        parse_task(taken.document, new_id=lambda: "x")
    assert [str(one) for one in caught.value.mistakes] == [mistake]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.text(), _VALUES, max_size=4), min_size=2, max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_lists_and_lines_hold_what_was_put_in(
    values: list[dict[str, object]], indent: int | None, ascii_only: bool
) -> None:
    listed = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    lines = "\n".join(json.dumps(value) for value in values).encode()
    for index, value in enumerate(values):
        assert picked(lines, index) == value
        if ascii_only:
            assert picked(listed, index) == value


@given(st.binary(max_size=40), st.sampled_from([None, 0, 1]))
def test_whatever_the_bytes_a_list_ends_in_a_task_or_a_sentence(content: bytes, index: int | None) -> None:
    with suppress(InvalidTaskError, UsageError):
        picked(b"[{}" + content, index)


def test_ten_thousand_tasks_are_looked_through_without_being_understood() -> None:
    """64 MiB of them, the last one picked: were each of them read as a task, this would take minutes."""
    task = json.dumps({"executors": [{"image": "i", "command": ["x" * 100] * 60}]}).encode()
    for document in (b"[" + b",".join([task] * 10_000) + b"]", b"\n".join([task] * 10_000)):
        assert pick_document(document, 9_999, "tasks").document.strip() == task


@pytest.mark.parametrize(
    ("name", "is_task"),
    [
        ("a.json", True),
        ("10.json", True),
        ("a.JSON", False),
        ("a.json.gz", False),
        (".a.json", False),
        (".json", False),
        ("", False),
    ],
)
def test_tasks_of_a_directory_are_what_the_shell_means_by_star_json(name: str, is_task: bool) -> None:
    assert is_task_name(name) is is_task


def test_names_are_picked_as_documents_are() -> None:
    assert nth(["a", "b"], 1, "d") == "b"
    assert nth(["a"], None, "d") == "a"
    assert nth(["a"], 1, "d") == "a"
    for names, index, kind in (
        ([], 0, InputMissingError),
        (["a", "b"], None, UsageError),
        (["a", "b"], 2, UsageError),
    ):
        with pytest.raises(kind):
            nth(names, index, "d")
