"""Everything an operator can set, grouped and frozen, built once by the command line and passed by value.

No other module reads the environment for its own settings (the AWS SDK and the Docker client read their
customary variables themselves). Each field states its unit and its reason; the options that fill them are
listed in `docs/settings.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from taskrunner.retrying import Patience

_TRANSFER_PATIENCE = Patience(attempts=8)


class PullPolicy(StrEnum):
    """When an executor's image is pulled."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


class OnExecutorError(StrEnum):
    """What happens to the outputs when an executor fails."""

    UPLOAD = "upload"
    """Those that exist are uploaded, a missing one is a warning (Nextflow reads `.exitcode` this way)."""
    SKIP = "skip"
    """None is uploaded, as Funnel did before 2026."""


class Network(StrEnum):
    """Which network executors' containers have."""

    BRIDGE = "bridge"
    """The engine's own bridge, as with plain `docker run`."""
    NONE = "none"
    HOST = "host"


class ServerSideEncryption(StrEnum):
    """S3's server-side encryption of uploaded objects (x-amz-server-side-encryption)."""

    AES256 = "AES256"
    KMS = "aws:kms"


@dataclass(frozen=True, slots=True)
class HostPath:
    """A directory of ours and where the Docker host sees the same directory."""

    runner: Path
    host: Path


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of a container's processes (setrlimit(2)), as `nofile`; -1 stands for no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ExtraMount:
    """A directory or file of the Docker host's that the operator puts into every executor's container."""

    host: str
    """Absolute, as the Docker host calls it."""
    container: str
    """Absolute and normalised."""
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """Where the task's files live while it runs."""

    work_dir: Path = Path("taskrunner-work")
    """A task's files are at `<work_dir>/<taskID>/<container path>`; big and fast scratch is best."""
    allowed_dirs: tuple[Path, ...] = ()
    """Directories that `file://` URLs and bare paths of a task may reach; none unless told."""
    leave_work_dir: bool = False
    """Keep the task's directory afterwards, to look at."""
    host_paths: tuple[HostPath, ...] = ()
    """How our paths are called on the Docker host; the longest matching `runner` wins, else what the engine knows
    of our own container's mounts, else the same path."""
    sweep_seconds: float = 24 * 3600.0
    """How long what a dead runner left of another task stays in `work_dir`, from its last sign of life."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """What the ordinary AWS environment has no word for; endpoints, regions and keys come from there."""

    unsigned: bool = False
    """Send requests without credentials, for public buckets."""
    requester_pays: bool = False
    """Accept the costs of reading requester-pays buckets."""
    server_side_encryption: ServerSideEncryption | None = None
    kms_key_id: str | None = None
    """The KMS key for `aws:kms`; the bucket's default key when not told."""
    acl: str | None = None
    """A canned ACL for uploads, such as bucket-owner-full-control."""


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How bytes are moved."""

    max_connections: int = 64
    """The most lanes, each a thread with one connection of its own, shared by all files of a phase. How many
    work is found by trying; 64 connections carry more than 25 Gbit/s from S3."""
    bandwidth_bytes_per_second: int | None = None
    """The most bytes per second, all connections together; None: whatever the link carries."""
    memory_bytes: int | None = None
    """The most memory for bytes on their way: it limits the number of lanes."""
    part_bytes: int = 8 * 1024 * 1024
    """Size of one ranged request; twice that for large files, and more where they need more than 10,000."""
    patience: Patience = _TRANSFER_PATIENCE
    """Tries for one part (or one question to a store) that bring nothing, before its file fails."""
    read_timeout_seconds: float = 60.0
    """How long a connection may stay silent before it is given up and tried anew."""


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How executors' containers are made."""

    pull_policy: PullPolicy = PullPolicy.MISSING
    read_only_root: bool = True
    """The image's own files can't be written; the task's mounts and /tmp can."""
    stop_grace_seconds: float = 10.0
    """Time between a container's stop signal and SIGKILL, at most."""
    timeout_seconds: float | None = None
    """How long one executor may take, from its container's start."""
    init: bool = False
    """Run executors under the engine's init, which hands signals on and buries orphaned processes."""
    network: Network = Network.BRIDGE
    user: str | None = None
    """`UID`, `UID:GID` or names that the image knows; the image's own user where not told."""
    ulimits: tuple[Ulimit, ...] = ()
    shm_bytes: int | None = None
    """Size of /dev/shm; the engine's 64 MiB where not told."""
    pids_limit: int | None = None
    """The most processes and threads of an executor; the job's own limit where not told."""
    extra_mounts: tuple[ExtraMount, ...] = ()
    pass_credentials: bool = False
    """Hand the job role's credentials endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI) to executors."""
    allowed_parameters: tuple[str, ...] = ()
    """Names of the backend parameters that a task may set for its own containers; in lower case."""
    engine_log: bool = True
    """Let the engine keep the last of executors' output, to go on with after a broken connection."""
    watchdog: bool = True
    """Watch over this runner from outside, so that no container outlives it even when it is killed."""


@dataclass(frozen=True, slots=True)
class StopSettings:
    """When a task is ended before its end, and in which time."""

    timeout_seconds: float | None = None
    """How long the task may take in all."""
    stop_seconds: float = 25.0
    """From a stop signal to our end, with logs and outputs saved; Batch kills after 30."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is told, and where."""

    tail_bytes: int = 10_000
    """How much of the end of stdout and stderr each stream event carries (Funnel's LogTailSize)."""
    update_seconds: float = 5.0
    """Least time between two stream events of one executor (Funnel's LogUpdateRate); 0: one at the end."""
    events: str | None = None
    """A path or URL that gets a complete copy of the event lines."""
    result: str | None = None
    """A path or URL that gets the final TES Task document, whatever happened."""
    progress_seconds: float = 30.0
    """Least time between two progress events in the JSON log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    work: WorkSettings = field(default_factory=WorkSettings)
    s3: S3Settings = field(default_factory=S3Settings)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    containers: ContainerSettings = field(default_factory=ContainerSettings)
    stops: StopSettings = field(default_factory=StopSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    on_executor_error: OnExecutorError = OnExecutorError.UPLOAD
    fill_in_urls: bool = False
    """Whether {array_index}, {job_id} and {attempt} in the task's URLs stand for what Batch tells."""
