"""The image that tests run the runner in: this machine's Python in another place, with nothing missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.busybox_image import BUSYBOX
from scripts.runner_image import main, shared_libraries
from taskrunner import __version__

_LIBRARIES = """\
import asyncio, bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl, sys, zlib
print(sys.prefix, *sys.version_info[:3], bool(ssl.create_default_context().get_ca_certs()))
"""


def docker_run(*words: str) -> str:
    command = ["docker", "run", "--rm", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_image_runs_this_checkout(runner_image: str) -> None:
    assert __version__ in docker_run(runner_image, "--version")


def test_its_python_is_ours_and_whole_for_any_user(runner_image: str) -> None:
    entry = ["--user", "1234:1234", "--entrypoint", "/usr/local/bin/python3", runner_image]
    version = " ".join(map(str, sys.version_info[:3]))
    assert docker_run(*entry, "-c", _LIBRARIES) == f"/usr/local {version} True\n"


def test_it_has_a_shell_and_its_tools(runner_image: str) -> None:
    entry = ["--entrypoint", "/bin/sh", runner_image]
    assert (
        docker_run(*entry, "-c", "echo one | md5sum; test -w /tmp") == "5bbf5a52328e7439ae6e719dfe712200  -\n"
    )


def test_a_program_without_shared_libraries_is_none_that_failed() -> None:
    assert (
        shared_libraries([BUSYBOX, Path(sys.executable)]).keys()
        >= shared_libraries([Path(sys.executable)]).keys()
    )


def test_libraries_that_can_not_be_told_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ldd ended with 1: .*No such file"):
        shared_libraries([BUSYBOX, tmp_path / "missing"])


def test_who_names_no_image_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["runner_image"])
    with pytest.raises(SystemExit, match="NAME"):
        main()
