"""Times, sizes and the like, as people write them."""

import pytest

from taskrunner.quantities import count, duration_seconds, size_bytes, ulimit, user
from taskrunner.settings import Ulimit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("2.5", 2.5),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d2h3m4.5s", 86400 + 7200 + 180 + 4.5),
        ("1.5H", 5400),
        (" 15m ", 900),
    ],
)
def test_a_time_is_seconds_or_has_units(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1",
        "-1s",
        "1x",
        "1 h",
        "30m1h",
        "1h1h",
        "1h30",
        "1e3",
        "nan",
        "inf",
        "٣",
        "3651d",
        "9" * 400,
    ],
)
def test_what_is_no_time_is_told_with_examples(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^expected seconds \(0 or more\), or a time as 90s, 15m, 2h or 1d$"
    ):
        duration_seconds(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0h0m"])
def test_a_time_that_limits_is_more_than_nothing(text: str) -> None:
    assert duration_seconds(text) == 0
    with pytest.raises(ValueError, match="more than 0"):
        duration_seconds(text, positive=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("8000000", 8_000_000),
        ("64MB", 64_000_000),
        ("64 MiB", 64 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("2tib", 2**41),
        ("512b", 512),
    ],
)
def test_a_size_is_bytes_or_has_units_by_thousands_or_by_1024(text: str, size: int) -> None:
    assert (size_bytes(text), size_bytes(f"{text}/s", per_second=True)) == (size, size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "0.1",
        "1g",
        "1 G",
        "10MB/s",
        "MB",
        "1e9",
        "1M\u0130b",
        "1M\u0131b",
        "9" * 19,
        "9000000TiB",
    ],
)
def test_what_is_no_size_is_told_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of bytes, as 500MB"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024", Ulimit("nofile", 1024, 1024)),
        ("nofile=1024:4096", Ulimit("nofile", 1024, 4096)),
        ("core=0:-1", Ulimit("core", 0, -1)),
        ("memlock=-1", Ulimit("memlock", -1, -1)),
    ],
)
def test_a_ulimit_is_soft_and_hard(text: str, limit: Ulimit) -> None:
    assert ulimit(text) == limit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nofile", "expected NAME=SOFT"),
        ("nofile=", "expected NAME=SOFT"),
        ("nofile=1:2:3", "expected NAME=SOFT"),
        ("nofile=-2", "expected NAME=SOFT"),
        ("files=1", "expected the name of a limit, one of core, cpu, "),
        ("nofile=2:1", "expected a soft limit of at most the hard one"),
        ("nofile=-1:1", "expected a soft limit of at most the hard one"),
    ],
)
def test_what_is_no_ulimit_is_told(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}"):
        ulimit(text)


@pytest.mark.parametrize(
    "text", ["0", "1000", "1000:100", "nobody", "nobody:nogroup", "www-data", "0:daemon"]
)
def test_a_user_is_an_id_or_a_name_with_or_without_a_group(text: str) -> None:
    assert user(text) == text


@pytest.mark.parametrize("text", ["", ":", "1000:", ":100", "a b", "-1", "1:2:3", "2147483648", "a/b", "é"])
def test_what_can_be_no_user_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected UID, UID:GID or names"):
        user(text)


def test_a_count_is_a_whole_number_above_0() -> None:
    assert [count(text) for text in ("1", " 100 ", "4194304")] == [1, 100, 4_194_304]
    for text in ("0", "4194305", "-1", "1.5", "x", "²", "9999999999", ""):
        with pytest.raises(ValueError, match="expected a whole number from 1"):
            count(text)
