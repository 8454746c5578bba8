"""Events for a person at a terminal: a coloured line each, executors' output, live progress at the bottom.

Everything shown may come from a stranger's task, so no text is ever read as markup, and whatever could drive
the terminal (escape sequences, control characters, bidirectional overrides) is taken out of it first. Lines
are drawn on a thread of their own: a paused terminal (Ctrl-S) must not pause the task. Only this module
imports rich, and it is imported only where standard error is a terminal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from taskrunner import events
from taskrunner.logs import EventThread
from taskrunner.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskrunner.events import Event

_FINAL_STATES = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"})
_INDENT = " " * 11  # the width of `12:34:56 ▶ `

_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, erasing
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS and such
    r"|\x1b[ -/]*[0-~]?"
)
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What an event looks like: a mark, a style of rich, a sentence.
_LOOKS: dict[type[Event], tuple[str, str, Callable[[Any], str]]] = {
    events.Version: ("·", "dim", lambda e: f"taskrunner {e.version}"),
    events.TaskState: ("·", "bold", lambda e: e.state),
    events.TaskStartTime: ("·", "dim", lambda _: "task began"),
    events.TaskEndTime: ("·", "dim", lambda _: "task ended"),
    events.TaskMetadata: ("·", "dim", lambda e: _pairs(e.metadata)),
    events.TaskOutputs: ("✓", "green", lambda e: _outputs(e.outputs)),
    events.DownloadStarted: ("↓", "dim", lambda e: e.url),
    events.DownloadFinished: ("↓", "cyan", lambda e: f"{e.url} {_size(e.size)}"),
    events.DownloadFailed: ("✗", "red", lambda e: f"download of {e.url} failed: {e.error}"),
    events.DownloadDirectoryEmpty: ("!", "yellow", lambda e: f"the input directory {e.url} is empty"),
    events.UploadStarted: ("↑", "dim", lambda e: e.url),
    events.UploadFinished: ("↑", "cyan", lambda e: f"{e.url} {_size(e.size)}"),
    events.UploadFailed: ("✗", "red", lambda e: f"upload to {e.url} failed: {e.error}"),
    events.UploadDirectoryEmpty: ("!", "yellow", lambda e: f"the output directory for {e.url} is empty"),
    events.ExecutorStartTime: ("·", "dim", lambda e: f"[{e.index}] executor began"),
    events.ExecutorEndTime: ("·", "dim", lambda e: f"[{e.index}] executor ended"),
    events.ExecutorExitCode: ("■", "bold", lambda e: f"[{e.index}] exit code {e.exit_code}"),
    events.RunningCommand: ("▶", "bold", lambda e: f"[{e.index}] {_short_command(e.cmd)}"),
    events.ContainerMetadata: (
        "·",
        "dim",
        lambda e: (
            f"[{e.index}] container {e.container_name} {e.container_id[:12]} of {e.container_image_hash}"
        ),
    ),
    events.StoppingContainer: ("■", "yellow", lambda e: f"[{e.index}] stopping {e.container}"),
    events.PullFailed: ("✗", "red", lambda e: f"image pull failed: {e.error}"),
    events.LogFilesFailed: ("✗", "red", lambda e: f"[{e.index}] can't start: {e.error}"),
    events.ExecError: ("✗", "red", lambda e: f"executor failed: {e.error}"),
    events.SystemErrorEvent: ("✗", "red", lambda e: f"system error: {e.error}"),
    events.UnknownField: ("!", "yellow", lambda e: f"unknown field {e.field_path} is ignored"),
    events.UnsupportedParameter: ("!", "yellow", lambda e: f"backend parameter {e.parameter} is ignored"),
    events.ImagePullStarted: ("↓", "dim", lambda e: f"image {e.image}"),
    events.ImagePullFinished: ("↓", "cyan", lambda e: f"image {e.image} in {e.seconds:.1f} s"),
    events.OutputMissing: ("!", "yellow", lambda e: f"output {e.path} was not made ({e.url})"),
    events.OutputSkipped: ("!", "yellow", lambda e: f"output {e.path} is left out: {e.reason}"),
    events.WorkDirNotRemoved: ("!", "yellow", lambda e: f"{e.path} could not be removed: {e.error}"),
    events.ContainerNotRemoved: ("!", "yellow", lambda e: f"{e.container} could not be removed: {e.error}"),
    events.ContainerOrphanRemoved: (
        "!",
        "yellow",
        lambda e: f"removed {e.container}, whose runner is gone",
    ),
    events.SweepFailed: ("!", "yellow", lambda e: f"what dead runners left is not known: {e.error}"),
    events.OwnershipNotChanged: ("!", "yellow", lambda e: f"{e.path} still belongs to root: {e.error}"),
    events.HostPathFound: ("·", "dim", lambda e: f"{e.path} is {e.host_path} on the Docker host"),
    events.JobMetadataFailed: ("!", "yellow", lambda e: f"the job's metadata are not known: {e.error}"),
    events.ResourceLimited: (
        "!",
        "yellow",
        lambda e: f"{e.resource} {e.asked:g} is asked for, the job has {e.given:g}",
    ),
    events.WatchdogFailed: ("!", "yellow", lambda e: f"there is no watchdog: {e.error}"),
    events.TaskStopping: (
        "■",
        "bold yellow",
        lambda e: f"stopping ({e.reason}), {e.seconds_left:.0f} s left",
    ),
    events.OutputsNotSaved: ("!", "yellow", lambda e: f"not all outputs are saved: {e.error}"),
    events.InstanceReclaimed: ("!", "bold yellow", lambda e: f"Spot reclaim: {e.action} at {e.time}"),
    events.ReclaimWatchFailed: ("!", "yellow", lambda e: f"Spot reclaims are not seen: {e.error}"),
    events.EngineLost: ("!", "yellow", lambda e: f"[{e.index}] lost the Docker engine: {e.error}"),
    events.EngineBack: ("·", "", lambda e: f"[{e.index}] the Docker engine is back after {e.seconds:.1f} s"),
    events.WorkDirSwept: ("·", "dim", lambda e: f"removed {e.path}, which a dead runner left"),
    events.DownloadTotals: (
        "↓",
        "bold cyan",
        lambda e: _totals(e, "downloaded", "there from an earlier attempt"),
    ),
    events.UploadTotals: ("↑", "bold cyan", lambda e: _totals(e, "uploaded", "sent by an earlier attempt")),
    events.LogStreamLost: ("!", "yellow", lambda e: f"events no longer reach {e.stream}: {e.error}"),
}


@dataclass(slots=True)
class _Output:
    """What one stream of one executor has printed so far, and what of it stands on the screen."""

    tail: str = ""
    unfinished: str = ""
    """The beginning of a line whose end has not come yet."""

    def new_lines(self, tail: str) -> list[str]:
        """Take the next whole tail; the lines it completes."""
        lines = (self.unfinished + new_text(self.tail, tail)).split("\n")
        self.tail = tail
        self.unfinished = lines.pop()
        return lines


class TerminalLog:
    """A reporter that draws events on `stream`, a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._bar = TaskID(0)
        self._outputs: dict[tuple[int, str], _Output] = {}
        self._gone = False
        self._thread = EventThread("terminal-log", self._handle)

    def report(self, event: Event) -> None:
        """Take one event."""
        self._thread.put(event)

    def close(self, patience_seconds: float = 10.0) -> None:
        """Draw everything reported so far and leave the terminal as it was. Blocks; safe to call again."""
        if self._thread.close(patience_seconds):
            self._end_progress()

    def _handle(self, event: Event, _logged_ns: int) -> None:
        if self._gone:
            return
        try:
            self._show(event)
        except OSError:  # the terminal was closed; the task goes on, and so does the JSON copy
            self._gone = True

    def _show(self, event: Event) -> None:
        if isinstance(event, events.DownloadProgress | events.UploadProgress):
            self._show_progress(event)
        elif isinstance(event, events.ExecutorStdout):
            self._show_output(event, "stdout", event.stdout)
        elif isinstance(event, events.ExecutorStderr):
            self._show_output(event, "stderr", event.stderr)
        else:
            if isinstance(event, events.ExecutorEndTime | events.ExecutorExitCode | events.TaskEndTime):
                self._finish_lines()
            if isinstance(event, events.TaskState | events.TaskOutputs | events.TaskEndTime):
                self._end_progress()
            self._console.print(line(event))

    def _show_output(self, event: Event, stream: str, tail: str) -> None:
        output = self._outputs.setdefault((event.index, stream), _Output())
        for text in output.new_lines(tail):
            self._console.print(output_line(event.index, stream, text))

    def _finish_lines(self) -> None:
        for (index, stream), output in self._outputs.items():
            if output.unfinished:
                self._console.print(output_line(index, stream, output.unfinished))
                output.unfinished = ""

    def _show_progress(self, event: events.DownloadProgress | events.UploadProgress) -> None:
        total = event.bytes_total or None
        if self._progress is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            # No refreshing thread: it is drawn again with each event.
            self._progress = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
            mark = "↓" if isinstance(event, events.DownloadProgress) else "↑"
            self._bar = self._progress.add_task(f"{_INDENT}{mark}", total=total, text="")
            self._progress.start()
        self._progress.update(
            self._bar, completed=event.bytes_done, total=total, text=progress_text(event), refresh=True
        )

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def line(event: Event) -> Text:
    """The line (or lines: an error is shown whole) for one event: time, mark, sentence."""
    mark, style, sentence = _LOOKS.get(type(event), ("·", "", _any_event))
    if isinstance(event, events.TaskState) and event.state in _FINAL_STATES:
        mark, style = ("✓", "bold green") if event.state == "COMPLETE" else ("✗", "bold red")
    elif isinstance(event, events.ExecutorExitCode) and event.exit_code:
        style = "bold yellow"
    first, *others = safe(redact(sentence(event))).rstrip("\n").split("\n")
    moment = datetime.fromtimestamp(event.timestamp_ns // 1_000_000_000, tz=UTC).astimezone()
    text = Text(f"{moment:%H:%M:%S} ", style="dim")
    body = "\n".join([f"{mark} {first}", *(f"{_INDENT}{other}" for other in others)])
    return Text.assemble(text, (body, style))


def output_line(index: int, stream: str, text: str) -> Text:
    """One line of an executor's output, coloured by its stream."""
    shown = safe(text.rstrip("\r").rpartition("\r")[2])  # what a terminal would show after carriage returns
    colour = "blue" if stream == "stdout" else "yellow"
    return Text.assemble((f"{_INDENT}[{index}] ", "dim"), ("│ ", colour), shown)


def progress_text(event: events.DownloadProgress | events.UploadProgress) -> str:
    """`1.2 GB of 6.0 GB, 310.0 MB/s, 15 s left, 3 of 7 files`, without what is not known."""
    parts = [_size(event.bytes_done)]
    if event.bytes_total >= event.bytes_done > 0:
        parts[0] += f" of {_size(event.bytes_total)}"
    if event.bytes_per_second > 0:
        parts.append(f"{_size(event.bytes_per_second)}/s")
        if (left := event.bytes_total - event.bytes_done) > 0:
            parts.append(f"{_duration(left / event.bytes_per_second)} left")
    parts.append(f"{event.files_done} of {event.files_total} files")
    return ", ".join(parts)


def new_text(before: str, after: str) -> str:
    """What the tail `after` has beyond the earlier tail `before`; both may have lost their beginnings."""
    start = 0
    while not after.startswith(before[start:]):
        start += 1
    return after[len(before) - start :]


def safe(text: str) -> str:
    """`text` without anything that could drive a terminal; newlines and tabs stay."""
    return _UNSAFE.sub("", _ESCAPE_SEQUENCE.sub("", text))


def _any_event(event: Event) -> str:
    return f"{event.msg} {_pairs(event.fields())}"


def _pairs(mapping: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in mapping.items())


def _outputs(outputs: tuple[events.OutputLog, ...]) -> str:
    files = "1 file" if len(outputs) == 1 else f"{len(outputs)} files"
    return f"{files} uploaded, {_size(sum(output.size_bytes for output in outputs))}"


def _totals(event: events.DownloadTotals | events.UploadTotals, done: str, resumed: str) -> str:
    """`3 files, 6.0 GB, downloaded in 12 s (500.0 MB/s)`, and what an earlier attempt had done of it."""
    files = "1 file" if event.files_done == 1 else f"{event.files_done} files"
    seconds = f"{event.seconds:.1f} s" if event.seconds < 10 else _duration(event.seconds)
    text = f"{files}, {_size(event.bytes_done)}, {done} in {seconds} ({_size(event.bytes_per_second)}/s)"
    return f"{text}, {_size(event.bytes_resumed)} {resumed}" if event.bytes_resumed else text


_BEFORE_IMAGE = re.compile(r"docker run .*? --name \S+(?: -w .+?)?(?: -v .+?:r[ow])+ ", re.DOTALL)


def _short_command(cmd: str) -> str:
    """The image and its command, without the options of `docker run` before them."""
    return _BEFORE_IMAGE.sub("", cmd, count=1)


def _size(size_bytes: float) -> str:
    """`6.0 MB`, in powers of a thousand; nothing for a size that nobody told."""
    if size_bytes < 0:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _duration(seconds: float) -> str:
    """`15 s`, `2:05 min`, `1:02:05 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
