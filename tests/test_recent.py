"""What was dispatched last: ``recent``."""

from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.events import Event
from archibald_rt.recent import Recent


def event(seq: int, size: int = 10) -> Event:
    return Event(seq, b"x" * size)


def since(recent: Recent, user: str, seq: int) -> list[int] | None:
    found = recent.since(user, seq)
    return None if found is None else [each.seq for each in found]


def test_a_stream_is_a_user_s_own_events_and_everybody_s_by_seq() -> None:
    recent = Recent(0, limit=1000)
    for seq, user in enumerate(["ann", None, "bob", "ann", None, "ann"], 1):
        recent.add(user, event(seq))
    assert since(recent, "ann", 0) == [1, 2, 4, 5, 6]
    assert since(recent, "ann", 2) == [4, 5, 6]
    assert since(recent, "bob", 2) == [3, 5]
    assert since(recent, "stranger", 0) == [2, 5]
    assert since(recent, "ann", 6) == []


def test_nothing_is_known_of_what_was_before_it_began() -> None:
    recent = Recent(7, limit=1000)
    assert since(recent, "ann", 6) is None
    assert since(recent, "ann", 7) == []
    recent.add("ann", event(8))
    assert since(recent, "ann", 6) is None
    assert since(recent, "ann", 7) == [8]


def test_who_has_the_last_event_needs_none_though_it_is_not_kept() -> None:
    recent = Recent(0, limit=25)
    for seq, user in enumerate(["ann", "ann", "bob", "bob"], 1):
        recent.add(user, event(seq))
    assert since(recent, "ann", 2) == []
    assert since(recent, "ann", 1) is None
    assert since(recent, "bob", 2) == [3, 4]
    assert since(recent, "stranger", 0) == []


def test_a_busy_user_s_events_make_nobody_else_s_unknown() -> None:
    recent = Recent(0, limit=25)
    recent.add("quiet", event(1))
    for seq in range(2, 100):
        recent.add("busy", event(seq))
    assert since(recent, "quiet", 1) == []
    assert since(recent, "busy", 97) == [98, 99]


def test_of_more_users_than_are_remembered_the_longest_quiet_are_not_known() -> None:
    recent = Recent(0, limit=0, users=2)
    for seq, user in enumerate(["ann", "bob", "ann", "eve"], 1):
        recent.add(user, event(seq))
    # Who is not known had nothing after bob's event.
    assert since(recent, "bob", 1) is None
    assert since(recent, "bob", 2) == []
    assert since(recent, "stranger", 1) is None
    assert since(recent, "ann", 3) == []
    assert since(recent, "eve", 4) == []


def test_what_was_cleared_is_not_at_hand_but_who_has_it_needs_nothing() -> None:
    recent = Recent(0, limit=1000)
    for seq, user in enumerate(["ann", "bob", "ann"], 1):
        recent.add(user, event(seq))
    recent.clear()
    assert since(recent, "ann", 1) is None
    assert since(recent, "ann", 3) == []
    assert since(recent, "bob", 2) == []
    recent.add("ann", event(4))
    assert since(recent, "ann", 3) == [4]


def test_what_is_known_from_before_tells_who_needs_nothing() -> None:
    recent = Recent(3, limit=1000)
    recent.know([("ann", 5), (None, 6), ("bob", 9)])
    assert since(recent, "ann", 5) is None
    assert since(recent, "ann", 6) == []
    assert since(recent, "bob", 8) is None
    assert since(recent, "bob", 9) == []
    assert since(recent, "stranger", 5) is None
    assert since(recent, "stranger", 6) == []
    recent.add("ann", event(10))
    assert since(recent, "ann", 6) == [10]
    assert since(recent, "ann", 4) is None


added = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "eve", None]), st.integers(0, 12), st.booleans()),
    max_size=40,
)


@given(added, st.integers(0, 40), st.integers(1, 4), st.integers(0, 5))
def test_whatever_it_answers_is_the_whole_stream(
    added: list[tuple[str | None, int, bool]], limit: int, users: int, head: int
) -> None:
    recent = Recent(head, limit=limit, users=users)
    made: list[tuple[str | None, int]] = [("bob", seq) for seq in range(1, head + 1)]
    for seq, (user, size, cleared) in enumerate(added, head + 1):
        recent.add(user, event(seq, size))
        made.append((user, seq))
        if cleared and size == 0:
            recent.clear()
        for name in ("ann", "bob", "eve", "stranger"):
            for after in range(seq + 1):
                stream = [each for owner, each in made if owner in {name, None} and each > after]
                assert since(recent, name, after) in (None, stream)
            assert since(recent, name, seq) == []
