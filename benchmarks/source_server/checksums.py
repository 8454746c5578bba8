"""Checksums of bodies, compared with what clients claim for them; a claim is written `name:base64`."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from benchmarks.source_server.requests import CHECKSUMS

if TYPE_CHECKING:
    from collections.abc import Callable


def crt_function(name: str) -> Callable[..., int]:
    from awscrt import checksums  # noqa: PLC0415  # the server runs without it, and then tells no checksums

    function: Callable[..., int] = getattr(checksums, name)
    return function


class Summing:
    """Checksums of a body as it passes, compared with the claim in the end."""

    def __init__(self, file: int | None) -> None:
        self._file = file
        self._values = dict.fromkeys(CHECKSUMS, 0)
        self.length = 0

    def take(self, chunk: memoryview) -> None:
        for name in CHECKSUMS:
            self._values[name] = crt_function(name)(chunk, self._values[name])
        self.length += len(chunk)
        if self._file is not None:
            os.write(self._file, chunk)

    def agrees_with(self, claim: str) -> bool:
        name, _, text = claim.partition(":")
        return int.from_bytes(b64decode(text), "big") == self._values[name]


def combined_claim(claims: list[tuple[str | None, int]]) -> str | None:
    """The claim for a whole from those of its parts; None where one of them has none, or another kind."""
    names = {claim.partition(":")[0] if claim else "" for claim, _ in claims}
    if len(names) != 1 or "" in names:
        return None
    name = names.pop()
    combine, total = crt_function(f"combine_{name}"), 0
    for claim, length in claims:
        total = combine(total, int.from_bytes(b64decode((claim or "").partition(":")[2]), "big"), length)
    return f"{name}:{b64encode(total.to_bytes(8 if name == 'crc64nvme' else 4, 'big')).decode()}"
