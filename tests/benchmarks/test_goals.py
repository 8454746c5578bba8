"""The arithmetic of goals."""

# ruff: noqa: RUF001  # as reports write it
from __future__ import annotations

import pytest

from benchmarks.goals import Ahead, AtMost, FillsLink, TimesFaster, fitted, judge_growth, judge_memory, ratio
from benchmarks.measure import Sample, median_sample

MIB = 1024 * 1024


def test_each_measure_has_a_median_of_its_own() -> None:
    samples = [Sample(1, 9, 30), Sample(2, 7, 10), Sample(9, 8, 20)]
    assert median_sample(samples) == Sample(2, 8, 20)


def test_the_median_of_what_was_not_measured_is_none() -> None:
    assert median_sample([Sample(1), Sample(3)]) == Sample(2, None, None)


def test_a_ratio_to_nothing_says_nothing() -> None:
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None
    assert ratio(3, None) is None
    assert ratio(None, 3) is None


def test_at_most_is_met_at_the_very_limit() -> None:
    medians = {"taskrunner": Sample(1, 4, 1), "s5cmd": Sample(1, 5, 1)}
    assert AtMost("wall", "s5cmd", 1).judge(medians).met is True
    assert AtMost("cpu", "s5cmd", 0.8).judge(medians).met is True
    assert AtMost("cpu", "s5cmd", 0.79).judge(medians).met is False


def test_ahead_is_not_met_by_a_draw() -> None:
    medians = {"taskrunner": Sample(1, 4), "rclone": Sample(1, 5)}
    assert Ahead("wall", "rclone").judge(medians).met is False
    assert Ahead("cpu", "rclone").judge(medians).met is True


@pytest.mark.parametrize("medians", [{}, {"taskrunner": Sample(1)}, {"s5cmd": Sample(1, 1)}])
def test_a_goal_without_figures_is_neither_met_nor_missed(medians: dict[str, Sample]) -> None:
    for goal in (AtMost("cpu", "s5cmd", 1), Ahead("cpu", "s5cmd"), TimesFaster("s5cmd", 3)):
        verdict = goal.judge(medians)
        assert (verdict.met, verdict.measured, verdict.word) == (None, "–", "not measured")


def test_times_faster_counts_in_wall_time() -> None:
    medians = {"taskrunner": Sample(2, 100), "s5cmd": Sample(6, 1)}
    verdict = TimesFaster("s5cmd", 3).judge(medians)
    assert (verdict.met, verdict.measured) == (True, "3.00 ×")
    assert TimesFaster("s5cmd", 3.1).judge(medians).met is False


def test_the_share_of_a_link_is_its_best_time_by_ours() -> None:
    verdict = FillsLink(0.9, least_seconds=5.4).judge({"taskrunner": Sample(6)})
    assert (verdict.met, verdict.measured) == (True, "0.90")
    assert FillsLink(0.9, 5.3).judge({"taskrunner": Sample(6)}).met is False


def test_a_line_is_found_through_points_that_lie_on_it() -> None:
    line = fitted([(1, 5), (2, 7), (4, 11)])
    assert line.intercept == pytest.approx(3)
    assert line.slope == pytest.approx(2)
    assert line.worst == pytest.approx(0)


def test_the_worst_point_is_told_as_a_share_of_the_line() -> None:
    line = fitted([(0, 10), (1, 13), (2, 10)])
    assert line.worst == pytest.approx(2 / 11)


def test_growth_along_a_line_is_met_and_a_curve_is_not() -> None:
    sizes = [1, 2, 4, 8, 16]
    assert judge_growth("GiB", [(size, 0.2 + size * 1.002**size) for size in sizes]).met is True
    assert judge_growth("GiB", [(size, size**2) for size in sizes]).met is False
    assert judge_growth("GiB", [(1, 1), (2, 2)]).met is None


def test_memory_is_judged_by_its_highest_peak_and_by_its_growth() -> None:
    highest, growth = judge_memory("download", {1024 * MIB: 100_000_000, 16 * 1024 * MIB: 109_000_000})
    assert (highest.met, highest.measured) == (True, "109 MB")
    assert (growth.met, growth.measured) == (True, "+9.0%")
    assert "16 GiB" in growth.goal
    assert [each.met for each in judge_memory("", {1: 100, 2: 111}, most_bytes=110)] == [False, False]
    assert [each.met for each in judge_memory("", {1: 100})] == [True]
    assert [each.met for each in judge_memory("", {})] == [None]
