"""A step of the plan as the Docker engine's JSON: pure, so that `plan` can show it and tests are tables.

The container is what Funnel's `docker run -i --read-only --rm … IMAGE ARGV` makes: the image's entry point is
kept and the executor's command is its argument list, passed on as it is, with no shell between. Two things
differ on purpose: a bind mount whose source is missing is an error (the `-v` of the docker command would make
a directory of root's), and the engine keeps no log of its own, since every byte is read from it as it comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskrunner.mounts import Mount
    from taskrunner.plan import Step
    from taskrunner.settings import ContainerSettings

TASK_ID_LABEL = "taskrunner.task-id"
"""On every container we make: whose it is."""
WORK_DIR_LABEL = "taskrunner.work-dir"
"""And where that task's directory is on the Docker host: only one live runner at a time owns it."""

LONGEST_ARGUMENT_BYTES = 32 * 4096 - 1
"""Linux's limit for one argument or environment string, its final NUL aside (execve(2), MAX_ARG_STRLEN)."""


def container_config(step: Step, settings: ContainerSettings, host_root: str) -> dict[str, object]:
    """The body of the Engine API's `POST /containers/create` for a step.

    `host_root` is the task's directory as the Docker host calls it.
    """
    has_stdin = step.stdin is not None
    config: dict[str, object] = {
        "Image": step.image,
        "Cmd": list(step.command),
        "Env": [f"{name}={value}" for name, value in step.env],
        "Labels": owner_labels(task_id(step), host_root),
        "Tty": False,
        "AttachStdout": True,
        "AttachStderr": True,
        # Without a stdin the container reads /dev/null; with one, its end is told once, by closing.
        "AttachStdin": has_stdin,
        "OpenStdin": has_stdin,
        "StdinOnce": has_stdin,
        "HostConfig": {
            "ReadonlyRootfs": settings.read_only_root,
            "Mounts": [bind_mount(mount) for mount in step.mounts],
            "LogConfig": {"Type": "none"},
        },
    }
    if step.workdir is not None:
        config["WorkingDir"] = step.workdir
    return config


def owner_labels(task_id: str, host_root: str) -> dict[str, str]:
    """The labels of every container of one runner's task; no two live runners share them on one host."""
    return {TASK_ID_LABEL: task_id, WORK_DIR_LABEL: host_root}


def task_id(step: Step) -> str:
    """The id of a step's task, from its container's name (`<taskID>-<index>`)."""
    return step.container_name.removesuffix(f"-{step.index}")


def bind_mount(mount: Mount) -> dict[str, object]:
    """One mount in the engine's words; `Mounts` refuses a missing source, which `Binds` would create."""
    return {
        "Type": "bind",
        "Source": mount.host,
        "Target": mount.container,
        "ReadOnly": mount.read_only,
    }


def give_back_config(image: str, host_root: str, uid: int, gid: int, task: str) -> dict[str, object]:
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
        "Labels": owner_labels(task, host_root),
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
