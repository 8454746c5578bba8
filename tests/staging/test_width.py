"""The number of lanes follows what they bring, on links that a formula stands for."""

import random
from collections.abc import Callable

import pytest

from taskrunner.staging.width import FIRST_LANES, Width

LOOK_SECONDS = 0.1


def after(
    width: Width,
    seconds: float,
    rate_of: Callable[[int], float],
    start: float = 0.0,
    *,
    idle: int = 0,
) -> list[int]:
    """The widths while a link carries `rate_of(lanes)` bytes per second."""
    seen = []
    now, amount = start, 0.0
    width.look(amount, now, busy=width.now - idle)
    for _ in range(int(seconds / LOOK_SECONDS)):
        now += LOOK_SECONDS
        amount += rate_of(width.now) * LOOK_SECONDS
        width.look(amount, now, busy=width.now - idle)
        seen.append(width.now)
    return seen


def test_where_every_connection_brings_as_much_as_the_first_all_are_used() -> None:
    assert after(Width(64), 4, lambda lanes: lanes * 10e6)[-1] >= 60


def test_a_link_that_is_full_keeps_as_many_as_fill_it() -> None:
    seen = after(Width(256), 4, lambda lanes: min(lanes * 10e6, 200e6))
    assert 20 <= seen[-1] <= 40


def test_where_more_bring_nothing_there_are_no_more_for_long() -> None:
    seen = after(Width(64), 30, lambda _lanes: 500e6)
    assert sorted(seen)[len(seen) // 2] == FIRST_LANES
    assert max(seen) <= 2 * FIRST_LANES


def test_a_link_that_becomes_wider_is_found_out() -> None:
    width = Width(64)
    after(width, 10, lambda lanes: min(lanes * 10e6, 80e6))
    assert after(width, 20, lambda lanes: lanes * 10e6, start=10.0)[-1] >= 60


def test_a_server_that_asks_for_less_gets_less_at_once_and_one_wave_counts_once() -> None:
    width = Width(64)
    before = after(width, 4, lambda lanes: lanes * 10e6)[-1]
    for _ in range(20):
        width.throttled(10.0)
    assert width.now == int(0.7 * before)
    width.throttled(11.5)
    assert width.now == int(0.7 * int(0.7 * before))


def test_at_least_one_lane_works_however_often_a_server_refuses() -> None:
    width = Width(8)
    for second in range(100):
        width.throttled(float(2 * second))
    assert width.now == 1


def test_after_a_refusal_it_grows_again() -> None:
    width = Width(64)
    width.throttled(0.0)
    assert after(width, 20, lambda lanes: lanes * 10e6, start=0.1)[-1] >= 60


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_noise_alone_does_not_make_it_wide(noise: float) -> None:
    chance = random.Random(1)
    seen = after(Width(64), 300, lambda _lanes: 500e6 * chance.gauss(1, noise))
    assert sum(seen[-1000:]) / 1000 < 4 * FIRST_LANES


def test_where_fewer_bring_as_much_there_are_fewer() -> None:
    seen = after(Width(64), 30, lambda lanes: min(lanes * 10e6, 200e6))
    assert sum(seen[-100:]) / 100 < 30


def test_lanes_without_work_are_no_reason_for_more() -> None:
    assert set(after(Width(64), 10, lambda lanes: lanes * 10e6, idle=1)) == {FIRST_LANES}


def test_while_lanes_of_a_wider_flow_finish_nothing_is_concluded() -> None:
    width = Width(64)
    after(width, 4, lambda lanes: min(lanes * 10e6, 200e6))
    now = width.now
    assert set(after(width, 20, lambda _lanes: 200e6, start=4.0, idle=-8)) == {now}
