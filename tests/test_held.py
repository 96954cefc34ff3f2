"""Transient events waiting for their place: ``held``."""

from hypothesis import given, settings
from hypothesis import strategies as st

from archibald_rt.held import LIMIT, HeldEvents
from archibald_rt.protocol import V1, Frames


def event(name: str, size: int = 1) -> Frames:
    return Frames(name.encode().ljust(size))


def names(taken: object) -> list[str]:
    assert isinstance(taken, list)
    return [frames.transient(V1())[3:].decode().strip() for frames in taken]


def take(held: HeldEvents, seq: int) -> list[str]:
    return names(list(held.take_before(seq)))


def test_what_was_held_comes_out_before_the_durable_event_that_followed_it() -> None:
    held = HeldEvents()
    for mark, name in [(5, "a"), (5, "b"), (7, "c"), (9, "d")]:
        held.add(mark, event(name), None)
    assert take(held, 5) == []
    assert take(held, 6) == ["a", "b"]
    assert take(held, 7) == []
    assert take(held, 9) == ["c"]
    assert take(held, 100) == ["d"]
    assert take(held, 100) == []


def test_a_newer_one_with_the_same_key_replaces_the_older_and_takes_the_new_place() -> None:
    held = HeldEvents()
    for mark, name, key in [(1, "a", "k"), (1, "b", None), (1, "c", "other"), (4, "d", "k")]:
        held.add(mark, event(name), key)
    assert take(held, 4) == ["b", "c"]
    assert take(held, 5) == ["d"]
    assert held.dropped == 0


def test_a_key_that_looks_like_a_number_is_a_key_of_its_own() -> None:
    held = HeldEvents()
    held.add(1, event("a"), None)
    held.add(1, event("b"), "1")
    held.add(1, event("c"), "2")
    held.add(1, event("d"), None)
    assert take(held, 2) == ["a", "b", "c", "d"]


def test_a_key_that_was_taken_out_is_free_again() -> None:
    held = HeldEvents()
    held.add(1, event("a"), "k")
    assert take(held, 2) == ["a"]
    held.add(2, event("b"), "k")
    assert take(held, 3) == ["b"]


def test_the_oldest_are_dropped_and_counted_when_there_is_no_room() -> None:
    held = HeldEvents(limit=100)
    for name in "abcde":
        held.add(1, event(name, 30), None)
    assert held.dropped == 2
    assert take(held, 2) == ["c", "d", "e"]


def test_exactly_the_limit_is_held() -> None:
    held = HeldEvents(limit=100)
    held.add(1, event("a", 50), None)
    held.add(1, event("b", 50), None)
    assert held.dropped == 0
    held.add(1, event("c", 1), None)
    assert held.dropped == 1


def test_one_larger_than_the_limit_is_not_held() -> None:
    held = HeldEvents(limit=100)
    held.add(1, event("a"), None)
    held.add(1, event("b", 101), None)
    assert held.dropped == 2
    assert take(held, 2) == []


def test_what_was_replaced_or_taken_out_takes_no_room() -> None:
    held = HeldEvents(limit=100)
    for _ in range(50):
        held.add(1, event("a", 60), "k")
    assert held.dropped == 0
    assert take(held, 2) == ["a"]
    held.add(2, event("b", 100), None)
    assert held.dropped == 0


def test_by_default_64_kib_are_held() -> None:
    assert LIMIT == 65536
    held = HeldEvents()
    for _ in range(64):
        held.add(1, event("a", 1024), None)
    assert held.dropped == 0
    held.add(1, event("a", 1), None)
    assert held.dropped == 1


steps = st.lists(
    st.tuples(st.integers(1, 60), st.none() | st.sampled_from("xyz"), st.booleans()), max_size=40
)


@settings(deadline=None)
@given(steps)
def test_whatever_comes_all_is_handed_out_replaced_or_counted_within_the_limit(
    added: list[tuple[int, str | None, bool]],
) -> None:
    held, expected, dropped = HeldEvents(limit=100), list[tuple[int, str, int, str | None]](), 0
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
