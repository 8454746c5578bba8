"""The task's own directory: made, looked into without being led astray, given up."""

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskrunner.errors import TransferIOError
from taskrunner.workdir import (
    EscapingLinkError,
    Lease,
    WorkDir,
    abandoned,
    held,
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


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def exchange_before_call(number: int, directory: Path, target: Path, patch: pytest.MonkeyPatch) -> None:
    """As an executor may that outlived its runner: before that system call, a directory becomes a link."""
    numbers = itertools.count()
    rename = os.rename

    def late(call: Callable[..., Any]) -> Callable[..., Any]:
        def exchange_and_call(*arguments: Any, **named: Any) -> Any:
            if next(numbers) == number and directory.exists():
                rename(directory, directory.parent / "aside")
                directory.symlink_to(target)
            return call(*arguments, **named)

        return exchange_and_call

    for name in ("chmod", "open", "rename", "rmdir", "scandir", "unlink"):
        patch.setattr(os, name, late(getattr(os, name)))


@pytest.mark.parametrize("place", ["a", "out/a"])
def test_a_link_that_takes_a_directorys_place_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "file").touch()
    precious.chmod(0o750)
    for number in range(30):
        root = tmp_path / f"T{number}"
        (root / place / "b").mkdir(parents=True)
        (root / place / "b/file").touch()
        with monkeypatch.context() as patch:
            exchange_before_call(number, root / place, precious, patch)
            remove_tree(root, lambda _path, _error: None)
        assert (names(precious), precious.stat().st_mode & 0o777) == (["file", "sub"], 0o750)
    assert not root.exists()  # that was after the last call


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a directory of the same disk elsewhere, and returns it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    source = tmp_path / "mounted"
    source.mkdir(mode=0o750)
    (source / "precious").touch()
    inode = source.stat().st_ino

    def mount(target: Path) -> Path:
        subprocess.run(["mount", "--bind", source, target], check=True)
        return source

    yield mount
    while found := [path for path in tmp_path.rglob("*") if path != source and path.stat().st_ino == inode]:
        subprocess.run(["umount", found[0]], check=True)


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
def test_what_is_mounted_in_it_is_not_entered_but_told_and_the_rest_goes(
    tmp_path: Path, mounted: Callable[[Path], Path], place: str
) -> None:
    (tmp_path / "T" / place).mkdir(parents=True)
    (tmp_path / "T/gone").touch()
    source = mounted(tmp_path / "T" / place)
    told: list[str] = []
    remove_tree(tmp_path / "T", lambda path, _error: told.append(path))
    assert told == [str(tmp_path / "T" / place)]
    assert not (tmp_path / "T/gone").exists()
    assert ((source / "precious").exists(), source.stat().st_mode & 0o777) == (True, 0o750)


def test_a_directory_that_fills_again_while_it_is_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "T/a").mkdir(parents=True)
    rmdir = os.rmdir

    def late(path: Any, **named: Any) -> None:
        (tmp_path / "T/new").touch()
        rmdir(path, **named)

    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", late)
        remove_tree(tmp_path / "T", lambda path, error: told.append(f"{path}: {error.strerror}"))
    assert told == [f"{tmp_path}/T: Directory not empty"]


def test_directories_that_are_closed_to_their_owner_are_removed(tmp_path: Path) -> None:
    """As somebody who is not root, who has to open them first."""
    (tmp_path / "home").mkdir()
    for name in ("T", "T/a", "T/a/b", "T/a/b/c"):
        (tmp_path / "home" / name).mkdir()
    (tmp_path / "home/T/a/b/file").touch()
    for name in ("T/a/b/c", "T/a/b", "T/a", "T"):
        (tmp_path / "home" / name).chmod(0o555 if name == "T/a" else 0)
    script = (
        "import os, sys; from pathlib import Path; from taskrunner.workdir import remove_tree\n"
        "os.chdir(sys.argv[1]); os.geteuid() or os.setuid(65534)\n"
        "remove_tree(Path('T'), lambda path, error: print(path, error))"
    )
    if os.geteuid() == 0:
        for path in (tmp_path / "home", *(tmp_path / "home").rglob("*")):
            os.chown(path, 65534, 65534)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.stdout, ended.stderr, names(tmp_path / "home")) == ("", "", [])


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


@contextmanager
def slowly(holding: AbstractContextManager[Lease], goes_on: threading.Event) -> Iterator[Lease]:
    goes_on.wait()
    with holding as lease:
        yield lease


async def test_a_lease_that_is_long_to_come_does_not_hold_up_what_runs_beside(tmp_path: Path) -> None:
    goes_on = threading.Event()
    asyncio.get_running_loop().call_soon(goes_on.set)
    async with held(slowly(leased(tmp_path / "T"), goes_on)) as lease:
        assert lease.workdir.root == tmp_path / "T"
        with leased(tmp_path / "T") as another:
            assert another.workdir.root != tmp_path / "T"
            another.workdir.root.rmdir()
    assert names(tmp_path) == ["T"]


async def test_a_lease_that_came_when_nobody_waited_any_more_is_given_up_and_what_it_made_is_to_be_swept(
    tmp_path: Path,
) -> None:
    goes_on = threading.Event()

    async def hold() -> None:
        async with held(slowly(leased(tmp_path / "T"), goes_on)):
            pytest.fail("it was cancelled before")

    before = set(threading.enumerate())
    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    goes_on.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    (found,) = abandoned(tmp_path, 0)
    found.give_up()
    assert found.workdir.root == tmp_path / "T"


async def test_why_there_is_no_lease_is_told_by_the_thread_that_was_to_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransferIOError, match="--work-dir"):
        async with held(leased(tmp_path / "file/T")):
            pass
