"""Small task documents for the tests, and the mistakes that reading one gives."""

from __future__ import annotations

import json

import pytest

from taskrunner.document import LoadedTask, parse_task
from taskrunner.errors import InvalidTaskError
from taskrunner.settings import ContainerSettings

EXECUTOR = {"image": "busybox", "command": ["true"]}
PLAIN = ContainerSettings()


def load(containers: ContainerSettings = PLAIN, /, **fields: object) -> LoadedTask:
    """The task of a document with these fields, and one harmless executor unless told otherwise."""
    return load_text(json.dumps({"executors": [EXECUTOR]} | fields), containers)


def load_text(text: str, containers: ContainerSettings = PLAIN) -> LoadedTask:
    document = text.encode("utf-8", "surrogatepass")
    return parse_task(document, new_id=lambda: "made-up-id", containers=containers)


def mistakes(containers: ContainerSettings = PLAIN, /, **fields: object) -> list[str]:
    """Every mistake in such a document, as it is told."""
    return mistakes_in_text(json.dumps({"executors": [EXECUTOR]} | fields), containers)


def mistakes_in_text(text: str, containers: ContainerSettings = PLAIN) -> list[str]:
    with pytest.raises(InvalidTaskError) as caught:
        load_text(text, containers)
    return [str(mistake) for mistake in caught.value.mistakes]
