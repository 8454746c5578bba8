"""Results as people and programs read them: tables in Markdown, a picture, and everything as JSON."""

# ruff: noqa: RUF001  # ranges are written with their own sign
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.goals import OURS, figure, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.transfers import Result, ToolResult


@dataclass(frozen=True)
class Report:
    """All results of one run of the harness."""

    machine: Mapping[str, str]
    versions: Mapping[str, str | None]
    quick: bool
    rounds: int
    seconds: float
    results: Sequence[Result]

    def markdown(self) -> str:
        """Every table."""
        parts = ["# Benchmarks", self._preamble()]
        if goals := self._goals():
            parts += ["## Goals", goals]
        for result in self.results:
            parts += [f"## {result.name}", *_section(result)]
        return "\n\n".join(parts) + "\n"

    def _preamble(self) -> str:
        lines = []
        if self.quick:
            lines += [
                "**A quick run**: smaller sizes, fewer tools and rounds; good for a glance, not for claims.",
                "",
            ]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += [f"- {name}: {version or 'not installed'}" for name, version in self.versions.items()]
        rounds = "one round" if self.rounds == 1 else f"{self.rounds} interleaved rounds"
        lines += ["", f"Medians of {rounds}, after one that does not count; "]
        lines[-1] += f"in brackets the ratio to {OURS}. The run took {self.seconds:.0f} s."
        return "\n".join(lines)

    def _goals(self) -> str:
        rows = [
            f"| {result.name} | {verdict.goal} | {verdict.measured} | {_stressed(verdict.word)} |"
            for result in self.results
            for verdict in result.verdicts
        ]
        return "\n".join(["| scenario | goal | measured | |", "|---|---|---|---|", *rows]) if rows else ""

    def json(self) -> str:
        """Everything, with each sample."""
        document = asdict(self)
        for told, result in zip(document["results"], self.results, strict=True):
            for row, tool in zip(told["rows"], result.rows, strict=True):
                row["median"] = asdict(tool.median) if tool.median else None
            for judged, verdict in zip(told["verdicts"], result.verdicts, strict=True):
                judged["word"] = verdict.word
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """`report.md`, `results.json` and, where tools are compared, `ratios.svg`."""
        from benchmarks.picture import ratios_svg  # noqa: PLC0415

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.markdown())
        (folder / "results.json").write_text(self.json())
        if picture := ratios_svg(self.results):
            (folder / "ratios.svg").write_text(picture)


def _stressed(word: str) -> str:
    return f"**{word}**" if word == "not met" else word


def _section(result: Result) -> list[str]:
    """A scenario's title and table."""
    ours = next((row.median for row in result.rows if row.name == OURS), None)
    head = ["| | wall s | least–most | CPU s | peak MB |", "|---|---|---|---|---|"]
    text = f"{result.title[:1].upper()}{result.title[1:]}"
    text += "".join(f"; {note}" for note in result.notes) + "."
    return [text, "\n".join([*head, *(_line(row, ours) for row in result.rows)])]


def _line(row: ToolResult, ours: Sample | None) -> str:
    median = row.median
    if median is None:
        failure = (row.failure or "no samples").replace("|", "\\|")
        shown = failure if failure in {"not installed", "moves single files only"} else f"failed: {failure}"
        return f"| {row.name} | {shown} | | | |"
    walls = [sample.wall_seconds for sample in row.samples]
    spread = f"{min(walls):.2f}–{max(walls):.2f}" if len(walls) > 1 else ""
    cells = [_cell(median, ours, "wall"), spread, _cell(median, ours, "cpu"), _cell(median, ours, "peak")]
    return f"| {row.name} | {' | '.join(cells)} |"


def _cell(median: Sample, ours: Sample | None, measure: str) -> str:
    value = figure(median, measure)
    if value is None:
        return ""
    shown = f"{value / 1e6:.0f}" if measure == "peak" else f"{value:.3f}"
    share = ratio(value, figure(ours, measure))
    return shown if share is None else f"{shown} ({share:.2f})"
