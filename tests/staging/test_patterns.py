"""Wildcards follow POSIX pattern matching notation (XCU 2.13)."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.staging.patterns import parse_component


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
    component = parse_component(pattern)
    assert [name for name in [*matches, *others] if component.matches(name)] == matches


def test_a_wildcard_never_matches_a_slash() -> None:
    assert not any(parse_component(pattern).matches("/") for pattern in ("*", "?", "[!a]", "[/]", "[.-0]"))


@pytest.mark.parametrize(
    ("text", "wild"), [("a*", True), ("a{b}", False), (r"\*", False), ("[", False), ("[a]", True)]
)
def test_only_characters_that_can_match_more_are_wildcards(text: str, wild: bool) -> None:
    assert parse_component(text).is_wild is wild


def test_a_literal_component_loses_its_backslashes() -> None:
    assert parse_component(r"a\*b\\").literal == "a*b\\"


@given(st.text(alphabet="ab.*?", max_size=8), st.text(alphabet="ab.", min_size=1, max_size=8))
def test_without_brackets_it_agrees_with_fnmatch_but_for_leading_dots(pattern: str, name: str) -> None:
    hidden = name.startswith(".") and not pattern.startswith(".")
    expected = fnmatch.fnmatchcase(name, pattern) and not hidden
    assert (parse_component(pattern).matches(name)) is expected


@given(st.text(max_size=12), st.text(max_size=8))
def test_any_text_is_a_pattern(pattern: str, name: str) -> None:
    component = parse_component(pattern)
    if not component.is_wild:
        assert component.matches(name) is (component.literal == name)


def test_many_stars_cost_no_more_than_their_number_times_the_names_length() -> None:
    assert not parse_component("*a" * 30 + "b").matches("a" * 255)
    assert parse_component("[" * 60_000).literal == "[" * 60_000
