"""An image with the runner in it, made on the spot of this machine's own Python, since there may be no registry.

Three images, each on top of the one before, so that a change of the code costs one thin layer:

base       the running interpreter and its library under /usr/local, shared libraries, CA certificates, busybox
packages   what taskrunner needs at run time, of the running environment, in /opt/taskrunner
runner     the package `taskrunner` beside them, and the entry point

`python -m scripts.runner_image NAME` gives the engine a base, to build other images on; the tests make all three.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import ssl
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from scripts.busybox_image import add_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
PYTHON = "/usr/local/bin/python3"
HOME = "/opt/taskrunner"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE_CHANGES = (f"ENV PATH=/usr/local/bin:/usr/bin:/bin SSL_CERT_FILE={CERTIFICATES}",)
RUNNER_CHANGES = (f"ENV PYTHONPATH={HOME}", f'ENTRYPOINT ["{PYTHON}", "-m", "taskrunner"]')

_ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}
_LEFT_OUT_DIRECTORIES = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|ensurepip|site-packages|dist-packages|config-.*"
)
_LEFT_OUT_FILES = re.compile(r".*\.(a|exe|opt-[12]\.pyc|pyc\.\d+)|_tkinter\..*")
# The C library opens these itself, so ldd does not name them.
_WITHOUT_LIBRARIES = ("not a dynamic executable", "statically linked")
_OPENED_LATER = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")


@dataclass(frozen=True, slots=True)
class Layer:
    """Files by their path in the image (without the leading slash): where they are here, or what is in them."""

    files: Mapping[str, Path | bytes]

    def digest(self) -> str:
        """The same for the same content; compiled code does not count, as it comes and goes with its source."""
        content = hashlib.sha256()
        for name, file in self.files.items():
            if not name.endswith(".pyc"):
                data = _bytes(file)
                content.update(f"{name}\0{len(data)}\0".encode() + data)
        return content.hexdigest()

    def add_to(self, tar: tarfile.TarFile, below: str = "") -> None:
        """Put everything into a tar, parents first and open to everybody, owned by root."""
        made: set[str] = set(tar.getnames())
        for name, file in self.files.items():
            for directory in reversed(PurePosixPath(below, name).parents):
                if str(directory) not in made and str(directory) != ".":
                    made.add(str(directory))
                    entry = tarfile.TarInfo(str(directory))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(entry)
            _add(tar, f"{below}{name}", file)


def base() -> Layer:
    """Python and what it needs; no package beside its own library."""
    interpreter = Path(sys.executable).resolve()
    version = f"python3.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    python: dict[str, Path | bytes] = {PYTHON.lstrip("/"): interpreter}
    for path in _below(library):
        python[f"usr/local/lib/{version}/{path.relative_to(library)}"] = path
    programs = [path for path in python.values() if isinstance(path, Path) and _is_program(path)]
    return Layer({**_ACCOUNTS, **python, **shared_libraries([interpreter, *programs]), **_certificates()})


def packages() -> Layer:
    """Everything that `pyproject.toml` names as needed at run time, and what that needs in turn."""
    files: dict[str, Path | bytes] = {}
    for found in _needed_distributions():
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if ".." not in file.parts and path.is_file():
                files[f"{HOME}/{file}".lstrip("/")] = path
    own = {path for path in files.values() if isinstance(path, Path)}
    shared = shared_libraries([path for path in own if _is_program(path)])
    return Layer({**files, **{name: path for name, path in shared.items() if path not in own}})


def runner() -> Layer:
    """The package `taskrunner` of this checkout."""
    return Layer(
        {f"{HOME}/{path.relative_to(ROOT)}".lstrip("/"): path for path in _below(ROOT / "taskrunner")}
    )


def packed_base(layer: Layer) -> bytes:
    """A base as the tar of a root file system, with busybox."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add_root(tar)
        layer.add_to(tar)
    return archive.getvalue()


def build_context(layer: Layer, below: str, changes: Iterable[str]) -> bytes:
    """What `docker build` takes, as a tar: a layer on top of the image `below`, and its instructions."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "Dockerfile", "\n".join([f"FROM {below}", "COPY root/ /", *changes]).encode())
        layer.add_to(tar, "root/")
    return archive.getvalue()


def _below(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            if not _LEFT_OUT_DIRECTORIES.fullmatch(path.name):
                yield from _below(path)
        elif not _LEFT_OUT_FILES.fullmatch(path.name):
            yield path


def _is_program(path: Path) -> bool:
    return ".so" in path.suffixes


def shared_libraries(programs: Iterable[Path]) -> dict[str, Path | bytes]:
    """The shared libraries of programs, where the loader looks for them: at the very same paths."""
    command = ["ldd", *map(str, programs)]
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    _require_understood(told)
    libraries = {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", told.stdout, re.MULTILINE)}
    beside_libc = [path.parent for path in libraries if path.name == "libc.so.6"]
    later = (directory / name for directory in beside_libc for name in _OPENED_LATER)
    libraries.update(path for path in later if path.exists())
    return {str(path).lstrip("/"): path for path in sorted(libraries)}


def _require_understood(told: subprocess.CompletedProcess[str]) -> None:
    """Programs without shared libraries are fine, although ldd calls them a failure; what else it says is one."""
    complaints = [line for line in told.stderr.splitlines() if line.strip() not in _WITHOUT_LIBRARIES]
    if told.returncode and (complaints or not told.stderr):
        raise RuntimeError(f"ldd ended with {told.returncode}: {'; '.join(complaints) or 'it says nothing'}")


def _certificates() -> dict[str, Path | bytes]:
    known = (Path(CERTIFICATES), Path(ssl.get_default_verify_paths().cafile or CERTIFICATES))
    return {CERTIFICATES.lstrip("/"): path for path in known if path.exists()}


def _needed_distributions() -> list[Distribution]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    waiting = [Requirement(text) for text in project["dependencies"]]
    while waiting:
        wanted = waiting.pop()
        key = (wanted.name, frozenset(wanted.extras))
        if key not in found:
            found[key] = distribution(wanted.name)
            further = (Requirement(text) for text in found[key].requires or ())
            waiting += [one for one in further if _applies(one, wanted.extras)]
    return [found[key] for key in sorted(found, key=str)]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _bytes(file: Path | bytes) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()


def _add(tar: tarfile.TarFile, name: str, file: Path | bytes) -> None:
    data = _bytes(file)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    if isinstance(file, Path):
        # Compiled code is told from stale by its source's time.
        entry.mtime = int(file.stat().st_mtime)
        entry.mode = 0o755 if file.stat().st_mode & 0o111 else 0o644
    tar.addfile(entry, io.BytesIO(data))


def main() -> None:
    """Give the engine a base image, named as the command line says."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.runner_image NAME")
    name = sys.argv[1]
    command = [
        "docker",
        "import",
        *(word for change in BASE_CHANGES for word in ("--change", change)),
        "-",
        name,
    ]
    subprocess.run(command, input=packed_base(base()), check=True)


if __name__ == "__main__":
    main()
