"""Local files: only where the operator allows, whatever links say; and whole or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
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
from taskrunner.storage.local import LocalStore
from taskrunner.storage.network import Network
from taskrunner.storage.slices import FileSlice
from taskrunner.storage.wire import Connections
from tests.storage.moving import cut, put, read_whole, received


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


async def names(store: LocalStore, path: Path) -> list[str]:
    return [found.name async for found in store.list_directory(str(path))]


def entries(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


# --- what may be reached


@pytest.mark.parametrize(
    "url", ["{}/secret", "file://{}/secret", "{}/allowed/../secret", "{}/allowed-too", "/"]
)
async def test_nothing_outside_the_allowed_directories_is_reached(
    store: LocalStore, secret: Path, tmp_path: Path, url: str
) -> None:
    (tmp_path / "allowed-too").write_bytes(b"a look-alike")
    url = url.format(tmp_path)

    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        await store.check(url)
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        await store.stat(url)
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        await store.begin_upload(url, cut(1, 1))


async def test_nothing_is_allowed_unless_told(secret: Path) -> None:
    with pytest.raises(AccessDeniedError, match="--allow-dir"):
        await LocalStore([]).stat(str(secret))


async def test_a_link_out_is_not_followed(
    store: LocalStore, allowed: Path, secret: Path, tmp_path: Path
) -> None:
    (allowed / "link").symlink_to(secret)
    (allowed / "up").symlink_to(tmp_path)

    for path in (allowed / "link", allowed / "up" / "secret"):
        with pytest.raises(AccessDeniedError):
            await store.stat(str(path))
    with pytest.raises(AccessDeniedError):
        await store.begin_upload(str(allowed / "up" / "new"), cut(1, 1))
    with pytest.raises(AccessDeniedError):
        await names(store, allowed)


async def test_a_link_within_is_followed(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "file").write_bytes(b"content")
    (allowed / "link").symlink_to("dir/file")
    (allowed / "other").symlink_to(allowed / "dir")

    found = await store.stat(str(allowed / "link"))

    assert found.location == str(allowed / "dir" / "file")
    assert await read_whole(store, found, tmp_path) == b"content"
    assert await names(store, allowed) == ["dir/file", "link", "other/file"]


async def test_an_allowed_directory_may_itself_be_a_link(allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"content")
    (tmp_path / "alias").symlink_to(allowed)
    store = LocalStore([tmp_path / "alias"])

    assert (await store.stat(str(allowed / "file"))).size_bytes == 7
    assert (await store.stat(str(tmp_path / "alias" / "file"))).size_bytes == 7


async def test_a_link_put_there_after_the_look_leads_nowhere(
    store: LocalStore, allowed: Path, secret: Path, tmp_path: Path
) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "secret").write_bytes(b"public")
    found = await store.stat(str(allowed / "dir" / "secret"))
    reading = await store.read(found, 0, 6)
    (allowed / "dir").rename(allowed / "was-dir")
    (allowed / "dir").symlink_to(tmp_path)

    with pytest.raises(AccessDeniedError):
        await received(reading, tmp_path / "part")


async def test_circles_of_links_end(store: LocalStore, allowed: Path) -> None:
    (allowed / "dir").mkdir()
    (allowed / "dir" / "again").symlink_to(allowed / "dir")
    with pytest.raises(TransferIOError, match="link to a directory that it is in"):
        await names(store, allowed)

    (allowed / "a").symlink_to("b")
    (allowed / "b").symlink_to("a")
    with pytest.raises((InputMissingError, AccessDeniedError)):
        await store.stat(str(allowed / "a"))


async def test_only_files_are_read(store: LocalStore, allowed: Path) -> None:
    os.mkfifo(allowed / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(allowed / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(TransferIOError, match="not a file"):
                await store.stat(str(allowed / name))
    with pytest.raises(TransferIOError, match="not a file"):
        await names(store, allowed)
    with pytest.raises(InputMissingError, match="is a directory"):
        await store.stat(str(allowed))


async def test_a_directory_that_is_not_there_is_missing(store: LocalStore, allowed: Path) -> None:
    with pytest.raises(InputMissingError, match="nothing"):
        await names(store, allowed / "nothing")


@pytest.mark.parametrize("url", ["file://host/path", "/a\0b"])
async def test_what_is_no_path_is_said_to_be_none(store: LocalStore, url: str) -> None:
    with pytest.raises(UsageError):
        await store.stat(url)


# --- what is written


async def test_missing_directories_are_made(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    await put(store, f"file://{allowed}/a/b/c", b"content", tmp_path)

    assert (allowed / "a" / "b" / "c").read_bytes() == b"content"


async def test_new_files_have_the_customary_mode(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    await put(store, str(allowed / "new"), b"", tmp_path)
    (tmp_path / "customary").touch()

    assert (allowed / "new").stat().st_mode == (tmp_path / "customary").stat().st_mode


async def test_a_link_is_written_where_it_leads(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "real").write_bytes(b"old")
    (allowed / "link").symlink_to("real")

    await put(store, str(allowed / "link"), b"new", tmp_path)

    assert (allowed / "real").read_bytes() == b"new"
    assert (allowed / "link").is_symlink()


@pytest.mark.parametrize("name", ["", "/", "dir", "dir/", "new/"])
async def test_a_directory_is_never_written_as_a_file(store: LocalStore, allowed: Path, name: str) -> None:
    (allowed / "dir").mkdir()

    with pytest.raises(OutputFailedError, match="is a directory"):
        await store.begin_upload(f"{allowed}/{name}" if name else str(allowed), cut(1, 1))


async def test_a_file_in_the_way_of_a_directory_is_told(store: LocalStore, allowed: Path) -> None:
    (allowed / "file").touch()

    with pytest.raises(OutputFailedError, match="file/below can't be written"):
        await store.begin_upload(f"{allowed}/file/below", cut(1, 1))


async def test_a_file_whose_parts_are_not_all_there_is_not_shown(store: LocalStore, allowed: Path) -> None:
    upload = await store.begin_upload(str(allowed / "file"), cut(10, 5))

    with pytest.raises(TransferIOError, match="wrote 0 bytes where 10"):
        await upload.complete(["", ""])
    await upload.abort()

    assert entries(allowed) == []


async def test_an_upload_cancelled_while_it_begins_leaves_nothing(store: LocalStore, allowed: Path) -> None:
    beginning = asyncio.create_task(store.begin_upload(str(allowed / "file"), cut(10, 5)))
    await asyncio.sleep(0)
    beginning.cancel()

    with pytest.raises(asyncio.CancelledError):
        await beginning

    assert entries(allowed) == []


async def test_an_upload_cancelled_while_it_completes_is_whole_and_closed_once(
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

    upload = await store.begin_upload(str(allowed / "file"), cut(0, 5))
    monkeypatch.setattr(Path, "rename", slow_rename)
    monkeypatch.setattr(os, "close", noting_close)
    completing = asyncio.create_task(upload.complete([""]))
    await asyncio.to_thread(renaming.wait)
    completing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await completing
    aborting = asyncio.create_task(upload.abort())
    await asyncio.wait([aborting], timeout=0.2)  # as far as it gets
    may_go_on.set()
    await aborting

    assert entries(allowed) == ["file"]
    assert closed.count(upload.fd) == 1


async def test_files_are_copied_where_the_kernel_can_not(
    store: LocalStore, allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", unable)
    content = os.urandom(20 * 1024 * 1024 + 1)

    await put(store, str(allowed / "file"), content, tmp_path, 8 * 1024 * 1024)

    found = await store.stat(str(allowed / "file"))
    assert await read_whole(store, found, tmp_path) == content


async def test_a_file_that_shrinks_is_an_error(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"x" * 100)
    found = await store.stat(str(allowed / "file"))
    (allowed / "file").write_bytes(b"x" * 50)

    with pytest.raises(TransferIOError, match="changed"):
        await read_whole(store, found, tmp_path)


async def test_a_stopped_lane_copies_no_further(store: LocalStore, allowed: Path, tmp_path: Path) -> None:
    (allowed / "file").write_bytes(b"x" * 100)
    reading = await store.read(await store.stat(str(allowed / "file")), 0, 100)
    connections = Connections(Network())
    connections.abort()
    with (tmp_path / "target").open("wb") as target, pytest.raises(TransientError, match="stopped"):
        reading.run(connections, FileSlice(target.fileno(), 0, 100))
