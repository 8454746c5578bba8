"""Task and settings in, plan out: what will be moved, mounted and run, before anything is touched.

Pure: no file, socket or clock is used here, so `taskrunner plan` shows exactly what `run` will do, and tests
are tables. Sizes are not known yet, nor which files a pattern will match, so the plan holds *rules* for
uploads; everything about paths is settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taskrunner.mounts import host_path
from taskrunner.redaction import MASK, is_secret_name, redact

if TYPE_CHECKING:
    from pathlib import Path

    from taskrunner.mounts import Mount
    from taskrunner.settings import HostPath
    from taskrunner.task import FileType, Task


@dataclass(frozen=True, slots=True)
class Download:
    """One input with a URL: a file, or everything below a directory."""

    url: str
    path: str
    """In the container, normalised: absolute, no trailing slash."""
    target: Path
    """Where we put it."""
    type: FileType
    shareable: bool
    """Whether containers see it read-only, so that a local original may be hard-linked instead of copied."""


@dataclass(frozen=True, slots=True)
class ContentFile:
    """One input whose bytes stand in the document; it is made executable (clients run them directly)."""

    path: str
    target: Path
    content: str


@dataclass(frozen=True, slots=True)
class Upload:
    """One output rule: what is looked for when the executors have ended, and where it goes."""

    url: str
    path: str
    """In the container, normalised; a POSIX pattern where `path_prefix` is set."""
    source: Path
    """Where we find it (with the pattern's characters in it, where it is one)."""
    type: FileType
    path_prefix: str | None = None
    """Set for patterns only: a match's URL is `url` (a directory) + its path below this."""
    placeholder: bool = False
    """An output directly under `/`: an empty file is made and mounted beforehand, since `/` can't be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One executor, ready to be turned into the engine's JSON."""

    index: int
    image: str
    command: tuple[str, ...]
    container_name: str
    workdir: str | None
    env: tuple[tuple[str, str], ...]
    """In the document's order."""
    stdin: str | None
    """Container paths, normalised, of the files that the runner itself opens on its own side."""
    stdout: str | None
    stderr: str | None
    ignore_error: bool
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `run` will do."""

    task: Task
    root: Path
    """The task's directory on our side: `<work_dir>/<taskID>`, absolute."""
    directories: tuple[Path, ...]
    """Directories to make before anything is staged: parents first, all below `root`."""
    downloads: tuple[Download, ...]
    contents: tuple[ContentFile, ...]
    steps: tuple[Step, ...]
    uploads: tuple[Upload, ...]
    unknown_fields: tuple[str, ...] = ()
    """JSON paths of fields TES does not know."""
    unsupported_parameters: tuple[str, ...] = ()
    """Names of backend parameters that nothing here heeds."""


def on_host(plan: Plan, host_paths: tuple[HostPath, ...]) -> Plan:
    """The same plan, its mounts told as the Docker host must be, now that its paths are known."""
    steps = (
        replace(
            step,
            mounts=tuple(replace(mount, host=host_path(mount.runner, host_paths)) for mount in step.mounts),
        )
        for step in plan.steps
    )
    return replace(plan, steps=tuple(steps))


def docker_run_command(step: Step, *, read_only_root: bool) -> str:
    """The `docker run` line that would do what the executor's container does, as Funnel logs it.

    Arguments are joined by spaces and not quoted. Environment variables stand in the document's order; a
    value whose name looks like a secret's is masked.
    """
    words = ["docker", "run", "-i", *(["--read-only"] if read_only_root else []), "--rm"]
    for name, value in _masked(step.env).items():
        words += ["-e", f"{name}={value}"]
    words += ["--name", step.container_name]
    if step.workdir:
        words += ["-w", step.workdir]
    for mount in step.mounts:
        words += ["-v", f"{mount.host}:{mount.container}:{'ro' if mount.read_only else 'rw'}"]
    return " ".join([*words, step.image, *step.command])


def plan_as_json(plan: Plan) -> dict[str, object]:
    """The plan for people to read, ready for `json.dumps`: secrets masked, contents told by their size."""
    return {
        "id": plan.task.id,
        "root": str(plan.root),
        "directories": [str(directory) for directory in plan.directories],
        "downloads": [_download_as_json(download) for download in plan.downloads],
        "contents": [
            {"path": file.path, "target": str(file.target), "size_bytes": len(file.content.encode())}
            for file in plan.contents
        ],
        "executors": [_step_as_json(step) for step in plan.steps],
        "uploads": [_upload_as_json(upload) for upload in plan.uploads],
        "unknown_fields": list(plan.unknown_fields),
        "unsupported_parameters": list(plan.unsupported_parameters),
    }


def _download_as_json(download: Download) -> dict[str, object]:
    return {
        "url": redact(download.url),
        "path": download.path,
        "target": str(download.target),
        "type": download.type.value,
        "shareable": download.shareable,
    }


def _step_as_json(step: Step) -> dict[str, object]:
    """Absent settings are left out."""
    optional = {
        "workdir": step.workdir,
        "stdin": step.stdin,
        "stdout": step.stdout,
        "stderr": step.stderr,
        "env": _masked(step.env),
    }
    return {
        "container_name": step.container_name,
        "image": step.image,
        "command": [redact(argument) for argument in step.command],
        **{name: value for name, value in optional.items() if value},
        "ignore_error": step.ignore_error,
        "mounts": [
            {"container": mount.container, "host": mount.host, "read_only": mount.read_only}
            for mount in step.mounts
        ],
    }


def _upload_as_json(upload: Upload) -> dict[str, object]:
    prefix = {} if upload.path_prefix is None else {"path_prefix": upload.path_prefix}
    return {
        "url": redact(upload.url),
        "path": upload.path,
        "source": str(upload.source),
        "type": upload.type.value,
        **prefix,
        "placeholder": upload.placeholder,
    }


def _masked(env: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {name: MASK if is_secret_name(name) else redact(value) for name, value in env}
