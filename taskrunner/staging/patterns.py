"""Names with wildcards, by POSIX pattern matching notation (XCU 2.13), one path component at a time.

`*` any characters, `?` one, `[abc]`, `[a-z]`, `[!a]`, `[[:digit:]]` one of a set; a backslash takes the next
character literally. A wildcard never matches a slash, nor a dot at the start of a name (2.13.3). A `[` without
its `]` is just a `[`.

A pattern is a stranger's and the names are an executor's, so matching takes no more steps than the lengths of
both multiplied: a component is a row of single characters or sets with `*` between, and only the last `*` seen
is ever reconsidered. One large regular expression would try every way to share a name between its stars.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_MEMBER = re.compile(r"\[:([a-z]+):\]|(.)-(?!\])(.)|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a path, as a row of what its characters may be; None stands for `*`."""

    pieces: tuple[re.Pattern[str] | str | None, ...]

    @property
    def is_wild(self) -> bool:
        """Whether it may match more than one name."""
        return any(not isinstance(piece, str) for piece in self.pieces)

    @property
    def literal(self) -> str:
        """The one name that a component without wildcards stands for."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    def matches(self, name: str) -> bool:
        """Whether a whole name matches. Takes at most `len(name)` times `len(pieces)` steps."""
        if "/" in name:
            return False
        if name.startswith(".") and self.pieces and not isinstance(self.pieces[0], str):
            return False
        at, piece = 0, 0
        star, after_star = -1, 0  # the last `*`, and how much of the name it does not have
        while at < len(name):
            if piece < len(self.pieces) and self.pieces[piece] is None:
                star, after_star = piece, at
                piece += 1
            elif piece < len(self.pieces) and _is_one_of(self.pieces[piece], name[at]):
                piece += 1
                at += 1
            elif star >= 0:
                after_star += 1
                at, piece = after_star, star + 1
            else:
                return False
        return all(rest is None for rest in self.pieces[piece:])


def _is_one_of(piece: re.Pattern[str] | str | None, character: str) -> bool:
    if isinstance(piece, str):
        return piece == character
    return piece is not None and piece.match(character) is not None


_ANY = re.compile(".", re.DOTALL)


def parse_component(text: str) -> Component:
    """Take one path component apart."""
    pieces: list[re.Pattern[str] | str | None] = []
    position = 0
    unclosed = False
    while position < len(text):
        character = text[position]
        end = -1 if unclosed or character != "[" else _bracket_end(text, position)
        unclosed = unclosed or (character == "[" and end < 0)
        if end > 0:
            pieces.append(_bracket(text[position + 1 : end]))
            position = end
        elif character == "\\" and position + 1 < len(text):
            position += 1
            pieces.append(text[position])
        elif character == "*":
            if not pieces or pieces[-1] is not None:
                pieces.append(None)
        else:
            pieces.append(_ANY if character == "?" else character)
        position += 1
    return Component(tuple(pieces))


def _bracket_end(text: str, start: int) -> int:
    """Where the bracket expression that begins at `start` has its `]`; -1 where it has none."""
    position = start + 1
    if text.startswith("!", position):
        position += 1
    if text.startswith("]", position):  # a member, when it stands first
        position += 1
    while position < len(text):
        if text.startswith("[:", position) and (class_end := text.find(":]", position + 2)) > 0:
            position = class_end + 2
        elif text[position] == "]":
            return position
        else:
            position += 1
    return -1


def _bracket(inside: str) -> re.Pattern[str]:
    """One of, or none of, the members; an empty range or an unknown class adds nothing."""
    negated = inside.startswith("!")
    sets: list[str] = []
    for member in _MEMBER.finditer(inside, 1 if negated else 0):
        name, first, last, single = member.groups()
        if name is not None:
            sets.append(_CLASSES.get(name, ""))
        elif single is not None:
            sets.append(re.escape(single))
        elif first <= last:
            sets.append(f"{re.escape(first)}-{re.escape(last)}")
    members = "".join(sets)
    if not members:
        return _ANY if negated else re.compile("(?!)")
    return re.compile(f"[{'^' if negated else ''}{members}]", re.DOTALL)
