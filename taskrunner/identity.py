"""Names for tasks that come without one: 20 characters that sort by the second they were made in.

The alphabet and the length are those of xid, which Funnel uses: 12 bytes in base 32 with the digits `0-9a-v`,
the first four bytes being the time. Where xid goes on with machine, process and a counter, there are eight
random bytes here: in containers every runner is process 1, often on a machine of the same name.
"""

from __future__ import annotations

import base64
import secrets
import time

_TIME_BYTES = 4
_RANDOM_BYTES = 8


def new_task_id() -> str:
    """A name no other task has."""
    return encode_xid(int(time.time()), secrets.token_bytes(_RANDOM_BYTES))


def encode_xid(seconds: int, rest: bytes) -> str:
    """The 20 characters for a time (seconds since the epoch, modulo 2**32) and the eight bytes after it."""
    stamp = (seconds % 2 ** (8 * _TIME_BYTES)).to_bytes(_TIME_BYTES, "big")
    return base64.b32hexencode(stamp + rest).decode("ascii").rstrip("=").lower()
