"""From a client's bytes to a task that can be planned, or to all of its mistakes at once.

The bytes are JSON (`read_json`), in some client's dialect (`dialects`), and must follow the rules (`rules`).
What is found on the way is told in the document's order, each mistake once, at the place the user wrote it:
where a value could not be read, no rule is asked about it.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from taskrunner.dialects import Finding, Location, Members, Reader, shown
from taskrunner.errors import InvalidTaskError, Mistake
from taskrunner.rules import check, unsupported_parameters
from taskrunner.settings import ContainerSettings
from taskrunner.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""More than any client sends; what is larger would only fill the memory."""

_NOTHING_ALLOWED = ContainerSettings()
_GZIP_MAGIC = b"\x1f\x8b"
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)', re.DOTALL)
_EXPECTED = {
    "Illegal trailing comma before end of object": "a name in double quotes",
    "Illegal trailing comma before end of array": "a value",
    "Expecting value": "a value",
    "Expecting property name enclosed in double quotes": "a name in double quotes",
    "Expecting ':' delimiter": 'a ":"',
    "Expecting ',' delimiter": 'a "," or the end of the list or object',
    "Extra data": "the end of the document",
    "Unterminated string starting at": "a string with its closing double quote",
    "Invalid control character at": "a string without line breaks and control characters",
    "Invalid \\escape": "an escape that JSON knows",
    "Invalid \\uXXXX escape": "four hexadecimal digits after \\u",
}


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task that follows the rules, and what its document held besides."""

    task: Task
    unknown_fields: tuple[str, ...]
    """JSON paths of fields TES does not know, as the user spelled them."""
    unsupported_parameters: tuple[str, ...] = ()
    """Names of the backend parameters that nothing here heeds; they are not in `task` any more, as TES wants."""


def parse_task(
    document: bytes,
    *,
    new_id: Callable[[], str],
    containers: ContainerSettings | None = _NOTHING_ALLOWED,
    fill_in: Callable[[Task], Task] = lambda task: task,
) -> LoadedTask:
    """Read a TES task document; `new_id` names a task that has no id.

    `containers` says which backend parameters the operator allows, and how far; None leaves them as they are, for
    who makes no containers. `fill_in` replaces placeholders, before the rules look at what comes out.

    Raises InvalidTaskError with every mistake, in the document's order, and what `fill_in` raises.
    """
    reader = Reader()
    task = fill_in(reader.read_object(Task, read_json(document), ()))
    broken = {finding.at for finding in reader.findings}
    findings = [*reader.findings, *(f for f in check(task, containers) if not _touches(f.at, broken))]
    if findings:
        raise InvalidTaskError([Mistake(reader.spell(f.at), f.text) for f in _in_order(findings, reader)])
    if not task.id:
        task = task.model_copy(update={"id": new_id()})
    task, unsupported = (task, ()) if containers is None else _without_unsupported(task, containers)
    return LoadedTask(task, tuple(reader.unknown_fields), unsupported)


def _without_unsupported(task: Task, containers: ContainerSettings) -> tuple[Task, tuple[str, ...]]:
    """The task without the backend parameters that are ignored, and their names."""
    names = unsupported_parameters(task.resources, containers) if task.resources else ()
    if not names or task.resources is None:
        return task, ()
    kept = {name: value for name, value in task.resources.backend_parameters.items() if name not in names}
    resources = task.resources.model_copy(update={"backend_parameters": kept})
    return task.model_copy(update={"resources": resources}), names


def _touches(at: Location, broken: set[Location]) -> bool:
    """Whether a place, or one around it, could not be read."""
    return any(at[:length] in broken for length in range(len(at) + 1))


def _in_order(findings: Iterable[Finding], reader: Reader) -> list[Finding]:
    """By place in the document; what is missing there comes where its surroundings begin."""
    order = {at: number for number, at in enumerate(reader.spelled)}

    def position(finding: Finding) -> int:
        at = finding.at
        while at not in order:
            at = at[:-1]
        return order[at]

    return sorted(findings, key=position)


def read_json(document: bytes) -> object:
    """The document's JSON value, its objects as `Members`. UTF-8, with or without a byte order mark.

    Raises InvalidTaskError with the one mistake that ended the reading, by line and column.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        _fail(f"expected at most {MAX_DOCUMENT_BYTES:,} bytes, got {len(document):,}")
    try:
        text = document.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail(f"expected UTF-8 text, got the byte 0x{error.object[error.start]:02x} at offset {error.start}")
    if not text.strip():
        _fail("expected a JSON object, got an empty document")
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: Members(tuple(pairs)), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        expected = _EXPECTED.get(error.msg, f"JSON ({error.msg})")
        position = error.pos
        if error.msg.startswith("Illegal trailing comma"):  # Python 3.13's; told as older ones tell it
            position += 1 + len(text[position + 1 :]) - len(text[position + 1 :].lstrip())
        _fail(f"{_place(text, position)}: expected {expected}, got {_at(text, position)}")
    except _NotJSONError as error:
        found = next(m for m in _CONSTANT.finditer(text) if m[1])
        _fail(f"{_place(text, found.start())}: expected a value, got {error}, which JSON does not know")
    except RecursionError:
        _fail("expected JSON, got lists or objects nested too deeply to be read")
    except ValueError:
        _fail("expected JSON, got a number with too many digits to be read")


class _NotJSONError(Exception):
    """NaN or Infinity, which Python would read."""


def _refuse(constant: str) -> NoReturn:
    raise _NotJSONError(constant)


def _fail(text: str) -> NoReturn:
    # The cause is an exception of the JSON reader's, whose text would repeat the document.
    raise InvalidTaskError([Mistake("", text)]) from None


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f"line {line}, column {column}"


def _at(text: str, position: int) -> str:
    """What stands at a position: one character is enough to find it by, and can't be a secret."""
    return shown(text[position]) if position < len(text) else "the end of the document"


def decode_base64(text: str) -> bytes:
    """The task document that `text` holds: base64, standard or URL-safe, of JSON or of gzipped JSON.

    White space and missing `=` at the end are tolerated. Raises InvalidTaskError.
    """
    plain = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    if len(plain) > MAX_DOCUMENT_BYTES * 4 // 3 + 4:
        _fail(f"expected base64 of at most {MAX_DOCUMENT_BYTES:,} bytes, got {len(plain):,} characters")
    try:
        document = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        _fail(f"expected base64 of a task document, got something else ({error})")
    return _decompress(document) if document.startswith(_GZIP_MAGIC) else document


def _decompress(document: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(document)) as file:
            plain = file.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        _fail(f"expected a gzipped task document, got damaged gzip data ({error})")
    if len(plain) > MAX_DOCUMENT_BYTES:
        _fail(f"expected at most {MAX_DOCUMENT_BYTES:,} bytes in the gzip data, got more")
    return plain
