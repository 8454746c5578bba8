"""The options that commands share, and how they become `Settings`.

Each option names the field of `Settings` it fills, and takes its default from there. Each is also an environment
variable, TASKRUNNER_ and its name: what a Batch job definition can set. Lists in a variable are separated as in
PATH. `docs/settings.md` is compared with these by a test.
"""

from __future__ import annotations

import dataclasses
import os
import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from taskrunner.parameters import KNOWN_PARAMETERS
from taskrunner.paths import is_within, normalise
from taskrunner.quantities import count, duration_seconds, size_bytes, ulimit, user
from taskrunner.settings import (
    ExtraMount,
    HostPath,
    Network,
    OnExecutorError,
    PullPolicy,
    ServerSideEncryption,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_DEFAULTS = Settings()


class SettingOption(click.Option):
    """An option `--name`, with its TASKRUNNER_NAME, for one field of `Settings`; a flag has its `--no-name` too.

    `field` is a path into `Settings`, such as `work.work_dir`.
    """

    def __init__(
        self,
        name: str,
        field: str,
        help_text: str,
        *,
        type: click.ParamType[Any] | None = None,  # noqa: A002  # click's word
        metavar: str | None = None,
        multiple: bool = False,
        default: object = None,
    ) -> None:
        """`default` stands for the field's own where a command has another."""
        self.field = field
        default = _value_at(_DEFAULTS, field) if default is None else default
        flag = isinstance(default, bool)
        super().__init__(
            [f"--{name}/--no-{name}" if flag else f"--{name}"],
            envvar=f"TASKRUNNER_{name.replace('-', '_').upper()}",
            show_envvar=True,
            show_default=default not in (None, ()),
            help=help_text,
            type=click.BOOL if flag else type,
            is_flag=flag,
            default=default.value if isinstance(default, StrEnum) else default,
            multiple=multiple,
            metavar=metavar,
        )


def _value_at(settings: object, field: str) -> object:
    for name in field.split("."):
        settings = getattr(settings, name)
    return settings


def settings_from(options: Iterable[click.Parameter], values: Mapping[str, Any]) -> Settings:
    """The settings that the values of `options` (by click's names) stand for; all other fields keep defaults.

    Raises click.UsageError where two of them don't go together.
    """
    settings = _DEFAULTS
    for option in options:
        if isinstance(option, SettingOption) and option.name is not None:
            settings = _replaced(settings, option.field, values[option.name])
    if settings.s3.kms_key_id and settings.s3.server_side_encryption is not ServerSideEncryption.KMS:
        raise click.UsageError("--s3-kms-key-id needs --s3-sse aws:kms")
    mounted = [mount.container for mount in settings.containers.extra_mounts]
    for path in mounted:
        if mounted.count(path) > 1:
            raise click.UsageError(f"--mount: expected each path in the container once, got {path} again")
    return settings


def _replaced(settings: Settings, field: str, value: object) -> Settings:
    group, _, name = field.rpartition(".")
    if not group:
        change: dict[str, Any] = {name: value}
        return dataclasses.replace(settings, **change)
    inner = dataclasses.replace(getattr(settings, group), **{name: value})
    return _replaced(settings, group, inner)


class _DirectoryType(click.Path):
    """A directory's path, made absolute; its links are left alone."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = os.path.abspath(os.fsdecode(super().convert(value, param, ctx)))  # noqa: PTH100  # links stay
        return Path(normalise(path))


class _HostPathType(click.ParamType[HostPath]):
    """`RUNNER=HOST`, both absolute."""

    name = "RUNNER=HOST"
    envvar_list_splitter: ClassVar[str] = os.pathsep

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> HostPath:
        runner, _, host = str(value).partition("=")
        if not (runner.startswith("/") and host.startswith("/")):
            self.fail(f"expected two absolute paths as RUNNER=HOST, got {value!r}", param, ctx)
        return HostPath(Path(normalise(runner)), Path(normalise(host)))


_T = TypeVar("_T")


class _WordsType(click.ParamType[_T]):
    """What one of our own readers of text makes of a value; it raises ValueError with what it expected."""

    def __init__(self, name: str, read: Callable[[str], _T]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _T:
        try:
            return self._read(str(value))
        except ValueError as error:
            self.fail(f"{error}, got {value!r}", param, ctx)


class _ListedType(_WordsType[_T]):
    """The same for options whose variable is a list separated by commas."""

    envvar_list_splitter: ClassVar[str] = ","


_DURATION = _WordsType("TIME", duration_seconds)
_TIME_LIMIT = _WordsType("TIME", partial(duration_seconds, positive=True))
_SIZE = _WordsType("SIZE", size_bytes)
_BANDWIDTH = _WordsType("SIZE", partial(size_bytes, per_second=True))


_HAVE_THEIR_OWN = ("/sys", "/dev", "/tmp")  # noqa: S108  # the container's


def _extra_mount(text: str) -> ExtraMount:
    """`HOST:CONTAINER[:ro|rw]`, both absolute, as of `docker run -v`."""
    match = re.fullmatch(r"(/[^:]*):(/[^:]*?)(?::(ro|rw))?", text)
    container = normalise(match[2]) if match else "/"
    if match is None or container == "/":
        raise ValueError("expected two absolute paths as HOST:CONTAINER[:ro|rw], the second below /")
    if container in _HAVE_THEIR_OWN or is_within(container, "/proc"):
        raise ValueError(
            "expected a path in the container that has no mount of its own, as /proc, /sys, /dev, /tmp"
        )
    return ExtraMount(normalise(match[1]), container, read_only=match[3] != "rw")


def _parameter(text: str) -> str:
    name = text.strip().lower()
    if name not in KNOWN_PARAMETERS:
        raise ValueError(f"expected one of {', '.join(KNOWN_PARAMETERS)}")
    return name


class _NameType(click.Choice[str]):
    """One of an enumeration's values."""

    def __init__(self, kind: type[StrEnum]) -> None:
        self._kind = kind
        super().__init__([member.value for member in kind])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._kind(super().convert(value, param, ctx))


PLACES = (
    SettingOption(
        "work-dir",
        "work.work_dir",
        "Scratch disk: a task's files are at DIR/<taskID>/<container path> while it runs.",
        type=_DirectoryType(),
        metavar="DIR",
    ),
    SettingOption(
        "allow-dir",
        "work.allowed_dirs",
        "Open a local directory to file:// URLs and bare paths of the task. Repeatable.",
        type=_DirectoryType(),
        multiple=True,
        metavar="DIR",
    ),
)

PLANNING = (
    *PLACES,
    SettingOption(
        "host-path",
        "work.host_paths",
        "What the Docker host calls a directory of ours, where it differs. Repeatable, the longest match wins.",
        type=_HostPathType(),
        multiple=True,
    ),
    SettingOption(
        "read-only-root",
        "containers.read_only_root",
        "Executors can't write to their image's own files, only to /tmp and the task's mounts.",
    ),
)

S3 = (
    SettingOption("s3-unsigned", "s3.unsigned", "Ask S3 without credentials, for public buckets."),
    SettingOption("s3-requester-pays", "s3.requester_pays", "Pay for reading requester-pays buckets."),
    SettingOption(
        "s3-sse",
        "s3.server_side_encryption",
        "Server-side encryption of uploads.",
        type=_NameType(ServerSideEncryption),
    ),
    SettingOption("s3-kms-key-id", "s3.kms_key_id", "The KMS key for --s3-sse aws:kms.", metavar="ID"),
    SettingOption(
        "s3-acl", "s3.acl", "A canned ACL for uploads, such as bucket-owner-full-control.", metavar="ACL"
    ),
)

CONTAINERS = (
    SettingOption(
        "network",
        "containers.network",
        "The network of executors: the engine's bridge, none, or the host's own.",
        type=_NameType(Network),
    ),
    SettingOption(
        "pass-credentials",
        "containers.pass_credentials",
        "Hand the job role's credentials to executors; by default they have none.",
    ),
    SettingOption(
        "user",
        "containers.user",
        "The user of executors' processes; else the image's own.",
        type=_WordsType("UID[:GID]", user),
    ),
    SettingOption(
        "ulimit",
        "containers.ulimits",
        "A limit of executors' processes, such as nofile=65536. Repeatable.",
        type=_ListedType("NAME=SOFT[:HARD]", ulimit),
        multiple=True,
    ),
    SettingOption("shm-size", "containers.shm_bytes", "Size of executors' /dev/shm.", type=_SIZE),
    SettingOption(
        "pids-limit",
        "containers.pids_limit",
        "The most processes and threads of an executor; else the job's own limit.",
        type=_WordsType("N", count),
    ),
    SettingOption(
        "mount",
        "containers.extra_mounts",
        "A directory or file of the Docker host's for every executor, read-only unless :rw. Repeatable.",
        type=_ListedType("HOST:CONTAINER[:ro|rw]", _extra_mount),
        multiple=True,
        metavar="HOST:CONTAINER[:ro|rw]",
    ),
    SettingOption(
        "init", "containers.init", "Run executors under the engine's init, which hands signals on to them."
    ),
    SettingOption(
        "executor-timeout",
        "containers.timeout_seconds",
        "How long each executor may take; then it is stopped and the task ends with 124.",
        type=_TIME_LIMIT,
    ),
    SettingOption(
        "engine-log",
        "containers.engine_log",
        "Let the engine keep the last of executors' output, to go on with after a broken connection.",
    ),
    SettingOption(
        "allow-parameter",
        "containers.allowed_parameters",
        f"Let a task's backend_parameters set this for its executors: {', '.join(KNOWN_PARAMETERS)}. Repeatable.",
        type=_ListedType("NAME", _parameter),
        multiple=True,
    ),
)
"""How executors' containers are made, where the operator wants it otherwise than by default."""

LIMITS = (
    SettingOption(
        "timeout",
        "stops.timeout_seconds",
        "How long the task may take; then it is stopped and ends with 124.",
        type=_TIME_LIMIT,
    ),
    SettingOption(
        "stop-timeout",
        "stops.stop_seconds",
        "From a stop signal to our end, logs and outputs saved; Batch kills after 30 s.",
        type=_DURATION,
    ),
    SettingOption(
        "sweep-after",
        "work.sweep_seconds",
        "How long the leavings of dead runners stay in --work-dir.",
        type=_DURATION,
    ),
    SettingOption(
        "watchdog",
        "containers.watchdog",
        "Watch over the runner from outside, so that its containers end with it even when it is killed.",
    ),
)

FILL_IN_URLS = SettingOption(
    "fill-in-urls",
    "fill_in_urls",
    "Fill in {array_index}, {job_id} and {attempt} in the task's URLs, as in --result and --events.",
)

LEAVE_WORK_DIR = SettingOption(
    "leave-work-dir", "work.leave_work_dir", "Keep the task's files afterwards, to look at."
)

PROGRESS = SettingOption(
    "progress-seconds",
    "logs.progress_seconds",
    "Least time between two progress events in the JSON log.",
    type=_DURATION,
)

LOG_FORMAT = click.Option(
    ["--log-format"],
    envvar="TASKRUNNER_LOG_FORMAT",
    show_envvar=True,
    show_default=True,
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    help="How events are told on standard error; auto: text on a terminal, else JSON.",
)

RUNNING = (
    SettingOption(
        "result",
        "logs.result",
        "Write the final TES Task document here, whatever happens.",
        metavar="PATH|URL",
    ),
    SettingOption("events", "logs.events", "Keep a complete copy of the events here.", metavar="PATH|URL"),
    SettingOption(
        "log-tail-bytes",
        "logs.tail_bytes",
        "How much of the end of stdout and stderr each stream event carries; 0: no such events.",
        type=click.IntRange(min=0),
        metavar="BYTES",
    ),
    SettingOption(
        "log-update-seconds",
        "logs.update_seconds",
        "Least time between two stream events of an executor; 0: one at its end.",
        type=_DURATION,
    ),
    PROGRESS,
    LEAVE_WORK_DIR,
    SettingOption(
        "on-executor-error",
        "on_executor_error",
        "When an executor fails: upload the outputs that exist, or skip them all.",
        type=_NameType(OnExecutorError),
    ),
    SettingOption(
        "pull", "containers.pull_policy", "When an executor's image is pulled.", type=_NameType(PullPolicy)
    ),
    SettingOption(
        "stop-grace-seconds",
        "containers.stop_grace_seconds",
        "Time between a container's stop signal and SIGKILL when the task is stopped.",
        type=_DURATION,
    ),
)

TRANSFER = (
    SettingOption(
        "max-connections",
        "transfer.max_connections",
        "The most connections that carry bytes, shared by all files; how many is found by trying.",
        type=click.IntRange(min=1, max=1024),
        metavar="N",
    ),
    SettingOption(
        "bandwidth",
        "transfer.bandwidth_bytes_per_second",
        "The most bytes per second, all connections together: 10MB, 1.5GiB, 8000000.",
        type=_BANDWIDTH,
    ),
    SettingOption(
        "memory",
        "transfer.memory_bytes",
        "The most memory for bytes on their way; it limits the connections.",
        type=_SIZE,
    ),
)
