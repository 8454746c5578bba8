"""Local files: only where the operator allows, whatever links say; and whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.storage.checksums import Algorithm
from taskrunner.storage.local import LocalStore, LocalUpload
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.store import Receipt
from tests.storage.moving import (
    abort,
    begin,
    check,
    complete,
    cut,
    lane,
    listed,
    opened,
    put,
    read_whole,
    received,
    send,
    stat,
)


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "allowed"
    directory.mkdir()
    return directory


@pytest.fixture
def store(allowed: Path) -> LocalStore:
    return LocalStore([allowed])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


def names(store: LocalStore, path: Path) -> list[str]:
    return [found.name for found in listed(store, str(path))]


def entries(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


# --- what may be reached


@pytest.mark.parametrize(
    "url", ["{}/secret", "file://{}/secret", "{}/allowed/../secret", "{}/allowed-too", "/"]
)
def test_nothing_outside_the_allowed_directories_is_reached(
    store: LocalStore, secret: Path, tmp_path: Path, url: str
) -> None:
    (tmp_path / "allowed-too").write_bytes(b"a look-alike")
    url = url.format(tmp_path)

    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        check(store, url)
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        stat(store, url)
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        begin(store, url, cut(1, 1))


def test_nothing_is_allowed_unless_told(secret: Path) -> None:
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        stat(LocalStore([]), str(secret))


def test_a_link_out_is_not_followed(store: LocalStore, allowed: Path, secret: Path, tmp_path: Path) -> None:
    (allowed / "link").symlink_to(secret)
    (allowed / "up").symlink_to(tmp_path)

    for path in (allowed / "link", allowed / "up" / "secret"):
        with pytest.raises(AccessDeniedError):
            stat(store, str(path))
    with pytest.raises(AccessDeniedError):
        begin(store, str(allowed / "up" / "new"), cut(1, 1))
    with pytest.raises(AccessDeniedError):
        names(store, allowed)


def test_a_link_within_is_followed(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "file").write_bytes(b"content")
    (allowed / "link").symlink_to("dir/file")
    (allowed / "other").symlink_to(allowed / "dir")

    found = stat(store, str(allowed / "link"))

    assert found.location == str(allowed / "dir" / "file")
    assert read_whole(store, found, tmp_path) == b"content"
    assert names(store, allowed) == ["dir/file", "link", "other/file"]


def test_an_allowed_directory_may_itself_be_a_link(allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"content")
    (tmp_path / "alias").symlink_to(allowed)
    store = LocalStore([tmp_path / "alias"])

    assert (stat(store, str(allowed / "file"))).size_bytes == 7
    assert (stat(store, str(tmp_path / "alias" / "file"))).size_bytes == 7


def test_a_link_put_there_after_the_look_leads_nowhere(
    store: LocalStore, allowed: Path, secret: Path, tmp_path: Path
) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "secret").write_bytes(b"public")
    found = stat(store, str(allowed / "dir" / "secret"))
    (allowed / "dir").rename(allowed / "was-dir")
    (allowed / "dir").symlink_to(tmp_path)

    with pytest.raises(AccessDeniedError):
        received(store, found, tmp_path / "part", 0, 6)


def test_circles_of_links_end(store: LocalStore, allowed: Path) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "again").symlink_to(allowed / "dir")
    with pytest.raises(TransferIOError, match="link to a directory that it is in"):
        names(store, allowed)

    (allowed / "a").symlink_to("b")
    (allowed / "b").symlink_to("a")
    with pytest.raises((InputMissingError, AccessDeniedError)):
        stat(store, str(allowed / "a"))


def test_only_files_are_read(store: LocalStore, allowed: Path) -> None:
    os.mkfifo(allowed / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(TransferIOError, match="not a file"):
                stat(store, str(allowed / name))
    with pytest.raises(TransferIOError, match="not a file"):
        names(store, allowed)
    with pytest.raises(InputMissingError, match="is a directory"):
        stat(store, str(allowed))


def test_a_directory_that_is_not_there_is_missing(store: LocalStore, allowed: Path) -> None:
    with pytest.raises(InputMissingError, match="nothing"):
        names(store, allowed / "nothing")


@pytest.mark.parametrize("root", ["/", "file:///"])
def test_the_root_directory_is_listed_by_urls_that_lead_to_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    (tmp_path / "file").touch()
    scandir = os.scandir

    def on_the_way(directory: Path) -> list[os.DirEntry[str]]:
        """All but what is on the way to our file is the machine's own."""
        return [entry for entry in scandir(directory) if (tmp_path / "file").is_relative_to(entry.path)]

    monkeypatch.setattr(os, "scandir", on_the_way)
    (found,) = listed(LocalStore([Path("/")]), root)

    assert found.url == root.rstrip("/").replace("file:", "file://") + f"{tmp_path}/file"
    assert found.name == str(tmp_path / "file").lstrip("/")


