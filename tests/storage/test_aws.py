"""The door to the AWS SDK: credentials, where buckets are, registries, and errors in our words."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from taskrunner.aws import AwsSession, is_ecr_registry
from taskrunner.aws_environment import PlainEnvironment
from taskrunner.errors import AccessDeniedError, TransientError, UsageError
from tests.servers import S3Server, web_server
from tests.storage.moving import web_place

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture
def aws() -> AwsSession:
    return AwsSession()


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# --- registries


async def test_an_ecr_registry_gives_user_and_password(moto: S3Server, aws: AwsSession) -> None:
    user, password = await aws.ecr_login("123456789012.dkr.ecr.eu-west-1.amazonaws.com")

    assert user == "AWS"
    assert password == "123456789012-auth-token"


@pytest.mark.parametrize(
    "host", ["docker.io", "dkr.ecr.eu-west-1.amazonaws.com", "1.dkr.ecr.x.amazonaws.com.evil"]
)
async def test_only_ecr_registries_are_asked_for_tokens(aws: AwsSession, host: str) -> None:
    with pytest.raises(UsageError, match="not an ECR registry"):
        await aws.ecr_login(host)


@pytest.fixture
async def refusing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """An AWS that answers everything with this status and code."""
    status, code = request.param

    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"__type": code, "message": "no"}, status=status)

    async with web_server({"/{any:.*}": refuse}) as url:
        set_all(monkeypatch, S3Server(url).environment())
        yield


@pytest.mark.parametrize(
    ("refusing", "error"),
    [
        ((400, "AccessDeniedException"), AccessDeniedError),
        ((400, "ThrottlingException"), TransientError),
        ((500, "ServerException"), TransientError),
    ],
    indirect=["refusing"],
)
async def test_a_registry_without_a_token_says_why(
    refusing: None, aws: AwsSession, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"123456789012\.dkr\.ecr\.us-east-1\.amazonaws\.com.*no"):
        await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


@pytest.mark.parametrize("refusing", [(400, "AccessDeniedException")], indirect=True)
async def test_a_registry_that_refuses_names_the_permission(refusing: None, aws: AwsSession) -> None:
    with pytest.raises(AccessDeniedError, match="ecr:GetAuthorizationToken"):
        await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


async def test_a_registry_that_is_down_is_worth_another_try(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_server({}) as url:
        pass
    set_all(monkeypatch, S3Server(url).environment())

    with pytest.raises(TransientError, match="Could not connect"):
        await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


async def test_a_login_has_its_time(moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskrunner.aws._LOGIN_SECONDS", 0.0)

    with pytest.raises(TransientError, match="within 0 s"):
        await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("bundle", ["/nonexistent/ca.pem", __file__])
async def test_a_ca_bundle_that_can_not_be_read_is_named_with_its_variable(
    moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch, variable: str, bundle: str
) -> None:
    monkeypatch.setenv(variable, bundle)

    with pytest.raises(UsageError, match=f"CA bundle {bundle} .*; {variable} names it"):
        await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


@pytest.mark.parametrize(
    ("host", "is_ecr"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", True),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", True),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", True),
        ("123456789012.dkr-ecr.us-east-1.on.aws", True),
        ("123456789012.dkr-ecr-fips.us-east-1.on.aws", True),
        ("123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", True),
        ("public.ecr.aws", False),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", False),
    ],
)
def test_ecr_registries_are_known_by_their_names(host: str, is_ecr: bool) -> None:
    assert is_ecr_registry(host) is is_ecr


# --- credentials


class Role:
    """What ECS gives a container with a job role; the first keys are about to expire when they come."""

    def __init__(self, short_lived: int = 1) -> None:
        self.given = 0
        self.short_lived = short_lived
        self.lock = threading.Lock()

    async def hand_out(self, _: web.Request) -> web.StreamResponse:
        with self.lock:
            self.given += 1
        until = datetime.now(UTC) + timedelta(seconds=60 if self.given <= self.short_lived else 36_000)
        keys = {"AccessKeyId": f"key-{self.given}", "SecretAccessKey": "secret", "Token": "token"}
        return web.json_response({**keys, "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}"})


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    role = Role()
    with web_place({"/credentials": role.hand_out}) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        yield role


def test_a_jobs_role_is_found_and_its_keys_renewed(aws: AwsSession, role: Role) -> None:
    found = [aws.credentials() for _ in range(3)]

    assert [keys.access_key for keys in found if keys] == ["key-2", "key-2", "key-2"]
    assert all(keys and keys.renewable and keys.token == "token" for keys in found)


def test_many_lanes_fetch_a_jobs_keys_once(aws: AwsSession, role: Role) -> None:
    role.short_lived = 0
    with ThreadPoolExecutor(16) as lanes:
        found = list(lanes.map(lambda _: aws.credentials(), range(64)))

    assert {keys.access_key for keys in found if keys} == {"key-1"}
    assert role.given == 1


@pytest.mark.parametrize("status", [429, 500])
def test_keys_that_can_not_be_fetched_now_are_worth_another_try(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    with web_place({"/credentials": refuse}) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        with pytest.raises(TransientError, match="could not be fetched"):
            aws.credentials()


def test_a_role_that_can_not_be_assumed_is_told(
    monkeypatch: pytest.MonkeyPatch, aws: AwsSession, tmp_path: Path
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        error = "<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not you</Message></Error>"
        return web.Response(status=403, text=f"<ErrorResponse>{error}</ErrorResponse>")

    other = "[profile other]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base\n"
    base = "[profile base]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    (tmp_path / "config").write_text(other + base)
    with web_place({"/{any:.*}": refuse}) as url:
        set_all(monkeypatch, {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"})
        set_all(monkeypatch, {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "other"})
        with pytest.raises(AccessDeniedError, match="not you"):
            aws.credentials()


def test_no_credentials_are_said_to_be_none(aws: AwsSession) -> None:
    with pytest.raises(AccessDeniedError, match=r"no AWS credentials.*AWS_PROFILE"):
        aws.credentials()


def test_half_of_the_credentials_are_none(aws: AwsSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")

    with pytest.raises(AccessDeniedError, match="no AWS credentials"):
        aws.credentials()


@pytest.mark.parametrize("profiles", ["none", "there"])
def test_secrets_are_in_no_repr(
    moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profiles: str
) -> None:
    if profiles == "there":
        (tmp_path / "config").touch()
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    found = aws.credentials()

    assert found is not None
    assert found.secret_key == moto.secret_key
    assert moto.secret_key not in repr(found)
    assert not found.renewable


def test_unsigned_means_no_credentials(moto: S3Server) -> None:
    assert AwsSession(unsigned=True).credentials() is None


def test_a_profile_that_is_not_there_is_told_whatever_is_asked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")

    for question in ("ca_bundle", "credentials", "bucket_endpoint"):
        arguments = ("bucket",) if question == "bucket_endpoint" else ()
        with pytest.raises(UsageError, match="nowhere"):
            getattr(AwsSession(), question)(*arguments)


# --- where buckets are

BUCKETS = [
    "bucket",
    "with.dots",
    "with--dashes",
    "123",
    "Upper_Case",
    "data--use1-az4--x-s3",
    "arn:aws:s3:us-west-2:123456789012:accesspoint:name",
]
CUSTOM = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}
SETTINGS: list[tuple[dict[str, str], str]] = [
    ({}, ""),
    ({"AWS_REGION": "us-east-1"}, ""),
    ({"AWS_REGION": "us-east-1", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}, ""),
    ({"AWS_REGION": "eu-west-1"}, ""),
    ({"AWS_REGION": "cn-north-1"}, ""),
    ({"AWS_REGION": "us-gov-west-1"}, ""),
    ({"AWS_REGION": "eu-west-1", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, ""),
    ({"AWS_REGION": "us-east-2", "AWS_USE_FIPS_ENDPOINT": "true"}, ""),
    ({"AWS_REGION": "fips-us-east-2"}, ""),
    ({}, "region = ap-south-1\nuse_dualstack_endpoint = true\nuse_fips_endpoint = false"),
    ({"AWS_REGION": "eu-west-1"}, "s3 =\n    use_dualstack_endpoint = true"),
    ({"AWS_REGION": "eu-west-1"}, "s3 =\n    use_accelerate_endpoint = true"),
    ({"AWS_REGION": "eu-west-1"}, "s3 =\n    addressing_style = path"),
    ({"AWS_REGION": "eu-west-1"}, "s3 =\n    addressing_style = virtual"),
    ({"AWS_REGION": "us-east-1", **CUSTOM}, ""),
    ({"AWS_REGION": "eu-west-1", **CUSTOM}, ""),
    ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_S3": "https://s3.example.com/", **CUSTOM}, ""),
    ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "https://s3.example.com:444/base/path"}, ""),
    ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://[::1]:9000"}, ""),
    ({"AWS_REGION": "eu-west-1", **CUSTOM, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""),
    ({"AWS_REGION": "eu-west-1", **CUSTOM, "AWS_USE_FIPS_ENDPOINT": "true"}, ""),
    ({"AWS_REGION": "eu-west-1", **CUSTOM}, "s3 =\n    addressing_style = virtual"),
    ({"AWS_REGION": "eu-west-1", **CUSTOM}, "s3 =\n    addressing_style = auto"),
    ({"AWS_REGION": "eu-west-1"}, "endpoint_url = https://global.example.com"),
    (
        {"AWS_REGION": "eu-west-1"},
        "services = mine\n[services mine]\ns3 =\n    endpoint_url = https://s3.example.com",
    ),
]


class Seen(Exception):  # noqa: N818  # no error
    """A request that the SDK was about to send."""


NO_URL = ("", "", "")


def sdk_answers(buckets: list[str]) -> list[tuple[str, str, str] | None]:
    """URL, region and service that the SDK's own client has for questions about buckets; None for none.

    NO_URL where the SDK would send to what this Python takes for no URL (`http://name.[::1]:9000`).
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    def note(request: Any, **_: object) -> None:
        raise Seen(request)

    def answer(bucket: str) -> tuple[str, str, str] | None:
        try:
            client.head_bucket(Bucket=bucket)
        except BotoCoreError:
            return None
        except ValueError:
            return NO_URL
        except Seen as seen:
            (request,) = seen.args
        scope = request.headers["Authorization"].decode().partition("Credential=")[2].split("/")
        return request.url.rstrip("/"), scope[2], scope[3]

    config = Config(client_context_params={"disable_s3_express_session_auth": True})
    client: Any = Session().create_client("s3", region_name=os.environ.get("AWS_REGION"), config=config)
    client.meta.events.register("before-send.s3", note)
    return [answer(bucket) for bucket in buckets]


