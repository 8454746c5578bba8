"""A container's output and exit code, across every break of the connection to the engine.

Output comes by attaching: every byte as it was written, and no faster than we take it. A break would lose what
comes until we are back, so the engine keeps a log beside it, bounded and only read after a break: from its
beginning, without what we already have, and from then on instead of attaching. What the log can't give exactly
is not made up for: then the task ends as one worth another attempt.

A connection that breaks can look like one that ended. So a question stays open beside it all the time, which the
engine answers only when the container is removed: was it broken, the output is compared with the log. A restarted
engine has forgotten what it saw. What it lets go on (live restore) we go on with; what ended meanwhile we can't
vouch for: the restart may have ended it, and has lost what it wrote in that time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from taskrunner.containers.convert import LOG_KEPT_BYTES
from taskrunner.containers.engine import PATIENCE_SECONDS, STREAM_NAMES, RefusedError, persistently
from taskrunner.containers.replay import MisplacedError, Replay
from taskrunner.errors import EngineUnavailableError, TransientError
from taskrunner.events import EngineBack, EngineLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taskrunner.containers.engine import ContainerStdin, Engine, StreamName
    from taskrunner.events import Reporter

_END_SECONDS = 10.0
"""How long after the end of its output a container may take to have ended."""
_PAUSE_SECONDS = 0.2
_ENTRY_BYTES = 128
"""More than any entry of the log takes on disk beside its data."""


class Follower:
    """Follows one container, from before its start to its end."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        name: str,
        take: Callable[[StreamName, bytes], Awaitable[None]],
        reporter: Reporter,
        *,
        has_stdin: bool,
        has_log: bool = True,
    ) -> None:
        """`take` gets the bytes of each stream in order, each once; `name` is for people.

        Without a log, a break is the end.
        """
        self._engine = engine
        self._container = container
        self._name = name
        self._take = take
        self._reporter = reporter
        self._replays = {stream: Replay() for stream in STREAM_NAMES}
        self._output: AsyncIterator[tuple[StreamName, bytes]]
        self._line: asyncio.Task[None]
        self._has_stdin = has_stdin
        self._has_log = has_log
        self._stdin: ContainerStdin | None = None
        self._stdin_sent = False

    @asynccontextmanager
    async def attached(self) -> AsyncIterator[None]:
        """Attached to the output for as long as the context lasts; to be entered before the start."""
        async with AsyncExitStack() as attached:
            output = self._engine.attach_output(self._container)
            self._output = await attached.enter_async_context(output)
            if self._has_stdin:
                stdin = self._engine.attach_stdin(self._container)
                self._stdin = await attached.enter_async_context(stdin)
            asking = self._engine.until_removed(self._container)
            self._line = asyncio.create_task(asking, name=f"line to {self._name}")
            try:
                yield
            finally:
                self._line.cancel()
                await asyncio.gather(self._line, return_exceptions=True)

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Send the stdin, if there is one, then its end; a container need not read it."""
        if self._stdin is None:
            return
        with suppress(BrokenPipeError):
            async for chunk in chunks:
                await self._stdin.write(chunk)
            self._stdin_sent = True
        await self._stdin.end()

    async def to_the_end(self) -> int:
        """Take all output of the container, which was started, and return its exit code.

        Raises TransientError: the engine did not come back, or output or exit code can't be vouched for.
        """
        try:
            return await self._hear_out()
        except RefusedError:
            raise
        except EngineUnavailableError as error:
            lost = error
        while True:
            try:
                follow = await self._regain(lost)
                return await self._catch_up(follow=follow)
            except RefusedError as error:
                raise self._given_up(f"then the engine refused to go on: {error.words}") from error
            except EngineUnavailableError as error:
                lost = error

    # --- attached

    async def _hear_out(self) -> int:
        async for stream, data in self._output:
            await self._got(stream, data)
        exit_code = await self._ended()
        # An engine that goes down ends its containers first. And whether the line broke, we know once a later
        # connection has brought an answer.
        await self._engine.lets_in()
        if self._line.done():
            raise EngineUnavailableError("a connection to the Docker engine broke")
        return exit_code

    async def _ended(self) -> int:
        """The container's exit code after the end of its output, unless that was no end but a break."""
        waiting = asyncio.create_task(self._engine.wait(self._container), name=f"wait for {self._name}")
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait([waiting, self._line], timeout=_END_SECONDS, return_when=first)
            if not waiting.done():
                raise EngineUnavailableError("the output ended before the container did")
            return waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _got(self, stream: StreamName, data: bytes) -> None:
        self._replays[stream].took(data)
        await self._take(stream, data)

    # --- after a break

    async def _regain(self, lost: EngineUnavailableError) -> bool:
        """Wait for the engine to answer again; whether the container still runs."""
        self._reporter.report(EngineLost(container=self._name, error=str(lost)))
        if not self._has_log:
            raise self._given_up(
                "the engine keeps no log of its output to go on with (--no-engine-log)"
            ) from lost
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(_PAUSE_SECONDS)
        try:
            await persistently(self._engine.lets_in, PATIENCE_SECONDS)
            state = await persistently(partial(self._engine.inspect, self._container), PATIENCE_SECONDS)
        except RefusedError:
            raise
        except EngineUnavailableError as error:
            raise self._given_up(f"it did not come back within {PATIENCE_SECONDS:g} s: {error}") from error
        seconds = round(asyncio.get_running_loop().time() - begun, 1)
        self._reporter.report(EngineBack(container=self._name, seconds=seconds))
        running = state.status not in ("exited", "dead")
        await self._vouch(running=running, exit_code=state.exit_code)
        return running

    async def _vouch(self, *, running: bool, exit_code: int) -> None:
        """Raise TransientError if what the container did meanwhile may be the break's own doing."""
        if not running and not await self._remembers("die"):
            raise self._given_up(
                f"the engine was restarted, and the executor ended meanwhile (exit code {exit_code}): that may be "
                "the restart's doing, and the end of its output is lost. Engines with `live-restore` leave "
                "containers alone"
            )
        if self._has_stdin and not (self._stdin_sent and await self._remembers("start")):
            raise self._given_up("the executor's stdin may have been cut off by that")

    async def _remembers(self, action: str) -> bool:
        asking = partial(self._engine.remembers, self._container, action)
        return await persistently(asking, PATIENCE_SECONDS)

    async def _catch_up(self, *, follow: bool) -> int:
        """Take from the log what we have not got, until the container has ended, and return its exit code."""
        if follow:
            await self._read_log(follow=True)
        # Once more: a log that is followed may keep back an unterminated last line (moby#43860).
        await self._read_log(follow=False)
        if any(replay.ends_in_doubt for replay in self._replays.values()):
            raise self._given_up(
                "whether its last line, longer than 16 KiB, has an end can't be told any more"
            )
        return await self._engine.wait(self._container)

    async def _read_log(self, *, follow: bool) -> None:
        for replay in self._replays.values():
            replay.begin()
        size_bytes = 0
        async with self._engine.log(self._container, follow=follow) as entries:
            async for entry in entries:
                size_bytes += len(entry.data) + _ENTRY_BYTES
                if size_bytes > LOG_KEPT_BYTES:
                    raise self._given_up("the executor's output is longer than the engine's log of it")
                try:
                    new = self._replays[entry.stream].new(entry.time, entry.data)
                except MisplacedError as error:
                    raise self._given_up("the engine's log lacks output that came before") from error
                if new:
                    await self._take(entry.stream, new)

    def _given_up(self, why: str) -> TransientError:
        return TransientError(f"the connection to the Docker engine broke while {self._name} ran; {why}")
