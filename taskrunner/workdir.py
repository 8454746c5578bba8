"""The task's own directory on scratch disk: made, looked into without being led astray, given up.

A task with id T has two directories below `--work-dir`: `T`, whose tree mirrors container paths and is mounted
piece by piece into executors; and `.T`, which no container ever sees: it holds the lease (a locked file that
says a live runner owns this task) and files in the making, so that nothing appears in `T` before it is whole.

Executors can leave anything behind, symbolic links above all. A link means what it meant in the container: an
absolute target starts at the container's root, which here is `T`. `resolve` follows links by that rule and
refuses those that lead out of what the task mounted; no other module follows links inside `T`.

A killed runner leaves both behind. They are swept by a later one, whatever its task, when nobody holds the lease
and its file has shown no sign of life for long (a live runner gives one each minute, for file systems where a
lock is seen on one machine only). What was left on purpose stays: its lease file is empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, TransferIOError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEASE = "taskrunner-lease"
_AT_WORK = b"a runner is, or died, at work here\n"
_SIGN_SECONDS = 60.0
_MOST_LINKS = 40  # as the kernel's own limit (path_resolution(7))


class EscapingLinkError(Exception):
    """A symbolic link leads out of the task's directory, or nowhere, or in circles."""


@dataclass(frozen=True, slots=True)
class WorkDir:
    """One task's place on scratch disk."""

    root: Path
    """Mirrors the container: container path `/a/b` is `root/a/b`."""
    staging: Path
    """Ours alone: lease and files in the making; on the same file system as `root`."""

    def place(self, container_path: str) -> Path:
        """Where a container path is on our side; links are not followed."""
        return self.root / container_path.lstrip("/")

    def partial_path(self) -> Path:
        """A new name for a file in the making, to be renamed into its place when it is whole."""
        return self.staging / f"{secrets.token_hex(8)}.partial"

    @property
    def resumable_inputs(self) -> Path:
        """The directory of inputs in the making that a later attempt may go on with, and their journals."""
        return self.staging / "inputs"

    @property
    def resumable_outputs(self) -> Path:
        """The directory of the journals of uploads that a later attempt may go on with."""
        return self.staging / "outputs"

    def resolve(self, container_path: str) -> Path:
        """Where a container path really is on our side, every link followed as in the container.

        The result is below `root` and has no link in it. It need not exist, if its parent does.

        Raises:
            EscapingLinkError: a link leads out of `root`, in circles, or to what is not there.
        """
        pending = [part for part in reversed(container_path.split("/")) if part not in ("", ".")]
        here = self.root
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if here == self.root:
                    raise EscapingLinkError(
                        f"{container_path} is a link that leads out of the task's directories"
                    )
                here = here.parent
                continue
            candidate = here / part
            target = _link_target(candidate)
            if target is None:
                here = candidate
                continue
            links += 1
            if links > _MOST_LINKS:
                raise EscapingLinkError(f"{container_path} leads through too many links (a circle?)")
            if target.startswith("/"):
                here = self.root
            pending.extend(p for p in reversed(target.split("/")) if p not in ("", "."))
            if not _leads_somewhere(here, pending):
                raise EscapingLinkError(
                    f"{container_path} is a link to {target}, which is not in a directory the task mounts"
                )
        return here


def _link_target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _leads_somewhere(here: Path, pending: list[str]) -> bool:
    """Whether the first component still to go exists: a link to what no mount holds is refused by its name."""
    following = next((part for part in reversed(pending)), None)
    return following is None or following == ".." or os.path.lexists(here / following)


@dataclass(slots=True)
class Lease:
    """A work directory that is ours."""

    workdir: WorkDir
    keep_for_retry: bool = False
    """Whether inputs that another attempt can go on with are to stay when the lease ends. Journals of uploads
    always do: each stands for one that is still open."""
    stays: bool = True
    """Whether the task's directory, where it is still there when the lease ends, was left on purpose."""


