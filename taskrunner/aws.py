"""The one door to the AWS SDK: its settings, its credentials, its rules of where buckets are, its errors.

Profile, region, credentials, endpoints and CA bundle come from the ordinary AWS environment and are the SDK's
business; the requests to S3 are our own. So the small half of the SDK will do (botocore's session, without a
client): 0.13 s instead of 0.3 s, and that only where the environment does not say everything by itself
(`aws_environment`). The whole of it is imported for tokens of ECR alone. What leaves this module are plain
values and errors of ours.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
from base64 import b64decode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from taskrunner.aws_environment import BucketEndpoint, Credentials, PlainEnvironment
from taskrunner.errors import (
    AccessDeniedError,
    TaskrunnerError,
    TransferIOError,
    TransientError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AwsSession", "BucketEndpoint", "Credentials", "is_ecr_registry", "unreadable_ca_bundle"]

_DEFAULT_REGION = "us-east-1"
_CONNECT_TIMEOUT_SECONDS = 10
_READ_TIMEOUT_SECONDS = 20
_LOGIN_SECONDS = 60.0
_CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
# ACCOUNT.dkr.ecr.REGION.amazonaws.com, and its FIPS, dual-stack and Chinese relatives.
# https://docs.aws.amazon.com/general/latest/gr/ecr.html
_ECR_HOST = re.compile(
    r"(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.(?:com\.cn|eu))"
)
_PASSING = re.compile("Throttl|Timeout|IDPCommunication")
"""Codes of refusals that another try may well not meet."""
_NO_CREDENTIALS = (
    "there are no AWS credentials: give the job a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "or AWS_PROFILE; --s3-unsigned reads public buckets without any"
)


def is_ecr_registry(host: str) -> bool:
    """Whether a registry is a private one of ECR, which takes tokens of `AwsSession.ecr_login`."""
    return _ECR_HOST.fullmatch(host) is not None


class AwsSession:
    """The AWS environment of one run, read when it is first asked for.

    `credentials`, `bucket_endpoint` and `ca_bundle` block and may be called from any thread.
    """

    def __init__(self, *, unsigned: bool = False, max_connections: int = 16) -> None:
        self._unsigned = unsigned
        self._max_connections = max_connections
        self._lock = threading.RLock()
        self._read = False
        self._plain: PlainEnvironment | None = None
        self._session: Any = None
        self._found: Any = None
        self._endpoints: _Endpoints | None = None

    def credentials(self) -> Credentials | None:
        """What signs a request made now, renewed where it was about to expire; None for unsigned requests.

        Raises:
            AccessDeniedError: there are none.
            TransientError: they could not be fetched just now.
            UsageError: the AWS settings can't be used.
        """
        if self._unsigned:
            return None
        plain = self._environment()
        if plain is not None:
            return plain.credentials
        with _asking("the AWS credentials"):
            with self._lock:
                if self._found is None:
                    self._found = self._opened().get_credentials()
            if self._found is None:
                raise AccessDeniedError(_NO_CREDENTIALS)
            frozen = self._found.get_frozen_credentials()
        renewable = hasattr(self._found, "refresh_needed")
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, renewable)

    def bucket_endpoint(self, bucket: str, region: str | None = None) -> BucketEndpoint:
        """How a bucket is reached if it is in `region`, else in the configured one, else in us-east-1.

        Configured is what AWS_REGION says, else AWS_DEFAULT_REGION, else the profile. Raises UsageError where
        the settings lead nowhere.
        """
        plain = self._environment()
        found = plain.bucket(bucket, region) if plain is not None else None
        if found is not None:
            return found
        with _asking(f"the bucket {bucket}"), self._lock:
            if self._endpoints is None:
                self._endpoints = _Endpoints(self._opened())
            return self._endpoints.of(bucket, region)

    def ca_bundle(self) -> str | None:
        """The CA bundle of the environment or the profile."""
        plain = self._environment()
        if plain is not None:
            return plain.ca_bundle
        with _asking("the AWS settings"), self._lock:
            return _ca_bundle(self._opened())

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
        try:
            with _asking(f"the registry {registry_host} (ecr:GetAuthorizationToken)"):
                async with asyncio.timeout(_LOGIN_SECONDS):
                    token = await self._ecr_token(account=match[1], region=match[2])
        except TimeoutError as error:
            raise TransientError(
                f"no answer from AWS about the registry {registry_host} within {_LOGIN_SECONDS:g} s"
            ) from error
        user, _, password = b64decode(token).decode().partition(":")
        return user, password

    async def _ecr_token(self, account: str, region: str) -> str:
        session = await asyncio.to_thread(_new_async_session)
        await asyncio.to_thread(_check_ca_bundle, session._session)  # noqa: SLF001
        from aiobotocore.config import AioConfig  # noqa: PLC0415

        config = AioConfig(
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
            max_pool_connections=self._max_connections,
            # Whoever asks tries again: one policy, one place.
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        try:
            async with session.client("ecr", region_name=region, config=config) as client:
                answer = await client.get_authorization_token(registryIds=[account])
        except ValueError as error:  # "Invalid endpoint: …"
            raise _unusable_settings(error) from error
        return str(answer["authorizationData"][0]["authorizationToken"])

    def _environment(self) -> PlainEnvironment | None:
        if not self._read:
            with self._lock:
                self._plain = PlainEnvironment.read(os.environ, unsigned=self._unsigned)
                self._read = True
        return self._plain

    def _opened(self) -> Any:
        if self._session is None:
            self._session = _new_session()
        return self._session


class _Endpoints:
    """Where buckets are, by the SDK's own rules and the settings it has for them.

    The rules are data of the SDK's (endpoint-rule-set-1); what they are asked with is what a client of the SDK
    would ask (botocore.args.ClientArgsCreator.compute_endpoint_resolver_builtin_defaults).
    """

    def __init__(self, session: Any) -> None:
        from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415
        from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415

        loader = session.get_component("data_loader")
        rules = loader.load_service_model("s3", "endpoint-rule-set-1")
        self._rules = EndpointProvider(rules, loader.load_data("partitions"))
        self._region = session.get_config_variable("region") or _DEFAULT_REGION
        self._s3 = session.get_config_variable("s3") or {}
        scoped = session.get_scoped_config()
        custom = ConfiguredEndpointProvider(session.full_config, scoped, "s3").provide()
        ignored = session.get_config_variable("ignore_configured_endpoint_urls")
        self._custom = None if ignored else custom
        self._fips = bool(session.get_config_variable("use_fips_endpoint"))
        of_s3 = self._s3.get("use_dualstack_endpoint") in (True, "True", "true")
        self._dual_stack = of_s3 or bool(session.get_config_variable("use_dualstack_endpoint"))
        _check_endpoint(self._custom)

    def of(self, bucket: str, region: str | None) -> BucketEndpoint:
        """See `AwsSession.bucket_endpoint`."""
        from botocore.exceptions import EndpointProviderError  # noqa: PLC0415
        from botocore.utils import validate_region_name  # noqa: PLC0415

        region = region or self._region
        try:
            validate_region_name(region)
            found = self._rules.resolve_endpoint(**self._asked(bucket, region))
        except (EndpointProviderError, ValueError) as error:  # an invalid region's is a ValueError
            raise _unusable_settings(error) from error
        schemes = [one for one in found.properties.get("authSchemes", ()) if one["name"] == "sigv4"]
        if not schemes:
            raise UsageError(
                f"the bucket {bucket} can't be used: it takes only signatures for many regions (SigV4A)"
            )
        url = found.url.rstrip("/")
        return BucketEndpoint(url, schemes[0].get("signingRegion", region), schemes[0]["signingName"])

    def _asked(self, bucket: str, region: str) -> dict[str, object]:
        from botocore.utils import is_s3_accelerate_url  # noqa: PLC0415

        style = self._s3.get("addressing_style")
        accelerate = bool(self._s3.get("use_accelerate_endpoint"))
        ours = self._custom is not None and not is_s3_accelerate_url(self._custom)
        # Custom endpoints rarely have a host name for each bucket.
        path_style = style != "virtual" if ours else style == "path"
        regional = self._s3.get("us_east_1_regional_endpoint", "legacy") != "legacy"
        plain_region = region.replace("fips-", "").replace("-fips", "")
        asked: dict[str, object] = {
            "Bucket": bucket,
            "Region": plain_region,
            # Neither is said together with an endpoint.
            "UseFIPS": self._custom is None and (self._fips or plain_region != region),
            "UseDualStack": self._custom is None and self._dual_stack,
            "Accelerate": accelerate,
            "ForcePathStyle": path_style and not accelerate and not bucket.startswith("arn:"),
            "UseGlobalEndpoint": plain_region == "us-east-1" and not regional,
            "UseArnRegion": self._s3.get("use_arn_region", True),
            "DisableMultiRegionAccessPoints": self._s3.get("s3_disable_multiregion_access_points", False),
            # Directory buckets take plain signatures, too, which spares sessions of their own.
            "DisableS3ExpressSessionAuth": True,
        }
        return asked if self._custom is None else {**asked, "Endpoint": self._custom}


def _new_session() -> Any:
    from botocore.config import Config  # noqa: PLC0415
    from botocore.session import Session  # noqa: PLC0415  # 0.13 s that only tasks with AWS in them should pay

    session = Session()
    _prefer_aws_region(session)
    # For the questions by which credentials are found (STS, SSO); whoever asked for them tries again.
    session.set_default_client_config(
        Config(
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
    )
    return session


def _new_async_session() -> Any:
    import aioboto3  # noqa: PLC0415  # another 0.2 s

    session = aioboto3.Session()
    _prefer_aws_region(session._session)  # noqa: SLF001
    return session


def _prefer_aws_region(session: Any) -> None:
    """The SDK reads AWS_DEFAULT_REGION only; all other SDKs of AWS know AWS_REGION, and it comes first."""
    region = os.environ.get("AWS_REGION")
    if region:
        session.set_config_variable("region", region)


def _ca_bundle(session: Any) -> str | None:
    bundle = session.get_config_variable("ca_bundle")
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


def _check_endpoint(url: str | None) -> None:
    """Raise UsageError where a custom endpoint's URL is none that the SDK would take."""
    from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url  # noqa: PLC0415

    if url is not None and not (is_valid_endpoint_url(url) or is_valid_ipv6_endpoint_url(url)):
        raise _unusable_settings(f"Invalid endpoint: {url}")


