"""The labels on every container we make: whose it is, so that nobody takes it for somebody else's."""

from __future__ import annotations

TASK_ID_LABEL = "taskrunner.task-id"
WORK_DIR_LABEL = "taskrunner.work-dir"
"""Where the task's directory is on the Docker host: only one live runner at a time owns it."""
JOB_ID_LABEL = "taskrunner.job-id"
"""Batch's id of the job; only inside one, as the next."""
ATTEMPT_LABEL = "taskrunner.attempt"
"""Which attempt of the job, as Batch counts: from 1."""
RUN_LABEL = "taskrunner.run"
"""One run of the program: in one container there may be several, one after another."""
RUNNER_ID_LABEL = "taskrunner.runner-id"
"""Who runs the task, as `reaper.runner_id` calls it: its containers are to go when it is gone."""
WATCHDOG_LABEL = "taskrunner.watchdog"
"""With the runner's id as its value, on the container that watches over that runner.

Its name alone says nothing: an image may bring labels, but can't know who will run it.
"""
