"""The one door to the AWS SDK: its session, its clients, its credentials, its errors.

Profile, region, credentials, endpoints and CA bundle come from the ordinary AWS environment and are the SDK's
business. What leaves this module are clients for control calls, plain credentials for the lanes' own signer,
and errors of ours: a service's own "no" becomes an `AwsRefusalError`, for the caller to explain; everything
else (no credentials, no network, a broken configuration) is explained here. The SDK is imported when first
needed, since that takes longer than many a task.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from base64 import b64decode
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from taskrunner.errors import (
    AccessDeniedError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_DEFAULT_REGION = "us-east-1"
_CONNECT_TIMEOUT_SECONDS = 10
_LONGEST_ANSWER_SECONDS = 900
_CALL_SECONDS = 60.0
_CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
# ACCOUNT.dkr.ecr.REGION.amazonaws.com, and its FIPS, dual-stack and Chinese relatives.
# https://docs.aws.amazon.com/general/latest/gr/ecr.html
_ECR_HOST = re.compile(
    r"(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.(?:com\.cn|eu))"
)

_sent_urls: ContextVar[list[str]] = ContextVar("_sent_urls")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs requests, as it is now."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    renewable: bool
    """Whether the SDK fetches new ones when these expire."""


class AwsRefusalError(Exception):
    """A service answered, and said no; the caller knows what that means to a person."""

    def __init__(self, code: str, status: int, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status
        self.message = message
        self.headers = headers
        """Lower-case names."""


@dataclass(frozen=True, slots=True)
class BucketAnswer:
    """What HeadBucket brought to light."""

    status: int
    url: str
    """The bucket's URL, which is the SDK's own choice: virtual host or path, dual stack, FIPS, endpoint."""
    region: str
    """The region that was asked."""
    told_region: str | None
    """Where the bucket is, if the answer said so; refusals say it as well."""


def is_ecr_registry(host: str) -> bool:
    """Whether a registry is a private one of ECR, which takes tokens of `AwsSession.ecr_login`."""
    return _ECR_HOST.fullmatch(host) is not None


class AwsSession:
    """The AWS environment of one run; clients are made when first asked for, and closed with it."""

    def __init__(self, *, unsigned: bool = False, max_connections: int = 16) -> None:
        self._unsigned = unsigned
        self._max_connections = max_connections
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._session: Any = None
        self._credentials: Any = None
        self._clients: dict[tuple[str, str], Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clients.clear()
        await self._stack.aclose()

    async def s3_client(self, region: str | None = None) -> Any:
        """The S3 client for a region, else for the configured one, else for us-east-1.

        Configured is what AWS_REGION says, else AWS_DEFAULT_REGION, else the profile.
        """
        return await self._client("s3", region)

    async def ca_bundle(self) -> str | None:
        """The CA bundle of the environment or the profile."""
        async with calling("the AWS settings"):
            return _ca_bundle(await self._opened())

    async def credentials(self) -> Credentials | None:
        """What signs a request made now, renewed where it was about to expire; None for unsigned requests.

        Raises:
            AccessDeniedError: there are none.
            TransientError: they could not be fetched just now.
        """
        if self._unsigned:
            return None
        async with calling("the AWS credentials"):
            if self._credentials is None:
                self._credentials = await (await self._opened()).get_credentials()
            if self._credentials is None:
                raise AccessDeniedError(_NO_CREDENTIALS)
            frozen = await self._credentials.get_frozen_credentials()
        renewable = hasattr(self._credentials, "refresh_needed")
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, renewable)

    async def head_bucket(self, bucket: str, region: str | None = None) -> BucketAnswer:
        """Ask for a bucket by the client of `region`, and note where that question went.

        Raises TransientError and others as `calling` does; a service's "no" is an answer.
        """
        client = await self.s3_client(region)
        urls: list[str] = []
        _sent_urls.set(urls)
        try:
            async with calling(f"the bucket {bucket}"):
                answer = await client.head_bucket(Bucket=bucket)
            status, headers = 200, answer["ResponseMetadata"]["HTTPHeaders"]
        except AwsRefusalError as refusal:
            status, headers = refusal.status, refusal.headers
        told = headers.get("x-amz-bucket-region")
        return BucketAnswer(status, urls[-1], client.meta.region_name, told)

    async def ecr_login(self, registry_host: str) -> tuple[str, str]:
        """User and password for an ECR registry, good for twelve hours.

        Raises:
            AccessDeniedError: no credentials, or they are not allowed to (ecr:GetAuthorizationToken).
            TransientError: no answer just now.
            UsageError: the host is not an ECR registry's.
        """
        match = _ECR_HOST.fullmatch(registry_host)
        if match is None:
            raise UsageError(
                f"{registry_host} is not an ECR registry: expected ACCOUNT.dkr.ecr.REGION.amazonaws.com"
            )
        client = await self._client("ecr", match[2])
        try:
            async with calling(f"the registry {registry_host}"):
                answer = await client.get_authorization_token(registryIds=[match[1]])
        except AwsRefusalError as error:
            if error.status >= 500 or error.status == 429 or "Throttl" in error.code:
                raise TransientError(f"ECR has no token for {registry_host} just now: {error}") from error
            raise AccessDeniedError(
                f"ECR refuses a token for {registry_host} ({error}); the role needs ecr:GetAuthorizationToken"
            ) from error
        token = b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
        user, _, password = token.partition(":")
        return user, password

    async def _opened(self) -> Any:
        async with self._lock:
            if self._session is None:
                self._session = await asyncio.to_thread(_new_session)
            return self._session

    async def _client(self, service: str, region: str | None) -> Any:
        async with calling(f"the AWS settings for {service}"):
            session = await self._opened()
            region = region or session.region_name or _DEFAULT_REGION
            async with self._lock:
                client = self._clients.get((service, region))
                if client is None:
                    await asyncio.to_thread(_check_ca_bundle, session)
                    client = self._clients[service, region] = await self._made(session, service, region)
        return client

    async def _made(self, session: Any, service: str, region: str) -> Any:
        making = session.client(service, region_name=region, config=self._config(session, service))
        try:
            client = await self._stack.enter_async_context(making)
        except ValueError as error:  # "Invalid endpoint: …"
            raise UsageError(
                f"the AWS settings for {service} can't be used: {error}; check AWS_REGION and AWS_ENDPOINT_URL "
                "(http://HOST[:PORT] or https://HOST[:PORT]), also in the AWS profile"
            ) from error
        client.meta.events.register("before-send.s3.HeadBucket", _note_url)
        return client

    def _config(self, session: Any, service: str) -> Any:
        from aiobotocore.config import AioConfig  # noqa: PLC0415
        from botocore import UNSIGNED  # noqa: PLC0415

        path_style = service == "s3" and _wants_path_style(session._session)  # noqa: SLF001
        return AioConfig(
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            # Each call has its own limit (`calling`); this one is for those that are known to take long.
            read_timeout=_LONGEST_ANSWER_SECONDS,
            max_pool_connections=self._max_connections,
            # Retries are staging's: one policy, one place.
            retries={"total_max_attempts": 1, "mode": "standard"},
            signature_version=UNSIGNED if self._unsigned and service == "s3" else None,
            s3={"addressing_style": "path"} if path_style else None,
            # S3's relatives do not know the newer default checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )


def _new_session() -> Any:
    import aioboto3  # noqa: PLC0415  # 0.3 s that only tasks with AWS in them should pay

    # botocore reads AWS_DEFAULT_REGION only; all other SDKs of AWS know this name, and it comes first.
    return aioboto3.Session(region_name=os.environ.get("AWS_REGION") or None)


def _ca_bundle(session: Any) -> str | None:
    bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001
    return str(bundle) if bundle else None


def _check_ca_bundle(session: Any) -> None:
    """Blocking. To the SDK a CA bundle that can't be read would look like a network that fails."""
    bundle = _ca_bundle(session) or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
        except OSError as error:
            raise unreadable_ca_bundle(bundle, error) from error


