"""What must never reach a log: credentials in URLs, signatures of presigned requests, secret-looking values.

Pure text in, text out. Whatever ends up in an event passes through here once, in `events.py`, so no other
module needs to remember it. What an executor prints itself is its own business and is told as it came.
"""

from __future__ import annotations

import re

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?i)(secret|passw|passphrase|token|credential|bearer|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|encryption[-_]?key|auth(?!or(?!i[sz]))|cookie|session[-_]?key|(^|[-_])(pwd|pass|key|sas|pat|dsn)($|[-_]))"
)
_USERINFO = re.compile(r"(?<=://)[^/?#\s\"']*@")
# What carries the right to a presigned or shared-access URL: S3 (v4, v2), Google, Azure, CloudFront, OAuth.
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&;](?:x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential"
    r"|signature|awsaccesskeyid|key-pair-id|policy|sig|token|access_token|id_token|api_?key|apikey|key|auth"
    r"|password|passwd|secret|client_secret)=)[^&\s\"'#]+"
)
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name probably holds a secret.

    Names are judged, not values: `AWS_SECRET_ACCESS_KEY`, `DB_PASSWORD`, `GITHUB_TOKEN`, `X_AUTH`; not
    `AUTHOR`, `KEYBOARD` or `MONKEY`.
    """
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` with the secrets of every URL in it, and every AWS access key id, replaced by `***`."""
    if "@" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    if "=" in text:
        text = _SECRET_PARAMETER.sub(rf"\1{MASK}", text)
    return _ACCESS_KEY.sub(MASK, text)
