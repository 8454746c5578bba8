"""Getting images: policies, what pulls tell, and errors told apart, against real registries."""

from __future__ import annotations

import base64
import json
import secrets
import stat
from pathlib import Path

import pytest

from taskrunner.containers.engine import Engine
from taskrunner.containers.images import PullFault, ensure_image, pull_fault
from taskrunner.containers.registry import DockerConfig, RegistryLogin
from taskrunner.errors import ImageUnavailableError
from taskrunner.events import ImagePullStarted, PullFailed
from taskrunner.retrying import Patience
from taskrunner.settings import PullPolicy
from tests.containers.conftest import Recorder
from tests.engine import PASSWORD, USER, Registry, ask, free_port, remove_image

ANONYMOUS = RegistryLogin(DockerConfig({}))
PULLED = ["image pull started", "image pull finished"]


PATIENCE = Patience(attempts=2, first_wait_seconds=0.01)


async def ensure(
    engine: Engine,
    image: str,
    *,
    policy: PullPolicy = PullPolicy.MISSING,
    login: RegistryLogin = ANONYMOUS,
) -> Recorder:
    reporter = Recorder()
    await ensure_image(engine, image, policy=policy, login=login, reporter=reporter, patience=PATIENCE)
    return reporter


async def refused(engine: Engine, image: str, *, login: RegistryLogin = ANONYMOUS) -> str:
    """The sentence for an image that can't be pulled, which is told as an event and raised."""
    reporter = Recorder()
    with pytest.raises(ImageUnavailableError) as caught:
        await ensure_image(
            engine, image, policy=PullPolicy.ALWAYS, login=login, reporter=reporter, patience=PATIENCE
        )
    assert reporter.messages == ["image pull started", "failed to pull docker image"]
    assert reporter.last(PullFailed)["unknown"] == str(caught.value)
    return str(caught.value)


@pytest.fixture
def stored(open_registry: Registry, busybox_image: str) -> str:
    """An image that only the registry has."""
    return open_registry.push(busybox_image, f"pull-{secrets.token_hex(4)}:1")


@pytest.fixture
def locked(locked_registry: Registry, busybox_image: str) -> str:
    """The same where credentials are wanted."""
    return locked_registry.push(busybox_image, f"pull-{secrets.token_hex(4)}:1")


async def test_an_image_that_is_there_is_not_pulled(engine: Engine, busybox_image: str) -> None:
    assert (await ensure(engine, busybox_image)).messages == []


async def test_a_missing_image_is_pulled_once(engine: Engine, stored: str) -> None:
    reporter = await ensure(engine, stored)

    assert reporter.messages == PULLED
    assert reporter.last(ImagePullStarted) == {"image": stored}
    assert (await ensure(engine, stored)).messages == []
    remove_image(stored)


async def test_always_pulls_what_is_there(engine: Engine, stored: str) -> None:
    await ensure(engine, stored)

    assert (await ensure(engine, stored, policy=PullPolicy.ALWAYS)).messages == PULLED
    remove_image(stored)


async def test_always_means_always(engine: Engine, busybox_image: str) -> None:
    """The image is on the host under a name whose registry does not answer."""
    repository = f"127.0.0.1:{free_port()}/x"
    ask("POST", f"/images/{busybox_image}/tag?repo={repository}&tag=1")
    try:
        await refused(engine, f"{repository}:1")
    finally:
        remove_image(f"{repository}:1")


async def test_never_does_not_pull(engine: Engine, stored: str) -> None:
    with pytest.raises(ImageUnavailableError, match="the pull policy is never"):
        await ensure(engine, stored, policy=PullPolicy.NEVER)


async def test_an_image_can_be_pulled_by_its_digest(engine: Engine, stored: str) -> None:
    await ensure(engine, stored)
    _, body = ask("GET", f"/images/{stored}/json")
    digest = next(
        name for name in json.loads(body)["RepoDigests"] if name.startswith(stored.rpartition(":")[0])
    )
    remove_image(stored)

    assert (await ensure(engine, digest)).messages == PULLED
    remove_image(digest)


async def test_an_image_the_registry_lacks(engine: Engine, open_registry: Registry) -> None:
    assert "the registry has no such image" in await refused(engine, f"{open_registry.host}/absent:1")


