"""Times, sizes and the like as people write them: `1h30m`, `1.5GiB`, `nofile=1024:4096`.

Options and a task's backend parameters are read by the same words. Each function takes a text and returns the
value, or raises ValueError saying what was expected; who calls adds what it got, and where.
"""

from __future__ import annotations

import math
import re

from taskrunner.settings import Ulimit

_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_PLAIN_SECONDS = re.compile(_NUMBER)
_AMOUNT = re.compile(rf"({_NUMBER})([dhms])")
_DURATION = re.compile("".join(rf"(?:{_NUMBER}{unit})?" for unit in _UNIT_SECONDS) + r"(?<=[dhms])")
_MOST_SECONDS = 10 * 365 * 86400

_UNIT_BYTES = {"": 1, "b": 1}
_UNIT_BYTES |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNIT_BYTES |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([kmgt]i?b|b|)", re.IGNORECASE | re.ASCII)
_MOST_BYTES = 2**63

_ULIMIT = re.compile(r"([a-z]+)=(-1|[0-9]{1,18})(?::(-1|[0-9]{1,18}))?")
_ULIMIT_NAMES = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
    "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
"""Those that the engine knows (docker/go-units, ulimit.go)."""

_ONE_USER = r"(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,31})"
_USER = re.compile(rf"{_ONE_USER}(?::{_ONE_USER})?")
_MOST_ID = 2**31 - 1  # the engine's

_MOST_COUNT = 4 * 2**20
"""The most processes that Linux can have (PID_MAX_LIMIT), and so the highest pids.max that it takes."""


def duration_seconds(text: str, *, positive: bool = False) -> float:
    """Seconds, or a time with units: `90`, `2.5`, `90s`, `15m`, `2h`, `1d`, `1h30m`; not negative.

    `positive`: not 0 either.
    """
    text = text.strip().lower()
    seconds = math.nan
    if _PLAIN_SECONDS.fullmatch(text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _AMOUNT.findall(text))
    if not 0 <= seconds < _MOST_SECONDS or (positive and seconds == 0):
        least = "more than 0" if positive else "0 or more"
        raise ValueError(f"expected seconds ({least}), or a time as 90s, 15m, 2h or 1d")
    return seconds


def size_bytes(text: str, *, per_second: bool = False) -> int:
    """A number of bytes, at least one: `8000000`, `10MB`, `1.5GiB`; `per_second`: `10MB/s` too."""
    text = text.strip()
    match = _SIZE.fullmatch(text.removesuffix("/s") if per_second else text)
    size = math.floor(float(match[1]) * _UNIT_BYTES[match[2].lower()]) if match else 0
    if not 0 < size < _MOST_BYTES:
        examples = "10MB/s, 1.5GiB/s or 8000000" if per_second else "500MB, 1.5GiB or 8000000"
        units = "kB, MB, GB, TB; KiB, MiB, GiB, TiB"
        raise ValueError(f"expected a number of bytes, as {examples} ({units})")
    return size


def ulimit(text: str) -> Ulimit:
    """`NAME=SOFT[:HARD]`, as of `docker run --ulimit`; -1 stands for no limit."""
    match = _ULIMIT.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected NAME=SOFT[:HARD], as nofile=1024:4096")
    soft = int(match[2])
    hard = int(match[3]) if match[3] else soft
    if match[1] not in _ULIMIT_NAMES:
        raise ValueError(f"expected the name of a limit, one of {', '.join(_ULIMIT_NAMES)}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError("expected a soft limit of at most the hard one")
    return Ulimit(match[1], soft, hard)


def user(text: str) -> str:
    """`UID`, `UID:GID`, or names in their place that an image may know."""
    text = text.strip()
    if not _USER.fullmatch(text) or any(int(part) > _MOST_ID for part in text.split(":") if part.isdecimal()):
        raise ValueError("expected UID, UID:GID or names in their place, as 1000:1000")
    return text


def count(text: str) -> int:
    """A whole number of processes, at least 1."""
    text = text.strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else 0
    if not 1 <= number <= _MOST_COUNT:
        raise ValueError(f"expected a whole number from 1 to {_MOST_COUNT}")
    return number
