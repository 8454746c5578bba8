"""The real program, run as a user would: a process, its events, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).parent.parent
RUN_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ended:
    """One run that has ended."""

    exit_code: int
    events: tuple[dict[str, Any], ...]
    text: str
    """What standard error had beside events."""
    stdout: str
    task_id: str

    @property
    def messages(self) -> list[str]:
        return [event["msg"] for event in self.events]

    @property
    def states(self) -> list[str]:
        return [event["state"] for event in self.events if event["msg"] == "TASK_STATE"]

    def fields(self, msg: str, key: str) -> list[Any]:
        return [event[key] for event in self.events if event["msg"] == msg]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of a user who has set nothing of ours."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TASKRUNNER_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **(more or {})}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "taskrunner", *map(str, arguments)]


def typed(
    *arguments: str | Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    ended = subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(env),
        timeout=RUN_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def run(
    task: Mapping[str, Any],
    tmp_path: Path,
    *options: str | Path,
    env: Mapping[str, str] | None = None,
    stop_after: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    on_event: Mapping[str, Callable[[], None]] | None = None,
) -> Ended:
    """Run a task with its files below `tmp_path`/work.

    A signal follows the first event named `stop_after`; `on_event` is what to do at others, by their names.
    """
    task_id = f"test-{uuid4().hex[:12]}"
    document = tmp_path / f"{task_id}.json"
    document.write_text(json.dumps({"id": task_id, **task}))
    started = subprocess.Popen(
        command("run", document, "--work-dir", tmp_path / "work", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
    )
    with started as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            for name, action in (on_event or {}).items():
                if f'"msg":"{name}"' in line:
                    action()
            if stop_after is not None and f'"msg":"{stop_after}"' in line:
                process.send_signal(stop_signal)
                stop_after = None
        stdout = process.stdout.read() if process.stdout else ""
    events = tuple(json.loads(line) for line in lines if line.startswith("{"))
    text = "".join(line for line in lines if not line.startswith("{"))
    return Ended(process.returncode, events, text, stdout, task_id)
