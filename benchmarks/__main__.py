"""Measure taskrunner's transfers beside those of other tools, in one run and round by round.

Each tool moves the same bytes from and to the same server; what arrives is compared. Everything runs on this
machine, so figures of different machines differ, and what counts are the ratios. Results: `report.md`,
`results.json` and `ratios.svg` in the output folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.content import Ground
from benchmarks.measure import FailedRunError
from benchmarks.report import Report
from benchmarks.scenarios import SPECIAL, TRANSFERS
from benchmarks.series import measure_growth, measure_memory, measure_startup
from benchmarks.tools import OURS, all_tools, machine
from benchmarks.transfers import Bench, Result, Room, ToolResult, measure_transfer, room

QUICK_TOOLS = (OURS, "s5cmd", "awscrt")
QUICK_SPECIAL = ("memory",)
ROUNDS, QUICK_ROUNDS = 5, 2
RESULTS = Path(__file__).resolve().parent / "results"


def say(words: str) -> None:
    """Tell the person who waits where we are."""
    print(words, file=sys.stderr, flush=True)


def listed() -> str:
    """Every scenario and tool."""
    lines = ["scenarios (full size; quick size):"]
    for each in TRANSFERS:
        sizes = f"{each.full}; {each.quick or 'not in a quick run'}"
        server = f"{each.server}{', TLS' if each.tls else ''}{', shaped link' if each.link else ''}"
        lines.append(f"  {each.name:22} {each.title} ({server}): {sizes}")
    lines += [f"  {name:22} {title}" for name, title in SPECIAL.items()]
    lines += ["tools:"]
    lines += [f"  {tool.name:22} {tool.version() or 'not installed'}" for tool in all_tools()]
    return "\n".join(lines)


def parsed() -> Any:
    """What the command line says."""
    names = [*(each.name for each in TRANSFERS), *SPECIAL]
    tools = [tool.name for tool in all_tools()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="smaller, fewer and not for claims; a minute")
    parser.add_argument("--scenario", nargs="+", metavar="NAME", choices=names, help="only these")
    parser.add_argument("--tool", nargs="+", metavar="NAME", choices=tools, help=f"only these (and {OURS})")
    parser.add_argument("--rounds", type=int, help=f"measured rounds ({ROUNDS}; quick {QUICK_ROUNDS})")
    parser.add_argument("--output", type=Path, metavar="DIR", default=RESULTS, help="where results go")
    parser.add_argument("--taskrunner", type=Path, metavar="PROGRAM", help="another build of ours to measure")
    parser.add_argument("--list", action="store_true", help="scenarios and tools, and end")
    told = parser.parse_args()
    if told.rounds is not None and told.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return told


def chosen(told: Any) -> list[str]:
    """The scenarios to run, in their order."""
    names = [*(each.name for each in TRANSFERS), *SPECIAL]
    if told.scenario:
        return [name for name in names if name in told.scenario]
    if told.quick:
        return [each.name for each in TRANSFERS if each.quick] + list(QUICK_SPECIAL)
    return names


def measured(told: Any, name: str, rounds: int, place: Room, ground: Ground) -> Result:
    """One scenario."""
    wanted = told.tool or (QUICK_TOOLS if told.quick else None)
    tools = [tool for tool in all_tools(told.taskrunner) if not wanted or tool.name in (OURS, *wanted)]
    bench = Bench(tools, place, ground, say)
    match name:
        case "memory":
            return measure_memory(bench, quick=told.quick)
        case "growth":
            return measure_growth(bench, rounds, quick=told.quick)
        case "startup":
            return measure_startup(rounds)
    transfer = next(each for each in TRANSFERS if each.name == name)
    files = (transfer.quick or transfer.full) if told.quick else transfer.full
    result = measure_transfer(bench, transfer, files, rounds)
    result.verdicts = [goal.judge(result.medians) for goal in transfer.goals(files)]
    return result


def main() -> int:
    """Run what was asked for; 1 if ours failed somewhere, whatever the figures are."""
    told = parsed()
    if told.list:
        print(listed())
        return 0
    begun = time.monotonic()
    rounds = told.rounds or (QUICK_ROUNDS if told.quick else ROUNDS)
    results = []
    with room() as place:
        ground = Ground()
        for name in chosen(told):
            try:
                results.append(measured(told, name, rounds, place, ground))
            except (FailedRunError, RuntimeError) as error:
                results.append(Result(name, name, [], [ToolResult(OURS, failure=str(error))]))
    versions = {tool.name: tool.version() for tool in all_tools(told.taskrunner)}
    report = Report(machine(), versions, told.quick, rounds, time.monotonic() - begun, results)
    report.write(told.output)
    print(report.markdown())
    say(f"written to {told.output}")
    ours = [row for result in results for row in result.rows if row.name == OURS or result.name in SPECIAL]
    return int(any(row.failure for row in ours))


if __name__ == "__main__":
    sys.exit(main())
