"""Plans for staging tests, with a store in memory that no document could name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from taskrunner.events import Event
from taskrunner.plan import ContentFile, Download, Plan, Upload
from taskrunner.retrying import Patience
from taskrunner.settings import Settings, TransferSettings
from taskrunner.storage.memory import MemoryStore
from taskrunner.storage.opening import Stores
from taskrunner.task import Executor, FileType, Task
from taskrunner.urls import StoreKind
from taskrunner.workdir import WorkDir, leased

PART_BYTES = 64 * 1024
PATIENCE = Patience(attempts=3, first_wait_seconds=0.01)
TRANSFER = TransferSettings(max_connections=4, part_bytes=PART_BYTES, patience=PATIENCE)


@dataclass
class Recorder:
    """A reporter that keeps what it is told, live events aside."""

    events: list[Event] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, event: Event) -> None:
        if not event.live:
            self.events.append(event)
            self.begun.set()

    def told(self) -> list[tuple[str, object]]:
        """Kind and URL of each event about one URL."""
        events = [(event.msg, event.fields().get("url")) for event in self.events]
        return [(msg, url) for msg, url in events if url is not None]


def a_plan(
    workdir: WorkDir,
    *,
    downloads: tuple[Download, ...] = (),
    contents: tuple[ContentFile, ...] = (),
    uploads: tuple[Upload, ...] = (),
) -> Plan:
    task = Task(id="t", executors=(Executor(image="i", command=("c",)),))
    return Plan(
        task=task,
        root=workdir.root,
        directories=(workdir.place("/in"), workdir.place("/out")),
        downloads=downloads,
        contents=contents,
        steps=(),
        uploads=uploads,
    )


def download(workdir: WorkDir, url: str, path: str, kind: FileType = FileType.FILE) -> Download:
    return Download(url, path, workdir.place(path), kind, shareable=False)


def upload(workdir: WorkDir, path: str, url: str, kind: FileType = FileType.FILE) -> Upload:
    return Upload(url, path, workdir.place(path), kind)


@asynccontextmanager
async def stores_with(memory: MemoryStore, *allowed: Path) -> AsyncIterator[Stores]:
    settings = Settings(transfer=TRANSFER)
    if allowed:
        from dataclasses import replace

        settings = replace(settings, work=replace(settings.work, allowed_dirs=allowed))
    async with Stores(settings, extra={StoreKind.MEMORY: memory}) as stores:
        yield stores


@contextmanager
def a_workdir(tmp_path: Path) -> Iterator[WorkDir]:
    with leased(tmp_path / "work" / "t") as lease:
        yield lease.workdir


def partial_files(workdir: WorkDir) -> list[str]:
    return [path.name for path in workdir.staging.iterdir() if path.name.endswith(".partial")]
