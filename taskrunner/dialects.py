"""JSON in any client's dialect in, the TES model out, with a note of everything that did not fit.

Clients spell fields in snake_case or camelCase (protobuf's JSON), send numbers and enums as strings or
numbers, `null` for what is absent, and fields TES does not know. The reader walks document and model side by
side. It never stops at a mistake: what can't be read is noted and an empty value stands in, so that the rules
can look at the rest. Places are kept twice, by TES's names for the program and as the user spelled them.
"""

from __future__ import annotations

import collections.abc
import json
import math
import re
import types
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from taskrunner.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Location = tuple[str | int, ...]
"""Where something is, by TES's names: `("executors", 0, "command")`."""

M = TypeVar("M", bound=BaseModel)

_SHOWN_CHARACTERS = 60
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_INT64 = range(-(2**63), 2**63)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Members:
    """A JSON object as it was written: every key and value, in order, twice where it is there twice."""

    pairs: tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at a place, in the program's terms."""

    at: Location
    text: str


@dataclass(slots=True)
class Reader:
    """Collects what one document holds beside its task."""

    spelled: dict[Location, str] = field(default_factory=lambda: {(): ""})
    """Every known place, as the user wrote it; in the document's order."""
    findings: list[Finding] = field(default_factory=list)
    unknown_fields: list[str] = field(default_factory=list)

    def read_object(self, model: type[M], value: object, at: Location) -> M:
        """`value` as a `model`; required fields that are absent are empty."""
        pairs = value.pairs if isinstance(value, Members) else ()
        if not isinstance(value, Members):
            self._expect("an object", value, at)
        names = _names(model)
        values: dict[str, object] = {}
        for key, member in pairs:
            name = names.get(key)
            if name is None:
                self.unknown_fields.append(self.spelled[at] + _member(key, first=not at))
            elif member is not None:
                place = self._enter(at, name, key)
                if name in values:
                    self.findings.append(Finding(place, f"expected once, got it again as {shown(key)}"))
                else:
                    values[name] = self._read(model.model_fields[name].annotation, member, place)
        for name, declared in model.model_fields.items():
            if declared.is_required() and name not in values:
                values[name] = _empty(declared.annotation)
        return model.model_validate(values)

    def spell(self, at: Location) -> str:
        """A place as the user wrote it; in TES's names where it is not in the document."""
        if at in self.spelled:
            return self.spelled[at]
        last = at[-1]
        above = self.spell(at[:-1])
        return above + (f"[{last}]" if isinstance(last, int) else _member(last, first=not above))

    def _enter(self, at: Location, name: str, key: str) -> Location:
        place = (*at, name)
        self.spelled.setdefault(place, self.spelled[at] + _member(key, first=not at))
        return place

    def _read(self, kind: Any, value: object, at: Location) -> object:
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self._read(get_args(kind)[0], value, at)
        if origin is tuple:
            return self._read_list(get_args(kind)[0], value, at)
        if origin is collections.abc.Mapping:
            return self._read_map(value, at)
        if issubclass(kind, BaseModel):
            return self.read_object(kind, value, at)
        return self._read_scalar(kind, value, at)

    def _read_list(self, kind: Any, value: object, at: Location) -> tuple[object, ...]:
        if not isinstance(value, list):
            self._expect("a list", value, at)
            return ()
        items: list[object] = []
        for index, item in enumerate(value):
            # A command without one of its arguments is another command; elsewhere null is nothing.
            if item is None and at[-1] != "command":
                continue
            place = (*at, len(items))
            self.spelled[place] = f"{self.spelled[at]}[{index}]"
            items.append(self._read(kind, item, place))
        return tuple(items)

    def _read_map(self, value: object, at: Location) -> dict[str, str]:
        if not isinstance(value, Members):
            self._expect("an object with strings in it", value, at)
            return {}
        entries: dict[str, str] = {}
        for key, entry in value.pairs:
            if entry is None:
                continue
            place = self._enter(at, key, key)
            if key in entries:
                self.findings.append(Finding(place, "expected once, got it again"))
            elif not isinstance(entry, str):
                # Only the kind is told: an environment's values may be secrets.
                self.findings.append(Finding(place, f"expected a string, got {_kind(entry)}"))
            elif not _is_unicode(key) or not _is_unicode(entry):
                self.findings.append(Finding(place, _NOT_UNICODE))
            entries[key] = entry if isinstance(entry, str) else ""
        return entries

    def _read_scalar(self, kind: Any, value: object, at: Location) -> object:
        if isinstance(value, str) and not _is_unicode(value):
            self.findings.append(Finding(at, _NOT_UNICODE))
            return _empty(kind)
        scalar = _scalar(kind)
        read = scalar.read(value)
        if read is None:
            self.findings.append(Finding(at, f"expected {scalar.expected}, got {_got(value)}"))
            return _empty(kind)
        return read

    def _expect(self, expected: str, value: object, at: Location) -> None:
        self.findings.append(Finding(at, f"expected {expected}, got {_kind(value)}"))


