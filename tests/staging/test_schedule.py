"""Lanes take large and small side by side; nothing is taken twice and nothing is forgotten."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from taskrunner.staging.schedule import Schedule, Todo


def schedule_of(large_count: int, small_bytes: list[int]) -> Schedule[str, int]:
    return Schedule((f"part {n}" for n in range(large_count)), large_count, small_bytes, lambda size: size)


def taken(schedule: Schedule[str, int], lane_count: int = 4) -> list[str | list[int]]:
    items = []
    while (item := schedule.take(lane_count)) is not None:
        items.append(item)
    return items


@given(st.integers(0, 60), st.lists(st.integers(0, 3_000_000), max_size=200), st.integers(1, 64))
def test_everything_is_taken_once(large_count: int, small_bytes: list[int], lane_count: int) -> None:
    items = taken(schedule_of(large_count, small_bytes), lane_count)
    assert [item for item in items if isinstance(item, str)] == [f"part {n}" for n in range(large_count)]
    assert [size for item in items if isinstance(item, list) for size in item] == small_bytes


def test_small_files_do_not_wait_for_the_end_of_a_large_one() -> None:
    items = taken(schedule_of(100, [1000] * 100), lane_count=64)
    small_at = [at for at, item in enumerate(items) if isinstance(item, list)]
    assert small_at[0] == 0
    assert max(later - earlier for earlier, later in itertools.pairwise(small_at)) <= 3


def test_a_handful_of_small_files_goes_to_as_many_lanes() -> None:
    assert taken(schedule_of(0, [1] * 8), lane_count=8) == [[1]] * 8


def test_many_small_files_are_handed_over_sixteen_at_a_time_and_singly_in_the_end() -> None:
    counts = [len(item) for item in taken(schedule_of(0, [1] * 4000), lane_count=8)]
    assert (counts[0], counts[-1]) == (16, 1)
    assert counts == sorted(counts, reverse=True)


def test_what_is_not_so_small_is_handed_over_by_itself() -> None:
    assert taken(schedule_of(0, [900_000] * 100), lane_count=1) == [[900_000]] * 100


def test_what_is_put_back_comes_next() -> None:
    schedule = schedule_of(3, [])
    schedule.take(1)
    schedule.put_back(["again"])
    assert taken(schedule) == ["again", "part 1", "part 2"]


def test_things_to_do_may_grow_while_they_are_done() -> None:
    todo = Todo([1])
    assert todo.take(1) == 1
    assert todo.take(1) is None
    todo.append(2)
    assert todo.take(1) == 2
