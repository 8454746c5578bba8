"""`docs/events.md` says what the code does: every kind, every key, both ways."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskrunner.events import EVENT_KINDS, FUNNEL_KINDS
from tests.events.samples import SAMPLES
from tests.events.test_vocabulary import COMMON_KEYS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
TYPES: dict[type, str] = {str: "string", int: "number", list: "array", dict: "object"}


@dataclass(frozen=True)
class Section:
    """What the document says of one kind."""

    level: str
    keys: dict[str, str]
    """Key to JSON type, in the table's order."""
    example: dict[str, object]


def _sections(text: str) -> dict[str, Section]:
    found = {}
    for title, body in re.findall(r"^### `(.+?)`\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE):
        level = re.match(r"\n(\w+)\. ", body)
        example = re.search(r"^```json\n(.*)\n```$", body, re.MULTILINE)
        assert level, title
        assert example, title
        keys = dict(re.findall(r"^\| `(\w+)` \| (\w+) \| \S", body, re.MULTILINE))
        found[title] = Section(level[1], keys, json.loads(example[1]))
    return found


SECTIONS = _sections(DOCUMENT)


def test_every_kind_has_a_section_and_every_section_a_kind_in_the_codes_order() -> None:
    assert list(SECTIONS) == [kind.msg for kind in EVENT_KINDS]


def test_funnels_kinds_and_ours_stand_apart() -> None:
    before_ours, _ = DOCUMENT.split("\n## Ours\n")

    assert list(_sections(before_ours)) == [kind.msg for kind in FUNNEL_KINDS]


@pytest.mark.parametrize("kind", EVENT_KINDS, ids=lambda kind: kind.msg)
def test_a_section_has_the_kinds_level_keys_and_types(kind: type) -> None:
    (event,) = [sample for sample in SAMPLES if type(sample) is kind]
    section = SECTIONS[event.msg]

    assert section.level == event.level
    assert section.keys == {key: TYPES[type(value)] for key, value in event.fields().items()}


@pytest.mark.parametrize("msg", SECTIONS)
def test_an_example_is_a_line_of_its_kind(msg: str) -> None:
    section = SECTIONS[msg]

    assert list(section.example) == sorted(COMMON_KEYS | section.keys.keys())
    assert (section.example["msg"], section.example["level"]) == (msg, section.level)
    assert {key: TYPES[type(section.example[key])] for key in section.keys} == section.keys


def test_the_common_keys_are_all_described() -> None:
    table = DOCUMENT.split("Every line has these keys:")[1].split("## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == COMMON_KEYS


def test_every_event_named_in_the_text_exists() -> None:
    text = DOCUMENT.split("## Funnel's")[0].split("## What differs")[0]
    known = {kind.msg for kind in EVENT_KINDS}
    named = set(re.findall(r"`([A-Z]{4,}_[A-Z_]+|[a-zA-Z]+ [a-z ]+)`", " ".join(text.split())))

    assert named <= known | {"standard error", "taskrunner run"}
