"""The servers that transfers are measured against, each ended with the scenario it was started for.

`rclone serve s3` is a server of somebody else's making; `source_server.py` is one that transfers never wait
for; `shaped_link.py` makes either of them far away.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from scripts.announced import announced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.shaped_link import Shape

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60


@dataclass(frozen=True)
class Endpoint:
    """Where an S3 server answers, path-style, and what it takes."""

    url: str
    folder: Path
    """Where buckets are as folders, to look at what was uploaded."""
    keeps_everything: bool
    """Whether uploads to every bucket are kept, or to those named `kept…` only."""
    certificate: Path | None = None
    access_key: str = "AKIDBENCHBENCHBENCH0"
    secret_key: str = "secret/of+benchmarks"

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def environment(self) -> dict[str, str]:
        """The environment of a client: AWS's, with nothing of who runs it but PATH."""
        named = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self.certificate:
            # The SDKs' name for it, and that of Go's library.
            named |= {"AWS_CA_BUNDLE": str(self.certificate), "SSL_CERT_FILE": str(self.certificate)}
        return named


@contextmanager
def rclone_server(
    program: str, root: Path, certificate: tuple[Path, Path] | None = None
) -> Iterator[Endpoint]:
    """`rclone serve s3` over the folders in `root`; TLS with (certificate, key)."""
    tls = ["--cert", str(certificate[0]), "--key", str(certificate[1])] if certificate else []
    options = ["--addr", "127.0.0.1:0", "--config", "/dev/null", "--dir-cache-time", "1000h", *tls]
    command = [program, "serve", "s3", *options, str(root)]
    with announced(command, r"server on \[(https?://[0-9.:]+)/\]", REPOSITORY) as url:
        yield Endpoint(url, root, keeps_everything=True, certificate=certificate[0] if certificate else None)


@contextmanager
def source_server(
    folder: Path, manifest: Mapping[str, Mapping[str, int]], certificate: tuple[Path, Path] | None = None
) -> Iterator[Endpoint]:
    """Our own server, which has the objects of `manifest` (bucket: key: size) and leaves uploads in `folder`."""
    (folder / ".manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "benchmarks.source_server", "--folder", str(folder)]
    command += ["--manifest", str(folder / ".manifest.json")]
    if certificate:
        command += ["--certificate", str(certificate[0]), "--key", str(certificate[1])]
    with announced(command, r"serving on (https?://[0-9.:]+)", REPOSITORY) as url:
        yield Endpoint(
            url, folder, keeps_everything=False, certificate=certificate[0] if certificate else None
        )


@contextmanager
def shaped(endpoint: Endpoint, shape: Shape) -> Iterator[Endpoint]:
    """The same server at the other end of a link."""
    command = [sys.executable, "-m", "benchmarks.shaped_link", "--to", endpoint.address]
    command += ["--latency-ms", str(shape.latency_seconds * 1e3)]
    command += ["--connection-mb", str(shape.connection_bytes_per_second / 1e6)]
    command += ["--link-mb", str(shape.link_bytes_per_second / 1e6)]
    with announced(command, r"carrying from http://([0-9.:]+)", REPOSITORY) as address:
        scheme = urlsplit(endpoint.url).scheme
        yield replace(endpoint, url=f"{scheme}://{address}")


def touch(endpoint: Endpoint, bucket: str, keys: Iterable[str]) -> None:
    """Ask for every object once, so that nobody's turn pays for what a server computes but once (its MD5)."""
    import ssl  # noqa: PLC0415  # 10 MB that the process which starts the measured ones has no other use for

    parts = urlsplit(endpoint.url)
    if endpoint.certificate:
        trust = ssl.create_default_context(cafile=endpoint.certificate)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.netloc, context=trust)
    else:
        connection = http.client.HTTPConnection(parts.netloc)
    for key in keys:
        connection.request("HEAD", f"/{bucket}/{quote(key)}")
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{endpoint.url} answers {answer.status} for {bucket}/{key}")
    connection.close()


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A new certificate for 127.0.0.1 and its key; the certificate is its own authority."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    if not shutil.which("openssl"):
        raise RuntimeError("openssl is needed to make a certificate")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    subject = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return certificate, key
