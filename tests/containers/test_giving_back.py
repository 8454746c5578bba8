"""A runner that is not root gets back what root made in containers."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskrunner.containers.engine import Engine, RefusedError
from taskrunner.containers.ownership import give_back
from taskrunner.errors import EngineUnavailableError
from taskrunner.events import ContainerNotRemoved, OwnershipNotChanged
from tests.containers.conftest import Recorder, Task
from tests.engine import containers_of

NOBODY = pwd.getpwnam("nobody")
SOCKET = Path("/var/run/docker.sock")

# Becomes nobody when all is imported: the interpreter itself may be root's alone.
BECOME_NOBODY = """
import asyncio, encodings.idna, json, os, shutil, sys
from pathlib import Path
import aiodocker, aiohttp
from taskrunner.containers.engine import Engine
from taskrunner.containers.ownership import give_back
from taskrunner.events import SilentReporter

uid, gid, *groups = map(int, sys.argv[1].split(","))
os.setgroups(groups)
os.setgid(gid)
os.setuid(uid)
"""
GIVE_BACK = """
async def main(root, image, name):
    async with Engine() as engine:
        done = await give_back(
            engine, root, labels={}, task_id=name, images=[image], uid=uid, gid=gid, reporter=SilentReporter()
        )
    text = (Path(root) / "work/private/file").read_text()
    shutil.rmtree(Path(root) / "work")
    print(json.dumps([os.geteuid(), done, text, os.listdir(root)]))

asyncio.run(main(*sys.argv[2:]))
"""
CONNECT = """
async def main():
    async with Engine():
        pass

asyncio.run(main())
"""


def run_as_nobody(
    script: str, *arguments: object, groups: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    ids = ",".join(map(str, (NOBODY.pw_uid, NOBODY.pw_gid, *groups)))
    command = [sys.executable, "-c", BECOME_NOBODY + script, ids, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that nobody can reach; pytest's own are root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="taskrunner-test-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def test_everything_changes_hands_and_no_link_is_followed(task: Task, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not the task's")
    script = "mkdir -p /work/a/b; touch /work/a/b/c; chmod 600 /work/a/b/c; ln -s ../../outside /work/link"
    await task.run(task.step("sh", "-c", script))
    root = task.workdir.root
    (root / "work/absolute").symlink_to(outside)
    done = await give_back(
        task.engine,
        str(root),
        labels={},
        task_id=task.task_id,
        images=[task.image],
        uid=NOBODY.pw_uid,
        gid=NOBODY.pw_gid,
        reporter=task.reporter,
    )

    assert done
    for path in (root, root / "work/a", root / "work/a/b/c", root / "work/link", root / "work/absolute"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert outside.stat().st_uid == os.getuid()
    assert task.containers == []


async def test_the_first_image_that_has_chown_does_it(task: Task, bare_image: str) -> None:
    done = await give_back(
        task.engine,
        str(task.workdir.root),
        labels={},
        task_id=task.task_id,
        images=[bare_image, task.image],
        uid=NOBODY.pw_uid,
        gid=NOBODY.pw_gid,
        reporter=task.reporter,
    )

    assert done
    assert task.workdir.root.stat().st_uid == NOBODY.pw_uid
    assert task.reporter.events == []


async def test_without_any_chown_there_is_a_warning(engine: Engine, bare_image: str, tmp_path: Path) -> None:
    reporter = Recorder()
    name = f"test-{secrets.token_hex(6)}"
    done = await give_back(
        engine, str(tmp_path), labels={}, task_id=name, images=[bare_image], uid=1, gid=1, reporter=reporter
    )

    assert not done
    told = reporter.last(OwnershipNotChanged)
    assert told["path"] == str(tmp_path)
    assert "executable file not found" in str(told["error"])
    assert containers_of(name) == []


@pytest.mark.parametrize("method", ["create", "start", "wait", "remove"])
@pytest.mark.parametrize("error", [EngineUnavailableError("it hangs"), RefusedError(500, "it hangs")])
async def test_an_engine_that_fails_meanwhile_is_a_warning(
    task: Task, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Engine, method, fail)
        done = await give_back(
            task.engine,
            str(task.workdir.root),
            labels={},
            task_id=task.task_id,
            images=[task.image],
            uid=NOBODY.pw_uid,
            gid=NOBODY.pw_gid,
            reporter=task.reporter,
        )

    assert done is (method == "remove")
    warned = task.reporter.of(ContainerNotRemoved if method == "remove" else OwnershipNotChanged)
    assert "it hangs" in str([event.fields() for event in warned])


async def test_a_chown_that_does_not_end_is_killed_and_told(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(image: str, *_: object) -> dict[str, object]:
        return {"Image": image, "Cmd": ["sleep", "600"], "Labels": {"taskrunner.task-id": task.task_id}}

    monkeypatch.setattr("taskrunner.containers.ownership.give_back_config", endless)
    done = await give_back(
        task.engine,
        str(task.workdir.root),
        labels={},
        task_id=task.task_id,
        images=[task.image],
        uid=NOBODY.pw_uid,
        gid=NOBODY.pw_gid,
        reporter=task.reporter,
        limit_seconds=1.0,
    )

    assert not done
    assert "did not end within 1 s" in str(task.reporter.last(OwnershipNotChanged)["error"])
    assert task.containers == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_an_unprivileged_runner_reads_and_removes_what_root_made(
    busybox_image: str, shared_directory: Path
) -> None:
    private = shared_directory / "work/private"
    private.mkdir(parents=True, mode=0o700)
    (private / "file").write_text("of root")
    (private / "file").chmod(0o600)
    name = f"test-{secrets.token_hex(6)}"
    docker = SOCKET.stat().st_gid
    ran = run_as_nobody(GIVE_BACK, shared_directory, busybox_image, name, groups=(docker,))

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [NOBODY.pw_uid, True, "of root", []]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_socket_that_may_not_be_used_is_explained(docker_engine: None) -> None:
    ran = run_as_nobody(CONNECT)

    assert "not allowed to use the Docker engine at unix:///var/run/docker.sock" in ran.stderr
