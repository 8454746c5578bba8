"""What a task must be like to be run: TES's own rules, and those of a runner that trusts no document.

Each rule looks at one thing and tells its mistake with the place. All rules are asked, whatever the others
found; a rule about several items (two inputs at one path) passes over those whose own values are wrong.
Files and stores are not looked at, and of the settings only what a task may change of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taskrunner.dialects import Finding, Location, shown
from taskrunner.mounts import directories, is_pattern
from taskrunner.parameters import KNOWN_PARAMETERS, heeded, problems
from taskrunner.paths import components, fixed_directory, has_wildcard, is_within, normalise
from taskrunner.redaction import redact
from taskrunner.reference import parse_reference
from taskrunner.task import Executor, FileType, Input, Output, Resources, Task
from taskrunner.urls import READABLE, WRITABLE, S3Url, StoreKind, ascii_host, local_path, store_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from taskrunner.settings import ContainerSettings

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LONGEST_PATH = 3000  # what is below our own directory's path has to fit into PATH_MAX (4,096) with it
_LONGEST_NAME_BYTES = 255
"""Of one component of a path, on every file system that matters (NAME_MAX)."""
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f]")


def check(task: Task, containers: ContainerSettings | None) -> Iterator[Finding]:
    """Every rule that `task` breaks, in no particular order.

    `containers` is the operator's word on backend parameters; None: they are not asked about.
    """
    if task.id and not _ID.fullmatch(task.id):
        expected = "up to 128 letters, digits, `_`, `.` and `-`, the first a letter or digit"
        yield Finding(("id",), f"expected {expected}, got {shown(task.id)}")
    for index, item in enumerate(task.inputs):
        yield from _check_input(item, ("inputs", index))
    for index, output in enumerate(task.outputs):
        yield from _check_output(output, ("outputs", index))
    if task.resources:
        yield from _check_amounts(task.resources)
        if containers is not None:
            yield from _check_parameters(task.resources, containers)
    if not task.executors:
        yield Finding(("executors",), "expected at least one executor, got none")
    for index, executor in enumerate(task.executors):
        yield from _check_executor(executor, ("executors", index))
    for index, volume in enumerate(task.volumes):
        yield from _check_path(volume, ("volumes", index))
    if "" in task.tags:
        yield Finding(("tags", ""), "expected a tag's name, got an empty one")
    yield from _check_places(task)
    yield from _check_destinations(task)


def _check_executor(executor: Executor, at: Location) -> Iterator[Finding]:
    if not executor.image:
        yield Finding((*at, "image"), "expected the name of an image, got nothing")
    else:
        try:
            parse_reference(executor.image)
        except ValueError as error:
            yield Finding((*at, "image"), f"{error}, got {shown(executor.image)}")
    if not executor.command:
        yield Finding((*at, "command"), "expected a program and its arguments, got nothing")
    for index, argument in enumerate(executor.command):
        if "\0" in argument:
            yield Finding((*at, "command", index), "expected text without NUL characters")
    if executor.workdir:
        yield from _check_path(executor.workdir, (*at, "workdir"), root_allowed=True)
    for name, path in _streams(executor):
        yield from _check_path(path, (*at, name))
    yield from _check_env(executor.env, (*at, "env"))


def _streams(executor: Executor) -> list[tuple[str, str]]:
    streams = {"stdin": executor.stdin, "stdout": executor.stdout, "stderr": executor.stderr}
    return [(name, path) for name, path in streams.items() if path]


def _check_env(env: Mapping[str, str], at: Location) -> Iterator[Finding]:
    """Values are never quoted: they may be secrets."""
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            yield Finding((*at, name), "expected a variable's name, neither empty nor with `=` or NUL in it")
        if "\0" in value:
            yield Finding((*at, name), "expected a value without NUL characters")


def _check_amounts(resources: Resources) -> Iterator[Finding]:
    amounts = {
        "cpu_cores": resources.cpu_cores,
        "ram_gb": resources.ram_gb,
        "disk_gb": resources.disk_gb,
    }
    for name, amount in amounts.items():
        if amount is not None and amount < 0:
            yield Finding(("resources", name), f"expected 0 or more, got {amount}")


def _check_parameters(resources: Resources, containers: ContainerSettings) -> Iterator[Finding]:
    at = ("resources", "backend_parameters")
    for name, expected in problems(resources, containers):
        yield Finding((*at, name), f"{expected}, got {shown(resources.backend_parameters[name])}")
    if resources.backend_parameters_strict:
        for name in unsupported_parameters(resources, containers):
            yield Finding((*at, name), _unsupported(name))


def _unsupported(name: str) -> str:
    why = "since backend_parameters_strict is true"
    if name.lower() in KNOWN_PARAMETERS:
        return f"expected only parameters that the operator allows, {why}: --allow-parameter {name.lower()}"
    return f"expected only parameters that this runner knows, {why}: it knows {', '.join(KNOWN_PARAMETERS)}"


def unsupported_parameters(resources: Resources, containers: ContainerSettings) -> tuple[str, ...]:
    """The backend parameters that nothing here heeds, as the user spelled them."""
    known = heeded(resources, containers)
    return tuple(name for name in resources.backend_parameters if name not in known)


def _check_input(item: Input, at: Location) -> Iterator[Finding]:
    yield from _check_path(item.path, (*at, "path"))
    if item.literal is None and not item.url:
        yield Finding((*at, "url"), "expected a URL, or `content` in its place, got neither")
    elif item.literal is None:
        yield from _check_url(_input_url_problem, item.url or "", item.type, (*at, "url"))
    elif item.type is FileType.DIRECTORY:
        yield Finding((*at, "content"), "expected no content, since the input is a DIRECTORY")


def _check_output(output: Output, at: Location) -> Iterator[Finding]:
    yield from _check_path(output.path, (*at, "path"))
    if has_wildcard(output.path) and not output.path_prefix:
        why = f"since {shown(output.path)} has wildcards: what to cut from a match's path to give its URL"
        yield Finding((*at, "path_prefix"), f"expected a directory, {why}")
    if is_pattern(output):
        yield from _check_pattern(output, at)
    if not output.url:
        yield Finding((*at, "url"), "expected the URL to upload to, got nothing")
    else:
        # The URL of a pattern is that of the directory its matches go to.
        kind = FileType.DIRECTORY if is_pattern(output) else output.type
        yield from _check_url(_output_url_problem, output.url, kind, (*at, "url"))


def _check_pattern(output: Output, at: Location) -> Iterator[Finding]:
    if path_problem(output.path):
        return
    path, prefix = normalise(output.path), output.path_prefix or ""
    problem = path_problem(prefix, root_allowed=True)
    if problem:
        yield Finding((*at, "path_prefix"), problem)
    elif not is_within(fixed_directory(path), normalise(prefix)):
        expected = f"a directory without wildcards that {shown(output.path)} is in"
        yield Finding((*at, "path_prefix"), f"expected {expected}, got {shown(prefix)}")
    if fixed_directory(path) == "/":
        expected = "a pattern below a directory that can be mounted"
        yield Finding((*at, "path"), f"expected {expected}, since / can't be, got {shown(output.path)}")


def _check_path(path: str, at: Location, *, root_allowed: bool = False) -> Iterator[Finding]:
    problem = path_problem(path, root_allowed=root_allowed)
    if problem:
        yield Finding(at, problem)


def path_problem(path: str, *, root_allowed: bool = False) -> str | None:  # noqa: PLR0911  # one a rule
    """What is wrong with a container path; None if nothing is."""
    if not path:
        return "expected an absolute path, got nothing"
    if not path.startswith("/"):
        return f"expected an absolute path, got {shown(path)}"
    if len(path) > _LONGEST_PATH:
        return f"expected a path of at most {_LONGEST_PATH} characters, got {shown(path)}"
    if "\0" in path:
        return f"expected a path without NUL characters, got {shown(path)}"
    if ".." in components(path):
        return f"expected a path without `..`, got {shown(path)}"
    if any(len(part.encode()) > _LONGEST_NAME_BYTES for part in components(path)):
        return f"expected a path whose names have at most {_LONGEST_NAME_BYTES} bytes, got {shown(path)}"
    if normalise(path) == "/" and not root_allowed:
        return f"expected a path below /, which itself can't be mounted, got {shown(path)}"
    return None


def _check_url(
    problem_of: Callable[[str, FileType], str | None], url: str, file_type: FileType, at: Location
) -> Iterator[Finding]:
    """`problem_of` returns what is wrong, or raises ValueError with it, as `urls` does."""
    try:
        problem = problem_of(url, file_type)
    except ValueError as error:
        problem = redact(str(error))
    if problem:
        yield Finding(at, problem)


def _input_url_problem(url: str, file_type: FileType) -> str | None:
    kind = store_kind(url)
    if kind not in READABLE:
        return f"expected an s3://, http://, https:// or file:// URL or an absolute path, got {shown(url)}"
    if kind is StoreKind.S3 and file_type is FileType.FILE and not _s3_key(url, versioned=True):
        return f"expected s3://BUCKET/KEY, since the input is a FILE, got {shown(url)}"
    if kind is StoreKind.HTTP and file_type is FileType.DIRECTORY:
        return f"expected an s3:// or file:// URL, since a web address can't be listed, got {shown(url)}"
    return _store_problem(url, kind)


def _output_url_problem(url: str, file_type: FileType) -> str | None:
    kind = store_kind(url)
    if kind is StoreKind.HTTP:
        return f"expected an s3:// or file:// URL, since http can only be read, got {shown(url)}"
    if kind not in WRITABLE:
        return f"expected an s3:// or file:// URL or an absolute path, got {shown(url)}"
    if kind is StoreKind.S3 and file_type is FileType.FILE:
        key = _s3_key(url, versioned=False)
        if not key or key.endswith("/"):
            return f"expected s3://BUCKET/KEY not ending in /, since the output is a FILE, got {shown(url)}"
    return _store_problem(url, kind)


def _store_problem(url: str, kind: StoreKind | None) -> str | None:
    """What any URL of this kind must be; raises ValueError where `urls` does."""
    if kind is StoreKind.S3:
        _s3_key(url, versioned=False)
    if kind is StoreKind.LOCAL:
        local_path(url)
    if kind is StoreKind.HTTP:
        return _web_problem(url)
    return None


def _web_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # "Invalid IPv6 URL", "Port out of range 0-65535"
        host = port = None
    if not host or port == 0 or "\\" in host or _UNPRINTABLE.search(url):
        return f"expected a web address with a host, a port above 0 and no spaces, got {shown(url)}"
    if ":" not in host:
        ascii_host(host)
    return None


def _s3_key(url: str, *, versioned: bool) -> str:
    return S3Url.parse(url, versioned=versioned).key


def _check_places(task: Task) -> Iterator[Finding]:
    """No two inputs at one path, and no file where a directory of the task must be."""
    sound = task.model_copy(
        update={
            "inputs": tuple(item for item in task.inputs if not path_problem(item.path)),
            "outputs": tuple(output for output in task.outputs if not path_problem(output.path)),
            "volumes": tuple(volume for volume in task.volumes if not path_problem(volume)),
        }
    )
    made = frozenset(directories(sound))
    first_at: dict[str, int] = {}
    for index, item in enumerate(task.inputs):
        if path_problem(item.path):
            continue
        path = normalise(item.path)
        at = ("inputs", index, "path")
        first = first_at.setdefault(path, index)
        if first != index:
            yield Finding(at, f"expected a path of its own, got {shown(item.path)}, as inputs[{first}] has")
        elif item.type is FileType.FILE and path in made:
            yield Finding(at, _taken(item.path))
    for index, executor in enumerate(task.executors):
        for name, path in _streams(executor):
            if normalise(path) in made and not path_problem(path):
                yield Finding(("executors", index, name), _taken(path))


def _taken(path: str) -> str:
    why = "another input, an output, a volume, /tmp or a captured stream needs a directory there"
    return f"expected a path for a file, got {shown(path)}: {why}"


def _check_destinations(task: Task) -> Iterator[Finding]:
    """No two different files to one URL: the second would replace the first."""
    first_at: dict[str, tuple[int, str]] = {}
    for index, output in enumerate(task.outputs):
        if not output.url or output.type is FileType.DIRECTORY or is_pattern(output):
            continue
        first, path = first_at.setdefault(output.url, (index, normalise(output.path)))
        if path != normalise(output.path):
            why = f"outputs[{first}] goes there already"
            yield Finding(
                ("outputs", index, "url"), f"expected a URL of its own, got {shown(output.url)}: {why}"
            )
