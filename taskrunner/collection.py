"""Many tasks in one place, and which of them is this job's: what TASK may be for the children of an array job.

A JSON list of documents, JSON Lines, or the files of a directory. The index says which; only the task it names is
looked at closely, since what is wrong with its neighbours is for their own jobs to tell. A single task is that of
every child. Pure.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from json import JSONDecoder
from typing import TYPE_CHECKING, TypeVar

from taskrunner.document import read_json
from taskrunner.errors import InputMissingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

_INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"
_LIST = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[")
# No single object is written like this: after the `}` at a line's end it would go on with `,`, `}` or `]`.
_LINES = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{[^\n]*\}[ \t\r]*\n[ \t\r\n]*[^ \t\r\n,}\]]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_BLANKS = bytes(byte if byte in b"\n" else ord(" ") for byte in range(256))


@dataclass(frozen=True, slots=True)
class Picked:
    """One task's document out of many."""

    document: bytes
    """With blanks for all that stood before it, so that lines and columns are those of the whole."""
    name: str | None = None
    """Which one it is, for people; None where the whole is one task."""


def pick_document(document: bytes, index: int | None, source: str) -> Picked:
    """The task that `index` (from 0) names in what `source` holds.

    Raises:
        UsageError: the index is out of range, or there are many tasks and no index.
        InputMissingError: there is no task at all.
        InvalidTaskError: a list that is no JSON as far as the task that was looked for.
    """
    if _LIST.match(document):
        return _out_of_list(document, index, source)
    if _LINES.match(document):
        line, start, number = nth(_lines(document), index, source)
        return Picked(document[:start].translate(_BLANKS) + line, f"line {number} of {source}")
    return Picked(document)


def is_task_name(name: str) -> bool:
    """Whether a file of this name in a directory of tasks is one of them, as the shell's `*.json` has it."""
    return name.endswith(".json") and not name.startswith(".")


def nth(tasks: Iterable[T], index: int | None, source: str) -> T:
    """The one of `tasks` that `index` (from 0) names; a single one whatever the index is. Raises as above."""
    count, first = 0, None
    for task in tasks:
        if count == index:
            return task
        first = task if first is None else first
        count += 1
    if first is None:
        raise InputMissingError(f"there is no task in {source}: expected at least one")
    if count == 1:
        return first
    if index is None:
        raise UsageError(
            f"{source} holds {count:,} tasks, and nothing says which to take: expected {_INDEX}, "
            f"from 0 to {count - 1}, which AWS Batch sets for children of array jobs"
        )
    raise UsageError(
        f"{_INDEX} is {index}, but {source} holds {count:,} tasks: expected an index from 0 to {count - 1}"
    )


def _out_of_list(document: bytes, index: int | None, source: str) -> Picked:
    try:
        text = document.decode("utf-8-sig")
        number, start, end = nth(_elements(text), index, source)
    except (ValueError, RecursionError):
        read_json(document)  # says what is wrong, and where
        raise
    before = text[:start].encode("ascii", errors="replace")  # a blank for each character, whatever it is
    return Picked(before.translate(_BLANKS) + text[start:end].encode(), f"task {number} (from 0) of {source}")


def _elements(text: str) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each element of the list that `text` is, in turn. Raises ValueError for no JSON."""
    read, number = JSONDecoder().raw_decode, 0
    at = _past_space(text, text.index("[") + 1)
    more = text[at : at + 1] != "]"
    while more:
        _, end = read(text, at)
        yield number, at, end
        number, at = number + 1, _past_space(text, end)
        more = text[at : at + 1] == ","
        if more:
            at = _past_space(text, at + 1)
    if text[at : at + 1] != "]" or _past_space(text, at + 1) != len(text):
        raise ValueError("no JSON")


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _lines(document: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each line that is not blank, where it starts, and its number from 1."""
    start = 0
    for number, line in enumerate(io.BytesIO(document), 1):
        if line.removeprefix(_BYTE_ORDER_MARK).strip():
            yield line, start, number
        start += len(line)
