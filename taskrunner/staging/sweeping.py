"""What dead runners left in the work directory goes: files of tasks that nobody will go on with, open uploads.

A scratch disk outlives jobs that were killed, and would fill up. Which directories these are, `workdir` knows;
here the uploads that a dead runner left open in a store are ended first, for their journals go with the rest.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from taskrunner.errors import TaskrunnerError
from taskrunner.events import SweepFailed, WorkDirNotRemoved, WorkDirSwept
from taskrunner.shielded import in_daemon_thread
from taskrunner.staging.stage_out import take_back_uploads
from taskrunner.workdir import Abandoned, abandoned

if TYPE_CHECKING:
    from taskrunner.events import Reporter
    from taskrunner.settings import TransferSettings, WorkSettings
    from taskrunner.storage.opening import Stores

_TAKE_BACK_SECONDS = 10.0


async def sweep_work_dir(
    work: WorkSettings, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """Remove what dead runners left in `work.work_dir` and nobody has touched for `work.sweep_seconds`.

    Each directory is told. So is what can't be removed or ended; nothing of that is raised. When cancelled, the
    rest is left to a later sweep.
    """
    try:
        leavings = abandoned(work.work_dir, work.sweep_seconds)
        while found := await in_daemon_thread(lambda: next(leavings, None), name="look for leavings"):
            await _take_back(found, stores, transfer, reporter)
            await _remove(found, reporter)
    except FileNotFoundError:
        return  # the first task here
    except OSError as error:
        reporter.report(SweepFailed(error=f"can't read {work.work_dir}: {error.strerror}"))


async def _take_back(
    found: Abandoned, stores: Stores, transfer: TransferSettings, reporter: Reporter
) -> None:
    """End the uploads that are open. Where that fails, their journals stay."""
    try:
        async with asyncio.timeout(_TAKE_BACK_SECONDS):
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
    try:
        error = await in_daemon_thread(lambda: found.remove(stopped), name="sweep")
    finally:
        stopped.set()  # where we are cancelled, the thread ends as well, and gives it up
    path = str(found.workdir.root)
    if error is None:
        reporter.report(WorkDirSwept(path=path))
    else:
        reporter.report(WorkDirNotRemoved(path=path, error=error.strerror or str(error)))
