"""Making the plan: what a task names, given its place on our disk, in the container and on the Docker host.

The task has passed the rules (`rules`), so nothing is doubted here but what only the operator can allow:
local paths. Pure, as the plan is: links in local paths are judged when the files are staged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.dialects import shown
from taskrunner.errors import AccessDeniedError, InvalidTaskError, Mistake, one_line
from taskrunner.mounts import (
    Mount,
    directories,
    is_pattern,
    output_mount,
    place,
    placeholders,
    plan_mounts,
    shareable_inputs,
)
from taskrunner.paths import normalise
from taskrunner.plan import ContentFile, Download, Plan, Step, Upload
from taskrunner.redaction import redact
from taskrunner.urls import StoreKind, local_path, store_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskrunner.document import LoadedTask
    from taskrunner.settings import ExtraMount, Settings
    from taskrunner.task import Executor, Task


def make_plan(loaded: LoadedTask, settings: Settings, *, root: Path | None = None) -> Plan:
    """Everything a run of the task will do.

    `root` is the task's directory on our side, `<work_dir>/<taskID>` unless told.

    Raises, naming all of them:
        AccessDeniedError: local URLs lie outside the directories that the operator allows.
        InvalidTaskError: paths of the task are where the operator mounts something of the host's.
    """
    task = loaded.task
    _require_allowed(task, settings.work.allowed_dirs)
    _require_free(task, settings.containers.extra_mounts)
    root = _absolute(root or settings.work.work_dir / task.id)
    mounts = plan_mounts(task, root, settings.work.host_paths)
    return Plan(
        task=task,
        root=root,
        directories=tuple(place(root, path) for path in directories(task)),
        downloads=tuple(_downloads(task, root)),
        contents=tuple(_contents(task, root)),
        steps=tuple(_step(task.id, index, executor, mounts) for index, executor in enumerate(task.executors)),
        uploads=tuple(_uploads(task, root)),
        unknown_fields=loaded.unknown_fields,
        unsupported_parameters=loaded.unsupported_parameters,
    )


def _require_allowed(task: Task, allowed_dirs: tuple[Path, ...]) -> None:
    allowed = tuple(_absolute(directory) for directory in allowed_dirs)
    refused = [
        f"  {place_in_task}: {one_line(redact(url))}"
        for place_in_task, url in _urls(task)
        if store_kind(url) is StoreKind.LOCAL
        and not any(local_path(url).is_relative_to(directory) for directory in allowed)
    ]
    if refused:
        known = ", ".join(map(str, allowed)) or "none"
        raise AccessDeniedError(
            "\n".join(
                [
                    "the task names local files outside the allowed directories:",
                    *refused,
                    f"allowed: {known}; the operator can allow a directory with --allow-dir DIR",
                ]
            )
        )


def _require_free(task: Task, extra_mounts: tuple[ExtraMount, ...]) -> None:
    taken = {mount.container: mount.host for mount in extra_mounts}
    mistakes = [
        Mistake(
            place_in_task,
            f"expected a path where the operator mounts nothing, got {shown(path)}, "
            f"which has {shown(taken[path])} of the Docker host (--mount)",
        )
        for place_in_task, path in _mounted_paths(task)
        if path in taken
    ]
    if mistakes:
        raise InvalidTaskError(mistakes)


def _mounted_paths(task: Task) -> Iterator[tuple[str, str]]:
    """Every container path that is to be the task's own, with its place."""
    for index, item in enumerate(task.inputs):
        yield f"inputs[{index}].path", normalise(item.path)
    for index, output in enumerate(task.outputs):
        yield f"outputs[{index}].path", output_mount(output)
    for index, volume in enumerate(task.volumes):
        yield f"volumes[{index}]", normalise(volume)


def _urls(task: Task) -> Iterator[tuple[str, str]]:
    """Every URL that will be used, with its place."""
    for index, item in enumerate(task.inputs):
        if item.url and item.literal is None:
            yield f"inputs[{index}].url", item.url
    for index, output in enumerate(task.outputs):
        yield f"outputs[{index}].url", output.url


def _absolute(path: Path) -> Path:
    # Not resolve(): links are not followed, since the Docker host may have others than we.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _downloads(task: Task, root: Path) -> Iterator[Download]:
    shareable = shareable_inputs(task)
    for item in task.inputs:
        if item.url and item.literal is None:
            path = normalise(item.path)
            yield Download(
                url=item.url,
                path=path,
                target=place(root, path),
                type=item.type,
                shareable=path in shareable,
            )


def _contents(task: Task, root: Path) -> Iterator[ContentFile]:
    for item in task.inputs:
        if item.literal is not None:
            path = normalise(item.path)
            yield ContentFile(path=path, target=place(root, path), content=item.literal)


def _uploads(task: Task, root: Path) -> Iterator[Upload]:
    empty_files = placeholders(task)
    for output in task.outputs:
        path = normalise(output.path)
        pattern = is_pattern(output)
        yield Upload(
            url=output.url,
            path=path,
            source=place(root, path),
            type=output.type,
            path_prefix=normalise(output.path_prefix) if pattern and output.path_prefix else None,
            placeholder=not pattern and path in empty_files,
        )


def _step(task_id: str, index: int, executor: Executor, mounts: tuple[Mount, ...]) -> Step:
    return Step(
        index=index,
        image=executor.image,
        command=executor.command,
        container_name=f"{task_id}-{index}",
        workdir=_path(executor.workdir),
        env=tuple(executor.env.items()),
        stdin=_path(executor.stdin),
        stdout=_path(executor.stdout),
        stderr=_path(executor.stderr),
        ignore_error=executor.ignore_error,
        mounts=mounts,
    )


def _path(container_path: str | None) -> str | None:
    return normalise(container_path) if container_path else None
