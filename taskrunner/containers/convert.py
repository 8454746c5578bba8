"""A step of the plan as the Docker engine's JSON: pure, so that `plan` can show it and tests are tables.

The container is what Funnel's `docker run -i --read-only --rm … IMAGE ARGV` makes: the image's entry point is
kept and the executor's command is its argument list, passed on as it is, with no shell between. Two things
differ on purpose: a bind mount whose source is missing is an error (the `-v` of the docker command would make
a directory of root's), and the engine's own log is a bounded one, since every byte is read as it comes and the
log is for going on after a break of the connection only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskrunner.containers.labels import TASK_ID_LABEL, WORK_DIR_LABEL
from taskrunner.settings import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskrunner.containers.limits import Limits
    from taskrunner.containers.surroundings import Surroundings
    from taskrunner.mounts import Mount
    from taskrunner.plan import Step
    from taskrunner.settings import ContainerSettings, ExtraMount

_GPUS_VARIABLE = "NVIDIA_VISIBLE_DEVICES"
_NO_GPUS = "void"

_FIRST_TO_GO = 1000
"""The oom_score_adj (proc(5)) of what the kernel kills before anything else that shares a memory limit with it."""

LONGEST_ARGUMENT_BYTES = 32 * 4096 - 1
"""Linux's limit for one argument or environment string, its final NUL aside (execve(2), MAX_ARG_STRLEN)."""


LOG_KEPT_BYTES = 128_000_000
"""What the engine's log of an executor holds at least; it may take twice as much of the Docker host's disk."""
_LOG_CONFIG = {
    "Type": "local",  # the only one of the engine's that keeps bytes as they are
    "Config": {"max-size": str(LOG_KEPT_BYTES), "max-file": "2", "compress": "false"},
}


def container_config(
    step: Step, settings: ContainerSettings, surroundings: Surroundings, limits: Limits, host_root: str
) -> dict[str, object]:
    """The body of the Engine API's `POST /containers/create` for a step.

    `host_root` is the task's directory as the Docker host calls it. What nobody asks for is left out, so that
    the engine's own defaults hold, as with a plain `docker run`.
    """
    has_stdin = step.stdin is not None
    return {
        "Image": step.image,
        "Cmd": list(step.command),
        "Env": [f"{name}={value}" for name, value in _environment(step, surroundings).items()],
        "Labels": {**surroundings.labels, **owner_labels(task_id(step), host_root)},
        "Tty": False,
        "AttachStdout": True,
        "AttachStderr": True,
        # Without a stdin the container reads /dev/null; with one, its end is told once, by closing.
        "AttachStdin": has_stdin,
        "OpenStdin": has_stdin,
        "StdinOnce": has_stdin,
        "HostConfig": {
            "ReadonlyRootfs": settings.read_only_root,
            "OomScoreAdj": _FIRST_TO_GO,
            "Mounts": [*map(bind_mount, step.mounts), *map(bind_mount, settings.extra_mounts)],
            "LogConfig": _LOG_CONFIG if settings.engine_log else {"Type": "none"},
            **_told({**_identity(settings), **_resources(limits, surroundings)}),
        },
        **_told({"WorkingDir": step.workdir, "User": settings.user}),
    }


def _environment(step: Step, surroundings: Surroundings) -> dict[str, str]:
    """The surroundings' variables, and over them the task's, but for the one that would choose other GPUs."""
    variables = {**dict(surroundings.environment), **dict(step.env)}
    if surroundings.gpus:
        variables.pop(_GPUS_VARIABLE, None)  # the engine sets it from the device request
    elif surroundings.gpus_withheld:
        variables[_GPUS_VARIABLE] = _NO_GPUS  # else an image's own `all` would count
    return variables