def _unusable_settings(why: object) -> UsageError:
    return UsageError(
        f"the AWS settings can't be used: {why}; check AWS_REGION and AWS_ENDPOINT_URL "
        "(http://HOST[:PORT] or https://HOST[:PORT]), also in the AWS profile"
    )


@contextmanager
def _asking(whom: str) -> Iterator[None]:
    """Around calls of the SDK about `whom`: its errors as ours.

    Raises:
        AccessDeniedError: no credentials, or a service said no to them.
        TransientError: no answer, or credentials could not be fetched just now.
        TransferIOError: the server's certificate is not trusted.
        UsageError: the AWS configuration is not what the SDK takes.
    """
    try:
        yield
    except (TaskrunnerError, TimeoutError):
        raise
    except Exception as error:
        ours = _translated(error, whom)
        if ours is None:
            raise
        raise ours from error


def _translated(error: Exception, whom: str) -> TaskrunnerError | None:  # noqa: PLR0911  # one a case
    """Our error for one of the SDK's; None for what is not the SDK's."""
    from botocore import exceptions as sdk  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    match error:
        case sdk.ClientError():
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = str(error.response.get("Error", {}).get("Code", ""))
            if status >= 500 or status == 429 or _PASSING.search(code):
                return TransientError(f"AWS can't answer about {whom} just now: {error}")
            return AccessDeniedError(
                f"AWS refuses what was asked about {whom}; its role may lack that: {error}"
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
        case RuntimeError() if "still expired" in str(error):  # of botocore.credentials, after a renewal
            return TransientError(f"the AWS credentials that came had expired already: {error}")
        case _:
            return None
