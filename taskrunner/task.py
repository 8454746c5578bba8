"""The GA4GH TES task, versions 1.0 and 1.1, as frozen values under TES's own names.

These classes say what a task *is*; `document` turns a client's bytes into one and `rules` says what a task
that can be run must look like. A field without a default here is one that TES requires. Empty optional texts
mean the same as absent ones, as in protobuf, but for an input's `content`: empty content is an empty file.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # pydantic reads the fields' types
from enum import StrEnum

from pydantic import BaseModel, Field, field_serializer


class FileType(StrEnum):
    """What an input or output is (tesFileType); the order is that of the numbers in Funnel's protobuf."""

    FILE = "FILE"
    DIRECTORY = "DIRECTORY"


class State(StrEnum):
    """Where a task is in its life (tesState); the order is that of the numbers in Funnel's protobuf."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"
    PREEMPTED = "PREEMPTED"
    CANCELING = "CANCELING"


class Input(BaseModel, frozen=True, extra="forbid"):
    """A file or directory that is there before the first executor starts (tesInput)."""

    name: str | None = None
    description: str | None = None
    url: str | None = None
    path: str
    type: FileType = FileType.FILE
    content: str | None = None
    """The file itself; where it is not empty, `url` is ignored."""
    streamable: bool = False

    @property
    def literal(self) -> str | None:
        """The bytes-to-be of an input that stands in the document; None where `url` is to be fetched."""
        return self.content or (None if self.url else self.content)


class Output(BaseModel, frozen=True, extra="forbid"):
    """A file, directory or pattern that is uploaded in the end (tesOutput)."""

    name: str | None = None
    description: str | None = None
    url: str
    path: str
    path_prefix: str | None = None
    """What is cut from the front of a match's path before it is put behind `url`; for patterns only."""
    type: FileType = FileType.FILE


class Executor(BaseModel, frozen=True, extra="forbid"):
    """One container to run (tesExecutor)."""

    image: str
    command: tuple[str, ...]
    workdir: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    env: Mapping[str, str] = Field(default_factory=dict)
    ignore_error: bool = False


class Resources(BaseModel, frozen=True, extra="forbid"):
    """What a task wants of the machine (tesResources)."""

    cpu_cores: int | None = None
    preemptible: bool | None = None
    ram_gb: float | None = None
    disk_gb: float | None = None
    zones: tuple[str, ...] = ()
    backend_parameters: Mapping[str, str] = Field(default_factory=dict)
    backend_parameters_strict: bool = False


class ExecutorLog(BaseModel, frozen=True, extra="forbid"):
    """How one executor ended (tesExecutorLog); times are RFC 3339."""

    start_time: str | None = None
    end_time: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int


class OutputFileLog(BaseModel, frozen=True, extra="forbid"):
    """One uploaded file (tesOutputFileLog)."""

    url: str
    path: str
    size_bytes: int

    @field_serializer("size_bytes", when_used="json")
    def _as_int64(self, size_bytes: int) -> str:
        """TES writes this number as a string, since JSON numbers lose digits beyond 2**53."""
        return str(size_bytes)


class TaskLog(BaseModel, frozen=True, extra="forbid"):
    """One attempt at a task (tesTaskLog); times are RFC 3339."""

    logs: tuple[ExecutorLog, ...]
    metadata: Mapping[str, str] = Field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None
    outputs: tuple[OutputFileLog, ...]
    system_logs: tuple[str, ...] = ()


class Task(BaseModel, frozen=True, extra="forbid"):
    """The whole task (tesTask)."""

    id: str
    state: State = State.UNKNOWN
    name: str | None = None
    description: str | None = None
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    resources: Resources | None = None
    executors: tuple[Executor, ...]
    volumes: tuple[str, ...] = ()
    tags: Mapping[str, str] = Field(default_factory=dict)
    logs: tuple[TaskLog, ...] = ()
    creation_time: str | None = None


def task_as_json(task: Task) -> dict[str, object]:
    """The task in TES's spelling, ready for `json.dumps`: absent fields are left out, `type` is filled in."""
    document: dict[str, object] = task.model_dump(mode="json", exclude_defaults=True)
    for field, items in (("inputs", task.inputs), ("outputs", task.outputs)):
        if items:
            document[field] = [
                item.model_dump(mode="json", exclude_defaults=True) | {"type": item.type.value}
                for item in items
            ]
    return document