@pytest.mark.parametrize(("variables", "profile"), SETTINGS)
def test_buckets_are_where_the_sdk_looks_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], profile: str
) -> None:
    set_all(monkeypatch, {**KEYS, **variables})
    if profile:
        (tmp_path / "config").write_text(f"[default]\n{profile}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws = AwsSession()
    for bucket, expected in zip(BUCKETS, sdk_answers(BUCKETS), strict=True):
        if expected is None:
            with pytest.raises(UsageError):
                aws.bucket_endpoint(bucket)
        elif expected != NO_URL:
            ours = aws.bucket_endpoint(bucket)
            assert (ours.url, ours.region, ours.service) == expected


def test_a_buckets_own_region_is_asked_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**KEYS, "AWS_REGION": "us-east-1"})

    found = AwsSession().bucket_endpoint("bucket", "eu-north-1")

    assert (found.url, found.region) == ("https://bucket.s3.eu-north-1.amazonaws.com", "eu-north-1")


def test_an_access_point_of_many_regions_is_refused(aws: AwsSession) -> None:
    with pytest.raises(UsageError, match="SigV4A"):
        aws.bucket_endpoint("arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap")


def test_aws_region_outweighs_aws_default_region_and_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert AwsSession().bucket_endpoint("bucket").region == "eu-north-1"

    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert AwsSession().bucket_endpoint("bucket").region == "eu-west-1"

    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert AwsSession().bucket_endpoint("bucket").region == "ap-south-1"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ENDPOINT_URL", "foo"), ("AWS_ENDPOINT_URL", "http://a..b"), ("AWS_REGION", "not a region")],
)
def test_a_setting_the_sdk_does_not_take_is_told(
    moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(UsageError, match=f"{value}.*check AWS_REGION and AWS_ENDPOINT_URL"):
        aws.bucket_endpoint("bucket")


# --- without the SDK

PLAIN = {**KEYS, **CUSTOM, "AWS_REGION": "eu-west-1"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_SESSION_TOKEN": "token"},
        {"AWS_ENDPOINT_URL_S3": "https://s3.example.com/"},
        {"AWS_CA_BUNDLE": "/some/bundle"},
        {"AWS_DEFAULT_REGION": "us-east-1"},
    ],
)
def test_a_plain_environment_says_what_the_sdk_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: dict[str, str]
) -> None:
    set_all(monkeypatch, {**PLAIN, **more})
    plain, by_sdk = AwsSession(), AwsSession()
    plain.credentials()
    (tmp_path / "config").touch()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    for bucket in BUCKETS:
        assert plain.bucket_endpoint(bucket) == by_sdk.bucket_endpoint(bucket)
        assert plain.bucket_endpoint(bucket, "us-east-1") == by_sdk.bucket_endpoint(bucket, "us-east-1")
    assert plain.credentials() == by_sdk.credentials()
    assert plain.ca_bundle() == by_sdk.ca_bundle()


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_PROFILE": "x"},
        {"AWS_REGION": "not a region"},
        {"AWS_REGION": "aws-global"},
        {"AWS_ENDPOINT_URL": "ftp://x"},
        {"AWS_ENDPOINT_URL": "https://s3.eu-west-1.amazonaws.com"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"},
    ],
)
def test_what_is_not_plain_is_left_to_the_sdk(more: dict[str, str]) -> None:
    nowhere = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}

    assert PlainEnvironment.read({**PLAIN, **nowhere}, unsigned=False) is not None
    assert PlainEnvironment.read({**PLAIN, **nowhere, **more}, unsigned=False) is None


