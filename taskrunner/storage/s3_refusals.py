"""What S3's "no" means to a person: one sentence and one error for each of its codes.

Pure. An answer that is no, with its XML document, becomes a `Refusal`, and `explained` turns that, with what was
asked for, into one of our errors.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from html import unescape
from typing import TYPE_CHECKING

from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TaskrunnerError,
    ThrottledError,
    TransferIOError,
    TransientError,
    UsageError,
    one_line,
)
from taskrunner.storage.wire import Answer, retry_after_seconds

if TYPE_CHECKING:
    from taskrunner.storage.s3_documents import Document

_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
# The bytes were damaged on their way; another try sends them anew.
_DAMAGED = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_TRANSIENT = _DAMAGED | {
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "OperationAborted",
    "ConditionalRequestConflict",
    "IncompleteBody",
}
_KEYS_REFUSED = {
    "ExpiredToken": "the AWS credentials have expired",
    "ExpiredTokenException": "the AWS credentials have expired",
    "TokenRefreshRequired": "the AWS credentials have expired",
    "InvalidToken": "the AWS session token is not valid",
    "InvalidAccessKeyId": "S3 does not know this AWS access key id",
    "SignatureDoesNotMatch": "the AWS secret key does not fit the access key id",
    "RequestTimeTooSkewed": "this machine's clock differs from S3's by more than 15 minutes; set it right",
    "AccountProblem": "there is a problem with the AWS account",
    "AllAccessDisabled": "S3 has disabled all access to it",
}
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


class Action(Enum):
    """What was asked for: the permission that it needs."""

    READ = "s3:GetObject"
    LIST = "s3:ListBucket"
    WRITE = "s3:PutObject"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to S3."""

    action: Action
    url: str
    bucket: str
    region: str
    signed: bool
    renewable: bool
    """Whether expired credentials are replaced by themselves."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """S3's answer when it is no."""

    status: int
    code: str
    message: str
    region: str | None
    """Where the bucket is, if the answer told."""
    retry_after_seconds: float | None

    @classmethod
    def of_answer(cls, answer: Answer) -> Refusal:
        """Read from an answer and its XML; the answer to a HEAD has none."""
        body = answer.excerpt().decode(errors="replace")
        return cls(
            answer.status,
            _element(body, "Code"),
            _element(body, "Message"),
            one_line(answer.header("x-amz-bucket-region") or "") or _element(body, "Region") or None,
            retry_after_seconds(answer.header("Retry-After")),
        )

    @classmethod
    def of_document(cls, answer: Answer, document: Document) -> Refusal:
        """Read from the `<Error>` of an answer that began with a yes, before S3 knew better."""
        code, message = (one_line(document.field(name).strip()) for name in ("Code", "Message"))
        return cls(answer.status, code, message, None, retry_after_seconds(answer.header("Retry-After")))

    @property
    def transient(self) -> bool:
        """Whether the same question may well be answered with yes a little later."""
        status = self.status
        return self.throttled or self.code in _TRANSIENT or status == 408 or (status >= 500 and status != 501)

    @property
    def throttled(self) -> bool:
        """Whether S3 wants fewer requests; the answer to a HEAD has only its number to say so."""
        return self.code in _THROTTLED or self.status == 429 or (self.status == 503 and not self.code)

    @property
    def damaged(self) -> bool:
        """Whether what arrived is not what the checksum that came with it says."""
        return self.code in _DAMAGED

    @property
    def about_checksum(self) -> bool:
        """Whether the server may not know the checksum it was told, or what goes with it.

        Not all say what it is that they have not implemented.
        """
        said = f"{self.code} {self.message}".lower()
        named = "checksum" in said or "x-amz-mp-object-size" in said
        return not self.damaged and (self.status == 501 or (self.status == 400 and named))


class ChecksumRefusedError(Exception):
    """The server refuses a request for the checksum that came with it; it may take another one, or none."""


def _element(xml: str, name: str) -> str:
    match = re.search(f"<{name}>([^<]*)</{name}>", xml)
    return one_line(unescape(match[1]).strip()) if match else ""


