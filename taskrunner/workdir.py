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

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import stat
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskrunner.errors import InputMissingError, TransferIOError, TransientError
from taskrunner.shielded import in_daemon_thread, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

_LEASE = "taskrunner-lease"
_AT_WORK = b"a runner is, or died, at work here\n"
_SIGN_SECONDS = 60.0
_END_SECONDS = 3.0
"""How long the end of a lease may take when the task was cancelled."""
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


@asynccontextmanager
async def held(holding: AbstractContextManager[Lease]) -> AsyncIterator[Lease]:
    """The lease that `leased` or `reserved` gives, held by a thread: what these remove may take long.

    When cancelled while it is waited for, the thread goes on, and gives the lease up when it has it; what it
    made is then to be swept. Raises what they do.
    """
    entered: Future[Lease] = Future()
    ended: Future[None] = Future()
    over = threading.Event()

    def hold() -> None:
        with ExitStack() as stack:

            def enter() -> Lease:
                lease = stack.enter_context(holding)
                lease.stays = False  # until somebody has it
                return lease

            settle(entered, enter)
            over.wait()

    threading.Thread(target=settle, args=(ended, hold), name="lease", daemon=True).start()
    try:
        lease = await asyncio.wrap_future(entered)
    except BaseException:
        over.set()
        raise
    lease.stays = True
    try:
        yield lease
    finally:
        over.set()
        # What is not done by then, a later run's sweep does.
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await in_daemon_thread(ended.result, name="end of the lease")


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
    try:
        _sweep(workdir)
        is_there = os.path.lexists(workdir.root)
        if is_there and lease.stays:
            os.ftruncate(lock, 0)
        told_apart = is_there and (to_be_leased_again or not lease.stays)
        if not (told_apart or _has_any(workdir.resumable_inputs) or _has_any(workdir.resumable_outputs)):
            shutil.rmtree(workdir.staging, ignore_errors=True)
    except OSError:
        pass  # the task's verdict stands; a later run's sweep will tell what is wrong here
    finally:
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
    has_uploads: bool
    """Whether there are journals of uploads that may still be open."""
    _lock: int

    def remove(self, stopped: threading.Event) -> bool:
        """Remove the directory, but for journals of uploads that are still open, and give it up. Blocking.

        Returns whether all of it is gone. Raises the first OSError for which something else is left; the next
        sweep that tries again is a long one off. Where this one was stopped, any may go on.
        """
        errors: list[OSError] = []
        try:
            died = os.fstat(self._lock)
            os.utime(self._lock)
            for path in (self.workdir.root, self.workdir.resumable_inputs):
                if os.path.lexists(path):
                    remove_tree(path, lambda _path, error: errors.append(error), stopped)
            _sweep(self.workdir)
            if stopped.is_set():
                os.utime(self._lock, ns=(died.st_atime_ns, died.st_mtime_ns))
            elif not (errors or _has_any(self.workdir.resumable_outputs)):
                shutil.rmtree(self.workdir.staging)
        finally:
            self.give_up()
        if errors:
            raise errors[0]
        return not os.path.lexists(self.workdir.staging)

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
                yield Abandoned(workdir, _has_any(workdir.resumable_outputs), lock)


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

    Whatever else `path` is (a link, a file) is removed itself. Leaves off once `stopped` is set. The directory
    that `path` is in must be ours alone; below it an executor may still be at work, and put a link where a
    directory was just seen. So everything is done relative to open directories, which no link can exchange.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    try:
        top = _opened(path)
    except OSError as error:
        on_error(str(path), error)
        return
    removal = _Removal(top, on_error, stopped or threading.Event())
    try:
        removal.empty(_Directory(str(path), ".", None))
    finally:
        os.close(top)
    try:
        path.rmdir()
    except OSError as error:
        if not (error.errno == errno.ENOTEMPTY and (removal.has_told or removal.stopped.is_set())):
            on_error(str(path), error)


@dataclass(frozen=True, slots=True)
class _Directory:
    """One that is to be removed."""

    name: str
    """What it was called in its parent."""
    place: str
    """Where it is now, below the first."""
    parent: _Directory | None

    def __str__(self) -> str:
        names = []
        here: _Directory | None = self
        while here is not None:
            names.append(here.name)
            here = here.parent
        return "/".join(reversed(names))


@dataclass(slots=True)
class _Removal:
    """The removal of a tree that an executor may have nested deeper than a path can name, or files be open.

    So no directory is entered below the first level: one inside another is moved up before it is emptied, and a
    directory has none left when it is to go.
    """

    _top: int
    _on_error: Callable[[str, OSError], None]
    stopped: threading.Event
    has_told: bool = False

    def empty(self, top: _Directory) -> None:
        todo = [top]
        while todo and not self.stopped.is_set():
            here = todo.pop()
            try:
                todo.extend(self._entries(here))
                if here is not top:
                    os.rmdir(here.place, dir_fd=self._top)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # what is left in it was told, or nobody wants to know
                    self._tell(str(here), error)

    def _entries(self, here: _Directory) -> list[_Directory]:
        """Remove a directory's files; returns its directories, which are not in it any more."""
        descriptor = _opened(here.place, self._top)
        found = []
        try:
            with os.scandir(descriptor) as entries:
                present = list(entries)
            for entry in present:
                if self.stopped.is_set():
                    break
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=descriptor)
                    elif not _removed_empty(entry.name, descriptor):
                        place = self._moved_up(entry.name, descriptor, is_up=here.parent is None)
                        found.append(_Directory(entry.name, place, here))
                except OSError as error:
                    self._tell(f"{here}/{entry.name}", error)
        finally:
            os.close(descriptor)
        return found

    def _moved_up(self, name: str, parent: int, *, is_up: bool) -> str:
        if is_up:
            return name
        # Only a directory that may be written to can get another parent.
        os.close(_opened(name, parent))
        place = f".{secrets.token_hex(8)}"
        os.rename(name, place, src_dir_fd=parent, dst_dir_fd=self._top)
        return place

    def _tell(self, path: str, error: OSError) -> None:
        self.has_told = True
        self._on_error(path, error)


def _removed_empty(name: str, parent: int) -> bool:
    """Remove a directory if it is empty. Raises OSError where something is mounted there, empty or not."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _opened(directory: Path | str, parent: int | None = None) -> int:
    """A directory's descriptor, never that of what a link leads to. One closed to its owner is opened up."""
    seen = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        with suppress(OSError):  # somebody else's; whether that matters shows
            os.chmod(f"/proc/self/fd/{seen}", 0o700)  # noqa: PTH101  # fchmod takes none that only names a file
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=seen)
    finally:
        os.close(seen)


def is_only_ours(status: os.stat_result) -> bool:
    """Whether a file is an ordinary one of ours without another name, under which somebody might value it."""
    return is_regular(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()


def is_regular(mode: int) -> bool:
    """Whether a stat mode is an ordinary file's: pipes, sockets and devices must never be opened here."""
    return stat.S_ISREG(mode)
