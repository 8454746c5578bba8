"""Bytes that are no task document end in one clear sentence."""

import pytest

from taskrunner.document import MAX_DOCUMENT_BYTES, parse_task
from taskrunner.errors import ExitCode, InvalidTaskError
from tests.task.documents import mistakes_in_text


def _mistake(document: bytes) -> str:
    with pytest.raises(InvalidTaskError) as caught:
        parse_task(document, new_id=lambda: "x")
    (mistake,) = caught.value.mistakes
    return str(mistake)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"", "expected a JSON object, got an empty document"),
        (b" \n", "expected a JSON object, got an empty document"),
        (
            b'{"a": 1,\n',
            "line 2, column 1: expected a name in double quotes, got the end of the document",
        ),
        (b'{"a": 1,}', 'line 1, column 9: expected a name in double quotes, got "}"'),
        (b'{"a"\n 1}', 'line 2, column 2: expected a ":", got "1"'),
        (b'{"a": x}', 'line 1, column 7: expected a value, got "x"'),
        (b"{} {}", 'line 1, column 4: expected the end of the document, got "{"'),
        (b"[]", "expected an object, got a list"),
        (b'"x"', "expected an object, got a string"),
        (b"null", "expected an object, got null"),
        (b"7", "expected an object, got a number"),
        (
            b'{"a": "NaN",\n "b": NaN}',
            "line 2, column 7: expected a value, got NaN, which JSON does not know",
        ),
        (b'{"a": -Infinity}', "line 1, column 7: expected a value, got -Infinity, which JSON does not know"),
        (b'{"a": "\xff"}', "expected UTF-8 text, got the byte 0xff at offset 7"),
        (b"\xff\xfe{\0}\0", "expected UTF-8 text, got the byte 0xff at offset 0"),
        (b'{"a": ' + b"1" * 5000 + b"}", "expected JSON, got a number with too many digits to be read"),
    ],
)
def test_the_mistake_says_where_and_what_was_expected(document: bytes, expected: str) -> None:
    told = _mistake(document)
    assert told == expected


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_too_deep_to_read_is_a_mistake(opening: bytes) -> None:
    assert "nested too deeply" in _mistake(opening * 200_000)


def test_deep_nesting_in_an_unknown_field_never_escapes() -> None:
    """At any depth: read, or told as a mistake."""
    for depth in (100, 900, 1000, 5000):
        document = (
            b'{"x": ' + b"[" * depth + b"]" * depth + b', "executors": [{"image": "i", "command": ["c"]}]}'
        )
        try:
            loaded = parse_task(document, new_id=lambda: "x")
        except InvalidTaskError:
            continue
        assert loaded.unknown_fields == ("x",)


def test_a_byte_order_mark_is_tolerated() -> None:
    document = b'\xef\xbb\xbf{"executors": [{"image": "i", "command": ["c"]}]}'
    assert parse_task(document, new_id=lambda: "x").task.id == "x"


def test_a_document_beyond_the_limit_is_not_read() -> None:
    told = _mistake(b" " * (MAX_DOCUMENT_BYTES + 1))
    assert told == "expected at most 67,108,864 bytes, got 67,108,865"


def test_every_mistake_is_told_at_once_in_the_documents_order() -> None:
    told = mistakes_in_text(
        """{
        "volumes": ["v"],
        "executors": [{"command": "ls", "stdin": "in"}, {"image": "i", "command": []}],
        "inputs": [{"path": "in", "type": "file"}, 5],
        "resources": {"ramGb": -1, "cpuCores": "many"},
        "outputs": [{}]
        }"""
    )
    assert told == [
        'volumes[0]: expected an absolute path, got "v"',
        "executors[0].image: expected the name of an image, got nothing",
        "executors[0].command: expected a list, got a string",
        'executors[0].stdin: expected an absolute path, got "in"',
        "executors[1].command: expected a program and its arguments, got nothing",
        "inputs[0].url: expected a URL, or `content` in its place, got neither",
        'inputs[0].path: expected an absolute path, got "in"',
        'inputs[0].type: expected one of FILE, DIRECTORY, got "file"',
        "inputs[1]: expected an object, got a number",
        "resources.ramGb: expected 0 or more, got -1.0",
        'resources.cpuCores: expected a whole number, got "many"',
        "outputs[0].path: expected an absolute path, got nothing",
        "outputs[0].url: expected the URL to upload to, got nothing",
    ]


def test_a_bad_document_ends_with_65_and_says_how_many_mistakes() -> None:
    with pytest.raises(InvalidTaskError) as caught:
        parse_task(b"{}", new_id=lambda: "x")
    assert caught.value.exit_code is ExitCode.INVALID_TASK
    assert caught.value.exit_code.value == 65
    assert str(caught.value) == (
        "the task document has 1 mistake:\n  executors: expected at least one executor, got none"
    )
