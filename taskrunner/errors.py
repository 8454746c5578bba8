"""What can go wrong, as one shallow tree, and the exit code each of it ends the process with.

Library errors are mapped to these where the library is called, with the original kept as the cause, so
that no other module needs to know what aiodocker or botocore raise. Each error's text is for the person
who reads the log: what failed, on which URL or path, what was expected, what to do. `ExitCode` is the only
table of exit codes in the program; `docs/exit-codes.md` is compared with it by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class ExitCode(IntEnum):
    """The process's exit codes; a failing executor's own code is passed through beside these.

    They follow sysexits.h, so that AWS Batch's `evaluateOnExit` can retry 75 and nothing else.
    """

    COMPLETE = 0
    """The task is COMPLETE and every output is uploaded."""
    USAGE = 64
    """The command line, a TASKRUNNER_ variable or the AWS or Docker configuration is wrong."""
    INVALID_TASK = 65
    """The task document is wrong; every mistake is listed on standard error."""
    INPUT_MISSING = 66
    """An input or the task document does not exist."""
    ENGINE_UNAVAILABLE = 69
    """The Docker engine does not answer, or an image or something else that executors need is not on its host."""
    BUG = 70
    """A mistake in taskrunner itself; please report it with the log."""
    OUTPUT_FAILED = 73
    """An output is missing after success, or its destination can't be written."""
    IO_ERROR = 74
    """Reading or writing failed: disk full, a file changed midway, damaged bytes."""
    RETRY = 75
    """Worth retrying: network, throttling, a server's 5xx, or stopped by a signal."""
    ACCESS_DENIED = 77
    """Credentials are missing, wrong, or not allowed to do this."""
    TIMED_OUT = 124
    """A time limit of the operator's ended the task or an executor, as timeout(1) says it."""
    OUT_OF_MEMORY = 137
    """An executor, or a process of it, was killed for want of memory, whatever code its container ended with."""


class TaskrunnerError(Exception):
    """Something a user can cause or should know; its text is a whole sentence for them."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class UsageError(TaskrunnerError):
    """An option or environment variable has a value that can't be used."""

    exit_code = ExitCode.USAGE


def one_line(text: str) -> str:
    """`text` with line breaks and control characters spelled out, so that it can't pass for more than one."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing wrong with a task document: where, as a JSON path (`inputs[0].path`), and what was expected."""

    path: str
    expected: str

    def __str__(self) -> str:
        """`inputs[0].path: expected an absolute path, got "x"`: one line, whatever the document holds."""
        text = f"{self.path}: {self.expected}" if self.path else self.expected
        return one_line(text)


class InvalidTaskError(TaskrunnerError):
    """The task document can't be run; `mistakes` holds all of them, in the document's order."""

    exit_code = ExitCode.INVALID_TASK

    def __init__(self, mistakes: Sequence[Mistake], document: str = "the task document") -> None:
        """`document` says which one it is, where there are several."""
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        heading = f"{one_line(document)} has {count} mistake{'s' if count != 1 else ''}:"
        super().__init__("\n".join([heading, *(f"  {mistake}" for mistake in self.mistakes)]))


class InputMissingError(TaskrunnerError):
    """An input, a bucket it should be in, or the task document itself is not there."""

    exit_code = ExitCode.INPUT_MISSING


class EngineUnavailableError(TaskrunnerError):
    """The Docker engine can't be reached or refuses what every task needs."""

    exit_code = ExitCode.ENGINE_UNAVAILABLE


class ImageUnavailableError(TaskrunnerError):
    """An executor's image is not to be had: no such image, no access, or no network."""

    exit_code = ExitCode.ENGINE_UNAVAILABLE


class OutputFailedError(TaskrunnerError):
    """An output was not made although the executors succeeded, or its destination can't be written."""

    exit_code = ExitCode.OUTPUT_FAILED


class TransferIOError(TaskrunnerError):
    """Bytes could not be read or written for good: disk full, object changed midway, wrong length."""

    exit_code = ExitCode.IO_ERROR


class DamagedError(TransferIOError):
    """What arrived is not what was sent: its checksum differs from the one the store tells."""


class TransientError(TaskrunnerError):
    """Something that may well work on another try: a dropped connection, throttling, a server's 5xx.

    `retry_after_seconds` is the server's own wish (Retry-After), where it sent one.
    """

    exit_code = ExitCode.RETRY

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ThrottledError(TransientError):
    """The server asks for fewer requests (503 SlowDown, 429), or falls silent; fewer should be sent."""


class ConnectionCutError(TransientError):
    """A connection was given up by ourselves, since it was far slower than the others; a new one is better."""


class AccessDeniedError(TaskrunnerError):
    """The store, registry or operator does not allow this."""

    exit_code = ExitCode.ACCESS_DENIED


class SeveralError(TaskrunnerError):
    """Several failures of one phase, told together; the exit code is the gravest one's.

    A permanent failure outweighs one worth retrying: another attempt could not mend it.
    """

    def __init__(self, errors: Iterable[TaskrunnerError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))
        codes = {error.exit_code for error in self.errors}
        permanent = codes - {ExitCode.RETRY}
        self.exit_code = min(permanent or codes)  # type: ignore[misc]  # one instance's own verdict


def several(errors: Sequence[TaskrunnerError]) -> TaskrunnerError:
    """One error for all of `errors` (at least one), those that say the same told once."""
    different = {str(error): error for error in errors}
    return errors[0] if len(different) == 1 else SeveralError(different.values())


def the_error_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to raise for a TaskGroup's failure: our own errors as one; the group itself if it holds a bug."""
    ours, others = group.split(TaskrunnerError)
    if others is not None or ours is None:
        return group
    return several(_leaves(ours))


def _leaves(group: BaseExceptionGroup[TaskrunnerError]) -> list[TaskrunnerError]:
    leaves: list[TaskrunnerError] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves
