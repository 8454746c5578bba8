"""URLs are taken apart and put together as the people who wrote them mean them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.urls import S3Url, StoreKind, join, last_name, local_path, store_kind


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("s3://b/k", StoreKind.S3),
        ("S3://b/k", StoreKind.S3),
        ("http://h/", StoreKind.HTTP),
        ("https://h/", StoreKind.HTTP),
        ("file:///a", StoreKind.LOCAL),
        ("/a/b", StoreKind.LOCAL),
        ("gs://b/k", None),
        ("a/b", None),
        ("", None),
    ],
)
def test_a_url_belongs_to_the_store_its_scheme_names(url: str, kind: StoreKind | None) -> None:
    assert store_kind(url) == kind


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/a/b c#d%41+é", S3Url("b", "a/b c#d%41+é")),
        ("s3://b/a?b", S3Url("b", "a?b")),
        ("s3://b/a?versionId=v1", S3Url("b", "a", "v1")),
        ("s3://b/a?versionId=1?versionId=2", S3Url("b", "a?versionId=1", "2")),
        ("s3://b/a?versionId=v/c", S3Url("b", "a?versionId=v/c")),
        ("s3://b/a?versionId=", S3Url("b", "a?versionId=")),
        ("s3://b", S3Url("b", "")),
        ("s3://b//a/../c", S3Url("b", "/a/../c")),
    ],
)
def test_an_s3_key_is_taken_as_it_is_written(url: str, expected: S3Url) -> None:
    assert S3Url.parse(url) == expected


def test_a_version_id_is_part_of_an_outputs_key() -> None:
    assert S3Url.parse("s3://b/a?versionId=v1", versioned=False) == S3Url("b", "a?versionId=v1")


def test_an_s3_url_without_a_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="s3://BUCKET/KEY"):
        S3Url.parse("s3:///k")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b%20c", "/a/b%20c"),
        ("file://localhost/a", "/a"),
        ("/a//b/./c/", "/a/b/c"),
        ("//a", "/a"),
        ("/a/../../b", "/b"),
    ],
)
def test_a_local_url_names_a_normal_absolute_path(url: str, path: str) -> None:
    assert local_path(url) == Path(path)


@pytest.mark.parametrize("url", ["file://host/a", "file://", "file:///a\0b"])
def test_a_local_url_that_names_no_path_here_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|NUL"):
        local_path(url)


@given(st.text().filter(lambda text: "\0" not in text))
def test_a_local_path_never_holds_a_step_up(rest: str) -> None:
    assert ".." not in local_path(f"/{rest}").parts


@pytest.mark.parametrize(
    ("directory", "name", "expected"),
    [
        ("s3://b/d/", "x/y", "s3://b/d/x/y"),
        ("s3://b/d", "x", "s3://b/d/x"),
        ("s3://b", "x", "s3://b/x"),
        ("/", "x", "/x"),
        ("/a/", "x", "/a/x"),
        ("file:///a", "x", "file:///a/x"),
        ("http://h/d/?q=1", "x", "http://h/d/x?q=1"),
    ],
)
def test_a_name_is_joined_with_one_slash(directory: str, name: str, expected: str) -> None:
    assert join(directory, name) == expected


def test_the_last_name_of_a_url_leaves_out_a_query() -> None:
    assert (last_name("http://h/a/b.bam?x=/y"), last_name("s3://b/d/")) == ("b.bam", "d")
