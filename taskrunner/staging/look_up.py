"""What is there: every file that is to be downloaded, found before the first byte of any is moved.

Single files are asked about, directories are listed. Listings tell no checksums, so files too large for one
request are then asked about one by one. All questions share the lanes; what goes wrong is kept, question by
question, so that everything that is missing can be told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.errors import TaskrunnerError
from taskrunner.staging.flow import Flow
from taskrunner.staging.schedule import Todo
from taskrunner.urls import StoreKind, store_kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskrunner.settings import TransferSettings
    from taskrunner.staging.lanes import Lane
    from taskrunner.storage.opening import Stores
    from taskrunner.storage.store import StoredObject

    _Step = Callable[[Lane], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to look for: a file, or everything below a directory whose name is taken."""

    url: str
    is_directory: bool = False
    takes: Callable[[str], bool] = lambda _name: True
    """Of a directory: whether a file of this name is wanted."""


@dataclass(slots=True)
class Answered:
    """What came of one question; complete when `look_up` has ended."""

    found: list[StoredObject] = field(default_factory=list)
    """A directory's in byte order of their names."""
    listed_count: int = 0
    """How many files the directory has, wanted or not."""
    errors: list[tuple[str, TaskrunnerError]] = field(default_factory=list)
    """By URL: what could not be found out, or can't be a file of ours."""


async def look_up(
    questions: Sequence[Question], stores: Stores, settings: TransferSettings
) -> list[Answered]:
    """The answers, in the order of the questions. Failures are told in them, not raised."""
    flow = Flow(stores, settings, most_items=settings.max_connections)
    asking = _Asking(flow, [Answered() for _ in questions])
    for question, answered in zip(questions, asking.answers, strict=True):
        asking.todo.append(
            partial(asking.list_below if question.is_directory else asking.ask, question, answered)
        )
    async with flow.watched(lambda: None):
        await flow.work_through(asking.todo, lambda lane, step: step(lane))
    for answered in asking.answers:
        answered.found.sort(key=lambda found: found.name.encode(errors="surrogateescape"))
    return asking.answers


class _Asking:
    """The questions of one phase, on their way."""

    def __init__(self, flow: Flow, answers: list[Answered]) -> None:
        self.answers = answers
        self.todo: Todo[_Step] = Todo([])
        self._flow = flow

    async def ask(self, question: Question, answered: Answered, lane: Lane) -> None:
        """Ask about a file."""
        await self._ask(question.url, "", answered, lane)

    async def list_below(self, question: Question, answered: Answered, lane: Lane) -> None:
        """List a directory; its large files are asked about by whichever lane is free."""
        try:
            answered.listed_count, small, large = await self._flow.tries(
                lane, partial(self._listed, question)
            )
        except TaskrunnerError as error:
            answered.errors.append((question.url, error))
            return
        answered.found += small
        for found in large:
            self.todo.append(partial(self._ask, found.url, found.name, answered))
        self._flow.more_to_take()

    async def _ask(self, url: str, name: str, answered: Answered, lane: Lane) -> None:
        store = self._flow.stores.store_for
        try:
            found = await self._flow.tries(lane, lambda lane: store(url).stat(lane.connections, url))
        except TaskrunnerError as error:
            answered.errors.append((url, error))
        else:
            answered.found.append(replace(found, name=name))

    def _listed(self, question: Question, lane: Lane) -> tuple[int, list[StoredObject], list[StoredObject]]:
        """In a lane: how many files a directory has, those that are wanted, and those to be asked about."""
        store = self._flow.stores.store_for(question.url)
        most_bytes = self._flow.settings.part_bytes
        ask_large = store_kind(question.url) is not StoreKind.LOCAL
        count = 0
        small: list[StoredObject] = []
        large: list[StoredObject] = []
        for found in store.list_directory(lane.connections, question.url):
            count += 1
            if question.takes(found.name):
                found.require_fit()
                is_large = ask_large and found.checksum is None and (found.size_bytes or 0) > most_bytes
                (large if is_large else small).append(found)
        return count, small, large
