"""Rounds with tools of our own making: who moves the right bytes has figures, and nobody else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.content import Files, Ground
from benchmarks.measure import FailedRunError
from benchmarks.scenarios import SPECIAL, TRANSFERS, Transfer
from benchmarks.tools import Move, Tool, all_tools
from benchmarks.transfers import Bench, Room, measure_transfer

MOVER = """
import http.client, os, sys
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

direction, damage, bucket, key, path, names = sys.argv[1:]
names = names.split(",")
if damage == "forgets-one":
    names.pop()
connection = http.client.HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
for name in names:
    place = Path(path) / name if key.endswith("/") else Path(path)
    url = f"/{bucket}/{key}{name if key.endswith('/') else ''}"
    if direction == "down":
        connection.request("GET", url)
        content = connection.getresponse().read()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if damage != "damages" else content[::-1])
    else:
        content = place.read_bytes()
        connection.request("PUT", url, content if damage != "damages" else content[::-1])
        connection.getresponse().read()
if damage == "fails":
    sys.exit("this tool is unwell")
"""


def tool(name: str, files: Files) -> Tool:
    def arguments(move: Move, _: object) -> list[str]:
        direction = "down" if move.down else "up"
        return [direction, name, move.bucket, move.key, str(move.path), ",".join(files.names())]

    return Tool(name, lambda: [sys.executable, "-S", "-c", MOVER], arguments, ["--version"])


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("files", [Files(1, 300_000), Files(3, 1000)], ids=["one", "several"])
def test_only_who_moves_the_right_bytes_has_figures(
    tmp_path: Path, direction: Literal["down", "up"], files: Files
) -> None:
    absent = Tool("absent", lambda: None, lambda *_: [], [])
    single = Tool("single", lambda: ["true"], lambda *_: [], [], single_only=True)
    names = ["good", "damages", "fails", *(["forgets-one"] if files.count > 1 else [])]
    tools = [*(tool(name, files) for name in names), absent, *([single] if files.count > 1 else [])]
    said: list[str] = []
    bench = Bench(tools, Room(None, tmp_path), Ground(), said.append)
    result = measure_transfer(bench, Transfer("it", "moves", direction, "source", files), files, rounds=2)
    rows = {row.name: row for row in result.rows}
    assert list(result.medians) == ["good"]
    assert len(rows["good"].samples) == 2
    assert "moved other bytes" in (rows["damages"].failure or "")
    assert "this tool is unwell" in (rows["fails"].failure or "")
    assert rows["absent"].failure == "not installed"
    if files.count > 1:
        assert "moved 2 files, not 3" in (rows["forgets-one"].failure or "")
        assert rows["single"].failure == "moves single files only"
    assert list(tmp_path.iterdir()) == []


def test_tools_take_turns(tmp_path: Path) -> None:
    files = Files(1, 10)
    said: list[str] = []
    bench = Bench([tool("a", files), tool("b", files)], Room(None, tmp_path), Ground(), said.append)
    measure_transfer(bench, Transfer("it", "moves", "down", "source", files), files, rounds=2)
    assert [words.split(", ")[1] for words in said] == ["a", "b"] * 3


def test_files_go_where_there_is_room(tmp_path: Path) -> None:
    room = Room(tmp_path, tmp_path)
    assert room.folder(1) == tmp_path
    with pytest.raises(FailedRunError, match="no place for"):
        room.folder(2**62)


def test_every_scenario_and_tool_has_a_name_of_its_own() -> None:
    scenarios = [*(each.name for each in TRANSFERS), *SPECIAL]
    assert len(set(scenarios)) == len(scenarios)
    tools = [each.name for each in all_tools()]
    assert tools[0] == "taskrunner"
    assert len(set(tools)) == len(tools)
