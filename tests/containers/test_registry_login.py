"""Whose credentials a registry gets, and where they come from."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from taskrunner.containers.registry import (
    Credentials,
    DockerConfig,
    RegistryLogin,
    read_docker_config,
)
from taskrunner.errors import AccessDeniedError, UsageError

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
HUB_KEY = "https://index.docker.io/v1/"


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def helper(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


async def ecr_login(registry: str) -> tuple[str, str]:
    return "AWS", f"token for {registry}"


async def no_ecr_login(registry: str) -> tuple[str, str]:
    raise AccessDeniedError("no credentials")


async def test_docker_hubs_credentials_stand_under_its_old_name() -> None:
    login = RegistryLogin(DockerConfig({"auths": {HUB_KEY: {"auth": basic("me", "a:b")}}}))

    assert (await login.credentials("docker.io")).auth == {
        "username": "me",
        "password": "a:b",
        "serveraddress": HUB_KEY,
    }


async def test_an_identity_token_outweighs_a_password() -> None:
    login = RegistryLogin(
        DockerConfig({"auths": {"r.example": {"auth": basic("me", "x"), "identitytoken": "it"}}})
    )

    assert (await login.credentials("r.example")).auth == {
        "identitytoken": "it",
        "serveraddress": "r.example",
    }


async def test_another_registrys_credentials_are_never_sent() -> None:
    login = RegistryLogin(DockerConfig({"auths": {"r.example": {"auth": basic("me", "x")}}}))

    assert (await login.credentials("r.example.org")).auth is None
    assert (await login.credentials("docker.io")).auth is None


@pytest.mark.parametrize("entry", [{}, {"auth": "%%%"}, {"auth": basic("", "")[:2]}, "x"])
async def test_an_entry_without_credentials_is_none(entry: object) -> None:
    assert (
        await RegistryLogin(DockerConfig({"auths": {"r.example": entry}})).credentials("r.example")
    ).auth is None


async def test_a_helper_may_answer_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, """cat >/dev/null; echo '{"Username": "<token>", "Secret": "it"}'""", monkeypatch)
    found = await RegistryLogin(DockerConfig({"credsStore": "test"})).credentials("r.example")

    assert found.auth == {"identitytoken": "it", "serveraddress": "r.example"}


@pytest.mark.parametrize(
    ("script", "remark"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", "has no credentials for r.example"),
        ("echo nonsense", "did not answer in JSON"),
        ("echo '[]'", "did not answer in JSON"),
    ],
)
async def test_a_helper_without_an_answer_leaves_us_anonymous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, remark: str
) -> None:
    helper(tmp_path, script, monkeypatch)
    found = await RegistryLogin(DockerConfig({"credsStore": "test"})).credentials("r.example")

    assert found.auth is None
    assert remark in found.remark


@pytest.mark.parametrize(
    ("registry", "is_ecr"),
    [
        (ECR, True),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", True),
        ("123456789012.dkr-ecr.us-east-1.on.aws", True),
        ("public.ecr.aws", False),
        (f"{ECR}.evil.example", False),
        ("quay.io", False),
    ],
)
async def test_only_ecr_registries_get_a_token_of_ecrs(registry: str, is_ecr: bool) -> None:
    found = await RegistryLogin(DockerConfig({}), ecr_login).credentials(registry)

    assert found.auth == (
        {"username": "AWS", "password": f"token for {registry}", "serveraddress": registry}
        if is_ecr
        else None
    )


async def test_the_config_file_outweighs_ecrs_token() -> None:
    login = RegistryLogin(DockerConfig({"auths": {ECR: {"auth": basic("me", "mine")}}}), ecr_login)
    found = await login.credentials(ECR)

    assert found.auth is not None
    assert found.auth["password"] == "mine"


async def test_no_token_is_kept_as_a_remark() -> None:
    assert await RegistryLogin(DockerConfig({}), no_ecr_login).credentials(ECR) == Credentials(
        None, "no token from ECR: no credentials"
    )


def test_secrets_are_not_in_a_repr() -> None:
    assert "hush" not in repr(Credentials({"username": "me", "password": "hush"}))


def test_the_config_file_is_found_by_docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert read_docker_config() == DockerConfig({})
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "x"}))
    assert read_docker_config() == DockerConfig({"credsStore": "x"})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_docker_config()


def test_a_config_file_that_may_not_be_read_leaves_us_anonymous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(Path, "read_bytes", refuse)

    config = read_docker_config()

    assert config.content == {}
    assert config.remark == f"the Docker config file {tmp_path}/config.json can't be read: Permission denied"


async def test_why_the_config_file_was_not_read_is_kept_as_a_remark() -> None:
    login = RegistryLogin(DockerConfig({}, "it can't be read"))

    assert await login.credentials("quay.io") == Credentials(None, "it can't be read")