def explained(no: Refusal, asked: Asked) -> TaskrunnerError:  # noqa: PLR0911  # one a verdict
    """Our error for S3's refusal of what was asked."""
    if no.transient:
        what = f"{no.status} {no.code}".strip()
        kind = ThrottledError if no.throttled else TransientError
        return kind(
            f"S3 can't serve {asked.url} just now ({what})", retry_after_seconds=no.retry_after_seconds
        )
    if no.code in _KEYS_REFUSED:
        return _keys_refused(no, asked)
    if no.code in _ELSEWHERE or no.status in (301, 307):
        return _elsewhere(no, asked)
    if no.code == "InvalidObjectState":
        return archived(asked)
    if no.code == "NoSuchUpload":
        return TransferIOError(f"{asked.url}: somebody else ended the multipart upload (a lifecycle rule?)")
    if no.code == "NoSuchBucket" or (no.status == 404 and asked.action is not Action.READ):
        return no_such_bucket(asked)
    # 405 is the answer for a delete marker asked for by its version.
    if no.status in (404, 405) and asked.action is Action.READ:
        return InputMissingError(f"{asked.url} does not exist")
    if no.status in (412, 416) and asked.action is Action.READ:
        return changed(asked)
    if no.status in (401, 403) or no.code == "AccessDenied":
        return _denied(no, asked)
    return _other(no, asked)


def no_such_bucket(asked: Asked) -> TaskrunnerError:
    """There is no bucket of this name."""
    sentence = f"{asked.url}: there is no bucket {asked.bucket}"
    return OutputFailedError(sentence) if asked.action is Action.WRITE else InputMissingError(sentence)


def changed(asked: Asked) -> TaskrunnerError:
    """The object is not the version that was found first."""
    return TransferIOError(f"{asked.url} was changed while it was downloaded; nothing of it is kept")


def archived(asked: Asked, *, restoring: bool = False) -> TaskrunnerError:
    """The object is in an archive and can't be read now."""
    if restoring:
        return TransferIOError(f"{asked.url} is still being restored from the archive; try again later")
    key = asked.url.partition("://")[2].partition("/")[2]
    return TransferIOError(
        f"{asked.url} is archived (S3 Glacier) and can't be read; restore it first: aws s3api restore-object "
        f"--bucket {asked.bucket} --key '{key}' --restore-request Days=7"
    )


def _keys_refused(no: Refusal, asked: Asked) -> TaskrunnerError:
    sentence = f"{asked.url}: {_KEYS_REFUSED[no.code]} ({no.code})"
    if asked.renewable and no.code in _EXPIRED:
        return TransientError(sentence)
    return AccessDeniedError(sentence)


def _elsewhere(no: Refusal, asked: Asked) -> TaskrunnerError:
    if no.code == "TemporaryRedirect" or no.status == 307:
        return TransientError(f"the address of bucket {asked.bucket} has not settled yet ({no.status})")
    place = f"in region {no.region}" if no.region else "in another region"
    return UsageError(
        f"{asked.url}: the bucket is {place}, and {asked.region} was asked; set AWS_REGION to the bucket's region"
    )


def _denied(no: Refusal, asked: Asked) -> TaskrunnerError:
    who = "the credentials lack" if asked.signed else "it is not public: unsigned requests lack"
    hint = ""
    if asked.action is Action.READ:
        hint = " (a key that does not exist looks like this, too, without s3:ListBucket)"
    what = no.message or no.code or str(no.status)
    return AccessDeniedError(f"{asked.url}: access denied, {who} {asked.action.value}{hint}; S3 said: {what}")


def _other(no: Refusal, asked: Asked) -> TaskrunnerError:
    what = " ".join(word for word in (str(no.status), no.code, no.message) if word)
    if asked.action is Action.WRITE:
        return OutputFailedError(f"{asked.url} can't be written: S3 said {what}")
    return TransferIOError(f"{asked.url} can't be read: S3 said {what}")
