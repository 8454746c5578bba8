"""`validate` and `plan`: look at a task without touching anything."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import click

from taskrunner.batch.job import Job
from taskrunner.cli.options import CONTAINERS, FILL_IN_URLS, PLANNING, S3, settings_from
from taskrunner.cli.source import PARAMETERS, read_task

if TYPE_CHECKING:
    from taskrunner.plan import Plan

_PARAMETERS: list[click.Parameter] = [*PARAMETERS, *PLANNING, *CONTAINERS, FILL_IN_URLS, *S3]


async def _planned(values: dict[str, Any]) -> Plan:
    from taskrunner.planning import make_plan  # noqa: PLC0415  # pydantic comes with the model
    from taskrunner.storage.opening import Stores  # noqa: PLC0415  # HTTP libraries, AWS's when needed

    settings = settings_from(_PARAMETERS, values)
    async with Stores(settings) as stores:
        loaded = await read_task(values, settings, stores, Job.read(os.environ))
    return make_plan(loaded, settings)


def _validate(**values: Any) -> int:
    plan = asyncio.run(_planned(values))
    for path in plan.unknown_fields:
        click.echo(f"warning: {path} is no field of TES and is ignored", err=True)
    for name in plan.unsupported_parameters:
        click.echo(f"warning: the backend parameter {name} is not supported and is ignored", err=True)
    click.echo("the task document is valid", err=True)
    return 0


def _plan(**values: Any) -> int:
    from taskrunner.plan import plan_as_json  # noqa: PLC0415  # pydantic comes with the model

    plan = asyncio.run(_planned(values))
    click.echo(json.dumps(plan_as_json(plan), indent=2, ensure_ascii=False))
    return 0


VALIDATE = click.Command(
    "validate",
    callback=_validate,
    params=_PARAMETERS,
    help=(
        "Check TASK (a path, -, or a URL) and list every mistake in it, each with its place, on standard error. "
        "Touches nothing. Exit code 65 when there is a mistake."
    ),
)
PLAN = click.Command(
    "plan",
    callback=_plan,
    params=_PARAMETERS,
    help="Print what `run` would do with TASK, as JSON: transfers, mounts, containers. Touches nothing.",
)