@contextmanager
def leased(root: Path) -> Iterator[Lease]:
    """The work directory at `root`, empty and owned by us for as long as the context lasts.

    What a dead runner left there is removed, but for what this attempt can go on with. Where a live one holds
    the lease (two runners with one task id on one host), or the leavings are not ours to remove, ours stands
    beside it, with a suffix. The lease is a `flock`, so it ends with our process.

    Raises TransferIOError where the directory can't be made.
    """
    try:
        workdir, lock = _take(root)
    except OSError as error:
        raise TransferIOError(
            f"can't make the work directory {root}: {error.strerror}; choose another with --work-dir"
        ) from error
    lease = Lease(workdir)
    try:
        with _signs_of_life(lock):
            yield lease
    finally:
        _end(lease, lock, to_be_leased_again=False)


@contextmanager
def _signs_of_life(lock: int) -> Iterator[None]:
    """Show that the lease's holder lives, for as long as the context lasts."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(_SIGN_SECONDS):
            with suppress(OSError):  # nobody but a sweep misses it, and that not before long
                os.utime(lock)

    showing = threading.Thread(target=show, name="signs of life", daemon=True)
    showing.start()
    try:
        yield
    finally:
        ended.set()
        showing.join()  # or it might touch whatever gets the number of the closed file


def _end(lease: Lease, lock: int, *, to_be_leased_again: bool) -> None:
    """Give a lease up. The staging directory stays if it holds what can be gone on with, or to say whose it is."""
    workdir = lease.workdir
    if not lease.keep_for_retry:
        shutil.rmtree(workdir.resumable_inputs, ignore_errors=True)
    _sweep(workdir)
    is_there = os.path.lexists(workdir.root)
    if is_there and lease.stays:
        os.ftruncate(lock, 0)
    told_apart = is_there and (to_be_leased_again or not lease.stays)
    if not (told_apart or _has_any(workdir.resumable_inputs) or _has_any(workdir.resumable_outputs)):
        shutil.rmtree(workdir.staging, ignore_errors=True)
    os.close(lock)


def _has_any(directory: Path) -> bool:
    return directory.is_dir() and not directory.is_symlink() and any(directory.iterdir())


def _sweep(workdir: WorkDir) -> None:
    """Remove what nobody can go on with from the staging directory."""
    kept = {_LEASE, workdir.resumable_inputs.name, workdir.resumable_outputs.name}
    for entry in list(os.scandir(workdir.staging)):
        if entry.name not in kept or (entry.name != _LEASE and not entry.is_dir(follow_symlinks=False)):
            remove_tree(Path(entry.path), lambda _path, _error: None)


def _take(root: Path) -> tuple[WorkDir, int]:
    root.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        suffix = f".{attempt}" if attempt > 1 else ""
        candidate = _work_dir(root.with_name(f"{root.name}{suffix}"))
        try:
            lease = _lease(candidate, empty=True)
        except _NotOursError:
            continue
        make_directory(candidate.root)
        return candidate, lease
    raise OSError(errno.EEXIST, "everything of that name is somebody else's")


def _work_dir(root: Path) -> WorkDir:
    return WorkDir(root, root.with_name(f".{root.name}"))


@contextmanager
def reserved(root: Path, *, empty: bool) -> Iterator[Lease]:
    """The very directory `root`, owned by us for as long as the context lasts; afterwards it stays.

    With `empty` it is made anew, as by `leased`; without, it must be there and is left as it is. The lease's
    file stays beside it and says that a runner made it.

    Raises:
        InputMissingError: it is not there.
        TransientError: a live runner holds it.
        TransferIOError: it was to be made anew and is not ours, or it can't be made.
    """
    workdir = _work_dir(root)
    try:
        if empty:
            root.parent.mkdir(parents=True, exist_ok=True)
        elif root.is_symlink() or not root.is_dir():
            raise InputMissingError(f"there is no work directory {root}; stage-in makes it")
        lock = _lease(workdir, empty=empty)
        if empty:
            make_directory(root)
    except _HeldError as error:
        raise TransientError(f"{error}; wait for its end, or choose another --work-dir") from error
    except _NotOursError as error:
        raise TransferIOError(f"{error}; remove it, or choose another --work-dir") from error
    except OSError as error:
        raise TransferIOError(
            f"can't make the work directory {root}: {error.strerror}; choose another with --work-dir"
        ) from error
    lease = Lease(workdir)
    try:
        with _signs_of_life(lock):
            yield lease
    finally:
        _end(lease, lock, to_be_leased_again=True)


@dataclass(slots=True)
class Abandoned:
    """What a dead runner left, ours to remove."""

    workdir: WorkDir
    _lock: int

    def remove(self, stopped: threading.Event) -> OSError | None:
        """Remove the directory, but for journals of uploads that are still open, and give it up. Blocking.

        Returns the first reason why something else is left; the next sweep that tries again is a long one off.
        """
        errors: list[OSError] = []
        try:
            os.utime(self._lock)
            for path in (self.workdir.root, self.workdir.resumable_inputs):
                if os.path.lexists(path):
                    remove_tree(path, lambda _path, error: errors.append(error), stopped)
            _sweep(self.workdir)
            if not (errors or stopped.is_set() or _has_any(self.workdir.resumable_outputs)):
                shutil.rmtree(self.workdir.staging)
        except OSError as error:
            errors.append(error)
        finally:
            self.give_up()
        return errors[0] if errors else None

    def give_up(self) -> None:
        """Leave it as it is, to a later sweep."""
        os.close(self._lock)


def abandoned(work_dir: Path, quiet_seconds: float) -> Iterator[Abandoned]:
    """What dead runners left in `work_dir` and have shown no sign of life in for `quiet_seconds`.

    Each one that comes is ours from then on, to be removed or given up. Raises OSError where `work_dir` can't be
    read.
    """
    with os.scandir(work_dir) as entries:
        names = sorted(entry.name for entry in entries if entry.name.startswith("."))
    for name in names:
        if name[1:2] not in ("", "."):  # no task's id begins with a dot
            workdir = _work_dir(work_dir / name[1:])
            lock = _taken_over(workdir, quiet_seconds)
            if lock is not None:
                yield Abandoned(workdir, lock)


def _taken_over(workdir: WorkDir, quiet_seconds: float) -> int | None:
    """The lease, locked, of what a dead runner left; None where that is not so, or not for so long."""

    def is_abandoned(lease: os.stat_result) -> bool:
        on_purpose = lease.st_size == 0 and os.path.lexists(workdir.root)
        return not on_purpose and time.time() - lease.st_mtime >= quiet_seconds

    try:
        _require_own(workdir.staging)
        # Looked at before it is locked: for somebody who wants it now, no lock of ours may be in the way.
        if not is_abandoned((workdir.staging / _LEASE).lstat()):
            return None
        lock = _locked(workdir, 0)
    except (_NotOursError, OSError):
        return None
    if is_abandoned(os.fstat(lock)):
        return lock
    os.close(lock)
    return None


class _NotOursError(Exception):
    """The directories are somebody else's."""


