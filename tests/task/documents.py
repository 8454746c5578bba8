"""Small task documents for the tests, and the mistakes that reading one gives."""

from __future__ import annotations

import json

import pytest

from taskrunner.document import LoadedTask, parse_task
from taskrunner.errors import InvalidTaskError

EXECUTOR = {"image": "busybox", "command": ["true"]}


def load(**fields: object) -> LoadedTask:
    """The task of a document with these fields, and one harmless executor unless told otherwise."""
    return load_text(json.dumps({"executors": [EXECUTOR]} | fields))


def load_text(text: str) -> LoadedTask:
    return parse_task(text.encode("utf-8", "surrogatepass"), new_id=lambda: "made-up-id")


def mistakes(**fields: object) -> list[str]:
    """Every mistake in such a document, as it is told."""
    return mistakes_in_text(json.dumps({"executors": [EXECUTOR]} | fields))


def mistakes_in_text(text: str) -> list[str]:
    with pytest.raises(InvalidTaskError) as caught:
        load_text(text)
    return [str(mistake) for mistake in caught.value.mistakes]