def _identity(settings: ContainerSettings) -> dict[str, object]:
    """What the operator wants otherwise than the engine does by default."""
    ulimits = {one.name: one for one in settings.ulimits}  # the last of a name counts
    return {
        "NetworkMode": None if settings.network is Network.BRIDGE else settings.network.value,
        "Ulimits": [{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in ulimits.values()],
        "ShmSize": settings.shm_bytes,
        "Init": settings.init,
    }


def _resources(limits: Limits, surroundings: Surroundings) -> dict[str, object]:
    """The share of the machine; memory and swap together may be what memory may be, so there is no swap."""
    return {
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": None if limits.cpus is None else round(limits.cpus * 1e9),
        "PidsLimit": limits.pids,
        "CgroupParent": surroundings.cgroup_parent,
        "DeviceRequests": _device_requests(surroundings.gpus),
    }


def _device_requests(gpus: tuple[str, ...]) -> list[dict[str, object]]:
    """The job's own GPUs and no others; `all` stands for whatever the host has."""
    if not gpus:
        return []
    which: dict[str, object] = {"Count": -1} if gpus == ("all",) else {"DeviceIDs": list(gpus)}
    return [{"Driver": "nvidia", **which, "Capabilities": [["gpu"]]}]


def _told(values: Mapping[str, object]) -> dict[str, object]:
    """Those that say something: no None, nothing empty, no false, no 0."""
    return {name: value for name, value in values.items() if value}


def owner_labels(task_id: str, host_root: str) -> dict[str, str]:
    """The labels of every container of one runner's task; no two live runners share them on one host."""
    return {TASK_ID_LABEL: task_id, WORK_DIR_LABEL: host_root}


def task_id(step: Step) -> str:
    """The id of a step's task, from its container's name (`<taskID>-<index>`)."""
    return step.container_name.removesuffix(f"-{step.index}")


def bind_mount(mount: Mount | ExtraMount) -> dict[str, object]:
    """One mount in the engine's words; `Mounts` refuses a missing source, which `Binds` would create."""
    return {
        "Type": "bind",
        "Source": mount.host,
        "Target": mount.container,
        "ReadOnly": mount.read_only,
    }


def give_back_config(
    image: str, host_root: str, uid: int, gid: int, labels: Mapping[str, str]
) -> dict[str, object]:
    """A container that makes everything below a task's directory belong to `uid`:`gid`, and nothing else.

    `-h` changes links themselves; without `-L` or `-H` none is followed.
    """
    target = "/taskrunner-give-back"
    return {
        "Image": image,
        "Entrypoint": ["chown", "-h", "-R", f"{uid}:{gid}", target],
        "Cmd": [],
        "User": "0:0",
        "WorkingDir": "/",
        "NetworkDisabled": True,
        "Labels": dict(labels),
        "HostConfig": {
            "ReadonlyRootfs": True,
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER"],
            "SecurityOpt": ["no-new-privileges"],
            "Mounts": [{"Type": "bind", "Source": host_root, "Target": target, "ReadOnly": False}],
            "LogConfig": {"Type": "none"},
        },
    }


def too_long(step: Step) -> str | None:
    """Why Linux would refuse to run the step's command, or None: one argument or variable is too long."""
    for number, argument in enumerate(step.command):
        if size := _excess(argument):
            return _sentence(f"argument {number} of the command", size)
    for name, value in step.env:
        if size := _excess(f"{name}={value}"):
            return _sentence(f"the environment variable {name}", size)
    return None


def _excess(text: str) -> int:
    size = len(text.encode("utf-8", "surrogatepass"))
    return size if size > LONGEST_ARGUMENT_BYTES else 0


def _sentence(what: str, size_bytes: int) -> str:
    return (
        f"{what} has {size_bytes} bytes; Linux allows {LONGEST_ARGUMENT_BYTES} for one. "
        "Put the text into an input with `content`"
    )


def start_failure_code(words: str) -> int:
    """The exit code of a container that could not be started, as the docker command gives it.

    127: the image has no such command; 126: it has, but it can't be executed; 125: anything else.
    (docker/cli, `toStatusError` of `docker run`.)
    """
    if _any_of(words, ("executable file not found", "no such file or directory")):
        return 127
    if _any_of(words, ("permission denied", "is a directory", "exec format error", "argument list too long")):
        return 126
    return 125


def _any_of(words: str, phrases: Sequence[str]) -> bool:
    return any(phrase in words.lower() for phrase in phrases)
