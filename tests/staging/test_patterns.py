"""Wildcards follow POSIX pattern matching notation (XCU 2.13)."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.staging.patterns import component_matcher, has_wildcard, literal


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*", ["a", "a.b"], [".a"]),
        ("*.bam", ["x.bam", "a.b.bam"], [".bam", "x.bam.bai", "x.BAM"]),
        (".*", [".a"], ["a"]),
        ("a?c", ["abc", "a.c", "aéc"], ["ac", "abbc"]),
        ("?a", ["ba"], [".a"]),
        ("[ab]c", ["ac", "bc"], ["cc", "abc"]),
        ("[a-c]", ["a", "b", "c"], ["d", "-"]),
        ("[!a-c]", ["d", "-"], ["a", "."]),
        ("[.]a", [], [".a"]),
        ("x[.]a", ["x.a"], ["xba"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[!]a]", ["b"], ["]", "a"]),
        ("[[:digit:]_]x", ["1x", "_x"], ["ax"]),
        ("[![:alpha:]]", ["1"], ["a"]),
        ("[[:nonsense:]]", [], ["a", "n"]),
        ("[a", ["[a"], ["a"]),
        ("[z-a]", [], ["z", "a", "-"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[[a]", ["[", "a"], ["b"]),
        (r"\*", ["*"], ["a"]),
        (r"a\[b]", ["a[b]"], ["ab"]),
        (r"[\^]", ["^"], []),
        ("a{b,c}", ["a{b,c}"], ["ab", "ac"]),
        ("a+(b)$", ["a+(b)$"], ["ab"]),
        ("**", ["ab"], [".a"]),
    ],
)
def test_a_pattern_matches_what_posix_says(pattern: str, matches: list[str], others: list[str]) -> None:
    matcher = component_matcher(pattern)
    assert [name for name in [*matches, *others] if matcher.match(name)] == matches


def test_a_wildcard_never_matches_a_slash() -> None:
    assert not any(component_matcher(pattern).match("/") for pattern in ("*", "?", "[!a]", "[/]", "[.-0]"))


@pytest.mark.parametrize(
    ("text", "wild"), [("a*", True), ("a{b}", False), (r"\*", False), ("[", False), ("[a]", True)]
)
def test_only_characters_that_can_match_more_are_wildcards(text: str, wild: bool) -> None:
    assert has_wildcard(text) is wild


def test_a_literal_component_loses_its_backslashes() -> None:
    assert literal(r"a\*b\\") == "a*b\\"


@given(st.text(alphabet="ab.*?", max_size=8), st.text(alphabet="ab.", min_size=1, max_size=8))
def test_without_brackets_it_agrees_with_fnmatch_but_for_leading_dots(pattern: str, name: str) -> None:
    hidden = name.startswith(".") and not pattern.startswith(".")
    expected = fnmatch.fnmatchcase(name, pattern) and not hidden
    assert (component_matcher(pattern).match(name) is not None) is expected


@given(st.text(max_size=12), st.text(max_size=8))
def test_any_text_is_a_pattern(pattern: str, name: str) -> None:
    matcher = component_matcher(pattern)
    if not has_wildcard(pattern):
        assert (matcher.match(name) is not None) is (literal(pattern) == name)
