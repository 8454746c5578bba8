"""Which addresses of a host are used; none that hands out this machine's credentials, however it is written."""

import shutil
import socket
from pathlib import Path

import pytest

from taskrunner.errors import AccessDeniedError
from taskrunner.storage.network import refuse_metadata_address, resolved, tls_context


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:2:3:4:a9fe:a9fe",
        "::ffff:0:a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
    ],
)
def test_every_spelling_of_a_metadata_address_is_refused(address: str) -> None:
    with pytest.raises(AccessDeniedError, match="credentials"):
        refuse_metadata_address(address, address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "8.8.8.8", "2001:db8::1", "example.com"])
def test_other_addresses_are_not(address: str) -> None:
    refuse_metadata_address(address, address)


def found(*addresses: str) -> list[tuple[object, ...]]:
    """What a resolver finds."""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    return [
        (family, socket.SOCK_STREAM, 6, "", (address, 443))
        for family, address in zip(families, addresses, strict=True)
    ]


def test_lanes_spread_over_all_machines_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [f"2001:db8::{n}" for n in range(8)] + [f"192.0.2.{n}" for n in range(8)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found(*addresses))

    orders = [[str(address[0]) for _, address in resolved("large.example", 443)] for _ in range(20)]

    assert len({order[0] for order in orders}) > 1
    for order in orders:
        assert sorted(order) == sorted(addresses)
        assert [":" in address for address in order] == [True] * 8 + [False] * 8  # as the resolver prefers


def test_one_metadata_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found("192.0.2.1", "169.254.169.254"))

    with pytest.raises(AccessDeniedError, match="large"):
        resolved("large.example", 443)


@pytest.mark.parametrize(("name", "by_the_sdk"), [("0a1b2c3d.0", False), ("notes.txt", True)])
def test_the_sdks_certificates_are_taken_only_where_the_machine_has_none(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    name: str,
    *,
    by_the_sdk: bool,
) -> None:
    """Those in a directory are looked up when they are needed, so a new context seems to have none."""
    shutil.copy(certificate[0], tmp_path / name)
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    monkeypatch.setenv("SSL_CERT_DIR", f"/nonexistent:{tmp_path}")

    context = tls_context.__wrapped__(None)

    assert (context.cert_store_stats()["x509_ca"] > 0) is by_the_sdk
