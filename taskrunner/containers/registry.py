"""Who we are to a registry: the credentials for it.

Credentials come from where the docker command has them: `auths`, `credHelpers` and `credsStore` of the Docker
config file (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`), and helpers are asked by their
protocol (`docker-credential-NAME get`). An ECR registry the file says nothing about is asked for a token.
As in the docker command, a helper that fails leaves us anonymous; what it said is kept, for the sentence that
explains a refused pull. Secrets are never in a repr.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskrunner.aws import is_ecr_registry
from taskrunner.errors import AccessDeniedError, UsageError
from taskrunner.reference import HUB

EcrLogin = Callable[[str], Awaitable[tuple[str, str]]]
"""ECR's token call: a registry's host name → user, password."""

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry may be told about us; `auth` None is anonymous."""

    auth: Mapping[str, str] | None = field(default=None, repr=False)
    """The engine's AuthConfig: username and password, or identitytoken."""
    remark: str = ""
    """Why there are none, where they were to be had: for the error if the registry refuses."""


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What the docker command knows of registries."""

    content: Mapping[str, object] = field(repr=False)
    """The config file's JSON."""
    remark: str = ""
    """Why there is nothing in it, where there may be something: for the error if a registry refuses."""


class RegistryLogin:
    """Finds the credentials for an image's registry."""

    def __init__(self, config: DockerConfig, ecr_login: EcrLogin | None = None) -> None:
        self._config = config.content
        self._remark = config.remark
        self._ecr_login = ecr_login

    async def credentials(self, registry: str) -> Credentials:
        """Those of the config file, else (for ECR) a token, else none.

        Raises TransientError where ECR's token call may well work on another try.
        """
        key = _HUB_KEY if registry == HUB else registry
        found = await self._configured(key, registry)
        if found.auth is not None or self._ecr_login is None or not is_ecr_registry(registry):
            return found
        try:
            user, password = await self._ecr_login(registry)
        except AccessDeniedError as error:
            return Credentials(remark=f"no token from ECR: {error}")
        return Credentials(_user_auth(user, password, registry))

    async def _configured(self, key: str, registry: str) -> Credentials:
        helpers = _section(self._config, "credHelpers")
        helper = helpers.get(key) or helpers.get(registry) or self._config.get("credsStore")
        found = await _ask_helper(str(helper), key) if helper else Credentials(remark=self._remark)
        if found.auth is not None:
            return found
        for name, entry in _section(self._config, "auths").items():
            if _host(name) == _host(key) and isinstance(entry, dict):
                auth = _entry_auth(entry, key)
                if auth is not None:
                    return Credentials(auth)
        return found


def read_docker_config() -> DockerConfig:
    """The Docker config file, an empty one where there is none. Blocking. Raises UsageError where it is broken.

    One that we may not read (another user's home) leaves us anonymous, as it does the docker command.
    """
    try:
        directory = Path(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser())
    except RuntimeError:  # a user id without an entry in passwd, and no HOME
        return DockerConfig({})
    path = directory / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return DockerConfig({})
    except OSError as error:
        return DockerConfig({}, f"the Docker config file {path} can't be read: {error.strerror}")
    except ValueError as error:
        raise UsageError(f"the Docker config file {path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"the Docker config file {path} should hold a JSON object")
    return DockerConfig(config)


def _section(config: Mapping[str, object], name: str) -> dict[str, object]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _host(key: str) -> str:
    """`https://HOST/v1/` and `HOST` are one registry in the config file."""
    return key.removeprefix("https://").removeprefix("http://").split("/", 1)[0]


def _entry_auth(entry: Mapping[str, object], server: str) -> dict[str, str] | None:
    """An entry of `auths`: identitytoken, auth (base64 of user:password), or the two in clear."""
    if token := entry.get("identitytoken"):
        return {"identitytoken": str(token), "serveraddress": server}
    if encoded := entry.get("auth"):
        try:
            user, colon, password = base64.b64decode(str(encoded)).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return _user_auth(user, password.rstrip("\0"), server) if colon else None
    if entry.get("username"):
        return _user_auth(str(entry["username"]), str(entry.get("password", "")), server)
    return None


def _user_auth(user: str, password: str, server: str) -> dict[str, str]:
    return {"username": user, "password": password, "serveraddress": server}


async def _ask_helper(name: str, server: str) -> Credentials:
    """One question by the credential helpers' protocol: the server on stdin, JSON on stdout."""
    program = f"docker-credential-{name}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        return Credentials(remark=f"{program} can't be run: {error.strerror}")
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            answer, _ = await process.communicate(server.encode())
    except TimeoutError:
        return Credentials(remark=f"{program} did not answer within {_HELPER_SECONDS:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        return Credentials(remark=f"{program} has no credentials for {server}")
    return _helper_credentials(program, answer, server)


def _helper_credentials(program: str, answer: bytes, server: str) -> Credentials:
    try:
        told = json.loads(answer)
        user, secret = str(told["Username"]), str(told["Secret"])
    except (ValueError, KeyError, TypeError):
        return Credentials(remark=f"{program} did not answer in JSON with Username and Secret")
    if user == "<token>":
        return Credentials({"identitytoken": secret, "serveraddress": server})
    return Credentials(_user_auth(user, secret, server))