class _HeldError(_NotOursError):
    """They are a live runner's."""


def _lease(candidate: WorkDir, *, empty: bool) -> int:
    """The lease's open file; with `empty` nothing is left of what was there, but for what can be gone on with.

    A task's id is a stranger's word, and `--work-dir` may hold anything. So what is there already is ours to
    clear only if the lease file says that a runner made it, and only if no live one holds it.

    Raises _NotOursError, with the reason.
    """
    if candidate.staging.is_symlink():
        raise _NotOursError(f"{candidate.staging} is a link")
    try:
        candidate.staging.mkdir(mode=0o700)
        flags = os.O_CREAT | os.O_EXCL
    except FileExistsError:
        flags = 0
        _require_own(candidate.staging)
    if empty and flags and os.path.lexists(candidate.root):
        candidate.staging.rmdir()
        raise _NotOursError(f"{candidate.root} is there already, and no runner holds or has left it")
    lease = _locked(candidate, flags)
    if empty and not _cleared(candidate.root):
        os.close(lease)
        raise _NotOursError(f"what is left in {candidate.root} is not ours to remove")
    if empty:
        os.pwrite(lease, _AT_WORK, 0)
    _sweep(candidate)
    return lease


def _require_own(staging: Path) -> None:
    """What is in there is trusted as far as only we could have put it there. Raises _NotOursError."""
    status = staging.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise _NotOursError(f"{staging} is somebody else's, or open to others")


