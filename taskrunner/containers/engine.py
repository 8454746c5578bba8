"""The one door to the Docker engine: what a runner needs of it, in the runner's own words.

Strings, numbers and frozen values go in and come out, so that no other module knows aiodocker. The engine is
found as the `docker` command finds it: DOCKER_HOST, else the socket at its customary place. An engine that
can't be reached, or does not answer a question in time, is an `EngineUnavailableError`, whatever the call; one
that answers with a refusal raises `RefusedError` with its status and its words, for the caller to judge.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from taskrunner.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from types import TracebackType

    from aiodocker import Docker
    from aiodocker.containers import DockerContainer
    from aiodocker.stream import Stream

StreamName = Literal["stdout", "stderr"]
STREAM_NAMES: tuple[StreamName, ...] = ("stdout", "stderr")

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
"""For what an engine does at once. Pulling, waiting, stopping and streams take as long as they take."""
_NO_ANSWER = 900  # what aiodocker calls a connection that could not be made or broke


class RefusedError(EngineUnavailableError):
    """The engine answered, and said no: an HTTP status (0 within a progress stream) and its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"the Docker engine refused: {words}")
        self.status = status
        self.words = words


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What the engine knows of a container."""

    container_id: str
    name: str
    """With its leading slash, as the engine and Funnel say it."""
    image_hash: str
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    oom_killed: bool
    labels: Mapping[str, str]


class Engine:
    """A connection to the Docker engine; an async context manager that checks on entry that it answers.

    Raises EngineUnavailableError where it does not, from any method.
    """

    def __init__(self, host: str | None = None, *, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or _DEFAULT_HOST
        self._answer_seconds = answer_seconds
        self._docker: Docker

    async def __aenter__(self) -> Self:
        # Heavy (it brings aiohttp), and `taskrunner --help` must not load it.
        with _a_home():
            from aiodocker import Docker  # noqa: PLC0415
        from aiohttp import ClientTimeout  # noqa: PLC0415

        try:
            # Not total: waiting for a container takes as long as it takes.
            timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._docker = Docker(url=self.host, timeout=timeout)
        except ValueError as error:
            raise EngineUnavailableError(
                f"DOCKER_HOST is {self.host!r}, expected unix:///PATH or tcp://HOST:PORT"
            ) from error
        try:
            async with self._soon():
                await self._docker.version()
        except BaseException:
            await self._docker.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._docker.close()
        # Sockets that were closed or dropped are let go in the loop's next turn, and this may be its last.
        await asyncio.sleep(0)

    # --- images

    async def image_id(self, image: str) -> str | None:
        """The id (`sha256:…`) of an image on the engine's host, or None where it is not there."""
        try:
            async with self._soon():
                return str((await self._docker.images.inspect(image))["Id"])
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    async def pull(self, image: str, auth: Mapping[str, str] | None = None) -> None:
        """Pull `HOST/REPOSITORY:TAG` (or `@DIGEST`) from its registry.

        `auth` is the engine's AuthConfig: username and password, or identitytoken.
        """
        with self._asking():
            auth_config: dict[str, Any] | None = dict(auth) if auth else None
            async for _progress in self._docker.images.pull(image, auth=auth_config, stream=True):
                pass

    # --- containers

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Make a container (not started) and return its id.

        Raises RefusedError: 404 no such image, 409 the name is taken, 400 the configuration is wrong.
        """
        async with self._soon():
            created: DockerContainer = await self._docker.containers.create(dict(config), name=name)
            return created.id

    async def start(self, container: str) -> None:
        """Start a container; RefusedError carries why its command can't be run."""
        async with self._soon():
            await self._container(container).start()

    async def wait(self, container: str) -> int:
        """Wait until a container does not run and return its exit code."""
        with self._asking():
            return int((await self._container(container).wait())["StatusCode"])

    async def inspect(self, container: str) -> ContainerState:
        """What the engine knows of a container, by id or name."""
        async with self._soon():
            shown = await self._container(container).show()
        return ContainerState(
            container_id=shown["Id"],
            name=shown["Name"],
            image_hash=shown["Image"],
            status=shown["State"]["Status"],
            oom_killed=bool(shown["State"].get("OOMKilled")),
            labels=dict(shown["Config"].get("Labels") or {}),
        )

    async def labelled(self, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Id and name of every container, running or not, that has all of `labels`."""
        filters = json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})
        async with self._soon():
            found = await self._docker.containers.list(all="true", filters=filters)
        return tuple((one.id, one["Names"][0].lstrip("/") if one["Names"] else one.id) for one in found)

    async def stop(self, container: str, grace_seconds: float) -> None:
        """Send the stop signal, and SIGKILL when the grace is over; a container that is gone is fine."""
        with _gone_is_fine(), self._asking():
            await self._container(container).stop(t=math.ceil(grace_seconds))

    async def kill(self, container: str) -> None:
        """Send SIGKILL; a container that does not run any more is fine."""
        with _gone_is_fine():
            async with self._soon():
                await self._container(container).kill()

    async def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes, running or not; one that is gone is fine."""
        with _gone_is_fine():
            async with self._soon():
                await self._container(container).delete(force=True, v=True)

    # --- streams

    @asynccontextmanager
    async def attach_output(self, container: str) -> AsyncIterator[AsyncIterator[tuple[StreamName, bytes]]]:
        """Everything a container writes from now on, in the order the engine saw it, until it ends.

        The engine is not read faster than the iterator is: back-pressure reaches the container's own writes.
        """
        stream = self._container(container).attach(stdout=True, stderr=True)
        async with self._attached(stream):
            yield self._messages(stream)

    @asynccontextmanager
    async def attach_stdin(self, container: str) -> AsyncIterator[ContainerStdin]:
        """A container's standard input.

        A connection of its own, since closing it is the one way to say end of file on every kind of engine
        socket while output still comes (the container must have OpenStdin and StdinOnce).
        """
        stream = self._container(container).attach(stdin=True)
        async with self._attached(stream):
            stdin = ContainerStdin(stream)
            try:
                yield stdin
            finally:
                stdin.drop()

    @asynccontextmanager
    async def _attached(self, stream: Stream) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            # Closed even where the attaching itself is cancelled.
            closing.push_async_callback(_close, stream)
            with self._asking():
                await stream.__aenter__()
            yield

    async def _messages(self, stream: Stream) -> AsyncIterator[tuple[StreamName, bytes]]:
        while True:
            with self._asking():
                message = await stream.read_out()
            if message is None:
                return
            yield ("stderr" if message.stream == 2 else "stdout"), message.data

    # --- errors

    def _container(self, container: str) -> DockerContainer:
        return self._docker.containers.container(container)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what aiodocker and aiohttp raise into our errors."""
        from aiodocker import DockerError  # noqa: PLC0415  # loaded by then, see __aenter__
        from aiohttp import ClientError  # noqa: PLC0415

        try:
            yield
        except DockerError as error:
            if error.status == _NO_ANSWER:
                raise self._unavailable(error.__context__ or error) from error
            raise RefusedError(error.status, error.message.strip()) from error
        except (ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error

    @asynccontextmanager
    async def _soon(self) -> AsyncIterator[None]:
        """As `_asking`, for questions that an engine which is well answers at once."""
        limit = asyncio.timeout(self._answer_seconds)
        try:
            with self._asking():
                async with limit:
                    yield
        except EngineUnavailableError as error:
            if not limit.expired():
                raise
            raise EngineUnavailableError(
                f"the Docker engine at {self.host} did not answer within {self._answer_seconds:g} s; "
                "is it overloaded, or its disk full?"
            ) from error

    def _unavailable(self, cause: BaseException) -> EngineUnavailableError:
        if getattr(cause, "errno", None) in (errno.EACCES, errno.EPERM):
            return EngineUnavailableError(
                f"not allowed to use the Docker engine at {self.host}; run as root, or as a member of the "
                "group that owns the socket"
            )
        return EngineUnavailableError(
            f"no Docker engine answers at {self.host} ({cause}); mount /var/run/docker.sock into the job "
            "or set DOCKER_HOST"
        )


class ContainerStdin:
    """Where a container's standard input is written to."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        # aiodocker has no public word for a connection that its peer left, or that must be dropped.
        response = stream._resp  # noqa: SLF001
        self._protocol = response.connection.protocol if response and response.connection else None

    async def write(self, data: bytes) -> None:
        """Send bytes, no faster than they are taken. Raises BrokenPipeError when the container has ended."""
        try:
            if self._transport is None or self._transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, "the engine closed the connection")
            await self._stream.write_in(data)
        except ConnectionError as error:
            raise BrokenPipeError(errno.EPIPE, "the container does not read its stdin any more") from error

    async def end(self) -> None:
        """Say end of file, after what was written."""
        await _close(self._stream)

    def drop(self) -> None:
        """Forget what a container that has ended did not take; the engine would never take it either."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def _transport(self) -> asyncio.Transport | None:
        return self._protocol.transport if self._protocol is not None else None


@contextmanager
def _a_home() -> Iterator[None]:
    """A home directory while aiodocker is imported, which wants to know one.

    A user id without an entry in passwd and without HOME has none; the engine itself tells such users `/`.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Stopping or removing what is gone, or going (409), has nothing left to do."""
    try:
        yield
    except RefusedError as error:
        if error.status not in (404, 409):
            raise


async def _close(stream: Stream) -> None:
    # aiodocker asserts a live connection; where the engine hung up first there is nothing to close.
    with suppress(AssertionError):
        await stream.close()
