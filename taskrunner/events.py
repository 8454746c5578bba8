"""The vocabulary of events: everything the program says while it runs a task, one frozen class per kind.

The first group is Funnel's, word for word (worker of 0.9-0.10); the second is ours, in the same shape. Code
makes an event and hands it to a `Reporter`; how a line of JSON or of a terminal looks is decided in `logs.py`
and `terminal.py`. Values pass through `redaction` when an event is turned into fields, so no reporter can
forget it. `EVENT_KINDS` is the whole vocabulary; `docs/events.md` is compared with it by a test.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal, Protocol, get_args

from taskrunner.redaction import redact

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[str, ...] = get_args(Level)


def rfc3339_nano(timestamp_ns: int) -> str:
    """Nanoseconds since the epoch in local time, as Go's RFC3339Nano: trailing zeros trimmed, `Z` for UTC."""
    return _with_zone(timestamp_ns, f".{timestamp_ns % 1_000_000_000:09d}".rstrip("0").rstrip("."))


def rfc3339(timestamp_ns: int) -> str:
    """The same in whole seconds."""
    return _with_zone(timestamp_ns, "")


def _with_zone(timestamp_ns: int, fraction: str) -> str:
    local = datetime.fromtimestamp(timestamp_ns // 1_000_000_000, tz=UTC).astimezone()
    zone = "Z" if not local.utcoffset() else local.isoformat()[-6:]
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: kind (`msg`), level, an executor's index (0 where none), time, own fields."""

    msg: ClassVar[str]
    level: ClassVar[Level] = "info"
    live: ClassVar[bool] = False
    """Live events (progress) come often; a log that keeps everything takes one now and then."""

    index: int = 0
    timestamp_ns: int = field(default_factory=time.time_ns)

    def fields(self) -> dict[str, object]:
        """The keys and values that only this kind has, ready for JSON, secrets masked."""
        own = (f for f in dataclasses.fields(self) if f.name not in _COMMON)
        return {f.metadata.get("key", f.name): self._value(f) for f in own}

    def _value(self, its_field: dataclasses.Field[object]) -> object:
        value = getattr(self, its_field.name)
        if its_field.metadata.get("verbatim"):
            return value
        if isinstance(value, Mapping):  # in byte order, as Go writes a map
            return {key: redact(str(value[key])) for key in sorted(value)}
        return redact(value) if isinstance(value, str) else value


_COMMON = frozenset({"index", "timestamp_ns"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLog(Event):
    """What Funnel calls a system log: its values are always strings."""

    def _value(self, its_field: dataclasses.Field[object]) -> object:
        return redact(str(getattr(self, its_field.name)))


def _key(name: str) -> str:
    """A required field whose key in JSON is not a Python name of ours."""
    return field(metadata={"key": name})  # type: ignore[no-any-return]


def _verbatim() -> str:
    """A required field that is told as it came: an executor's own words."""
    return field(metadata={"verbatim": True})  # type: ignore[no-any-return]


# --- Funnel's vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(SystemLog):
    """The first line: which program this is; fields the build does not know are empty, as in Funnel."""

    msg = "Version"
    git_commit: str = field(default="", metadata={"key": "GitCommit"})
    git_branch: str = field(default="", metadata={"key": "GitBranch"})
    git_upstream: str = field(default="", metadata={"key": "GitUpstream"})
    build_date: str = field(default="", metadata={"key": "BuildDate"})
    version: str = _key("Version")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState(Event):
    """The task entered a state: INITIALIZING, RUNNING, then a final one."""

    msg = "TASK_STATE"
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStartTime(Event):
    """When work on the task began."""

    msg = "TASK_START_TIME"
    start_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEndTime(Event):
    """When work on the task ended; only messages about its outcome follow."""

    msg = "TASK_END_TIME"
    end_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetadata(Event):
    """Where the task runs: the host name, and more where it is known."""

    msg = "TASK_METADATA"
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLog:
    """One uploaded file, as in a TES OutputFileLog."""

    url: str
    path: str
    size_bytes: int

    def as_json(self) -> dict[str, object]:
        """Keys in Funnel's order; a size of 0 is left out, as in Funnel."""
        size = {"size_bytes": self.size_bytes} if self.size_bytes else {}
        return {"url": redact(self.url), "path": self.path, **size}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutputs(Event):
    """Every file that was uploaded, in the document's order."""

    msg = "TASK_OUTPUTS"
    outputs: tuple[OutputLog, ...]

    def fields(self) -> dict[str, object]:
        """The list of outputs, each as an object."""
        return {"outputs": [output.as_json() for output in self.outputs]}


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStarted(SystemLog):
    """The transfer of one input file began."""

    msg = "download started"
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadFinished(SystemLog):
    """One input file is complete under its final name; size -1 where the server told none (HTTP)."""

    msg = "download finished"
    url: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadFailed(SystemLog):
    """One input file could not be had; the task will end with a system error."""

    msg = "download failed"
    level = "error"
    url: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadDirectoryEmpty(SystemLog):
    """A DIRECTORY input has no files; the executor finds an empty directory."""

    msg = "download source directory is empty"
    level = "warning"
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadStarted(SystemLog):
    """The transfer of one output file began."""

    msg = "upload started"
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadFinished(SystemLog):
    """One output file is complete at its URL."""

    msg = "upload finished"
    url: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadFailed(SystemLog):
    """One output file is missing or could not be stored; the others go on."""

    msg = "upload failed"
    level = "error"
    url: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadDirectoryEmpty(SystemLog):
    """A DIRECTORY output has no files; nothing is uploaded for it."""

    msg = "upload source directory is empty"
    level = "warning"
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStartTime(Event):
    """When an executor's turn began."""

    msg = "EXECUTOR_START_TIME"
    start_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorEndTime(Event):
    """When an executor's container had ended."""

    msg = "EXECUTOR_END_TIME"
    end_time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorExitCode(Event):
    """The exit code of an executor's container; absent for one that was stopped."""

    msg = "EXECUTOR_EXIT_CODE"
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStdout(Event):
    """The tail of an executor's standard output so far: the whole tail, not what is new."""

    msg = "EXECUTOR_STDOUT"
    stdout: str = _verbatim()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStderr(Event):
    """The tail of an executor's standard error so far."""

    msg = "EXECUTOR_STDERR"
    stderr: str = _verbatim()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCommand(SystemLog):
    """The `docker run` command that would do what an executor's container does now."""

    msg = "Running command"
    cmd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMetadata(SystemLog):
    """Which container an executor runs in; told once it has run for three seconds."""

    msg = "container metadata"
    container_id: str = _key("containerID")
    container_name: str = _key("containerName")
    container_image_hash: str = _key("containerImageHash")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingContainer(SystemLog):
    """An executor's container is being stopped before its end."""

    msg = "Stopping container"
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFailed(SystemLog):
    """An image could not be pulled; the task ends with a system error unless the image is there already."""

    msg = "failed to pull docker image"
    level = "error"
    error: str = _key("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilesFailed(SystemLog):
    """An executor's stdin is not there, or its stdout or stderr file can't be made; it does not start."""

    msg = "Couldn't prepare log files"
    level = "error"
    error: str = _key("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecError(SystemLog):
    """Why the task ends with EXECUTOR_ERROR."""

    msg = "Exec error"
    level = "error"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemErrorEvent(SystemLog):
    """Why the task ends with SYSTEM_ERROR or CANCELED."""

    msg = "System error"
    level = "error"
    error: str


# --- Ours, in the same shape


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownField(SystemLog):
    """The document has a field TES does not know; it is ignored."""

    msg = "unknown field"
    level = "warning"
    field_path: str = _key("field")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedParameter(SystemLog):
    """The document has a backend parameter that this runner does not know; it is ignored."""

    msg = "unsupported backend parameter"
    level = "warning"
    parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePullStarted(SystemLog):
    """An image is not on the host and is being pulled, while inputs download."""

    msg = "image pull started"
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePullFinished(SystemLog):
    """An image is on the host now."""

    msg = "image pull finished"
    image: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputMissing(SystemLog):
    """An output was not made by a task whose executor failed; it is not uploaded."""

    msg = "output missing"
    level = "warning"
    url: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSkipped(SystemLog):
    """Something in an output directory is no file (a socket, a pipe, a device) and is left out."""

    msg = "output skipped"
    level = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDirNotRemoved(SystemLog):
    """Something of the task's work directory could not be removed."""

    msg = "work directory not removed"
    level = "warning"
    path: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStreamLost(SystemLog):
    """Events can't be written to one of their places any more (a closed pipe, a full disk); others go on."""

    msg = "log stream lost"
    level = "warning"
    stream: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerNotRemoved(SystemLog):
    """The engine could not remove an executor's container; it is still on the Docker host."""

    msg = "container not removed"
    level = "warning"
    container: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOrphanRemoved(SystemLog):
    """A container that a runner left behind when it was killed is gone now; `runner` is that one's id."""

    msg = "orphan container removed"
    level = "warning"
    container: str
    runner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFailed(SystemLog):
    """What dead runners may have left behind could not be looked for; the task goes on."""

    msg = "sweep failed"
    level = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipNotChanged(SystemLog):
    """Files that executors made as root still belong to root: the runner may fail to read or remove them."""

    msg = "ownership not changed"
    level = "warning"
    path: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPathFound(SystemLog):
    """Where the Docker host has the directory of the task's files."""

    msg = "host path found"
    path: str
    host_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMetadataFailed(SystemLog):
    """The ECS metadata endpoint did not tell about the job; it goes on with what else is known."""

    msg = "job metadata failed"
    level = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimited(SystemLog):
    """More of a resource is asked for than the job has; executors get what the job has."""

    msg = "resource limited"
    level = "warning"
    resource: str
    asked: float
    given: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogFailed(SystemLog):
    """A watchdog over this runner could not be started, or ended: if killed, its containers may stay a while."""

    msg = "watchdog failed"
    level = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopping(SystemLog):
    """The task is being stopped before its end; what there is will be saved in the time left."""

    msg = "task stopping"
    level = "warning"
    reason: str
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsNotSaved(SystemLog):
    """After a stop, not everything that the executors had made could be uploaded."""

    msg = "outputs not saved"
    level = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReclaimed(SystemLog):
    """EC2 takes the Spot instance back: `action` (terminate, stop or hibernate) at `time`."""

    msg = "instance reclaimed"
    level = "warning"
    action: str
    time: str = field(metadata={"key": "reclaim_time"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimWatchFailed(SystemLog):
    """The instance metadata service does not answer, so a Spot reclaim will come unannounced."""

    msg = "reclaim watch failed"
    level = "warning"
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLost(SystemLog):
    """The connection to the Docker engine broke while an executor ran; it is taken up again."""

    msg = "engine connection lost"
    level = "warning"
    container: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBack(SystemLog):
    """The engine answers again; the executor's output goes on where it broke off."""

    msg = "engine connection restored"
    container: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDirSwept(SystemLog):
    """The leavings of a dead runner's task were removed."""

    msg = "work directory swept"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgress(SystemLog):
    """How far the downloads of the task are."""

    msg = "download progress"
    live = True
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    bytes_per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress(SystemLog):
    """How far the uploads of the task are."""

    msg = "upload progress"
    live = True
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    bytes_per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTotals(SystemLog):
    """All inputs are there: what came, in which time."""

    msg = "download totals"
    bytes_done: int
    bytes_resumed: int
    """Of these, how many an earlier attempt had brought."""
    files_done: int
    seconds: float
    bytes_per_second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTotals(SystemLog):
    """The outputs are away: what went, in which time."""

    msg = "upload totals"
    bytes_done: int
    bytes_resumed: int
    """Of these, how many an earlier attempt had sent."""
    files_done: int
    seconds: float
    bytes_per_second: int


FUNNEL_KINDS: tuple[type[Event], ...] = (
    Version,
    TaskState,
    TaskStartTime,
    TaskEndTime,
    TaskMetadata,
    TaskOutputs,
    DownloadStarted,
    DownloadFinished,
    DownloadFailed,
    DownloadDirectoryEmpty,
    UploadStarted,
    UploadFinished,
    UploadFailed,
    UploadDirectoryEmpty,
    ExecutorStartTime,
    ExecutorEndTime,
    ExecutorExitCode,
    ExecutorStdout,
    ExecutorStderr,
    RunningCommand,
    ContainerMetadata,
    StoppingContainer,
    PullFailed,
    LogFilesFailed,
    ExecError,
    SystemErrorEvent,
)
OUR_KINDS: tuple[type[Event], ...] = (
    UnknownField,
    UnsupportedParameter,
    ImagePullStarted,
    ImagePullFinished,
    OutputMissing,
    OutputSkipped,
    WorkDirNotRemoved,
    ContainerNotRemoved,
    ContainerOrphanRemoved,
    SweepFailed,
    OwnershipNotChanged,
    LogStreamLost,
    HostPathFound,
    JobMetadataFailed,
    ResourceLimited,
    WatchdogFailed,
    TaskStopping,
    OutputsNotSaved,
    InstanceReclaimed,
    ReclaimWatchFailed,
    EngineLost,
    EngineBack,
    WorkDirSwept,
    DownloadProgress,
    UploadProgress,
    DownloadTotals,
    UploadTotals,
)
EVENT_KINDS: tuple[type[Event], ...] = FUNNEL_KINDS + OUR_KINDS


class Reporter(Protocol):
    """Where events go. Never blocks and never raises: it may be called from anywhere on the loop."""

    def report(self, event: Event) -> None:
        """Take one event."""


class SilentReporter:
    """A reporter that keeps nothing."""

    def report(self, event: Event) -> None:
        """Do nothing."""
