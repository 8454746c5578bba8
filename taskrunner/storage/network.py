"""How a lane reaches a host: addresses, proxies, TLS, and which addresses nobody may reach.

The task document is untrusted, and the machine it runs on answers requests for its own credentials at
link-local addresses (EC2's and ECS's metadata services). So the addresses a name stands for are looked at
right before connecting, whatever name, redirect or number was used to say them.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from taskrunner.aws import unreadable_ca_bundle
from taskrunner.errors import (
    AccessDeniedError,
    TaskrunnerError,
    ThrottledError,
    TransferIOError,
    TransientError,
    UsageError,
)
from taskrunner.storage.heads import AnswerError
from taskrunner.urls import ascii_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskrunner.storage.pace import Pace

_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Instance metadata over IPv6; the IPv4 ones (169.254.0.0/16) are link-local anyhow.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
_WITH_IPV4_AT_THE_END = (
    ipaddress.ip_network("::/96"),  # IPv4-compatible (RFC 4291, section 2.5.5.1)
    ipaddress.ip_network("::ffff:0:0:0/96"),  # IPv4-translated (RFC 2765)
    ipaddress.ip_network("64:ff9b::/96"),  # NAT64 (RFC 6052)
    ipaddress.ip_network("64:ff9b:1::/48"),  # NAT64 of a network's own (RFC 8215)
)
_METADATA_IPV6 = ipaddress.ip_network("fd00:ec2::/32")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes: one kept-alive connection serves requests of equal endpoints only."""

    scheme: str
    host: str
    """As the name service knows it."""
    port: int
    ca_bundle: str | None = None

    @classmethod
    def of(cls, url: str, ca_bundle: str | None = None) -> Endpoint:
        """The endpoint of an absolute http(s) URL. Raises TransferIOError where it names none."""
        origin = _ORIGIN.match(url)
        try:
            return _endpoint(url if origin is None else origin[0], ca_bundle)
        except ValueError as error:
            raise TransferIOError(f"{url}: {error}") from error

    @property
    def authority(self) -> str:
        """As a Host header says it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str) -> str:
    """What a request line says of an absolute URL: path and query, as they are written."""
    origin = _ORIGIN.match(url)
    target = (url if origin is None else url[origin.end() :]).partition("#")[0]
    return target if target.startswith("/") else f"/{target}"


@lru_cache(maxsize=256)
def _endpoint(origin: str, ca_bundle: str | None) -> Endpoint:
    """The endpoint that the beginning of a URL names. Raises ValueError where it names none."""
    try:
        parts = urlsplit(origin)
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    except (ValueError, KeyError) as error:
        raise ValueError("expected http://HOST[:PORT]/… or https://HOST[:PORT]/…") from error
    if not port:
        raise ValueError("expected a port above 0")
    host = parts.hostname or ""
    return Endpoint(parts.scheme, host if ":" in host else ascii_host(host), port, ca_bundle)


@cache
def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Verified TLS, by the certificates in `ca_bundle`, else by the machine's (SSL_CERT_FILE, SSL_CERT_DIR).

    A slim image may have none at all; the AWS SDK brings its own list, which is then used, as the SDK does.
    """
    context = ssl.create_default_context(cafile=ca_bundle)
    # Some builds of Python let a connection that was cut off pass for one that was ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if ca_bundle is not None or context.cert_store_stats()["x509_ca"] or _has_directory_of_cas():
        return context
    sdk = find_spec("botocore")
    if sdk is not None and sdk.origin:
        context.load_verify_locations(Path(sdk.origin).with_name("cacert.pem"))
    return context


def _has_directory_of_cas() -> bool:
    """Whether there are certificates that OpenSSL looks up, by the hashes in their names, when it needs them."""
    paths = ssl.get_default_verify_paths()
    directories = os.environ.get(paths.openssl_capath_env, paths.openssl_capath).split(os.pathsep)
    return any(any(Path(directory).glob("????????.[0-9]")) for directory in directories if directory)


