"""Whole plans: `goldens/NAME.task.json` gives `goldens/NAME.plan.json`.

After a wanted change, `python -m tests.plan.test_goldens` writes the plans anew; the difference is to be read.
"""

import json
from pathlib import Path

import pytest

from taskrunner.document import parse_task
from taskrunner.plan import plan_as_json
from taskrunner.planning import make_plan
from taskrunner.settings import HostPath, Settings, WorkSettings

GOLDENS = Path(__file__).with_name("goldens")
TASKS = sorted(GOLDENS.glob("*.task.json"))
SETTINGS = Settings(
    work=WorkSettings(
        work_dir=Path("/scratch"),
        allowed_dirs=(Path("/data"),),
        host_paths=(HostPath(Path("/scratch"), Path("/mnt/host-scratch")),),
    )
)


def _planned(task: Path) -> str:
    loaded = parse_task(task.read_bytes(), new_id=lambda: "d0000000000000000000")
    return json.dumps(plan_as_json(make_plan(loaded, SETTINGS)), indent=2, ensure_ascii=False) + "\n"


def _golden(task: Path) -> Path:
    return task.with_name(task.name.replace(".task.json", ".plan.json"))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name.partition(".")[0])
def test_the_plan_is_the_golden_one(task: Path) -> None:
    assert _planned(task) == _golden(task).read_text()


if __name__ == "__main__":
    for path in TASKS:
        _golden(path).write_text(_planned(path))