def test_profiles_are_the_sdks_to_read(tmp_path: Path) -> None:
    (tmp_path / "credentials").touch()
    files = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/credentials"}

    assert PlainEnvironment.read({**PLAIN, **files}, unsigned=False) is None


def test_unsigned_requests_need_no_keys_to_be_plain() -> None:
    variables = {**CUSTOM, "AWS_REGION": "eu-west-1"}
    variables |= {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}

    assert PlainEnvironment.read(variables, unsigned=False) is None
    plain = PlainEnvironment.read({**KEYS, **variables}, unsigned=True)
    assert plain is not None
    assert plain.credentials is None


@pytest.mark.parametrize(
    ("variables", "expected"), [(PLAIN, "none"), ({**KEYS, "AWS_REGION": "eu-west-1"}, "botocore")]
)
def test_the_sdk_is_imported_as_far_as_it_is_needed(variables: dict[str, str], expected: str) -> None:
    program = (
        "import sys\n"
        "from taskrunner.aws import AwsSession\n"
        "aws = AwsSession()\n"
        "aws.credentials(), aws.ca_bundle(), aws.bucket_endpoint('bucket')\n"
        "found = [name for name in ('aioboto3', 'boto3', 'botocore') if name in sys.modules]\n"
        "print(' '.join(found) or 'none')"
    )
    environment = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", **variables}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == expected
