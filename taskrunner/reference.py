"""Names of images, read as the docker command reads them: `ubuntu` is `docker.io/library/ubuntu:latest`.

The grammar is that of github.com/distribution/reference; nothing else may reach the engine's URLs. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HUB = "docker.io"

_MOST_CHARACTERS = 255  # NameTotalLengthMax, of registry and repository together
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REPOSITORY = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?)/)?"
    rf"(?P<repository>{_REPOSITORY})"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?"
)
_IMAGE_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image's full name."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        """What the engine is asked for; a digest outweighs a tag."""
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{end}"


def parse_reference(image: str) -> ImageReference:
    """Read an image's name. Raises ValueError, with what was expected, where it is none."""
    match = _REFERENCE.fullmatch(image)
    if match is None or _IMAGE_ID.fullmatch(image):
        raise ValueError(_EXPECTED)
    registry, repository = match["registry"], match["repository"]
    if registry is not None and not _is_host(registry):
        registry, repository = None, f"{registry}/{repository}"
    if len(f"{registry or ''}{repository}") > _MOST_CHARACTERS:
        raise ValueError(f"expected an image's name of at most {_MOST_CHARACTERS} characters before its tag")
    if registry in (None, "index.docker.io", HUB):
        registry = HUB
        repository = repository if "/" in repository else f"library/{repository}"
    tag = match["tag"] if match["tag"] or match["digest"] else "latest"
    return ImageReference(registry, repository, tag, match["digest"])


_EXPECTED = "expected an image as [HOST[:PORT]/]NAME[:TAG][@DIGEST], NAME in lower case"


def _is_host(first: str) -> bool:
    """Whether the first component is a registry and not a user of Docker Hub."""
    return any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first
