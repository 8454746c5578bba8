"""Names with wildcards, by POSIX pattern matching notation (XCU 2.13), one path component at a time.

`*` any characters, `?` one, `[abc]`, `[a-z]`, `[!a]`, `[[:digit:]]` one of a set; a backslash takes the next
character literally. A wildcard never matches a slash, nor a dot at the start of a name (2.13.3). A `[` without
its `]` is just a `[`.
"""

from __future__ import annotations

import re

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
_BRACKET = re.compile(r"\[(!?)((?:\]|\[:[a-z]+:\]|[^\]\[]|\[(?!:))(?:\[:[a-z]+:\]|[^\]])*)\]", re.DOTALL)


def has_wildcard(component: str) -> bool:
    """Whether a path component may match more than one name."""
    return _translate(component)[1]


def literal(component: str) -> str:
    """The one name that a component without wildcards stands for: its backslashes taken away."""
    return re.sub(r"\\(.)", r"\1", component)


def component_matcher(component: str) -> re.Pattern[str]:
    """A regular expression for whole names that `component` matches."""
    return re.compile(_translate(component)[0], re.DOTALL)


def _translate(component: str) -> tuple[str, bool]:
    """The expression's text, and whether there is a wildcard in it."""
    pieces: list[str] = []
    wild = False
    position = 0
    while position < len(component):
        text, length, is_wild = _next_piece(component, position)
        if is_wild and position == 0:
            pieces.append(r"(?!\.)")
        pieces.append(text)
        position += length
        wild = wild or is_wild
    return "".join(pieces) + r"\Z", wild


def _next_piece(component: str, position: int) -> tuple[str, int, bool]:
    """The expression for what stands at `position`, how many characters that is, whether it is a wildcard."""
    character = component[position]
    if character == "*":
        return "[^/]*", 1, True
    if character == "?":
        return "[^/]", 1, True
    if character == "\\" and position + 1 < len(component):
        return re.escape(component[position + 1]), 2, False
    bracket = _BRACKET.match(component, position) if character == "[" else None
    if bracket is None:
        return re.escape(character), 1, False
    expression = _bracket_expression(negated=bool(bracket[1]), members=bracket[2])
    return expression, len(bracket[0]), True


def _bracket_expression(*, negated: bool, members: str) -> str:
    """One of, or none of, the members; an empty range or an unknown class matches nothing."""
    sets: list[str] = []
    rest = members
    while rest:
        name = re.match(r"\[:([a-z]+):\]", rest)
        if name:
            sets.append(_CLASSES.get(name[1], ""))
            rest = rest[name.end() :]
            continue
        span = re.match(r"(.)-(.)", rest, re.DOTALL)
        if span and not rest.startswith("[:", 2):
            if span[1] <= span[2]:
                sets.append(f"{re.escape(span[1])}-{re.escape(span[2])}")
            rest = rest[3:]
            continue
        sets.append(re.escape(rest[0]))
        rest = rest[1:]
    inside = "".join(sets)
    if not inside:
        return "[^/]" if negated else r"(?!)"
    return f"(?!/)[^{inside}]" if negated else f"(?!/)[{inside}]"