@pytest.mark.parametrize("url", ["file://host/path", "/a\0b"])
def test_what_is_no_path_is_said_to_be_none(store: LocalStore, url: str) -> None:
    with pytest.raises(UsageError):
        stat(store, url)


# --- what is written


def test_missing_directories_are_made(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    put(store, f"file://{allowed}/a/b/c", b"content", tmp_path)

    assert (allowed / "a" / "b" / "c").read_bytes() == b"content"


def test_new_files_have_the_customary_mode(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    put(store, str(allowed / "new"), b"", tmp_path)
    (tmp_path / "customary").touch()

    assert (allowed / "new").stat().st_mode == (tmp_path / "customary").stat().st_mode


def test_a_link_is_written_where_it_leads(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "real").write_bytes(b"old")
    (allowed / "link").symlink_to("real")

    put(store, str(allowed / "link"), b"new", tmp_path)

    assert (allowed / "real").read_bytes() == b"new"
    assert (allowed / "link").is_symlink()


@pytest.mark.parametrize("name", ["", "/", "dir", "dir/", "new/"])
def test_a_directory_is_never_written_as_a_file(store: LocalStore, allowed: Path, name: str) -> None:
    (allowed / "dir").mkdir()

    with pytest.raises(OutputFailedError, match="is a directory"):
        begin(store, f"{allowed}/{name}" if name else str(allowed), cut(1, 1))


def test_a_file_in_the_way_of_a_directory_is_told(store: LocalStore, allowed: Path) -> None:
    (allowed / "file").touch()

    with pytest.raises(OutputFailedError, match="file/below can't be written"):
        begin(store, f"{allowed}/file/below", cut(1, 1))


def test_a_name_that_no_file_system_takes_is_told(store: LocalStore, allowed: Path) -> None:
    with pytest.raises(OutputFailedError, match="can't be written: File name too long"):
        begin(store, f"{allowed}/{'x' * 300}", cut(1, 1))
    with pytest.raises(TransferIOError, match="can't be read: File name too long"):
        stat(store, f"{allowed}/{'x' * 300}")


def test_a_place_that_may_not_be_looked_at_is_told(
    store: LocalStore, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(AccessDeniedError, match="can't be written: Permission denied"):
        begin(store, f"{allowed}/file", cut(1, 1))


def test_a_lane_that_gets_no_file_descriptor_says_so(
    store: LocalStore, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"x")
    upload = begin(store, str(allowed / "file"), cut(1, 1))

    def too_many(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", too_many)
    with pytest.raises(OutputFailedError, match="Too many open files"):
        send(upload, cut(1, 1), tmp_path / "source")
    abort(upload)


def test_a_file_whose_parts_are_not_all_there_is_not_shown(store: LocalStore, allowed: Path) -> None:
    upload = begin(store, str(allowed / "file"), cut(10, 5))

    with pytest.raises(TransferIOError, match="wrote 0 bytes where 10"):
        complete(upload, [Receipt(""), Receipt("")])
    abort(upload)

    assert entries(allowed) == []


def test_an_abort_waits_for_a_completion_and_takes_nothing_back(
    store: LocalStore, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renaming, may_go_on = threading.Event(), threading.Event()
    rename, close = Path.rename, os.close
    closed: list[int] = []

    def slow_rename(path: Path, target: Path) -> Path:
        renaming.set()
        may_go_on.wait(60)
        return rename(path, target)

    def noting_close(fd: int) -> None:
        closed.append(fd)
        close(fd)

    upload = begin(store, str(allowed / "file"), cut(0, 5))
    assert isinstance(upload, LocalUpload)
    monkeypatch.setattr(Path, "rename", slow_rename)
    monkeypatch.setattr(os, "close", noting_close)
    with ThreadPoolExecutor() as threads:
        completing = threads.submit(complete, upload, [Receipt("")])
        renaming.wait(60)
        aborting = threads.submit(abort, upload)
        may_go_on.set()
        completing.result(60)
        aborting.result(60)

    assert entries(allowed) == ["file"]
    assert closed.count(upload.fd) == 1


def test_an_abort_while_a_lane_writes_leaves_nothing_and_no_other_file_is_hit(
    store: LocalStore, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"new" * 1000)
    writing, may_go_on = threading.Event(), threading.Event()
    copy = os.copy_file_range

    def slow_copy(*args: int) -> int:
        writing.set()
        may_go_on.wait(60)
        return copy(*args)

    monkeypatch.setattr(os, "copy_file_range", slow_copy)
    upload = begin(store, str(allowed / "file"), cut(3000, 3000))
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(send, upload, cut(3000, 3000), tmp_path / "source")
        writing.wait(60)
        abort(upload)
        # As many as could take the number of the file that is closed now.
        bystanders = [os.open(tmp_path / f"{n}", os.O_RDWR | os.O_CREAT) for n in range(4)]
        may_go_on.set()
        sending.result(60)
    for fd in bystanders:
        os.close(fd)

    assert entries(allowed) == []
    assert [(tmp_path / f"{n}").read_bytes() for n in range(4)] == [b""] * 4
    with pytest.raises(TransferIOError, match="has ended"):
        send(upload, cut(3000, 3000), tmp_path / "source")
    with pytest.raises(TransferIOError, match="has ended"):
        complete(upload, [Receipt("")])


@pytest.mark.parametrize("kernel", [True, False])
def test_bytes_whose_checksum_is_wanted_are_seen(
    store: LocalStore, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """And those whose is not, never, where the kernel can copy."""
    content = os.urandom(3 * 1024 * 1024 + 1)
    (allowed / "file").write_bytes(content)
    if kernel:
        monkeypatch.setattr(os, "pread", None)
    else:
        monkeypatch.setattr(os, "copy_file_range", None)
    found = stat(store, str(allowed / "file"))
    with lane() as connections, opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        piece = FileSlice(fd, 1024, len(content) - 1024)
        if not kernel:
            piece.compute(Algorithm.SHA256)
        store.read(connections, found, piece)

    assert (tmp_path / "target").read_bytes()[1024:] == content[1024:]
    if piece.digest is not None:
        assert piece.digest.digest() == sha256(content[1024:]).digest()


def test_the_date_of_a_file_is_told(store: LocalStore, allowed: Path) -> None:
    (allowed / "file").touch()
    os.utime(allowed / "file", (0, 1234.5))

    assert stat(store, str(allowed / "file")).modified_seconds == 1234.5


def test_files_are_copied_where_the_kernel_can_not(
    store: LocalStore, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", unable)
    content = os.urandom(20 * 1024 * 1024 + 1)

    put(store, str(allowed / "file"), content, tmp_path, 8 * 1024 * 1024)

    found = stat(store, str(allowed / "file"))
    assert read_whole(store, found, tmp_path) == content


def test_a_file_that_shrinks_is_an_error(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"x" * 100)
    found = stat(store, str(allowed / "file"))
    (allowed / "file").write_bytes(b"x" * 50)

    with pytest.raises(TransferIOError, match="changed"):
        read_whole(store, found, tmp_path)


def test_a_stopped_lane_does_nothing_more(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"x" * 100)
    found = stat(store, str(allowed / "file"))
    with lane() as connections, opened(tmp_path / "target", os.O_RDWR | os.O_CREAT) as fd:
        connections.abort()
        for call in (
            lambda: store.read(connections, found, FileSlice(fd, 0, 100)),
            lambda: store.check(connections, found.url),
            lambda: store.stat(connections, found.url),
            lambda: list(store.list_directory(connections, str(allowed))),
            lambda: store.begin_upload(connections, f"{allowed}/new", cut(1, 1)),
        ):
            with pytest.raises(TransientError, match="stopped"):
                call()

    assert (entries(allowed), (tmp_path / "target").read_bytes()) == (["file"], b"")