@dataclass(frozen=True, slots=True)
class Network:
    """What all connections have in common; made once, from the environment."""

    proxies: Mapping[str, str] = field(default_factory=dict)
    """Scheme → proxy URL, and `no` → hosts that want none, as `urllib.request.getproxies` gives them."""
    ca_bundle: str | None = None
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    """How long a connection may stay silent; at most twice as long in the middle of a body."""
    tls: Callable[[str | None], ssl.SSLContext] = tls_context
    pace: Pace | None = None
    """How fast bodies may come and go, all lanes together; None as fast as they can."""

    @classmethod
    def from_environment(cls, *, read_timeout_seconds: float, pace: Pace | None = None) -> Network:
        """Proxies and CA bundle by their customary variables, in the AWS SDK's order."""
        bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or None
        return cls(getproxies(), bundle, read_timeout_seconds=read_timeout_seconds, pace=pace)

    def proxy_for(self, endpoint: Endpoint) -> str | None:
        """The URL of the proxy to be used, if any. Raises UsageError for one that is spoken to otherwise."""
        proxy = self.proxies.get(endpoint.scheme)
        if not proxy or proxy_bypass(f"{endpoint.host}:{endpoint.port}", dict(self.proxies)):
            return None
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if not _is_http(proxy):
            raise UsageError(
                f"the proxy {proxy.rpartition('@')[2]} for {endpoint.scheme} URLs can't be used: expected "
                f"http://HOST:PORT (SOCKS, and TLS to the proxy itself, are not known here); "
                f"{endpoint.scheme.upper()}_PROXY names it"
            )
        return proxy

    def context_for(self, endpoint: Endpoint) -> ssl.SSLContext:
        """The TLS context for an endpoint. Raises UsageError where the CA bundle can't be read."""
        bundle = endpoint.ca_bundle or self.ca_bundle
        try:
            return self.tls(bundle)
        except OSError as error:
            raise unreadable_ca_bundle(bundle or "of this machine", error) from error


def _is_http(proxy: str) -> bool:
    try:
        return _endpoint(proxy, None).scheme == "http"
    except ValueError:
        return False


def refuse_metadata_address(address: str, host: str) -> None:
    """Raise AccessDeniedError where `address` is link-local: it hands out this machine's credentials.

    All that resolvers take for an address counts: `2852039166`, `0251.0376.43518`, IPv4 within IPv6, a dot at
    the end. What is a name is no matter here; its addresses are looked at when it is connected to.
    """
    ip = _as_address(address)
    if ip is None:
        return
    if ip.is_link_local or (ip.version == 6 and ip in _METADATA_IPV6):
        raise AccessDeniedError(
            f"{host} is the link-local address {address}, which no task may reach: "
            "it hands out this machine's credentials"
        )


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = text.partition("%")[0].rstrip(".")
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except OSError:
            return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    within = ip.ipv4_mapped or ip.sixtofour
    if within is None and any(ip in network for network in _WITH_IPV4_AT_THE_END):
        within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return within or ip


def resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a host: families in the resolver's order, the addresses of each in any.

    A large store answers with several machines: lanes spread over them, and another try meets another one.
    Raises OSError, AccessDeniedError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = []
    for family, group in groupby(found, key=lambda entry: entry[0]):
        machines = [(family, address) for _, _, _, _, address in group]
        addresses += random.sample(machines, len(machines))
    for _, address in addresses:
        refuse_metadata_address(str(address[0]), host)
    return addresses  # type: ignore[return-value]  # typeshed's union of address shapes


def proxy_authorization(proxy: str) -> str | None:
    """The Proxy-Authorization for a proxy URL with user and password in it."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def has_no_address(error: OSError) -> bool:
    """Whether the name service says that there is no such host, for good (getaddrinfo(3))."""
    return isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)


def was_cut_off(error: Exception) -> bool:
    """Whether a TLS connection ended without saying so; builds of Python have two errors for it."""
    return isinstance(error, ssl.SSLEOFError) or (
        isinstance(error, ssl.SSLError) and error.reason == "UNEXPECTED_EOF_WHILE_READING"
    )


def network_error(error: Exception, where: str) -> TaskrunnerError:
    """Our error for what socket, ssl and our reader of answers raise while talking to the host `where`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransferIOError(
            f"the certificate of {where} is not trusted ({error.verify_message}); "
            "set AWS_CA_BUNDLE to a file with the right certificate authority"
        )
    if isinstance(error, socket.gaierror):
        return TransientError(f"can't find the address of {where}: {error.strerror}")
    if isinstance(error, TimeoutError):
        return ThrottledError(f"{where} stayed silent for too long")
    if isinstance(error, AnswerError):
        return TransientError(f"{where} {error}")
    if was_cut_off(error):
        return TransientError(f"{where} closed the connection without saying so")
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TransientError(f"the connection to {where} failed: {what or type(error).__name__}")
