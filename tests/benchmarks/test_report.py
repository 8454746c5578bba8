"""What is written down."""

# ruff: noqa: RUF001  # as reports write it
from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks.goals import Verdict
from benchmarks.measure import Sample
from benchmarks.picture import ratios_svg
from benchmarks.report import Report
from benchmarks.transfers import Result, ToolResult


def report(*, quick: bool = False) -> Report:
    rows = [
        ToolResult("taskrunner", [Sample(1.0, 0.5, 50_000_000), Sample(3.0, 0.7, 70_000_000)]),
        ToolResult("s5cmd", [Sample(4.0, 3.0, 20_000_000)]),
        ToolResult("slow", [Sample(40.0, 0.3, None)]),
        ToolResult("rclone", failure="not installed"),
        ToolResult("awscrt", [Sample(0.1, 0.1, 1)], failure="exit code 1: <a|b>"),
    ]
    verdicts = [Verdict("wall time ≤ 1 × s5cmd", "0.50 ×", met=True), Verdict("more", "–", met=None)]
    result = Result("down-plain", "download: 1 GiB", ["server: rclone"], rows, verdicts)
    failed = Result("up-plain", "upload", [], [ToolResult("taskrunner", failure="exit code 2: no")])
    return Report({"cores": "2"}, {"s5cmd": "v2", "rclone": None}, quick, 2, 61.0, [result, failed])


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_a_table_has_medians_and_ratios_to_ours() -> None:
    text = report().markdown()
    assert (
        line_of(text, "taskrunner") == "| taskrunner | 2.000 (1.00) | 1.00–3.00 | 0.600 (1.00) | 60 (1.00) |"
    )
    assert line_of(text, "s5cmd") == "| s5cmd | 4.000 (2.00) |  | 3.000 (5.00) | 20 (0.33) |"


def test_a_tool_that_failed_has_its_message_and_no_figure() -> None:
    text = report().markdown()
    assert line_of(text, "rclone") == "| rclone | not installed | | | |"
    assert line_of(text, "awscrt") == "| awscrt | failed: exit code 1: <a\\|b> | | | |"


def test_goals_stand_with_what_was_measured() -> None:
    text = report().markdown()
    assert "| down-plain | wall time ≤ 1 × s5cmd | 0.50 × | met |" in text
    assert "| down-plain | more | – | not measured |" in text


def test_a_quick_run_says_so() -> None:
    assert "quick run" in report(quick=True).markdown()
    assert "quick run" not in report().markdown()


def test_everything_is_written_as_json_too(tmp_path: Path) -> None:
    report().write(tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    ours, *_, failed = document["results"][0]["rows"]
    assert [sample["wall_seconds"] for sample in ours["samples"]] == [1.0, 3.0]
    assert ours["median"] == {"wall_seconds": 2.0, "cpu_seconds": 0.6, "peak_bytes": 60_000_000}
    assert (failed["median"], failed["failure"]) == (None, "exit code 1: <a|b>")
    assert document["results"][0]["verdicts"][0]["word"] == "met"
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "results.json", "ratios.svg"}


def test_the_picture_has_a_bar_for_each_figure_and_cuts_the_longest() -> None:
    picture = ratios_svg(report().results) or ""
    ET.fromstring(picture)
    bars = re.findall(r"rx='1.5'", picture)
    assert len(bars) == 3 + 3 + 2
    assert "20 »" in picture
    assert "up-plain" not in picture


def test_there_is_no_picture_of_nothing() -> None:
    assert ratios_svg(report().results[1:]) is None
