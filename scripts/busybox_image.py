"""An image made on the spot of Debian's static busybox, since there may be no registry.

`packed` is the root file system as a tar, always the same for the same busybox; `imported` gives it to the
engine by `docker import` for as long as a block runs. The demo, the benchmarks and the tests share it.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSYBOX = Path("/bin/busybox")
ENVIRONMENT = "ENV PATH=/bin:/usr/bin"
_DIRECTORIES = ("bin", "usr/bin", "tmp", "dev", "proc", "sys", "etc")


def packed() -> bytes:
    """The tar: busybox, its applets as links, `/tmp` for everybody."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add_root(tar)
    return archive.getvalue()


def add_root(tar: tarfile.TarFile) -> None:
    """Put the whole root file system into a tar."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in _DIRECTORIES:
        directory = tarfile.TarInfo(name)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(directory)
    add_program(tar, "bin/busybox")
    for applet in applets:
        if applet != "busybox":
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
            tar.addfile(link)


def add_program(tar: tarfile.TarFile, name: str) -> None:
    """Put busybox itself into a tar, as `name`."""
    program = BUSYBOX.read_bytes()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(program), 0o755
    tar.addfile(entry, io.BytesIO(program))


@contextmanager
def imported(image: str) -> Iterator[None]:
    """The image, named `image`, in the engine while the block runs."""
    command = ["docker", "import", "--change", ENVIRONMENT, "-", image]
    subprocess.run(command, input=packed(), check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run(["docker", "rmi", image], check=False, stdout=subprocess.DEVNULL)
