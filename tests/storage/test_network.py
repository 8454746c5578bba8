"""No task reaches the addresses that hand out this machine's credentials, however they are written."""

import pytest

from taskrunner.errors import AccessDeniedError
from taskrunner.storage.network import refuse_metadata_address


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
