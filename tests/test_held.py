"""Transient events waiting for their place: ``held``."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.budget import Budget
from archibald_rt.held import LIMIT, OVERHEAD, HeldEvents
from archibald_rt.protocol import V1, Frames


def event(name: str, size: int = 1) -> Frames:
    return Frames(name.encode().ljust(size))


def no_bound() -> Budget:
    return Budget(limit=0, largest=0)


def make(*, limit: int = LIMIT, budget: Budget | None = None) -> HeldEvents:
    return HeldEvents(V1(), budget or no_bound(), limit=limit)


def take(held: HeldEvents, seq: int) -> list[str]:
    return [
        message[message.index(b"{") + 1 :].decode().strip() for message in held.take_before(seq)
    ]


def test_what_was_held_comes_out_before_the_durable_event_that_followed_it() -> None:
    held = make()
    for mark, name in [(5, "a"), (5, "b"), (7, "c"), (9, "d")]:
        held.add(mark, event(name), None)
    assert take(held, 5) == []
    assert take(held, 6) == ["a", "b"]
    assert take(held, 7) == []
    assert take(held, 9) == ["c"]
    assert take(held, 100) == ["d"]
    assert take(held, 100) == []


def test_the_mark_is_the_one_of_what_comes_out_first() -> None:
    assert make().mark is None
    held = make()
    held.add(3, event("a"), "k")
    held.add(5, event("b"), None)
    assert held.mark == 3
    held.add(7, event("c"), "k")
    assert held.mark == 5
    assert take(held, 6) == ["b"]
    assert held.mark == 7


def test_a_newer_one_with_the_same_key_replaces_the_older_and_takes_the_new_place() -> None:
    held = make()
    for mark, name, key in [(1, "a", "k"), (1, "b", None), (1, "c", "other"), (4, "d", "k")]:
        held.add(mark, event(name), key)
    assert take(held, 4) == ["b", "c"]
    assert take(held, 5) == ["d"]
    assert held.dropped == 0


def test_a_key_that_looks_like_a_number_is_a_key_of_its_own() -> None:
    held = make()
    held.add(1, event("a"), None)
    held.add(1, event("b"), "1")
    held.add(1, event("c"), "2")
    held.add(1, event("d"), None)
    assert take(held, 2) == ["a", "b", "c", "d"]


def test_a_key_that_was_taken_out_is_free_again() -> None:
    held = make()
    held.add(1, event("a"), "k")
    assert take(held, 2) == ["a"]
    held.add(2, event("b"), "k")
    assert take(held, 3) == ["b"]


def test_the_oldest_are_dropped_and_counted_when_there_is_no_room() -> None:
    held = make(limit=100)
    for name in "abcde":
        held.add(1, event(name, 30), None)
    assert held.dropped == 2
    assert take(held, 2) == ["c", "d", "e"]


def test_exactly_the_limit_is_held() -> None:
    held = make(limit=100)
    held.add(1, event("a", 50), None)
    held.add(1, event("b", 50), None)
    assert held.dropped == 0
    held.add(1, event("c", 1), None)
    assert held.dropped == 1


def test_one_larger_than_the_limit_is_not_held() -> None:
    held = make(limit=100)
    held.add(1, event("a"), None)
    held.add(1, event("b", 101), None)
    assert held.dropped == 2
    assert take(held, 2) == []


def test_what_was_replaced_or_taken_out_takes_no_room() -> None:
    held = make(limit=100)
    for _ in range(50):
        held.add(1, event("a", 60), "k")
    assert held.dropped == 0
    assert take(held, 2) == ["a"]
    held.add(2, event("b", 100), None)
    assert held.dropped == 0


def test_by_default_64_kib_are_held() -> None:
    assert LIMIT == 65536
    held = make()
    for _ in range(64):
        held.add(1, event("a", 1024), None)
    assert held.dropped == 0
    held.add(1, event("a", 1), None)
    assert held.dropped == 1


# The budget of all


def test_what_is_held_counts_with_what_holding_it_takes_until_it_is_gone() -> None:
    budget = no_bound()
    held = make(budget=budget)
    held.add(1, event("a", 100), "k")
    held.add(1, event("b", 50), None)
    assert budget.used == 150 + 2 * OVERHEAD
    held.add(1, event("c", 10), "k")
    assert budget.used == 60 + 2 * OVERHEAD
    held.add(3, event("d", 20), None)
    assert take(held, 2) == ["b", "c"]
    assert budget.used == 20 + OVERHEAD
    held.close()
    held.close()
    assert budget.used == 0
    assert take(held, 100) == []


def test_what_is_dropped_for_want_of_room_does_not_count() -> None:
    budget = no_bound()
    held = make(limit=100, budget=budget)
    for name in "abcde":
        held.add(1, event(name, 40), None)
    assert budget.used == 80 + 2 * OVERHEAD
    held.add(1, event("f", 101), None)
    assert budget.used == 0


def test_one_holds_no_more_than_is_spare_and_the_oldest_go() -> None:
    budget = Budget(limit=16_000, largest=100)
    spare = budget.spare
    one, other = make(budget=budget), make(budget=budget)
    for number in range(50):
        one.add(number, event("a", 250), None)
        other.add(number, event("b", 250), None)
    most = spare // 3 // (250 + OVERHEAD)
    assert most == 9
    assert (one.dropped, other.dropped) == (41, 41)
    assert budget.used == 2 * most * (250 + OVERHEAD)
    assert len(take(other, 41)) == 0
    assert len(take(other, 42)) == 1


def test_where_nothing_is_spare_nothing_is_held_but_counted_as_dropped() -> None:
    budget = Budget(limit=16_000, largest=100)
    held = make(budget=budget)
    held.add(1, event("a"), None)
    budget.take(budget.spare)
    held.add(1, event("b"), None)
    assert held.dropped == 2
    held.add(1, event("c"), None)
    assert held.dropped == 3
    assert budget.spare == 1 + OVERHEAD


def test_holding_an_event_takes_no_more_memory_than_is_counted() -> None:
    budget = no_bound()
    count, size = 900, 70
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = [make(budget=budget) for _ in range(20)]
        for each in held:
            for number in range(count):
                # The least that is shared: no event is held by two.
                each.add(5000 + number, event(str(number), size), None)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < budget.used == 20 * count * (size + OVERHEAD)


# Whatever comes


steps = st.lists(
    st.tuples(st.integers(1, 60), st.none() | st.sampled_from("xyz"), st.booleans()), max_size=40
)


@given(steps)
def test_whatever_comes_all_is_handed_out_replaced_or_counted_within_the_limit(
    added: list[tuple[int, str | None, bool]],
) -> None:
    held, expected, dropped = make(limit=100), list[tuple[int, str, int, str | None]](), 0
    for mark, (size, key, take_some) in enumerate(added):
        name = f"{mark:02d}"
        held.add(mark, event(name, max(size, 2)), key)
        expected = [each for each in expected if key is None or each[3] != key]
        expected.append((mark, name, max(size, 2), key))
        while sum(each[2] for each in expected) > 100:
            expected.pop(0)
            dropped += 1
        if take_some:
            assert take(held, mark) == [each[1] for each in expected if each[0] < mark]
            expected = [each for each in expected if each[0] >= mark]
        assert held.dropped == dropped
    assert take(held, len(added) + 1) == [each[1] for each in expected]
