"""How often something may be done: ``rates``."""

import time
import tracemalloc

from archibald_rt.rates import KEYS, MINUTE, SECOND, RateLimit
from support import PATIENCE


def taken(limit: RateLimit, key: str, tries: int) -> int:
    return sum(limit.admits(key) for _ in range(tries))


def test_so_many_may_come_at_once_and_each_key_has_its_own() -> None:
    limit = RateLimit(120, MINUTE)
    began = time.monotonic()
    counts = [taken(limit, key, 300) for key in ("u", "v")]
    # One more comes free each half second.
    assert all(120 <= count <= 121 + 2 * (time.monotonic() - began) for count in counts)


def test_one_may_be_enough() -> None:
    assert taken(RateLimit(1, MINUTE), "u", 5) == 1


def test_after_that_they_come_free_one_by_one() -> None:
    limit = RateLimit(20, SECOND)
    began = time.monotonic()
    count = taken(limit, "u", 20)
    while count < 40:
        count += limit.admits("u")
    assert time.monotonic() - began >= 19 / 20


def test_what_is_refused_does_not_count() -> None:
    limit = RateLimit(10, SECOND)
    began = time.monotonic()
    tries = count = 0
    while count < 15:
        tries += 1
        count += limit.admits("u")
        assert time.monotonic() - began < PATIENCE.total_seconds()
    assert tries > 100


def test_zero_is_no_limit() -> None:
    assert taken(RateLimit(0, MINUTE), "u", 10_000) == 10_000


def test_of_too_many_keys_those_not_used_for_longest_are_forgotten() -> None:
    limit = RateLimit(1, MINUTE, keys=3)
    assert all(limit.admits(key) for key in "abc")
    assert not limit.admits("a")
    assert limit.admits("d")
    # `b` was used before `a`, which was asked for again.
    assert not limit.admits("a")
    assert limit.admits("b")


def test_a_flood_of_keys_takes_no_more_than_was_said() -> None:
    tracemalloc.start()
    try:
        limit = RateLimit(120, MINUTE)
        for number in range(KEYS + 10_000):
            limit.admits(f"2001db8{number:09x}::/64")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 20_000_000
