"""What the words after `taskrunner storage` name."""

import pytest

from taskrunner.cli.naming import Selection, destination_of, local_destination, source_of


@pytest.mark.parametrize(
    ("text", "url", "is_directory", "pattern"),
    [
        ("s3://b/k", "s3://b/k", False, None),
        ("s3://b/k/", "s3://b/k/", True, None),
        ("s3://b", "s3://b/", True, None),
        ("s3://b/d//x/", "s3://b/d//x/", True, None),
        ("s3://b/d/*.bam", "s3://b/d/", True, "*.bam"),
        ("s3://b/*", "s3://b/", True, "*"),
        ("s3://b/d/x?/[1]*", "s3://b/d/", True, "x?/[[]1]*"),
        ("s3://b/d*/", "s3://b/", True, "d*/*"),
        ("s3://b/a?b?versionId=7", "s3://b/a?b?versionId=7", False, None),
        ("https://h/dir/", "https://h/dir/", False, None),
        ("/no/such/../dir/", "/no/dir/", True, None),
        ("file:///no/such/file", "/no/such/file", False, None),
        ("/tmp", "/tmp/", True, None),
    ],
)
def test_a_source_is_a_file_a_directory_or_a_pattern_in_one(
    text: str, url: str, is_directory: bool, pattern: str | None
) -> None:
    source = source_of(text)
    assert (source.url, source.is_directory, source.pattern) == (url, is_directory, pattern)
    assert str(source) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("s3://b/d/a%20b", "a%20b"),
        ("s3://b/d/a?versionId=7", "a"),
        ("https://h/d/a%20b.txt?x=/y#z", "a b.txt"),
        ("https://h/d/a%2Fb", "a%2Fb"),
        ("https://h/d/%2e%2e", "%2e%2e"),
        ("https://h/d/a%00b", "a%00b"),
        ("/d/a b", "a b"),
    ],
)
def test_a_file_is_called_as_its_source_is(text: str, name: str) -> None:
    assert source_of(text, wildcards=False).file_name == name


@pytest.mark.parametrize(
    ("text", "several", "place"),
    [
        ("s3://b", False, "s3://b/n/m"),
        ("s3://b/", False, "s3://b/n/m"),
        ("s3://b/d//", False, "s3://b/d//n/m"),
        ("s3://b/k", False, "s3://b/k"),
        ("s3://b/k", True, "s3://b/k/n/m"),
        ("s3://b/k?versionId=7", False, "s3://b/k?versionId=7"),
        ("/", False, "/n/m"),
        ("/no/such", False, "/no/such"),
        ("/no/such/", False, "/no/such/n/m"),
        ("file:///tmp", False, "/tmp/n/m"),
    ],
)
def test_a_destination_is_one_files_or_a_directory(text: str, several: bool, place: str) -> None:
    assert destination_of(text, several=several).place("n/m") == place
    if not text.startswith("s3"):
        assert local_destination(text, several=several).place("n/m") == place


def test_an_exclude_always_wins() -> None:
    selection = Selection(include=["*.bam", "x/*"], exclude=["*/tmp/*"])
    taken = [name for name in ("a.bam", "x/y", "x/tmp/a.bam", "a.txt") if selection.takes(name)]
    assert taken == ["a.bam", "x/y"]
