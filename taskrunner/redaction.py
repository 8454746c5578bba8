"""What must never reach a log: credentials in URLs, signatures of presigned requests, secret-looking values.

Pure text in, text out. Whatever ends up in an event passes through here once, in `events.py`, so no other
module needs to remember it. What an executor prints itself is its own business and is told as it came.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"

_SECRET_NAME = re.compile(
    r"(?i)(secret|passw|passphrase|token|credential|bearer|(api|access|account|private|encryption|session)[-_]?key"
    r"|auth(?!or(?!i[sz]))|cookie|(^|[-_])(pwd|pass|key|sas|pat|dsn)($|[-_]))"
)
# A password with spaces or quotes is no part of a proper URL. It is told from a sentence that goes on after a URL
# by what follows the colon, which is no port; and from JSON, by what follows the quote.
_USERINFO = re.compile(
    r"""(?<=://)(?:
        [^/?#\s":@]+:(?!\d{1,5}[,;.:)'\]]*[ "])(?:[^/?#\s"@]+(?:[ ]|"(?![\s,:}\]]))){1,3}[^/?#\s"]*@(?=[\w\[])
        | [^/?#\s"]*@
    )""",
    re.VERBOSE,
)
# Beside secret-looking names, what carries the right to a presigned or shared-access URL: S3, Google, Azure,
# CloudFront and their likes, whose parameters end in `signature` or are among these.
_CARRIES_A_RIGHT = re.compile(r"(?i)signature$|^(sig|policy|awsaccesskeyid|key-pair-id)$")
_PARAMETER = re.compile(r"([?&;#])([^?&;#=\s\"']{1,100})=([^&;\s\"'#]+)")
_MEMBER = re.compile(r"""(["'])([^"']{1,100})\1(\s*:\s*)(["'])(?:\\.|(?!\4).)*\4""")
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name probably holds a secret.

    Names are judged, not values: `AWS_SECRET_ACCESS_KEY`, `DB_PASSWORD`, `GITHUB_TOKEN`, `X_AUTH`; not
    `AUTHOR`, `KEYBOARD` or `MONKEY`.
    """
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` with the secrets of every URL and JSON object in it, and every AWS access key id, as `***`."""
    if "@" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    if "=" in text:
        text = _PARAMETER.sub(_masked_parameter, text)
    if ":" in text:
        text = _MEMBER.sub(_masked_member, text)
    return _ACCESS_KEY.sub(MASK, text)


def _masked_parameter(found: re.Match[str]) -> str:
    separator, name, _ = found.groups()
    plain = unquote(name).removeprefix("amp;")
    if is_secret_name(plain) or _CARRIES_A_RIGHT.search(plain):
        return f"{separator}{name}={MASK}"
    return found[0]


def _masked_member(found: re.Match[str]) -> str:
    quote, name, colon, value_quote = found.groups()
    if is_secret_name(name):
        return f"{quote}{name}{quote}{colon}{value_quote}{MASK}{value_quote}"
    return found[0]
