"""Which tokens are refused: ``revocations``."""

import pytest

from archibald_rt import timestamps
from archibald_rt.auth import Identity
from archibald_rt.revocations import (
    FORGOTTEN_AT_ONCE,
    Revocation,
    Revocations,
    TokenRevocation,
    UserRevocation,
)

NOON = 1_772_366_400
"""12:00:00 on 2026-03-01, in seconds since 1970."""


def holder(issued: float | None = None, token_id: str | None = None, user: str = "ann") -> Identity:
    return Identity(user, admin=False, expires=None, issued=issued, token_id=token_id)


def before(text: str, user: str = "ann") -> Revocations:
    return Revocations([UserRevocation(user, timestamps.parse(f"2026-03-01T{text}Z"))])


def test_nobody_is_refused_without_a_revocation() -> None:
    assert not Revocations().revoked(holder())
    assert not Revocations().revoked(holder(NOON, "t"))


@pytest.mark.parametrize(
    ("issued", "refused"),
    [
        (None, True),
        (NOON - 1, True),
        (NOON, True),
        (NOON + 0.4, True),
        (NOON + 0.499999, True),
        (NOON + 0.5, False),
        (NOON + 0.500001, False),
        (NOON + 0.9, False),
        (NOON + 1, False),
        (-1e12, True),
        (1e12, False),
    ],
)
def test_a_token_is_refused_if_it_was_issued_earlier_or_does_not_say_when(
    issued: float | None,
    refused: bool,  # noqa: FBT001 - given by name
) -> None:
    assert before("12:00:00.5").revoked(holder(issued)) is refused


@pytest.mark.parametrize("decimals", ["1", "3", "7", "123", "123456", "999999", "1234567"])
def test_the_same_moment_is_not_earlier_however_it_is_written(decimals: str) -> None:
    revocations = before(f"12:00:00.{decimals}")
    assert not revocations.revoked(holder(float(f"{NOON}.{decimals}")))


def test_other_users_tokens_are_not_refused() -> None:
    revocations = before("12:00:00", user="e\u0301")
    assert revocations.revoked(holder(user="e\u0301"))
    assert not revocations.revoked(holder(user="\xe9"))


def test_one_token_is_refused_by_its_id_whoever_holds_it() -> None:
    revocations = Revocations([TokenRevocation("t", NOON)])
    assert revocations.revoked(holder(token_id="t"))
    assert revocations.revoked(holder(1e12, "t", "bob"))
    assert not revocations.revoked(holder(token_id="T"))
    assert not revocations.revoked(holder())


def test_the_later_moment_counts_whichever_comes_first() -> None:
    for moments in ([5, 7], [7, 5]):
        revocations = Revocations([UserRevocation("ann", each * 10**9) for each in moments])
        assert revocations.revoked(holder(6.9))
        assert not revocations.revoked(holder(7))
        revocations = Revocations([TokenRevocation("t", each) for each in moments])
        revocations.forget(7)
        assert revocations.tokens == 1
        revocations.forget(8)
        assert revocations.tokens == 0


def test_tokens_are_forgotten_when_they_have_expired_and_users_never() -> None:
    revocations = Revocations(
        [TokenRevocation("t", 10), TokenRevocation("u", 11), UserRevocation("ann", 0)]
    )
    revocations.forget(11)
    assert not revocations.revoked(holder(1, "t"))
    assert revocations.revoked(holder(1, "u"))
    assert (revocations.users, revocations.tokens) == (1, 1)


def test_forgetting_goes_in_steps_that_hold_nothing_up() -> None:
    count = FORGOTTEN_AT_ONCE + 1
    revocations = Revocations(TokenRevocation(str(each), 1) for each in range(count))
    revocations.forget(2)
    assert revocations.tokens == 1
    revocations.forget(2)
    assert revocations.tokens == 0


def test_a_token_is_remembered_for_as_long_as_it_would_be_taken() -> None:
    now = 100.0
    revocations = Revocations(leeway=30, clock=lambda: now)
    assert revocations.forgettable == 70 * 10**9


def test_a_wall_clock_that_is_set_ahead_makes_nobody_forget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revocations = Revocations()
    first = revocations.forgettable
    monkeypatch.setattr("time.time", lambda: first / 1e9 + 86400)
    assert revocations.forgettable < first + 3600 * 10**9
    monkeypatch.setattr("time.time", lambda: first / 1e9 - 86400)
    assert revocations.forgettable < first - 3600 * 10**9


def test_so_many_tokens_are_kept_and_users_without_a_bound() -> None:
    revocations = Revocations(max_tokens=2)
    added: list[Revocation] = [TokenRevocation("t", 1), TokenRevocation("u", 1)]
    for each in added:
        assert revocations.has_room(each)
        revocations.add(each)
    assert not revocations.has_room(TokenRevocation("v", 1))
    # It takes no more room, and may be needed for longer.
    assert revocations.has_room(TokenRevocation("t", 2))
    assert revocations.has_room(UserRevocation("ann", 1))
    revocations.forget(2)
    assert revocations.has_room(TokenRevocation("v", 1))
