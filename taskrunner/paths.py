"""Container paths: text with `/` in it, compared component by component.

A path in a task document is only a name in the container's tree; nothing here looks at a file. Comparing
whole components is what keeps `/ab` out of `/a`.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_WILDCARDS = frozenset("*?[")
_SPECIAL = _WILDCARDS | {"\\"}  # in a pattern a backslash takes the next character literally


def normalise(path: str) -> str:
    """`path` from the root, with single slashes, without `.`, `..` or a slash at the end; never above `/`."""
    return posixpath.normpath("/" + path.lstrip("/"))


def components(path: str) -> tuple[str, ...]:
    """The names in a path, from the root down: `/a//b/` has `a` and `b`."""
    return tuple(part for part in path.split("/") if part not in ("", "."))


def parent(path: str) -> str:
    """The directory that a normalised path is in; `/` is in itself."""
    return posixpath.dirname(path)


def upwards(path: str) -> Iterator[str]:
    """A normalised path, its parent, and so on; the root is left out."""
    while path != "/":
        yield path
        path = parent(path)


def is_within(path: str, directory: str) -> bool:
    """Whether the normalised `path` is `directory` or lies below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def has_wildcard(path: str) -> bool:
    """Whether the path holds a character that makes it a pattern (POSIX 2.13; braces are literal)."""
    return not _WILDCARDS.isdisjoint(path)


def fixed_directory(pattern: str) -> str:
    """The deepest directory that every match of a normalised pattern is in."""
    fixed: list[str] = []
    for part in components(pattern)[:-1]:
        if not _SPECIAL.isdisjoint(part):
            break
        fixed.append(part)
    return "/" + "/".join(fixed)
