"""Container paths are compared component by component and never lead out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.paths import components, fixed_directory, has_wildcard, is_within, normalise, upwards

PATHS = st.lists(st.sampled_from(["a", "ab", "b.c", ".", "..", "", "*"]), max_size=6).map(
    lambda parts: "/" + "/".join(parts)
)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a/", "/a"),
        ("/a//b/./c/", "/a/b/c"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        ("a", "/a"),
    ],
)
def test_a_path_has_one_normal_form(path: str, normal: str) -> None:
    assert normalise(path) == normal


@given(PATHS)
def test_a_normal_path_stays_below_the_root(path: str) -> None:
    normal = normalise(path)
    assert normal.startswith("/")
    assert not normal.startswith("//")
    assert ".." not in components(normal)
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("path", "directory", "within"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/a.b/c", "/a", False),
    ],
)
def test_look_alikes_are_not_within(path: str, directory: str, within: bool) -> None:
    assert is_within(path, directory) is within


@given(PATHS, PATHS)
def test_within_means_that_the_components_begin_alike(path: str, directory: str) -> None:
    inner, outer = normalise(path), normalise(directory)
    assert is_within(inner, outer) == (components(inner)[: len(components(outer))] == components(outer))
    assert is_within(inner, outer) == (outer == "/" or outer in upwards(inner))


@pytest.mark.parametrize(
    ("path", "wild"),
    [("/a/*", True), ("/a?", True), ("/[ab]", True), ("/{a,b}", False), ("/a\\b", False), ("/~x$", False)],
)
def test_only_posix_wildcards_make_a_pattern(path: str, wild: bool) -> None:
    assert has_wildcard(path) is wild


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("/work/*.txt", "/work"),
        ("/work/a/b?/c", "/work/a"),
        ("/work/a/b/c[0-9]", "/work/a/b"),
        ("/*", "/"),
        ("/*/a", "/"),
        ("/work/a\\*/*", "/work"),
    ],
)
def test_the_fixed_directory_of_a_pattern_holds_all_its_matches(pattern: str, directory: str) -> None:
    assert fixed_directory(pattern) == directory