def _locked(candidate: WorkDir, flags: int) -> int:
    """The lease's file, locked. Raises _NotOursError."""
    try:
        lease = os.open(
            candidate.staging / _LEASE,
            os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags,
            0o600,
        )
    except OSError as error:
        raise _NotOursError(f"{candidate.staging} was made by no runner") from error
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lease)
        raise _HeldError(f"another runner is at work in {candidate.root}") from error
    # The former owner may have removed the file between our open and our lock.
    status = os.fstat(lease)
    if not (is_regular(status.st_mode) and status.st_nlink):
        os.close(lease)
        raise _NotOursError(f"{candidate.staging} was made by no runner, or is being removed")
    return lease


def _cleared(root: Path) -> bool:
    """Whether nothing is left of an earlier run; what root made there only root can remove."""
    if os.path.lexists(root):
        remove_tree(root, lambda _path, _error: None)
    return not os.path.lexists(root)


def make_directory(path: Path) -> None:
    """Make a directory (and its parents) that any user in a container may use as Funnel's: mode 0775."""
    for parent in [*reversed(path.parents), path]:
        try:
            parent.mkdir()
        except FileExistsError:
            continue
        parent.chmod(0o775)


def remove_tree(
    path: Path, on_error: Callable[[str, OSError], None], stopped: threading.Event | None = None
) -> None:
    """Remove a directory and everything in it, never following a link. What can't be is told and left.

    Whatever else `path` is (a link, a file) is removed itself. Leaves off once `stopped` is set.

    An executor may have nested directories deeper than a path can name, so none is entered below the first
    level: a directory inside another is moved up before it is emptied. Directories closed even to their owner
    (mode 0555, 000) are opened first.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    todo = [(path, str(path))]
    emptied: list[tuple[Path, str]] = []
    while todo and not (stopped is not None and stopped.is_set()):
        here, known_as = todo.pop()
        emptied.append((here, known_as))
        try:
            todo.extend(_empty(here, known_as, path, on_error))
        except OSError as error:
            on_error(known_as, error)
    for directory, known_as in reversed(emptied):
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # what is left in it was told already
                on_error(known_as, error)


def _empty(
    here: Path, known_as: str, top: Path, on_error: Callable[[str, OSError], None]
) -> Iterator[tuple[Path, str]]:
    """Remove the files in a directory; yields its directories, moved up, and what they were called."""
    with suppress(OSError):
        here.chmod(0o700)
    for entry in list(os.scandir(here)):
        name = f"{known_as}/{entry.name}"
        try:
            if entry.is_dir(follow_symlinks=False):
                yield _moved_up(Path(entry.path), here, top), name
            else:
                Path(entry.path).unlink()
        except OSError as error:
            on_error(name, error)


def _moved_up(directory: Path, parent: Path, top: Path) -> Path:
    """`directory`, moved from `parent` to the first level below `top`, unless it is there already."""
    if parent == top:
        return directory
    with suppress(OSError):
        directory.chmod(0o700)  # only a directory that may be written to can get another parent
    moved = top / f".{secrets.token_hex(8)}"
    directory.rename(moved)
    return moved


def is_only_ours(status: os.stat_result) -> bool:
    """Whether a file is an ordinary one of ours without another name, under which somebody might value it."""
    return is_regular(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()


def is_regular(mode: int) -> bool:
    """Whether a stat mode is an ordinary file's: pipes, sockets and devices must never be opened here."""
    return stat.S_ISREG(mode)
