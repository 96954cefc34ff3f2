"""What every engine of the log has to do alike."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from archibald_rt.eventlog import EventLog, KeyConflict, Stored
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import Emission
from engines import (
    COMPOSED,
    DECOMPOSED,
    STAMP,
    Opener,
    appended,
    emission,
    numbered,
    page,
    seqs,
    stored,
)
from natsservers import NatsServer, nats_server


def at(nanoseconds: int) -> str:
    """Return a timestamp so many nanoseconds after 1970."""
    return f"1970-01-01T00:00:00.{nanoseconds:09d}Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(params=["sqlite", "nats"])
def opened(request: pytest.FixtureRequest, server: NatsServer, tmp_path: Path) -> Opener:
    def sqlite(name: str = "log") -> AbstractAsyncContextManager[EventLog]:
        return open_sqlite(tmp_path / f"{name}.db")

    def nats(name: str = "log") -> AbstractAsyncContextManager[EventLog]:
        # One server for all tests, and of each its own streams.
        return open_nats([server.url], f"{tmp_path.name}-{name}")

    return sqlite if request.param == "sqlite" else nats


@pytest.mark.gen_test
async def test_what_is_appended_gets_seqs_that_rise_and_is_read_back_byte_by_byte(
    opened: Opener,
) -> None:
    async with opened() as log:
        assert log.head == 0
        first = emission(payload='{"a":1.00,"\u00e9":"\\u00e9"}', timestamp=at(1), instant=1)
        second = emission(payload="null", timestamp=at(2), instant=2)
        assert await stored(log, first, second) == [
            Stored(1, at(1), duplicate=False),
            Stored(2, at(2), duplicate=False),
        ]
        assert log.head == 2
        read = await page(log)
        assert [(event.seq, event.tail) for event in read.events] == [
            (1, first.tail),
            (2, second.tail),
        ]
        assert seqs(await page(log, later_than=first.instant)) == [2]
        assert seqs(await page(log, later_than=second.instant)) == []
        assert (read.through, read.complete, read.lost) == (2, True, 0)


@pytest.mark.gen_test
async def test_groups_are_stored_in_order_and_answered_each(opened: Opener) -> None:
    async with opened() as log:
        results = await appended(log, [numbered(["a", "b"]), [], numbered(["a"])])
        assert results == [
            [Stored(1, STAMP, duplicate=False), Stored(2, STAMP, duplicate=False)],
            [],
            [Stored(3, STAMP, duplicate=False)],
        ]
        assert await appended(log, []) == []
        assert log.head == 3


@pytest.mark.gen_test
async def test_the_log_goes_on_after_it_was_closed_under_the_same_epoch(opened: Opener) -> None:
    async with opened() as log:
        epoch = log.epoch
        await stored(log, *numbered(["u", "u"]))
    async with opened() as log:
        assert (log.epoch, log.head) == (epoch, 2)
        assert (await stored(log, emission()))[0].seq == 3
        assert seqs(await page(log)) == [1, 2, 3]


@pytest.mark.gen_test
async def test_the_log_says_since_when_it_has_events(opened: Opener) -> None:
    began = time.time() * 1000
    async with opened() as log:
        assert await log.oldest() is None
        await stored(log, emission())
        oldest = await log.oldest()
        await stored(log, emission())
        assert oldest is not None
        assert abs(oldest - began) < 600_000
        assert await log.oldest() == oldest


@pytest.mark.gen_test
async def test_another_log_has_another_epoch(opened: Opener) -> None:
    async with opened("a") as first, opened("b") as second:
        assert first.epoch != second.epoch
        assert 8 <= len(first.epoch) <= 64
        assert first.epoch.isalnum()


@pytest.mark.gen_test
async def test_a_page_holds_a_user_s_own_events_and_the_broadcasts_by_seq(opened: Opener) -> None:
    async with opened() as log:
        await stored(log, *numbered([None, "u", "v", None, "u", "u", "v", None]))
        assert seqs(await page(log, "u")) == [1, 2, 4, 5, 6, 8]
        assert seqs(await page(log, "v")) == [1, 3, 4, 7, 8]
        assert seqs(await page(log, "nobody")) == [1, 4, 8]
        assert seqs(await page(log, "u", after=2, through=6)) == [4, 5, 6]
        assert seqs(await page(log, "u", after=8)) == []


@pytest.mark.gen_test
async def test_users_are_compared_byte_by_byte(opened: Opener) -> None:
    users = [
        COMPOSED,
        DECOMPOSED,
        "a",
        "A",
        "a ",
        " a",
        "*",
        "%",
        "_",
        "a%",
        "null",
        "' OR 1=1 --",
        '"; DROP TABLE events; --',
        "x'",
        "\U0001f600",
        "1",
        "01",
        "1.0",
    ]
    async with opened() as log:
        await stored(log, *numbered(users))
        for seq, user in enumerate(users, 1):
            assert seqs(await page(log, user)) == [seq]
            assert await log.first(user) == seq


@pytest.mark.gen_test
async def test_a_page_ends_at_so_many_events(opened: Opener) -> None:
    async with opened() as log:
        await stored(log, *numbered(["u", "v", None, "u", "v", "u"]))
        read = await page(log, max_events=2)
        assert (seqs(read), read.through, read.complete) == ([1, 3], 3, False)
        read = await page(log, after=read.through, max_events=2)
        assert (seqs(read), read.through, read.complete) == ([4, 6], 6, True)
        read = await page(log, max_events=100)
        assert (seqs(read), read.through, read.complete) == ([1, 3, 4, 6], 6, True)


@pytest.mark.gen_test
async def test_a_page_that_found_less_than_it_may_has_seen_all_that_was_asked(
    opened: Opener,
) -> None:
    async with opened() as log:
        await stored(log, *numbered(["u", "v", "v"]))
        read = await page(log, through=3, max_events=2)
        assert (seqs(read), read.through, read.complete) == ([1], 3, True)
        # Up to a seq that no event has yet.
        read = await page(log, through=1000)
        assert (seqs(read), read.through, read.complete) == ([1], 1000, True)
        read = await page(log, "nobody", through=0)
        assert (seqs(read), read.through, read.complete) == ([], 0, True)


@pytest.mark.gen_test
async def test_a_page_ends_at_so_many_bytes_and_holds_at_least_one_event(opened: Opener) -> None:
    async with opened() as log:
        events = [emission(payload='"' + "x" * 1000 + '"') for _ in range(5)]
        await stored(log, *events)
        size = len(events[0].tail)
        assert seqs(await page(log, max_bytes=1)) == [1]
        assert seqs(await page(log, max_bytes=size)) == [1]
        assert seqs(await page(log, max_bytes=size + 1)) == [1, 2]
        read = await page(log, max_bytes=3 * size)
        assert (seqs(read), read.through, read.complete) == ([1, 2, 3], 3, False)
        read = await page(log, after=4, max_bytes=1)
        assert (seqs(read), read.through, read.complete) == ([5], 5, True)


@pytest.mark.gen_test
async def test_a_page_later_than_an_instant_skips_what_is_not_and_goes_on(opened: Opener) -> None:
    async with opened() as log:
        await stored(log, *(emission(timestamp=at(n), instant=n) for n in (5, 9, 10, 11, 3, 12)))
        read = await page(log, later_than=10)
        assert (seqs(read), read.through, read.complete) == ([4, 6], 6, True)
        assert seqs(await page(log, later_than=9)) == [3, 4, 6]
        assert seqs(await page(log, later_than=-1)) == [1, 2, 3, 4, 5, 6]
        read = await page(log, later_than=9, max_events=2)
        assert (seqs(read), read.through, read.complete) == ([3, 4], 4, False)


@pytest.mark.gen_test
async def test_pages_later_than_an_instant_hold_nothing_twice_behind_many_that_are_not(
    opened: Opener,
) -> None:
    async with opened() as log:
        for _ in range(2):
            await stored(log, *(emission(timestamp=at(5), instant=5) for _ in range(600)))
        late = [emission(user, timestamp=at(20), instant=20) for user in ("u", None, "u")]
        wanted = [each.seq for each in await stored(log, *late)]
        found: list[int] = []
        after = 0
        while after < log.head:
            read = await page(log, after=after, later_than=10)
            found += seqs(read)
            after = read.through
        assert found == wanted


@pytest.mark.gen_test
async def test_a_page_of_events_of_all_sizes_is_within_its_bytes_but_for_the_last(
    opened: Opener,
) -> None:
    sizes = [10] * 40 + [30_000] * 3 + [10] * 100 + [60_000, 10, 10]
    async with opened() as log:
        events = [emission(payload='"' + "x" * size + '"') for size in sizes]
        await stored(log, *events)
        tails = [event.tail for event in events]
        for max_bytes in (0, 1, 3000, 5000, 40_000, 120_000, 500_000):
            after = 0
            while after < len(tails):
                read = await page(log, after=after, max_bytes=max_bytes)
                assert [event.tail for event in read.events] == tails[after : read.through]
                before_last = sum(len(event.tail) for event in read.events[:-1])
                assert before_last == 0 or before_last < max_bytes
                # Another one would have been too much, or there is none.
                assert read.complete or before_last + len(read.events[-1].tail) >= max_bytes
                after = read.through


@pytest.mark.gen_test
async def test_a_page_that_is_full_to_the_byte_ends_there(opened: Opener) -> None:
    async with opened() as log:
        await stored(log, *numbered(["u"] * 9), *(emission(payload="10") for _ in range(50)))
        size = len(emission(payload="10").tail)
        for count in range(1, 50):
            read = await page(log, after=9, max_bytes=count * size)
            assert len(read.events) == count


@pytest.mark.gen_test
async def test_a_page_for_a_user_whose_name_is_longer_than_the_page_may_be(opened: Opener) -> None:
    async with opened() as log:
        user = "u" * 256
        await stored(log, *numbered([user, user]))
        assert seqs(await page(log, user, max_bytes=1)) == [1]
        assert seqs(await page(log, user, max_bytes=100)) == [1, 2]


@pytest.mark.gen_test
async def test_many_pages_are_read_at_once_while_more_is_committed(opened: Opener) -> None:
    async with opened() as log:
        for _ in range(20):
            reads = [page(log, through=log.head) for _ in range(10)]
            pages, _ = await asyncio.gather(
                asyncio.gather(*reads), appended(log, [numbered(["u"] * 10)])
            )
            assert {tuple(seqs(read)) for read in pages} == {tuple(range(1, log.head - 9))}


@pytest.mark.gen_test
async def test_a_key_used_again_with_the_same_content_is_answered_with_the_first(
    opened: Opener,
) -> None:
    first = emission(key="k", timestamp="2026-01-01T00:00:00Z")
    again = emission(key="k", timestamp="2027-01-01T00:00:00Z")
    async with opened() as log:
        (kept,) = await stored(log, first)
        other, repeated = await stored(log, emission(), again)
        assert repeated == Stored(kept.seq, "2026-01-01T00:00:00Z", duplicate=True)
        assert seqs(await page(log)) == [kept.seq, other.seq]
        head = log.head
    async with opened() as log:
        assert await stored(log, again) == [repeated]
        assert log.head == head


@pytest.mark.gen_test
async def test_a_key_used_again_in_the_same_group_or_the_same_append_is_a_duplicate(
    opened: Opener,
) -> None:
    async with opened() as log:
        keyed, other = emission(key="k"), emission(key="other")
        first, second = await appended(log, [[keyed, other, keyed], [other, emission(), keyed]])
        assert isinstance(first, list)
        assert isinstance(second, list)
        assert [each.duplicate for each in (*first, *second)] == [
            False,
            False,
            True,
            True,
            False,
            True,
        ]
        assert first[0].seq == first[2].seq == second[2].seq
        assert first[1].seq == second[0].seq
        assert seqs(await page(log)) == [first[0].seq, first[1].seq, second[1].seq]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "other",
    [
        emission(payload="2", key="k"),
        emission(payload="1.0", key="k"),
        emission(event_type="S", key="k"),
    ],
)
async def test_a_key_used_again_with_another_content_refuses_its_group_and_no_other(
    opened: Opener, other: Emission
) -> None:
    async with opened() as log:
        await stored(log, emission(key="k"))
        before, refused, after = await appended(
            log,
            [
                [emission(payload='"before"')],
                [emission(), other, emission(key="k"), other],
                [emission(payload='"after"')],
            ],
        )
        assert refused == KeyConflict([1, 3])
        assert isinstance(before, list)
        assert isinstance(after, list)
        read = await page(log)
        assert [event.tail for event in read.events] == [
            emission().tail,
            emission(payload='"before"').tail,
            emission(payload='"after"').tail,
        ]
        assert seqs(read)[1:] == [before[0].seq, after[0].seq]


@pytest.mark.gen_test
async def test_the_keys_of_a_refused_group_are_free(opened: Opener) -> None:
    async with opened() as log:
        await stored(log, emission(key="k"))
        refused, taken = await appended(
            log,
            [
                [emission(key="free"), emission(payload="2", key="k")],
                [emission(payload="3", key="free")],
            ],
        )
        assert refused == KeyConflict([1])
        assert isinstance(taken, list)
        assert [each.duplicate for each in taken] == [False]


@pytest.mark.gen_test
async def test_a_conflict_within_one_group_names_the_later_one(opened: Opener) -> None:
    async with opened() as log:
        (result,) = await appended(log, [[emission(key="k"), emission(payload="2", key="k")]])
        assert result == KeyConflict([1])
        assert log.head == 0
        assert seqs(await page(log, through=100)) == []


@pytest.mark.gen_test
async def test_keys_are_each_user_s_own_and_broadcasts_have_their_own(opened: Opener) -> None:
    async with opened() as log:
        owners = ["u", "v", None, COMPOSED, DECOMPOSED]
        group = [emission(user, payload=str(n), key="k") for n, user in enumerate(owners)]
        assert [each.duplicate for each in await stored(log, *group)] == [False] * 5
        assert [each.duplicate for each in await stored(log, *group)] == [True] * 5


@pytest.mark.gen_test
async def test_keys_are_compared_byte_by_byte(opened: Opener) -> None:
    keys = [COMPOSED, DECOMPOSED, "k", "K", "k ", "%", "' OR 1=1 --"]
    async with opened() as log:
        group = [emission(payload=str(n), key=key) for n, key in enumerate(keys)]
        assert not any(each.duplicate for each in await stored(log, *group))
