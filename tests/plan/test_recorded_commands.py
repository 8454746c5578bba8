"""Our `docker run` lines are those that Funnel's worker logged for the same tasks.

`recorded_commands.json` holds tasks and the lines of real runs (worker of 0.10.1). We differ in one thing:
an input inside a writable mount (`nested_inputs`) is simply there and has no mount of its own.
"""

import json
import re
from pathlib import Path

import pytest

from taskrunner.plan import docker_run_command
from taskrunner.planning import make_plan
from taskrunner.settings import Settings, WorkSettings
from tests.task.documents import load_text

RECORDED = json.loads(Path(__file__).with_name("recorded_commands.json").read_text())
SETTINGS = Settings(work=WorkSettings(work_dir=Path("/work"), allowed_dirs=(Path("/local"),)))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_the_command_is_funnels(name: str) -> None:
    recorded = RECORDED[name]
    plan = make_plan(load_text(json.dumps(recorded["task"])), SETTINGS)
    told = [docker_run_command(step, read_only_root=True) for step in plan.steps]
    assert told == [_without_mounts(command, recorded["nested_inputs"]) for command in recorded["commands"]]


def _without_mounts(command: str, paths: list[str]) -> str:
    for path in paths:
        command, count = re.subn(rf" -v \S+:{re.escape(path)}:ro", "", command)
        assert count == 1
    return command
