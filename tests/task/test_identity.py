"""Names for tasks that come without one."""

import re

from hypothesis import given
from hypothesis import strategies as st

from taskrunner.identity import encode_xid, new_task_id

_SECONDS = st.integers(0, 2**32 - 1)
_REST = st.binary(min_size=8, max_size=8)


def test_an_id_has_twenty_characters_of_funnels_alphabet() -> None:
    assert re.fullmatch(r"[0-9a-v]{20}", new_task_id())


def test_no_id_is_made_twice() -> None:
    assert len({new_task_id() for _ in range(10_000)}) == 10_000


def test_the_encoding_is_that_of_xid() -> None:
    """The example of xid's own documentation."""
    rest = bytes([0x60, 0xF4, 0x86, 0xE4, 0x28, 0x41, 0x2D, 0xC9])
    assert encode_xid(0x4D88E15B, rest) == "9m4e2mr0ui3e8a215n4g"


@given(_SECONDS, _SECONDS, _REST, _REST)
def test_ids_sort_by_the_second_they_were_made_in(first: int, second: int, one: bytes, other: bytes) -> None:
    if first < second:
        assert encode_xid(first, one) < encode_xid(second, other)
