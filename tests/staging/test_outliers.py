"""Only what is far slower than the rest, and can be had faster, is given up; and only so often."""

from taskrunner.staging.outliers import Outliers

PART_BYTES = 8 * 1024 * 1024


def usual(seconds: float = 0.1, count: int = 100) -> Outliers:
    outliers = Outliers()
    for _ in range(count):
        outliers.finished(PART_BYTES, seconds)
    return outliers


def is_slow(outliers: Outliers, *, moved: int, seconds: float, cut_before: int = 0) -> bool:
    left = PART_BYTES - moved
    return outliers.is_slow(moved=moved, again_bytes=left, left=left, seconds=seconds, cut_before=cut_before)


def test_a_silent_connection_is_given_up_after_two_seconds_where_others_took_a_tenth() -> None:
    assert not is_slow(usual(), moved=0, seconds=1.9)
    assert is_slow(usual(), moved=0, seconds=2.1)


def test_the_second_time_it_takes_twice_as_long_and_there_is_no_third() -> None:
    assert not is_slow(usual(), moved=0, seconds=3.9, cut_before=1)
    assert is_slow(usual(), moved=0, seconds=4.1, cut_before=1)
    assert not is_slow(usual(), moved=0, seconds=3600.0, cut_before=2)


def test_where_everything_is_slow_nothing_is_an_outlier() -> None:
    assert not is_slow(usual(seconds=30.0), moved=PART_BYTES // 3, seconds=20.0)


def test_what_is_about_to_end_is_left_alone() -> None:
    assert not is_slow(usual(), moved=PART_BYTES - 1000, seconds=10.0)


def test_nothing_is_given_up_before_anybody_knows_what_is_usual() -> None:
    assert not is_slow(usual(count=7), moved=0, seconds=60.0)


def test_only_the_slowest_few_percent_are_given_up() -> None:
    outliers = usual(count=100)
    cuts = 0
    while is_slow(outliers, moved=0, seconds=5.0):
        outliers.cut()
        cuts += 1
    assert cuts == 7


def test_an_upload_is_only_cut_when_sending_all_of_it_again_is_faster() -> None:
    outliers = usual(seconds=1.0)
    moved = PART_BYTES * 3 // 4
    left = PART_BYTES - moved
    assert not outliers.is_slow(moved=moved, again_bytes=PART_BYTES, left=left, seconds=4.0, cut_before=0)
    assert outliers.is_slow(
        moved=1000, again_bytes=PART_BYTES, left=PART_BYTES - 1000, seconds=4.0, cut_before=0
    )
