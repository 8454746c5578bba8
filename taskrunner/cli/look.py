"""`validate` and `plan`: look at a task without touching anything."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from taskrunner.cli.options import PLANNING, S3, settings_from
from taskrunner.cli.source import PARAMETERS, read_document

if TYPE_CHECKING:
    from taskrunner.plan import Plan
    from taskrunner.settings import Settings

_PARAMETERS: list[click.Parameter] = [*PARAMETERS, *PLANNING, *S3]


def _planned(values: dict[str, Any]) -> Plan:
    from taskrunner.document import parse_task  # noqa: PLC0415
    from taskrunner.identity import new_task_id  # noqa: PLC0415  # pydantic comes with the model
    from taskrunner.planning import make_plan  # noqa: PLC0415

    settings = settings_from(_PARAMETERS, values)
    document = asyncio.run(_read(values, settings))
    return make_plan(parse_task(document, new_id=new_task_id), settings)


async def _read(values: dict[str, Any], settings: Settings) -> bytes:
    from taskrunner.storage.opening import Stores  # noqa: PLC0415  # HTTP libraries, AWS's when needed

    async with Stores(settings) as stores:
        return await read_document(values, stores)


def _validate(**values: Any) -> int:
    plan = _planned(values)
    for path in plan.unknown_fields:
        click.echo(f"warning: {path} is no field of TES and is ignored", err=True)
    for name in plan.unsupported_parameters:
        click.echo(f"warning: the backend parameter {name} is not supported and is ignored", err=True)
    click.echo("the task document is valid", err=True)
    return 0


def _plan(**values: Any) -> int:
    from taskrunner.plan import plan_as_json  # noqa: PLC0415  # pydantic comes with the model

    click.echo(json.dumps(plan_as_json(_planned(values)), indent=2, ensure_ascii=False))
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