_NOT_UNICODE = "expected Unicode text, got half of a surrogate pair (a lone \\uD800 to \\uDFFF)"


@dataclass(frozen=True, slots=True)
class _Scalar:
    """How one kind of plain value is told and read; `read` gives None for what is not one."""

    expected: str
    read: Callable[[object], object | None]


@cache
def _scalar(kind: type) -> _Scalar:
    if issubclass(kind, Enum):
        members = list(kind)
        names = {member.value: member for member in members}
        numbers = {str(number): member for number, member in enumerate(members)}
        expected = ", ".join(names)
        return _Scalar(
            f"one of {expected}",
            lambda value: None if isinstance(value, bool) else (names | numbers).get(str(value)),
        )
    return {
        str: _Scalar("a string", lambda value: value if isinstance(value, str) else None),
        bool: _Scalar("true or false", _read_bool),
        int: _Scalar("a whole number", _read_int),
        float: _Scalar("a number", _read_float),
    }[kind]


def _read_bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None


def _read_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _read_int(value: object) -> int | None:
    """Whole numbers of 64 bits, exactly, also where they are written `2.0` or `"2"`."""
    number = _read_float(value)
    if number is None or not number.is_integer():
        return None
    try:
        exact = int(value)  # type: ignore[call-overload]  # _read_float took it, so it is a number or its text
    except ValueError:
        exact = int(number)
    return exact if exact in _INT64 else None


@cache
def _names(model: type[BaseModel]) -> Mapping[str, str]:
    """Every spelling of a model's fields, and the field's name."""
    names = list(model.model_fields)
    return {to_camel(name): name for name in names} | {name: name for name in names}


def _empty(kind: Any) -> object:
    """What stands in for a required value that is absent or can't be read."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None
    if origin is not None:
        return () if origin is tuple else {}
    return next(iter(kind)) if issubclass(kind, Enum) else kind()


def _member(key: str, *, first: bool) -> str:
    """How a member's key continues a JSON path: `.name`, or `["any other"]`."""
    if not _PLAIN_NAME.fullmatch(key):
        return f"[{shown(key)}]"
    return key if first else f".{key}"


def _got(value: object) -> str:
    """A plain JSON value, shortened; of any other, what it is."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)[:_SHOWN_CHARACTERS]
    return shown(value) if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    """What a JSON value is, without its contents."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if value is None:
        return "null"
    return {str: "a string", list: "a list", Members: "an object"}[type(value)]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A text of the user's as a message may quote it: in double quotes, short, without its secrets."""
    clean = redact(text)
    short = clean if len(clean) <= _SHOWN_CHARACTERS else clean[:_SHOWN_CHARACTERS] + "…"
    return json.dumps(short, ensure_ascii=not _is_unicode(short))
