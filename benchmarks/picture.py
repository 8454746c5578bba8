"""The ratios as a picture: for each scenario a bar a tool, for time, processor and memory; ours is 1."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.goals import MEASURES, OURS, figure, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.transfers import Result

COLOURS = {
    OURS: "#0b6e4f",
    "s5cmd": "#d1793b",
    "rclone": "#3d6fb4",
    "awscrt": "#8a5fa8",
    "aws-cli": "#b5a02c",
    "aioboto3": "#5f9ea8",
    "funnel": "#b0486a",
    "docker": "#3d6fb4",
}
OTHER_COLOUR = "#888888"
LARGEST_RATIO = 5.0
LABEL_WIDTH, PANEL_WIDTH, GAP = 178, 250, 46
BAR, GROUP_GAP, TOP = 13, 14, 98


def ratios_svg(results: Sequence[Result]) -> str | None:
    """The picture as SVG; None where no scenario compares anything."""
    compared = [result for result in results if OURS in result.medians and len(result.medians) > 1]
    if not compared:
        return None
    tools = list(dict.fromkeys(row.name for result in compared for row in result.rows if row.median))
    parts: list[str] = []
    y = TOP
    for result in compared:
        medians = result.medians
        parts.append(
            _text(LABEL_WIDTH - 12, y + len(medians) * BAR / 2 + 4, result.name, anchor="end", bold=True)
        )
        for column, measure in enumerate(MEASURES):
            left = LABEL_WIDTH + column * (PANEL_WIDTH + GAP)
            for number, (tool, median) in enumerate(medians.items()):
                share = ratio(figure(median, measure), figure(medians[OURS], measure))
                if share is not None:
                    parts.append(_bar(left, y + number * BAR, share, tool))
        y += len(medians) * BAR + GROUP_GAP
    height, width = y + 12, LABEL_WIDTH + len(MEASURES) * (PANEL_WIDTH + GAP)
    frame = [_text(16, 26, "Ratios to taskrunner: shorter is better", size=16, bold=True)]
    frame += _legend(tools)
    for column, name in enumerate(MEASURES.values()):
        frame += _panel(LABEL_WIDTH + column * (PANEL_WIDTH + GAP), name, y - GROUP_GAP)
    style = "font-family='system-ui, Helvetica, Arial, sans-serif'"
    opening = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {style}>"
    )
    ground = f"<rect width='{width}' height='{height}' fill='#ffffff'/>"
    return "\n".join([opening, ground, *frame, *parts, "</svg>"]) + "\n"


def _panel(left: float, name: str, bottom: float) -> list[str]:
    """A column's title and its lines at whole ratios."""
    parts = [_text(left, TOP - 22, name, bold=True)]
    for mark in range(1, int(LARGEST_RATIO) + 1):
        x = left + mark / LARGEST_RATIO * PANEL_WIDTH
        colour, dash = ("#0b6e4f", "") if mark == 1 else ("#dddddd", " stroke-dasharray='2 3'")
        parts.append(f"<line x1='{x}' x2='{x}' y1='{TOP - 8}' y2='{bottom}' stroke='{colour}'{dash}/>")
        parts.append(_text(x, TOP - 11, f"{mark}", anchor="middle", size=10, colour="#777777"))
    return parts


def _bar(left: float, y: float, share: float, tool: str) -> str:
    """One bar, cut at the largest ratio, with its number."""
    width = min(share, LARGEST_RATIO) / LARGEST_RATIO * PANEL_WIDTH
    colour = COLOURS.get(tool, OTHER_COLOUR)
    cut = share > LARGEST_RATIO
    bar = f"<rect x='{left}' y='{y}' width='{width:.1f}' height='{BAR - 2}' rx='1.5' fill='{colour}'/>"
    label = f"{share:.2f}" if share < 10 else f"{share:.0f}"
    if cut:
        return bar + _text(left + width - 4, y + 9, f"{label} »", anchor="end", size=9.5, colour="#ffffff")
    halo = "stroke='#ffffff' stroke-width='3' paint-order='stroke'"
    return bar + _text(left + width + 4, y + 9, label, size=9.5, colour="#333333", more=halo)


def _legend(tools: Sequence[str]) -> list[str]:
    parts, x = [], 16.0
    for tool in tools:
        parts.append(
            f"<rect x='{x}' y='36' width='11' height='11' rx='2' fill='{COLOURS.get(tool, OTHER_COLOUR)}'/>"
        )
        parts.append(_text(x + 16, 46, tool))
        x += 34 + len(tool) * 7
    return parts


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: float = 12,
    bold: bool = False,
    colour: str = "#222222",
    more: str = "",
) -> str:
    weight = " font-weight='600'" if bold else ""
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'"
    return f"<text {place} font-size='{size}'{weight} fill='{colour}' {more}>{escape(words)}</text>"
