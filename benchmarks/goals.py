"""What we want of ourselves, as arithmetic over medians: met, not met, or not to be told.

Comparisons are with other tools in the same run, so they hold on any machine.
"""

# ruff: noqa: RUF001  # times and ranges are written with their own signs
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.content import shown_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Sample

OURS = "taskrunner"
MEASURES = {"wall": "wall time", "cpu": "CPU time", "peak": "peak memory"}


@dataclass(frozen=True)
class Verdict:
    """A goal and what became of it; `met` is None where something needed was not measured."""

    goal: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "not met", None: "not measured"}[self.met]


class Goal(Protocol):
    """Something to be judged by the medians of tools."""

    def judge(self, medians: Mapping[str, Sample]) -> Verdict:
        """Whether it is met."""


def figure(sample: Sample | None, measure: str) -> float | None:
    """One of a sample's measures: `wall` and `cpu` in seconds, `peak` in bytes."""
    if sample is None:
        return None
    return {"wall": sample.wall_seconds, "cpu": sample.cpu_seconds, "peak": sample.peak_bytes}[measure]


def ratio(part: float | None, whole: float | None) -> float | None:
    """How large one is beside the other; None where that says nothing."""
    return None if part is None or not whole else part / whole


@dataclass(frozen=True)
class AtMost:
    """One of our measures is at most so many times a peer's."""

    measure: str
    peer: str
    times: float

    def judge(self, medians: Mapping[str, Sample]) -> Verdict:
        got = ratio(figure(medians.get(OURS), self.measure), figure(medians.get(self.peer), self.measure))
        goal = f"{MEASURES[self.measure]} ≤ {self.times:g} × {self.peer}"
        return Verdict(goal, _times(got), None if got is None else got <= self.times)


@dataclass(frozen=True)
class Ahead:
    """One of our measures is less than a peer's."""

    measure: str
    peer: str

    def judge(self, medians: Mapping[str, Sample]) -> Verdict:
        got = ratio(figure(medians.get(OURS), self.measure), figure(medians.get(self.peer), self.measure))
        goal = f"{MEASURES[self.measure]} < {self.peer}"
        return Verdict(goal, _times(got), None if got is None else got < 1)


@dataclass(frozen=True)
class TimesFaster:
    """A peer takes at least so many times as long as we."""

    peer: str
    times: float

    def judge(self, medians: Mapping[str, Sample]) -> Verdict:
        got = ratio(figure(medians.get(self.peer), "wall"), figure(medians.get(OURS), "wall"))
        goal = f"≥ {self.times:g} × as fast as {self.peer}"
        return Verdict(goal, _times(got), None if got is None else got >= self.times)


@dataclass(frozen=True)
class FillsLink:
    """We use at least this share of what the link carries."""

    share: float
    least_seconds: float

    def judge(self, medians: Mapping[str, Sample]) -> Verdict:
        got = ratio(self.least_seconds, figure(medians.get(OURS), "wall"))
        goal = f"≥ {self.share:g} of what the link carries ({self.least_seconds:.2f} s at best)"
        return Verdict(goal, "–" if got is None else f"{got:.2f}", None if got is None else got >= self.share)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} ×"


# --- Goals of series: the same at growing sizes -------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The straight line nearest to some points, by least squares."""

    intercept: float
    slope: float
    worst: float
    """The largest distance of a point from the line, as a share of the line there."""


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The line through at least two points of different x."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    intercept = mean_y - slope * mean_x
    distances = [abs(y - (intercept + slope * x)) / abs(intercept + slope * x) for x, y in points]
    return Line(intercept, slope, max(distances))


def judge_growth(what: str, points: Sequence[tuple[float, float]], limit: float = 0.15) -> Verdict:
    """Time grows along a line: no point is further from it than `limit` of it. Points: (amount, seconds)."""
    goal = f"time grows linearly with {what} (no point ≥ {limit:.0%} off the line)"
    if len(points) < 3:
        return Verdict(goal, "–", met=None)
    line = fitted(points)
    measured = f"{line.intercept:.2f} s + {line.slope:.3g} s × {what}; worst {line.worst:.0%} off"
    return Verdict(goal, measured, line.worst < limit)


def judge_memory(
    what: str, peaks: Mapping[int, int], most_bytes: int = 120_000_000, growth: float = 0.1
) -> list[Verdict]:
    """Peak memory is bounded, and the same whatever the size. `peaks`: bytes moved to bytes of memory."""
    goal = f"{what}: peak memory of all processes ≤ {most_bytes / 1e6:.0f} MB"
    if not peaks:
        return [Verdict(goal, "–", met=None)]
    highest = max(peaks.values())
    verdicts = [Verdict(goal, f"{highest / 1e6:.0f} MB", highest <= most_bytes)]
    smallest, largest = min(peaks), max(peaks)
    if smallest != largest:
        more = peaks[largest] / peaks[smallest] - 1
        goal = f"{what}: ≤ {growth:.0%} more memory for {shown_size(largest)} than for {shown_size(smallest)}"
        verdicts.append(Verdict(goal, f"{more:+.1%}", more <= growth))
    return verdicts
