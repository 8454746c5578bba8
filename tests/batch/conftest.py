"""What tests of a Batch job share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.metadata_server import MetadataServer, metadata_server


@pytest.fixture
def metadata() -> Iterator[MetadataServer]:
    """The endpoints of ECS and EC2."""
    with metadata_server() as server:
        yield server