def unreadable_ca_bundle(bundle: str, error: OSError) -> UsageError:
    """Our error for a CA bundle that is not there or holds no certificates."""
    name = next((name for name in _CA_VARIABLES if os.environ.get(name) == bundle), None)
    where = name or "ca_bundle in the AWS profile"
    return UsageError(f"can't read the CA bundle {bundle} ({error.strerror or error}); {where} names it")


def _wants_path_style(session: Any) -> bool:
    """Whether to put the bucket into the path: custom endpoints rarely have a host name for each bucket."""
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415

    scoped = session.get_scoped_config()
    endpoint = ConfiguredEndpointProvider(session.full_config, scoped, "s3").provide()
    return endpoint is not None and "addressing_style" not in scoped.get("s3", {})


def _note_url(request: Any, **_: object) -> None:
    _sent_urls.get().append(request.url)


_NO_CREDENTIALS = (
    "there are no AWS credentials: give the job a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "or AWS_PROFILE; --s3-unsigned reads public buckets without any"
)


@asynccontextmanager
async def calling(whom: str, seconds: float = _CALL_SECONDS) -> AsyncIterator[None]:
    """Around calls of the SDK about `whom`: at most so many seconds, and its errors as ours.

    Raises:
        AwsRefusalError: the service said no.
        TransientError: no answer, or credentials could not be fetched just now.
        AccessDeniedError: no credentials.
        TransferIOError: the server's certificate is not trusted.
        UsageError: the AWS configuration, or a name, is not what the SDK takes.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TransientError(f"no answer from AWS about {whom} within {seconds:g} s") from error
    except Exception as error:
        ours = _translated(error, whom)
        if ours is None:
            raise
        raise ours from error


def _translated(  # noqa: PLR0911  # one a case
    error: Exception, whom: str
) -> TaskrunnerError | AwsRefusalError | None:
    """Our error for one of the SDK's; None for what is not the SDK's."""
    from botocore import exceptions as sdk  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    match error:
        case sdk.ClientError():
            answer = error.response
            meta = answer.get("ResponseMetadata", {})
            said = answer.get("Error", {})
            return AwsRefusalError(
                str(said.get("Code", "")),
                int(meta.get("HTTPStatusCode", 0)),
                str(said.get("Message", "")),
                meta.get("HTTPHeaders", {}),
            )
        case sdk.NoCredentialsError() | sdk.PartialCredentialsError():
            return AccessDeniedError(_NO_CREDENTIALS)
        case sdk.TokenRetrievalError() | sdk.SSOError() | sdk.NoAuthTokenError():
            return AccessDeniedError(f"the AWS credentials are no longer good: {error}")
        case sdk.CredentialRetrievalError() | sdk.MetadataRetrievalError():
            return TransientError(f"the AWS credentials could not be fetched: {error}")
        case sdk.SSLError():
            return TransferIOError(
                f"no trusted connection to AWS about {whom}: {error}; set AWS_CA_BUNDLE to a file with the "
                "right certificate authority"
            )
        case sdk.ConnectionError() | sdk.HTTPClientError() | ResponseParserError():
            return TransientError(f"no good answer from AWS about {whom}: {error}")
        case sdk.BotoCoreError():
            return UsageError(f"can't ask AWS about {whom}: {error}")
        case _:
            return None
