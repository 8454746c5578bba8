"""What the tests of the containers room share: an open engine, a task's place, and one way to run a step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio

from taskrunner.containers.engine import Engine
from taskrunner.containers.executor import StepResult, run_step
from taskrunner.containers.limits import limits_for
from taskrunner.containers.surroundings import Surroundings
from taskrunner.events import Event
from taskrunner.mounts import Mount
from taskrunner.plan import Step
from taskrunner.settings import ContainerSettings, LogSettings, Settings
from taskrunner.stopping import Stops
from taskrunner.task import Resources
from taskrunner.workdir import WorkDir, leased
from tests.engine import containers_of


class Recorder:
    """A reporter that keeps every event, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def report(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    @property
    def messages(self) -> list[str]:
        return [event.msg for event in self.events]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def last(self, kind: type[Event]) -> dict[str, object]:
        return self.of(kind)[-1].fields()

    async def until(self, kind: type[Event], text: str = "") -> None:
        """Wait until an event of a kind has come (whose fields hold a text)."""
        async with asyncio.timeout(60):
            while not any(text in str(event.fields()) for event in self.of(kind)):
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Task:
    """One task's directory, and steps run in it."""

    engine: Engine
    image: str
    workdir: WorkDir
    task_id: str
    settings: Settings
    reporter: Recorder = field(default_factory=Recorder)
    results: list[StepResult] = field(default_factory=list)
    surroundings: Surroundings = field(default_factory=Surroundings)
    stops: Stops = field(default_factory=Stops)
    resources: Resources | None = None

    def step(
        self,
        *command: str,
        stdin: str | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
        env: tuple[tuple[str, str], ...] = (),
        workdir: str | None = None,
        image: str | None = None,
    ) -> Step:
        """A step with `/work` and `/tmp` mounted writable."""
        return Step(
            index=0,
            image=image or self.image,
            command=command,
            container_name=f"{self.task_id}-0",
            workdir=workdir,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            ignore_error=False,
            mounts=tuple(
                Mount(container=path, runner=place, host=str(place), read_only=False)
                for path in ("/work", "/tmp")
                for place in [self.workdir.place(path)]
            ),
        )

    async def run(self, step: Step, image_ready: asyncio.Future[None] | None = None) -> StepResult:
        if image_ready is None:
            image_ready = asyncio.get_running_loop().create_future()
            image_ready.set_result(None)
        return await run_step(
            self.engine,
            step,
            workdir=self.workdir,
            settings=self.settings,
            reporter=self.reporter,
            surroundings=self.surroundings,
            limits=limits_for(self.resources, self.surroundings.bounds, self.settings.containers),
            stops=self.stops,
            image_ready=image_ready,
            on_end=self.results.append,
        )

    def with_logs(self, *, tail_bytes: int = 10_000, update_seconds: float = 5.0) -> None:
        logs = LogSettings(tail_bytes=tail_bytes, update_seconds=update_seconds)
        self.settings = replace(self.settings, logs=logs)

    @property
    def containers(self) -> list[str]:
        """What is left on the engine's host."""
        return containers_of(self.task_id)


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with leased(tmp_path / "task") as lease:
        workdir = lease.workdir
        for path in ("work", "tmp"):
            (workdir.root / path).mkdir()
            (workdir.root / path).chmod(0o777)
        yield workdir


@pytest_asyncio.fixture
async def engine(docker_engine: None) -> AsyncIterator[Engine]:
    async with Engine() as engine:
        yield engine


@pytest_asyncio.fixture
async def task(engine: Engine, busybox_image: str, workdir: WorkDir) -> AsyncIterator[Task]:
    settings = Settings(containers=ContainerSettings(stop_grace_seconds=1.0))
    async with AsyncExitStack() as cleaning:
        task = Task(engine, busybox_image, workdir, f"test-{secrets.token_hex(6)}", settings)

        async def clean() -> None:
            for container in task.containers:
                await engine.remove(container)

        cleaning.push_async_callback(clean)
        yield task