async def test_a_tag_the_registry_lacks(engine: Engine, stored: str) -> None:
    assert "the registry has no such image" in await refused(engine, f"{stored}-absent")


async def test_a_registry_that_wants_credentials(
    engine: Engine, locked: str, locked_registry: Registry
) -> None:
    told = await refused(engine, locked)

    assert f"check the Docker config file's credentials for {locked_registry.host}" in told


async def test_wrong_credentials_are_refused_and_never_told(
    engine: Engine, locked: str, locked_registry: Registry
) -> None:
    auth = base64.b64encode(f"{USER}:not-the-password".encode()).decode()
    login = RegistryLogin(DockerConfig({"auths": {locked_registry.host: {"auth": auth}}}))
    told = await refused(engine, locked, login=login)

    assert "does not allow it" in told
    assert "not-the-password" not in told


async def test_a_registry_that_does_not_answer(engine: Engine) -> None:
    assert "can't be reached from the Docker host" in await refused(engine, f"127.0.0.1:{free_port()}/x:1")


async def test_credentials_of_the_config_file_open_the_registry(
    engine: Engine, locked: str, locked_registry: Registry
) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    login = RegistryLogin(DockerConfig({"auths": {f"https://{locked_registry.host}": {"auth": auth}}}))

    assert (await ensure(engine, locked, login=login)).messages == PULLED
    remove_image(locked)


async def test_a_credential_helper_opens_the_registry(
    engine: Engine, locked: str, locked_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-test"
    answer = json.dumps({"ServerURL": "x", "Username": USER, "Secret": PASSWORD})
    helper.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = {locked_registry.host} ] && echo \'{answer}\'\n'
    )
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    login = RegistryLogin(DockerConfig({"credHelpers": {locked_registry.host: "test"}}))

    assert (await ensure(engine, locked, login=login)).messages == PULLED
    remove_image(locked)


async def test_a_helper_that_is_not_installed_is_named_when_the_registry_refuses(
    engine: Engine, locked: str
) -> None:
    told = await refused(engine, locked, login=RegistryLogin(DockerConfig({"credsStore": "absent"})))

    assert "docker-credential-absent can't be run" in told


async def test_a_config_file_that_could_not_be_read_is_named_when_the_registry_refuses(
    engine: Engine, locked: str
) -> None:
    login = RegistryLogin(DockerConfig({}, "the Docker config file /root/config.json can't be read"))

    assert "(the Docker config file /root/config.json can't be read)" in await refused(
        engine, locked, login=login
    )


@pytest.mark.parametrize("image", ["", "UPPER", "a b", "../containers/x", "x?y", "host:port/x", "x:"])
async def test_what_is_no_image_name_never_reaches_the_engine(engine: Engine, image: str) -> None:
    with pytest.raises(ImageUnavailableError, match="is not the name of an image"):
        await ensure(engine, image)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("manifest for x/y:1 not found: manifest unknown: manifest unknown", PullFault.MISSING),
        ("repository x/y not found: does not exist or no pull access", PullFault.MISSING),
        (
            "pull access denied for x, repository does not exist or may require 'docker login': denied",
            PullFault.MISSING_OR_NO_ACCESS,
        ),
        ("unauthorized: authentication required", PullFault.NO_ACCESS),
        ("Head https://x/v2/y: no basic auth credentials", PullFault.NO_ACCESS),
        ("toomanyrequests: You have reached your pull rate limit", PullFault.THROTTLED),
        ("received unexpected HTTP status: 503 Service Unavailable", PullFault.THROTTLED),
        ("dial tcp: lookup nowhere on 1.1.1.1:53: no such host", PullFault.NETWORK),
        ("net/http: TLS handshake timeout", PullFault.NETWORK),
        ("read: connection reset by peer", PullFault.NETWORK),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", PullFault.WRONG_PLATFORM),
        ("write /var/lib/docker/tmp/x: no space left on device", PullFault.DISK_FULL),
        ("something new", PullFault.OTHER),
    ],
)
def test_the_engines_words_are_told_apart(words: str, fault: PullFault) -> None:
    assert pull_fault(words) is fault
