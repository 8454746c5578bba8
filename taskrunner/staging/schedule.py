"""In which order lanes take what is to be moved. Pure: no clock, no I/O.

Parts of large files need bandwidth, small files need round trips; taken side by side, neither waits for the
other. So they are interleaved in proportion, and both come to their end together. Within either, the largest
come first: what is left for the end is small, and spread over all lanes. Small files are taken several at a
time, since handing one over costs as much as moving it, but fewer and fewer towards the end.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeVar

from taskrunner.staging.lanes import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from taskrunner.staging.parts import Cut
    from taskrunner.storage.store import Part

T = TypeVar("T")
Large = TypeVar("Large")
Small = TypeVar("Small")

_MOST_AT_ONCE = 16
_MOST_BYTES_AT_ONCE = 1024 * 1024
_SHARES_PER_LANE = 4


class Schedule(Source[Large | list[Small]]):
    """What is still to be taken."""

    def __init__(
        self,
        large: Iterator[Large],
        large_count: int,
        small: Sequence[Small],
        size_bytes: Callable[[Small], int],
    ) -> None:
        """`large_count` says how many `large` will bring, `size_bytes` how large a small file is."""
        self._large = large
        self._large_count = large_count
        self._large_taken = 0
        self._small = deque(small)
        self._small_count = len(small)
        self._size_bytes = size_bytes
        self._again: deque[Large] = deque()

    def take(self, lane_count: int) -> Large | list[Small] | None:
        """The next part, or the next few small files; None when nothing is left for now."""
        if self._again:
            return self._again.popleft()
        if self._small and self._small_are_due():
            return self._few_small(lane_count)
        part = next(self._large, None)
        if part is None:
            self._large_taken = self._large_count
            return self._few_small(lane_count) if self._small else None
        self._large_taken += 1
        return part

    def _few_small(self, lane_count: int) -> list[Small]:
        """As many as make one job worth handing over, and leave enough for the other lanes."""
        most = max(1, min(_MOST_AT_ONCE, len(self._small) // (lane_count * _SHARES_PER_LANE)))
        few = [self._small.popleft()]
        left_bytes = _MOST_BYTES_AT_ONCE - self._size_bytes(few[0])
        while self._small and len(few) < most and self._size_bytes(self._small[0]) <= left_bytes:
            few.append(self._small.popleft())
            left_bytes -= self._size_bytes(few[-1])
        return few

    def put_back(self, parts: Sequence[Large]) -> None:
        """These have to be moved again; they come next."""
        self._again.extend(parts)

    def _small_are_due(self) -> bool:
        """Whether the small ones lag behind the large ones."""
        small_taken = self._small_count - len(self._small)
        return small_taken * self._large_count <= self._large_taken * self._small_count


class Cuttable(Protocol):
    """A file on its way."""

    @property
    def cut(self) -> Cut:
        """Its parts."""

    @property
    def is_small(self) -> bool:
        """Whether it is moved in one go, beside others."""

    @property
    def size_bytes(self) -> int:
        """Its size, 0 where nobody knows it."""


F = TypeVar("F", bound=Cuttable)


def scheduled(files: Iterable[F]) -> Schedule[tuple[F, Part], F]:
    """All parts of large files, and the small ones, the largest of either first."""
    largest_first = sorted(files, key=lambda one: one.size_bytes, reverse=True)
    large = [one for one in largest_first if not one.is_small]
    parts = chain.from_iterable(((one, part) for part in one.cut) for one in large)
    count = sum(len(one.cut) for one in large)
    return Schedule(parts, count, [one for one in largest_first if one.is_small], lambda one: one.size_bytes)


class Todo(Source[T]):
    """Things to do in the order in which they came; more may come while they are done."""

    def __init__(self, things: Iterable[T]) -> None:
        self._things = deque(things)

    def take(self, lane_count: int) -> T | None:  # noqa: ARG002  # each is taken by itself
        """See `Source.take`."""
        return self._things.popleft() if self._things else None

    def append(self, thing: T) -> None:
        """One more; whoever waits for it must be told (`Lanes.wake`)."""
        self._things.append(thing)
