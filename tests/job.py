"""The runner as a Batch job has it: in a container of its own on the real engine, with the engine's socket.

    with started(runner_image, task, tmp_path, "--timeout", "9") as job:
        job.until("EXECUTOR_START_TIME")      # an event of that name has been told
        job.executor()["HostConfig"]          # its container runs, and is what the engine says
        job.stop()                            # as `docker stop`: SIGTERM, and SIGKILL when the grace is over
        ended = job.ended()                   # a tests.program.Ended: exit code, events, text
    # nothing of it is left: neither the job container nor any container that it made

Its scratch directory is `tmp_path`/host on the Docker host and /scratch in the job, so that paths differ, and the
task's files are in /scratch/work. `host_config` is merged over ours (`Memory`, `NanoCpus`, `PidsLimit`,
`NetworkMode`, `CgroupParent`, …); its `Binds` and `Mounts` come beside the socket's and the scratch directory's.
"""

from __future__ import annotations

import base64
import json
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from tests.engine import ask
from tests.program import RUN_SECONDS, Ended

SOCKET = "/var/run/docker.sock"
SCRATCH = "/scratch"
WORK_DIR = f"{SCRATCH}/work"

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class JobContainer:
    """A job container that was started; `container` is its full id."""

    container: str
    task_id: str
    scratch: Path
    """What is /scratch in the job, on the Docker host."""

    def stop(self, grace_seconds: int = 30) -> None:
        """As `docker stop` and AWS Batch: SIGTERM, a grace, SIGKILL. Returns when it has ended."""
        status, body = ask("POST", f"/containers/{self.container}/stop?t={grace_seconds}")
        assert status in (204, 304), body

    def kill(self, signal: str = "SIGKILL") -> None:
        """As `docker kill`."""
        status, body = ask("POST", f"/containers/{self.container}/kill?signal={signal}")
        assert status == 204, body

    def until(self, msg: str, text: str = "") -> dict[str, Any]:
        """Wait until an event named `msg`, with `text` in its JSON, has been told; the first such event."""

        def told() -> dict[str, Any] | None:
            lines = (line for line in self._lines("stderr") if f'"msg":"{msg}"' in line and text in line)
            return next(map(json.loads, lines), None)

        return self._await(told, f"the job does not tell {msg}")

    def executor(self, index: int = 0) -> dict[str, Any]:
        """Wait until an executor's container runs; all that the engine knows of it, in its own words."""

        def runs() -> dict[str, Any] | None:
            status, body = ask("GET", f"/containers/{self.task_id}-{index}/json")
            shown: dict[str, Any] = json.loads(body)
            return shown if status == 200 and shown["State"]["Running"] else None

        return self._await(runs, f"executor {index} does not run")

    def ended(self) -> Ended:
        """Wait for its end, and what it has said until then."""

        def over() -> dict[str, Any] | None:
            state = self._state()
            return None if state["Running"] else state

        state = self._await(over, "the job does not end")
        lines = self._lines("stderr")
        return Ended(
            exit_code=state["ExitCode"],
            events=tuple(json.loads(line) for line in lines if line.startswith("{")),
            text="".join(line for line in lines if not line.startswith("{")),
            stdout="".join(self._lines("stdout")),
            task_id=self.task_id,
        )

    def children(self) -> list[str]:
        """The ids of all containers, running or not, that this runner made for its task."""
        labels = (f"taskrunner.task-id={self.task_id}", f"taskrunner.runner-id={self.container}")
        return sorted({one for label in labels for one in _labelled(label)})

    def _await(self, look: Callable[[], _Found | None], unless: str) -> _Found:
        """What `look` finds, as soon as it does; it never will when the job has ended."""
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            running = self._state()["Running"]
            if (found := look()) is not None:
                return found
            assert running and time.monotonic() < deadline, f"{unless}: {self._lines('stderr')}"  # noqa: PT018
            time.sleep(0.05)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = inspect(self.container)["State"]
        return state

    def _lines(self, stream: str) -> list[str]:
        """The whole lines of a stream so far."""
        _, body = ask("GET", f"/containers/{self.container}/logs?{stream}=1")
        return [line for line in _unframed(body).decode().splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def started(
    image: str,
    task: Mapping[str, Any],
    tmp_path: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    host_config: Mapping[str, Any] | None = None,
    work_dir: str = WORK_DIR,
    more: Mapping[str, Any] | None = None,
) -> Iterator[JobContainer]:
    """Run a task in a job container; the task gets an id unless it has one.

    `options` are those of `taskrunner run`; `more` is merged into the body of the Engine API's
    `POST /containers/create` (`User`, `Hostname`, …).
    """
    task_id = task.get("id") or f"test-{uuid4().hex[:12]}"
    document = json.dumps({"id": task_id, **task}).encode()
    variables = {"TASKRUNNER_TASK_BASE64": base64.b64encode(document).decode(), **(env or {})}
    scratch = tmp_path / "host"
    scratch.mkdir(exist_ok=True)
    given = host_config or {}
    binds = [f"{SOCKET}:{SOCKET}", f"{scratch}:{SCRATCH}", *given.get("Binds", ())]
    body = {
        "Image": image,
        "Cmd": ["run", "--work-dir", work_dir, *options],
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "HostConfig": {**given, "Binds": binds},
        **(more or {}),
    }
    container = _create(f"job-{task_id}", body)
    job = JobContainer(container, task_id, scratch)
    try:
        status, answer = ask("POST", f"/containers/{container}/start")
        assert status == 204, answer
        yield job
    finally:
        # First the runner, or it would go on making what is removed here.
        remove(container)
        for child in job.children():
            remove(child)


def run_job(
    image: str,
    task: Mapping[str, Any],
    tmp_path: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    host_config: Mapping[str, Any] | None = None,
    work_dir: str = WORK_DIR,
) -> Ended:
    """As `started`, to its end."""
    with started(image, task, tmp_path, *options, env=env, host_config=host_config, work_dir=work_dir) as job:
        return job.ended()


def inspect(container: str) -> dict[str, Any]:
    """All that the engine knows of a container, in its own words."""
    status, body = ask("GET", f"/containers/{container}/json")
    assert status == 200, body
    shown: dict[str, Any] = json.loads(body)
    return shown


def remove(container: str) -> None:
    """Remove a container, running or not, and its anonymous volumes; one that is gone is fine."""
    ask("DELETE", f"/containers/{container}?force=1&v=1")


def _create(name: str, body: Mapping[str, Any]) -> str:
    status, answer = ask(
        "POST",
        f"/containers/create?name={name}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    assert status == 201, answer
    return str(json.loads(answer)["Id"])


def _labelled(label: str) -> list[str]:
    filters = urllib.parse.quote(json.dumps({"label": [label]}))
    _, body = ask("GET", f"/containers/json?all=1&filters={filters}")
    return [one["Id"] for one in json.loads(body)]


def _unframed(body: bytes) -> bytes:
    """A log without the headers of 8 bytes that the engine puts before each piece of it."""
    pieces = []
    while body:
        (size,) = struct.unpack(">4xI", body[:8])
        pieces.append(body[8 : 8 + size])
        body = body[8 + size :]
    return b"".join(pieces)
