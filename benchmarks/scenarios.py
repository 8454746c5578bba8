"""What is measured: each scenario with its sizes, its server and its goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks.content import Files, GiB, MiB
from benchmarks.goals import Ahead, AtMost, FillsLink, TimesFaster
from benchmarks.shaped_link import Shape

if TYPE_CHECKING:
    from benchmarks.goals import Goal

AHEAD: tuple[Goal, ...] = tuple(
    Ahead(measure, peer) for peer in ("awscrt", "rclone") for measure in ("wall", "cpu")
)
DOWN: tuple[Goal, ...] = (AtMost("wall", "s5cmd", 1), AtMost("cpu", "s5cmd", 0.8), *AHEAD)
DOWN_TLS: tuple[Goal, ...] = (AtMost("wall", "s5cmd", 1), AtMost("cpu", "s5cmd", 1), *AHEAD)
UP: tuple[Goal, ...] = (AtMost("wall", "s5cmd", 1), AtMost("cpu", "s5cmd", 0.25))
SMALL: tuple[Goal, ...] = (AtMost("wall", "s5cmd", 1), AtMost("cpu", "s5cmd", 1))


@dataclass(frozen=True)
class Transfer:
    """All tools move the same files in one direction."""

    name: str
    title: str
    direction: Literal["down", "up"]
    server: Literal["rclone", "source"]
    """Rclone's, or our own, which nobody waits for."""
    full: Files
    quick: Files | None = None
    """None: not part of a quick run."""
    tls: bool = False
    link: Shape | None = None
    fixed_goals: tuple[Goal, ...] = ()

    @property
    def down(self) -> bool:
        return self.direction == "down"

    def goals(self, files: Files) -> tuple[Goal, ...]:
        """Its goals; those of a link depend on how much is moved."""
        if self.link is None:
            return self.fixed_goals
        return (TimesFaster("s5cmd", 3), FillsLink(0.9, self.link.least_seconds(files.total_bytes)))


LARGE, LARGE_QUICK = Files(1, 2 * GiB), Files(1, 256 * MiB)
SEVERAL, SEVERAL_QUICK = Files(16, 128 * MiB), Files(8, 16 * MiB)
SMALL_ONES, SMALL_ONES_QUICK = Files(4000, 64 * 1024), Files(1000, 64 * 1024)
FAR, FAR_QUICK = Files(1, GiB), Files(1, 32 * MiB)
LINK = Shape()

TRANSFERS = (
    Transfer("down-plain", "download", "down", "rclone", LARGE, LARGE_QUICK, fixed_goals=DOWN),
    Transfer("down-plain-source", "download", "down", "source", LARGE, fixed_goals=DOWN),
    Transfer(
        "down-tls", "download over TLS", "down", "rclone", LARGE, LARGE_QUICK, tls=True, fixed_goals=DOWN_TLS
    ),
    Transfer("up-plain", "upload", "up", "source", LARGE, LARGE_QUICK, fixed_goals=UP),
    Transfer("up-plain-rclone", "upload, where the server is what is waited for", "up", "rclone", LARGE),
    Transfer("up-tls", "upload over TLS", "up", "source", LARGE, tls=True),
    Transfer(
        "down-16x128", "download of several", "down", "rclone", SEVERAL, SEVERAL_QUICK, fixed_goals=DOWN
    ),
    Transfer("up-16x128", "upload of several", "up", "source", SEVERAL, SEVERAL_QUICK, fixed_goals=UP),
    Transfer(
        "down-4000x64k", "download of many", "down", "source", SMALL_ONES, SMALL_ONES_QUICK, fixed_goals=SMALL
    ),
    Transfer(
        "up-4000x64k", "upload of many", "up", "source", SMALL_ONES, SMALL_ONES_QUICK, fixed_goals=SMALL
    ),
    Transfer("down-4000x64k-rclone", "download of many", "down", "rclone", SMALL_ONES, fixed_goals=SMALL),
    Transfer("up-4000x64k-rclone", "upload of many", "up", "rclone", SMALL_ONES, fixed_goals=SMALL),
    Transfer("shaped-down", "download over a shaped link", "down", "source", FAR, FAR_QUICK, link=LINK),
    Transfer("shaped-up", "upload over a shaped link", "up", "source", FAR, link=LINK),
)

SPECIAL = {
    "memory": "our peak memory while files of growing size are moved",
    "growth": "our time for growing sizes and numbers of files",
    "startup": "a hello-world task beside the same `docker run`",
}
