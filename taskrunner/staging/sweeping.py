"""What dead runners left in the work directory goes: files of tasks that nobody will go on with, open uploads.

A scratch disk outlives jobs that were killed, and would fill up. Which directories these are, `workdir` knows;
here the uploads that a dead runner left open in a store are ended first, for their journals go with the rest.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from taskrunner.errors import TaskrunnerError
from taskrunner.events import SweepFailed, WorkDirNotRemoved, WorkDirSwept
from taskrunner.shielded import in_daemon_thread
from taskrunner.staging.stage_out import take_back_uploads
from taskrunner.workdir import Abandoned, abandoned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taskrunner.events import Reporter
    from taskrunner.settings import TransferSettings, WorkSettings
    from taskrunner.storage.opening import Stores

_HEAD_START_SECONDS = 2.0
"""How long the task waits for it: inputs may need the space."""
_TAKE_BACK_SECONDS = 10.0
"""How long stores may take to end all uploads together."""


@asynccontextmanager
async def sweeping_work_dir(
    work: WorkSettings,
    stores: Stores,
    transfer: TransferSettings,
    reporter: Reporter,
    *,
    after: Callable[[], Awaitable[None]],
) -> AsyncIterator[None]:
    """Sweep beside what is done in the context, as `sweep_work_dir` does, with a little head start.

    It begins when `after()` has returned: when the containers of dead runners are gone, which may still write to
    what is swept. What is not done when the context ends is left to a later sweep.
    """

    async def sweep() -> None:
        await after()
        await sweep_work_dir(work, stores, transfer, reporter)

    async with asyncio.TaskGroup() as group:
        sweeping = group.create_task(sweep(), name="work directory sweep")
        await asyncio.wait([sweeping], timeout=_HEAD_START_SECONDS)
        yield
        sweeping.cancel()


async def sweep_work_dir(
    work: WorkSettings, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """Remove what dead runners left in `work.work_dir` and nobody has touched for `work.sweep_seconds`.

    Each directory that is gone is told. So is what can't be removed or ended; nothing of that is raised. When
    cancelled, the rest is left to a later sweep.
    """
    left_seconds = _TAKE_BACK_SECONDS
    try:
        leavings = abandoned(work.work_dir, work.sweep_seconds)
        while found := await in_daemon_thread(lambda: next(leavings, None), name="look for leavings"):
            if found.has_uploads:
                begun_seconds = time.monotonic()
                await _take_back(found, stores, transfer, reporter, left_seconds)
                left_seconds -= time.monotonic() - begun_seconds
            await _remove(found, reporter)
    except FileNotFoundError:
        return  # the first task here
    except OSError as error:
        reporter.report(SweepFailed(error=f"can't read {work.work_dir}: {error.strerror}"))


async def _take_back(
    found: Abandoned, stores: Stores, transfer: TransferSettings, reporter: Reporter, limit_seconds: float
) -> None:
    """End the uploads that are open. Where that fails, their journals stay."""
    try:
        async with asyncio.timeout(limit_seconds):
            await take_back_uploads(found.workdir, stores, transfer, reporter)
    except TimeoutError:
        reporter.report(SweepFailed(error=f"uploads of {found.workdir.root} stay open: no answer in time"))
    except TaskrunnerError as error:
        reporter.report(SweepFailed(error=f"uploads of {found.workdir.root} stay open: {error}"))
    except BaseException:
        found.give_up()
        raise


async def _remove(found: Abandoned, reporter: Reporter) -> None:
    stopped = threading.Event()
    path = str(found.workdir.root)
    try:
        is_gone = await in_daemon_thread(lambda: found.remove(stopped), name="sweep")
    except OSError as error:
        reporter.report(WorkDirNotRemoved(path=path, error=error.strerror or str(error)))
    else:
        if is_gone:
            reporter.report(WorkDirSwept(path=path))
    finally:
        stopped.set()  # where we are cancelled, the thread ends as well, and gives it up
