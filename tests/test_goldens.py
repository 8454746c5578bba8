"""Each task that a real Funnel ran is run by us, and what we say, make and leave is what Funnel did.

How the two are compared, and where we mean to differ, is told in `golden_comparison.py` and in each case's
`case.json`.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.golden_comparison import cases, differences
from tests.golden_runs import Bucket, prepared
from tests.servers import S3Server


@pytest.mark.parametrize("name", cases())
def test_a_task_is_told_as_funnel_told_it(
    name: str, tmp_path: Path, rclone_server: S3Server, busybox_image: str
) -> None:
    with (
        closing(Bucket(rclone_server)) as bucket,
        prepared(name, tmp_path, bucket, busybox_image) as case,
    ):
        observed = case.run()

        found = differences(case.golden, observed, case.places)

    assert not found, "\n".join([*found, "", *observed.event_lines, observed.stderr_text])
