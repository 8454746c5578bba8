"""A scene for every test, its link healthy at first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.faulty_link import faulty_link
from tests.servers import S3Server


@pytest.fixture
def scene(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A task whose S3 is a real server, behind a link that the AWS environment leads to."""
    with faulty_link(s3.url) as link:
        monkeypatch.setenv("AWS_ENDPOINT_URL", link.url)
        yield Scene(s3, link, tmp_path)


@pytest.fixture
def moto_scene(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The same with a server that heeds conditions, such as If-Match."""
    with faulty_link(moto.url) as link:
        monkeypatch.setenv("AWS_ENDPOINT_URL", link.url)
        yield Scene(moto, link, tmp_path)
