"""The task's own directory: made, looked into without being led astray, given up."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskrunner.errors import TransferIOError
from taskrunner.workdir import (
    EscapingLinkError,
    Lease,
    WorkDir,
    leased,
    make_directory,
    remove_tree,
    reserved,
)


@pytest.fixture
def workdir(tmp_path: Path) -> WorkDir:
    (tmp_path / "T").mkdir()
    (tmp_path / ".T").mkdir()
    return WorkDir(tmp_path / "T", tmp_path / ".T")


def test_a_plain_path_is_where_the_container_has_it(workdir: WorkDir) -> None:
    assert workdir.resolve("/a/b") == workdir.root / "a/b"


def test_an_absolute_link_starts_at_the_containers_root(workdir: WorkDir) -> None:
    (workdir.root / "data").mkdir()
    (workdir.root / "data/x").write_text("x")
    (workdir.root / "link").symlink_to("/data/x")
    assert workdir.resolve("/link") == workdir.root / "data/x"


def test_a_relative_link_through_a_linked_directory_is_followed(workdir: WorkDir) -> None:
    (workdir.root / "a/b").mkdir(parents=True)
    (workdir.root / "a/x").write_text("x")
    (workdir.root / "a/b/up").symlink_to("../x")
    (workdir.root / "short").symlink_to("a/b")
    assert workdir.resolve("/short/up") == workdir.root / "a/x"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "../outside", "/absent", "loop"])
def test_a_link_out_of_the_task_or_nowhere_is_refused(workdir: WorkDir, target: str) -> None:
    (workdir.root.parent / "outside").write_text("secret")
    (workdir.root / "loop").symlink_to(target)
    with pytest.raises(EscapingLinkError, match="loop"):
        workdir.resolve("/loop")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["..", ".", "a", "l", "m", "up", "/"]), max_size=8))
def test_no_path_ever_leads_out_of_the_root(parts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        workdir = WorkDir(Path(scratch) / "T", Path(scratch) / ".T")
        (workdir.root / "a/a").mkdir(parents=True)
        (workdir.root / "l").symlink_to("../..")
        (workdir.root / "a/m").symlink_to("/a/../..")
        (workdir.root / "a/up").symlink_to("..")
        try:
            found = workdir.resolve("/".join(parts))
        except EscapingLinkError:
            return
        assert Path(os.path.realpath(found)).is_relative_to(os.path.realpath(workdir.root))


def killed_while_it_holds(root: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from taskrunner.workdir import leased\n"
        "with leased(Path(sys.argv[1])) as w: (w.workdir.root / 'old').mkdir(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(root)], check=False, timeout=30)


def test_what_a_dead_runner_left_is_removed(tmp_path: Path) -> None:
    killed_while_it_holds(tmp_path / "T")
    assert (tmp_path / "T/old").exists()
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        assert (workdir.root, list(workdir.root.iterdir())) == (tmp_path / "T", [])


@pytest.mark.parametrize("name", ["T", ".T"])
def test_a_directory_that_no_runner_made_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_text("x")
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        (workdir.root / "mine").touch()
    assert [path.name for path in (tmp_path / name).iterdir()] == ["precious"]


def test_a_link_in_the_place_of_a_dead_runners_directory_is_removed_and_not_followed(tmp_path: Path) -> None:
    killed_while_it_holds(tmp_path / "T")
    shutil.rmtree(tmp_path / "T")
    (tmp_path / "precious").mkdir(mode=0o750)
    (tmp_path / "precious/file").touch()
    (tmp_path / "T").symlink_to(tmp_path / "precious")
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        assert workdir.root == tmp_path / "T"
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]
    assert (tmp_path / "precious").stat().st_mode & 0o777 == 0o750


def test_a_lease_that_is_no_file_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / ".T").mkdir()
    os.mkfifo(tmp_path / ".T/taskrunner-lease")
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        assert workdir.root != tmp_path / "T"
    assert (tmp_path / ".T/taskrunner-lease").exists()


def test_a_removal_that_is_not_wanted_any_more_leaves_off(tmp_path: Path) -> None:
    (tmp_path / "T/a").mkdir(parents=True)
    stopped = threading.Event()
    stopped.set()
    remove_tree(tmp_path / "T", lambda path, error: pytest.fail(f"{path}: {error}"), stopped)
    assert (tmp_path / "T/a").exists()


def test_a_tree_deeper_than_a_path_can_name_is_removed(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_DIRECTORY)
    (tmp_path / "T").mkdir()
    here = os.open("T", os.O_DIRECTORY, dir_fd=top)
    for _ in range(3000):
        os.mkdir("dd", dir_fd=here)
        below = os.open("dd", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    os.close(top)
    remove_tree(tmp_path / "T", lambda path, error: pytest.fail(f"{path}: {error}"))
    assert not (tmp_path / "T").exists()


def test_what_cannot_be_removed_is_told_by_its_own_name_and_the_rest_goes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    (tmp_path / "T/a/b").mkdir(parents=True)
    (tmp_path / "T/a/b/stuck").touch()
    (tmp_path / "T/a/gone").touch()
    told: list[str] = []
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "T/a/b"], check=True)
    try:
        remove_tree(tmp_path / "T", lambda path, _error: told.append(path))
    finally:
        subprocess.run(["umount", *sorted((tmp_path / "T").rglob("b"))], check=True)
    assert (told, (tmp_path / "T/a/gone").exists()) == ([str(tmp_path / "T/a/b")], False)


def test_two_live_runners_with_one_task_id_stand_side_by_side(tmp_path: Path) -> None:
    with leased(tmp_path / "T") as first, leased(tmp_path / "T") as second:
        mine = first.workdir.root / "mine"
        mine.touch()
        assert first.workdir.root != second.workdir.root
        assert mine.exists()


def test_only_the_tasks_own_tree_is_left_when_the_lease_ends(tmp_path: Path) -> None:
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        workdir.partial_path().touch()
    assert [path.name for path in tmp_path.iterdir()] == ["T"]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("hold", [leased, partial(reserved, empty=True)], ids=["leased", "reserved"])
def test_journals_of_uploads_outlive_the_lease_and_inputs_only_where_wanted(
    tmp_path: Path, hold: Callable[[Path], AbstractContextManager[Lease]], wanted: bool
) -> None:
    with hold(tmp_path / "T") as lease:
        for directory in (lease.workdir.resumable_inputs, lease.workdir.resumable_outputs):
            directory.mkdir()
            (directory / "journal").touch()
        lease.keep_for_retry = wanted
    assert (tmp_path / ".T/outputs/journal").exists()
    assert (tmp_path / ".T/inputs/journal").exists() == wanted


def test_a_lease_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from taskrunner.workdir import leased\n"
        "with leased(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "T")], check=False, timeout=30)
    with leased(tmp_path / "T") as lease:
        workdir = lease.workdir
        assert workdir.root == tmp_path / "T"


def test_a_work_directory_that_cannot_be_made_is_told_with_the_option_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransferIOError, match="--work-dir"), leased(tmp_path / "file/T"):
        pass


def test_a_made_directory_is_open_to_any_user_of_a_container(tmp_path: Path) -> None:
    make_directory(tmp_path / "a/b")
    assert [oct((tmp_path / name).stat().st_mode)[-3:] for name in ("a", "a/b")] == ["775", "775"]


def test_removing_a_tree_never_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (tmp_path / "T").mkdir()
    (tmp_path / "T/link").symlink_to(tmp_path / "precious")
    remove_tree(tmp_path / "T", lambda path, error: pytest.fail(f"{path}: {error}"))
    assert (tmp_path / "precious/file").exists()
    assert not (tmp_path / "T").exists()
