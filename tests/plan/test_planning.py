"""From a task and the settings to what will be done."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.errors import AccessDeniedError, ExitCode, InvalidTaskError
from taskrunner.plan import Plan, docker_run_command, plan_as_json
from taskrunner.planning import make_plan
from taskrunner.settings import ContainerSettings, ExtraMount, Settings, WorkSettings
from tests.task.documents import EXECUTOR, load

ROOT = Path("/work/made-up-id")


def _plan(*, allowed: tuple[str, ...] = (), **fields: Any) -> Plan:
    settings = WorkSettings(work_dir=Path("/work"), allowed_dirs=tuple(map(Path, allowed)))
    return make_plan(load(**fields), Settings(work=settings))


def test_a_task_lives_in_a_directory_of_its_name() -> None:
    assert _plan(id="mine").root == Path("/work/mine")


def test_a_relative_work_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load(id="t"), Settings(work=WorkSettings(work_dir=Path("scratch"))))
    assert plan.root == tmp_path / "scratch" / "t"


def test_another_root_may_be_told() -> None:
    plan = make_plan(load(id="t", volumes=["/v"]), Settings(), root=Path("/work/t.2"))
    assert plan.root == Path("/work/t.2")
    assert plan.steps[0].mounts[0].host == "/work/t.2/v"


def test_an_input_is_content_or_a_download() -> None:
    plan = _plan(
        inputs=[
            {"path": "/a", "content": "text", "url": "carrier-pigeon://ignored"},
            {"path": "/b", "content": ""},
            {"path": "/c", "content": "", "url": "s3://b/c"},
            {"path": "/d//", "url": "s3://b/d", "type": "DIRECTORY"},
        ]
    )
    assert [(file.path, file.content) for file in plan.contents] == [("/a", "text"), ("/b", "")]
    assert [(d.path, d.url, d.target) for d in plan.downloads] == [
        ("/c", "s3://b/c", ROOT / "c"),
        ("/d", "s3://b/d", ROOT / "d"),
    ]


def test_only_inputs_nobody_writes_to_are_shareable() -> None:
    plan = _plan(inputs=[{"path": "/tmp/a", "url": "s3://b/a"}, {"path": "/in/b", "url": "s3://b/b"}])
    assert [download.shareable for download in plan.downloads] == [False, True]


def test_a_path_prefix_counts_for_patterns_only() -> None:
    plan = _plan(
        outputs=[
            {"path": "/o/*.txt", "url": "s3://b/", "path_prefix": "/o/"},
            {"path": "/o/x", "url": "s3://b/x", "path_prefix": "/o"},
        ]
    )
    assert [(upload.path, upload.path_prefix) for upload in plan.uploads] == [
        ("/o/*.txt", "/o"),
        ("/o/x", None),
    ]
    assert plan.uploads[0].source == ROOT / "o/*.txt"


def test_an_output_directly_under_the_root_has_a_placeholder() -> None:
    plan = _plan(outputs=[{"path": "/x", "url": "s3://b/x"}, {"path": "/o/y", "url": "s3://b/y"}])
    assert [upload.placeholder for upload in plan.uploads] == [True, False]


def test_a_step_holds_what_its_executor_said() -> None:
    executor = {
        "image": "i",
        "command": ["sh", "-c", "a  b"],
        "workdir": "/w//",
        "stdin": "/in/./x",
        "stdout": "",
        "env": {"Z": "1", "A": "2"},
        "ignore_error": True,
    }
    first, second = _plan(id="t", executors=[EXECUTOR, executor]).steps
    assert first.container_name == "t-0"
    assert (second.index, second.container_name, second.image) == (1, "t-1", "i")
    assert second.command == ("sh", "-c", "a  b")
    assert (second.workdir, second.stdin, second.stdout, second.stderr) == ("/w", "/in/x", None, None)
    assert second.env == (("Z", "1"), ("A", "2"))
    assert (first.ignore_error, second.ignore_error) == (False, True)


def test_local_urls_need_an_allowed_directory_and_all_are_told() -> None:
    with pytest.raises(AccessDeniedError) as caught:
        _plan(
            allowed=("/data", "/ref/"),
            inputs=[
                {"path": "/a", "url": "/data/x"},
                {"path": "/b", "url": "file:///data/../etc/shadow"},
                {"path": "/c", "url": "/database/x"},
                {"path": "/d", "url": "/etc/passwd", "content": "not asked for"},
                {"path": "/e", "url": "/ref", "type": "DIRECTORY"},
            ],
            outputs=[{"path": "/o/x", "url": "file:///out/x"}, {"path": "/o/y", "url": "file:///data/y"}],
        )
    assert caught.value.exit_code is ExitCode.ACCESS_DENIED
    assert str(caught.value).splitlines() == [
        "the task names local files outside the allowed directories:",
        "  inputs[1].url: file:///data/../etc/shadow",
        "  inputs[2].url: /database/x",
        "  outputs[0].url: file:///out/x",
        "allowed: /data, /ref; the operator can allow a directory with --allow-dir DIR",
    ]


def test_no_local_directory_is_allowed_unless_told() -> None:
    with pytest.raises(AccessDeniedError, match="allowed: none"):
        _plan(inputs=[{"path": "/a", "url": "/x"}])


def test_a_path_that_the_operator_mounts_is_no_path_of_the_tasks() -> None:
    task = load(
        inputs=[{"path": "//ref", "content": "x"}, {"path": "/free/ref", "content": "x"}],
        outputs=[{"path": "/cache/a", "url": "s3://b/a"}],
        volumes=["/free/v", "/cache/"],
    )
    mounts = (ExtraMount("/host/ref", "/ref"), ExtraMount("/host/cache", "/cache", read_only=False))

    with pytest.raises(InvalidTaskError) as caught:
        make_plan(task, Settings(containers=ContainerSettings(extra_mounts=mounts)))

    expected = "expected a path where the operator mounts nothing, got"
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        f'inputs[0].path: {expected} "/ref", which has "/host/ref" of the Docker host (--mount)',
        f'outputs[0].path: {expected} "/cache", which has "/host/cache" of the Docker host (--mount)',
        f'volumes[1]: {expected} "/cache", which has "/host/cache" of the Docker host (--mount)',
    ]


def test_the_plan_as_json_keeps_secrets_and_contents_to_itself() -> None:
    plan = _plan(
        inputs=[
            {"path": "/a", "content": "p\u00e4ss"},
            {"path": "/b", "url": "https://user:hunter2@host/x?X-Amz-Signature=abcdef"},
        ],
        executors=[EXECUTOR | {"env": {"DB_PASSWORD": "hunter2", "HOME": "/root"}}],
        surprise=1,
    )
    shown = plan_as_json(plan)
    assert "hunter2" not in str(shown)
    assert "abcdef" not in str(shown)
    assert shown["contents"] == [{"path": "/a", "target": str(ROOT / "a"), "size_bytes": 5}]
    assert shown["unknown_fields"] == ["surprise"]


def test_the_docker_command_masks_secrets_and_keeps_the_documents_order() -> None:
    executor = {
        "image": "i",
        "command": ["c", "a b"],
        "workdir": "/w",
        "env": {"Z": "1", "MY_TOKEN": "x", "A": ""},
    }
    (step,) = _plan(id="t", executors=[executor], inputs=[{"path": "/in", "content": "x"}]).steps
    assert docker_run_command(step, read_only_root=True) == (
        "docker run -i --read-only --rm -e Z=1 -e MY_TOKEN=*** -e A= --name t-0 -w /w"
        " -v /work/t/tmp:/tmp:rw -v /work/t/in:/in:ro i c a b"
    )
    assert docker_run_command(step, read_only_root=False).startswith("docker run -i --rm -e Z=1 ")


_PARTS = st.text("ab.*é ", min_size=1, max_size=4).filter(lambda part: part != "..")
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map(lambda parts: "/x" + "/".join(parts))


@given(st.lists(_PATHS, max_size=4, unique=True), st.lists(_PATHS, max_size=4))
def test_nothing_planned_is_outside_the_tasks_directory(inputs: list[str], volumes: list[str]) -> None:
    plan = _plan(
        inputs=[
            {"path": f"/{index}{path}", "url": "s3://b/k", "type": "DIRECTORY"}
            for index, path in enumerate(inputs)
        ],
        volumes=volumes,
        outputs=[{"path": f"/o{path}", "path_prefix": "/o", "url": f"s3://b/{path}"} for path in volumes],
        executors=[EXECUTOR, *(EXECUTOR | {"stdout": f"/log/{n}{path}"} for n, path in enumerate(volumes))],
    )
    places = [
        *plan.directories,
        *(download.target for download in plan.downloads),
        *(upload.source for upload in plan.uploads),
        *(mount.runner for step in plan.steps for mount in step.mounts),
    ]
    assert all(ROOT in place.parents and ".." not in place.parts for place in places)
    made = {ROOT}
    for directory in plan.directories:
        assert directory.parent in made
        assert directory not in made
        made.add(directory)
