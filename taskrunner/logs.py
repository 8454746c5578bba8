"""Events as lines of JSON, in Funnel's dialect: what CloudWatch and the tools made for Funnel's worker read.

One object a line, compact, its keys in byte order (upper case first), text as UTF-8. `JsonLog.report` only
puts the event into a queue; a thread of its own makes the line and writes it, so that the loop never waits
for a full pipe and no line is lost or torn. A reader that goes away (a closed pipe) does not end the run: the
stream is given up, which is an event of its own, and the copy goes on.

Only this module imports structlog, and only in that thread, while the loop waits for the engine.
"""

from __future__ import annotations

import functools
import json
import re
import select
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

from taskrunner.errors import OutputFailedError
from taskrunner.events import Event, LogStreamLost, Reporter, SystemLog, rfc3339, rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import EventDict

_COPY = "the copy of the events"
_STDERR = "standard error"
_TAKEN_KEYS = frozenset({"time", "msg", "level"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_HEAD_START_SECONDS = 0.2
"""structlog brings rich and pygments along, 70 ms of work: better done while the first container starts."""
_NANOSECONDS = 1_000_000_000


class Reporters:
    """Several reporters that are told the same, in their order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def report(self, event: Event) -> None:
        """Tell each of them."""
        for reporter in self._reporters:
            reporter.report(event)


class EventThread:
    """Handles events one after another on a thread of its own, so that whoever reports never waits."""

    def __init__(
        self, name: str, handle: Callable[[Event, int], None], *, head_start_seconds: float = 0.0
    ) -> None:
        """Start it; `handle` gets each event and when it was reported, in nanoseconds since the epoch.

        The first event waits for `head_start_seconds`, or until `close`.
        """
        self._handle = handle
        self._head_start_seconds = head_start_seconds
        self._closing = threading.Event()
        self._finished = False
        self._queue: SimpleQueue[tuple[Event, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Take an event, at once."""
        self._queue.put((event, time.time_ns()))

    def close(self, patience_seconds: float) -> bool:
        """Wait until everything put so far is handled; False if it was not within `patience_seconds`."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(patience_seconds)
        return self._finished

    def _run(self) -> None:
        self._closing.wait(self._head_start_seconds)
        while (item := self._queue.get()) is not None:
            self._handle(*item)
        self._finished = True


class JsonLog:
    """A reporter that writes JSON lines to `stream` and to a fresh file `copy`; either may be absent.

    Raises OutputFailedError where `copy` can't be made.
    """

    def __init__(
        self,
        task_id: str,
        *,
        stream: BinaryIO | TextIO | None,
        copy: Path | None = None,
        attempt: int = 0,
        progress_seconds: float = 30.0,
    ) -> None:
        self._task_id = task_id
        self._attempt = attempt
        self._progress_ns = int(progress_seconds * _NANOSECONDS)
        self._last_live: dict[type[Event], int] = {}
        self._system_logs: list[str] = []
        self._copy_complete = False
        self._outlets: dict[str, _Outlet] = {}
        if copy is not None:
            self._outlets[_COPY] = _fresh_file(copy)
        self._stream = stream  # its raw stream lives as long as it does
        if stream is not None:
            self._outlets[_STDERR] = _unbuffered(stream)
        self._thread = EventThread("json-log", self._write, head_start_seconds=_HEAD_START_SECONDS)

    @property
    def system_logs(self) -> tuple[str, ...]:
        """Warnings and errors so far, as lines of text for the task's `system_logs`."""
        return tuple(self._system_logs)

    def report(self, event: Event) -> None:
        """Take one event; a live one only where `progress_seconds` have passed since the last of its kind."""
        if event.live and not self._is_due(event):
            return
        self._remember(event)
        self._thread.put(event)

    def close(self, patience_seconds: float = 10.0) -> bool:
        """Write everything reported so far, then close the copy; whether that is complete. Blocks.

        Safe to call again. `patience_seconds` bounds the wait for a reader that takes nothing, so that a run
        can always end.
        """
        if self._thread.close(patience_seconds) and (copy := self._outlets.pop(_COPY, None)):
            copy.close()
            self._copy_complete = True
        return self._copy_complete

    def _remember(self, event: Event) -> None:
        if isinstance(event, SystemLog) and event.level in ("warning", "error"):
            self._system_logs.append(system_log_text(event))

    def _is_due(self, event: Event) -> bool:
        # The first of a kind starts the clock, so a phase that is over soon shows no progress at all.
        last_ns = self._last_live.setdefault(type(event), event.timestamp_ns)
        if abs(event.timestamp_ns - last_ns) < self._progress_ns:
            return False
        self._last_live[type(event)] = event.timestamp_ns
        return True

    def _write(self, event: Event, logged_ns: int) -> None:
        self._logger.info(event, time=rfc3339(logged_ns))

    @functools.cached_property
    def _logger(self) -> Any:  # structlog's bound loggers have no narrower type
        # Not above, for the same reason as the head start.
        import structlog  # noqa: PLC0415

        return structlog.wrap_logger(
            _Lines(self._send),
            processors=[in_funnels_dialect, structlog.processors.JSONRenderer(serializer=json_line)],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
            attempt=self._attempt,
            ns="worker",
            taskID=self._task_id,
        ).bind()

    def _send(self, line: bytes) -> None:
        lost = []
        for name, outlet in self._outlets.items():
            try:
                _write_all(outlet, line)
            except (OSError, ValueError) as error:  # ValueError: somebody closed it
                lost.append(LogStreamLost(stream=name, error=str(error)))
        for event in lost:
            outlet = self._outlets.pop(event.stream)
            if event.stream == _COPY:
                with suppress(OSError):  # that it can't be written is being told already
                    outlet.close()
            self._remember(event)
            self._write(event, event.timestamp_ns)


class _Outlet(Protocol):
    """An unbuffered binary stream."""

    def write(self, data: bytes | memoryview, /) -> int | None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class _Lines:
    """What structlog calls a wrapped logger: the end of its chain of processors."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.info = send


def in_funnels_dialect(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """A structlog processor: from an event and its context to the keys of Funnel's line, in their order."""
    event: Event = event_dict.pop("event")
    own = {f"fields.{key}" if key in _TAKEN_KEYS else key: value for key, value in event.fields().items()}
    common = {
        "index": event.index,
        "level": event.level,
        "msg": event.msg,
        "timestamp": rfc3339_nano(event.timestamp_ns),
    }
    return dict(sorted({**own, **common, **event_dict}.items()))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def json_line(document: EventDict, **_unused: object) -> bytes:
    r"""One line of JSON as Go's encoder (SetEscapeHTML off) writes it, with the newline.

    Python and Go differ in two things only: Go escapes U+2028 and U+2029, and turns what is no UTF-8 (here: a
    lone surrogate, from a file name) into U+FFFD.
    """
    line = _encode(document).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError:
        return f"{_SURROGATE.sub('�', line)}\n".encode()


def system_log_text(event: SystemLog) -> str:
    """A system log as Funnel stores it in a task's `system_logs`: `level='error' msg='…' timestamp='…' …`."""
    fields = {
        "level": event.level,
        "msg": event.msg,
        "timestamp": rfc3339_nano(event.timestamp_ns),
        **event.fields(),
    }
    return " ".join(f"{key}='{_quoted(value)}'" for key, value in fields.items())


def _quoted(value: object) -> str:
    return _SURROGATE.sub("�", str(value)).replace("'", "\\'")


def _fresh_file(path: Path) -> _Outlet:
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise OutputFailedError(
            f"can't write the events to {path}: {error.strerror}; choose another place with --events"
        ) from error


def _unbuffered(stream: BinaryIO | TextIO) -> _Outlet:
    """The raw stream below: what a buffer could not get rid of would spoil the interpreter's exit code."""
    binary: Any = getattr(stream, "buffer", stream)
    outlet: _Outlet = getattr(binary, "raw", binary)
    return outlet


def _write_all(outlet: _Outlet, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        written = outlet.write(rest)
        if written is None:  # somebody made the pipe non-blocking, and it is full
            select.select([], [outlet.fileno()], [])
            continue
        rest = rest[written:]
