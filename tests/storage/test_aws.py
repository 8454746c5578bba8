"""The door to the AWS SDK: credentials, registries, and errors in our words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from taskrunner.aws import AwsRefusalError, AwsSession, calling, is_ecr_registry
from taskrunner.errors import AccessDeniedError, TransientError, UsageError
from tests.servers import S3Server, web_server


@pytest.fixture
async def aws() -> AsyncIterator[AwsSession]:
    async with AwsSession() as session:
        yield session


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


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "AccessDeniedException", AccessDeniedError),
        (400, "ThrottlingException", TransientError),
        (500, "ServerException", TransientError),
    ],
)
async def test_a_registry_without_a_token_says_why(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: type[Exception]
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"__type": code, "message": "no"}, status=status)

    async with web_server({"/{any:.*}": refuse}) as url:
        for name, value in S3Server(url).environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(error, match=r"123456789012\.dkr\.ecr\.us-east-1\.amazonaws\.com.*no"):
            await aws.ecr_login("123456789012.dkr.ecr.us-east-1.amazonaws.com")


async def test_a_jobs_role_is_found_and_its_keys_renewed(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ECS gives a container with a job role; the first keys are about to expire when they come."""
    given = 0

    async def hand_out(_: web.Request) -> web.StreamResponse:
        nonlocal given
        given += 1
        until = datetime.now(UTC) + timedelta(seconds=60 if given == 1 else 36_000)
        keys = {"AccessKeyId": f"key-{given}", "SecretAccessKey": "secret", "Token": "token"}
        return web.json_response({**keys, "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}"})

    async with web_server({"/credentials": hand_out}) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        found = [await aws.credentials() for _ in range(3)]

    assert [keys.access_key for keys in found if keys] == ["key-2", "key-2", "key-2"]
    assert all(keys and keys.renewable and keys.token == "token" for keys in found)


async def test_keys_that_can_not_be_fetched_now_are_worth_another_try(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=429)

    async with web_server({"/credentials": refuse}) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/credentials")
        with pytest.raises(TransientError, match="could not be fetched"):
            await aws.credentials()


async def test_secrets_are_in_no_repr(moto: S3Server, aws: AwsSession) -> None:
    found = await aws.credentials()

    assert found is not None
    assert moto.secret_key not in repr(found)
    assert not found.renewable


async def test_unsigned_means_no_credentials(moto: S3Server) -> None:
    async with AwsSession(unsigned=True) as aws:
        assert await aws.credentials() is None


async def test_a_call_has_its_time(aws: AwsSession) -> None:
    with pytest.raises(TransientError, match="no answer from AWS about the bucket within 0 s"):
        async with calling("the bucket", seconds=0):
            await (await aws.s3_client()).head_bucket(Bucket="bucket")


async def test_a_service_that_is_down_is_worth_another_try(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_server({}) as url:
        pass
    for name, value in S3Server(url).environment().items():
        monkeypatch.setenv(name, value)

    with pytest.raises(TransientError, match="Could not connect"):
        await aws.head_bucket("bucket")


async def test_a_refusal_keeps_its_words(moto: S3Server, aws: AwsSession) -> None:
    client = await aws.s3_client()

    with pytest.raises(AwsRefusalError) as caught:
        async with calling("the object"):
            await client.get_object(Bucket="no-such-bucket-of-this-test", Key="key")

    assert (caught.value.code, caught.value.status) == ("NoSuchBucket", 404)


async def test_the_region_is_the_configured_one_or_us_east_1(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert (await aws.s3_client()).meta.region_name == "us-east-1"

    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with AwsSession() as other:
        assert (await other.s3_client()).meta.region_name == "eu-north-1"


async def test_aws_region_outweighs_aws_default_region_and_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    async with AwsSession() as aws:
        assert (await aws.s3_client()).meta.region_name == "eu-west-1"

    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    async with AwsSession() as aws:
        assert (await aws.s3_client()).meta.region_name == "ap-south-1"


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("bundle", ["/nonexistent/ca.pem", __file__])
async def test_a_ca_bundle_that_can_not_be_read_is_named_with_its_variable(
    moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch, variable: str, bundle: str
) -> None:
    monkeypatch.setenv(variable, bundle)

    with pytest.raises(UsageError, match=f"CA bundle {bundle} .*; {variable} names it"):
        await aws.head_bucket("bucket")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ENDPOINT_URL", "foo"), ("AWS_ENDPOINT_URL", "http://a..b"), ("AWS_REGION", "not a region")],
)
async def test_a_setting_the_sdk_does_not_take_is_told(
    moto: S3Server, aws: AwsSession, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(UsageError, match=f"{value}.*check AWS_REGION and AWS_ENDPOINT_URL"):
        await aws.head_bucket("bucket")


async def test_a_profile_that_is_not_there_is_told_whatever_is_asked_first(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")

    for question in (aws.ca_bundle, aws.credentials, aws.s3_client):
        with pytest.raises(UsageError, match="nowhere"):
            await question()


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
