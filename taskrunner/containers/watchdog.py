"""What outlives a killed runner for the moment it takes to remove the runner's containers.

A script of its own that needs nothing but Python's library, run by `python -I -S`; `guard` starts it. It waits
for the runner's end, and has loaded next to nothing until then. A runner outside a container is gone when our
standard input ends, whose other end nobody else holds. Where RUNNERS_CONTAINER is not empty, we are in a container
of our own: then the runner is gone when the engine says that its container has exited or is not there. An engine
that fails or does not answer says nothing: it is asked again.

    watchdog.py DOCKER_HOST RUNNERS_CONTAINER WATCHDOG LABEL...

Removed is every container that has all of the LABELs (NAME=VALUE), but for one that got them from its image, which
somebody may have made of one of the runner's containers. What has the label WATCHDOG is removed by a process only,
and last: until then, either may end before it is done. A watchdog's container is removed by the engine.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # `typing` is not loaded for what only a type checker reads
if TYPE_CHECKING:
    from typing import Any

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.5
_LOOKS = 4
"""How often in a row nothing must be left: the engine may still be making what the runner asked for last."""
_PATIENCE_SECONDS = 900.0
"""With an engine that is down. What is left then, the next runner's start removes."""


def main(docker_host: str, runners_container: str, watchdog: str, *labels: str) -> None:
    """Wait for the end of the runner, then remove its containers until none is left."""
    if runners_container:
        _await_end_of(docker_host, runners_container)
    else:
        _await_end_of_input()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    looks = 0
    while looks < _LOOKS and time.monotonic() < deadline:
        left = _remove_all(docker_host, watchdog, labels, watchdogs_too=not runners_container)
        looks = 0 if left else looks + 1
        time.sleep(_PAUSE_SECONDS)


def _await_end_of_input() -> None:
    try:
        os.read(0, 1)  # nobody ever writes
    except OSError:
        return  # broken off is an end as well


def _await_end_of(docker_host: str, container: str) -> None:
    while True:
        _ask(docker_host, "POST", f"/containers/{container}/wait")  # silent as long as it runs
        status, known = _ask(docker_host, "GET", f"/containers/{container}/json")
        if status == 404 or (status == 200 and known["State"]["Status"] in ("exited", "dead")):
            return
        time.sleep(_PAUSE_SECONDS)


def _remove_all(docker_host: str, watchdog: str, labels: tuple[str, ...], *, watchdogs_too: bool) -> bool:
    """Whether something was, or may be, left to remove."""
    from json import dumps  # noqa: PLC0415  # as in `_ask`
    from urllib.parse import quote  # noqa: PLC0415

    filters = quote(dumps({"label": labels}))
    status, listed = _ask(docker_host, "GET", f"/containers/json?all=1&filters={filters}")
    if status != 200:
        return True
    watchdogs = [one for one in listed if watchdog in _labels(one)]
    others = [one for one in listed if one not in watchdogs]
    left = [one for one in others if _remove(docker_host, one, labels)]
    if watchdogs_too and not left:
        left = [one for one in watchdogs if _remove(docker_host, one, labels)]
    return bool(left)


def _remove(docker_host: str, container: Any, labels: tuple[str, ...]) -> bool:
    """Remove a container that is the runner's; whether it was, or may be."""
    status, image = _ask(docker_host, "GET", f"/images/{container['ImageID']}/json")
    if status != 200:
        return status != 404  # it may be ours
    if _labels(image["Config"] or {}).issuperset(labels):
        return False
    _ask(docker_host, "DELETE", f"/containers/{container['Id']}?force=1&v=1")
    return True


def _labels(labelled: Any) -> set[str]:
    return {f"{name}={value}" for name, value in (labelled.get("Labels") or {}).items()}


def _ask(docker_host: str, method: str, path: str) -> tuple[int, Any]:
    """The status and the JSON of the engine's answer; 0 where none comes."""
    # Not loaded before the runner's end, to be as small as can be until then.
    import json  # noqa: PLC0415
    import socket  # noqa: PLC0415
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415

    kind, _, address = docker_host.partition("://")
    connection = HTTPConnection(
        "localhost" if kind == "unix" else address.rstrip("/"), timeout=_ANSWER_SECONDS
    )
    try:
        if kind == "unix":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_ANSWER_SECONDS)
            connection.sock.connect(address)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else None
    except (OSError, HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
