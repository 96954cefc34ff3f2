"""Retention and erasure of the SQLite log: ``eventlog.retention`` and ``eventlog.pruning``."""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog import Retention, Stored, Turn
from archibald_rt.eventlog import pruning as pruning_module
from archibald_rt.eventlog import retention as sql
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.files import sizes
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from logfiles import STAMP, emission


class Turns:
    """Gives every step its turn at once, and counts them."""

    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self, step: Step) -> int:
        self.taken += 1
        return await step()


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def small_steps() -> Iterator[None]:
    """Let every step end after its first few events."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "CHUNK", 3)
        patch.setattr(pruning_module, "STEP", 0.0)
        patch.setattr(pruning_module, "SEQS_AT_ONCE", 4)
        patch.setattr(pruning_module, "USERS_AT_ONCE", 2)
        patch.setattr(pruning_module, "WINDOW", 5)
        yield


async def append(log: SQLiteLog, *users: str | None) -> None:
    await log.append([[emission(user) for user in users]])


async def prune(log: SQLiteLog, retention: Retention, turn: Turn) -> int:
    """Prune, and return how many events went."""
    counts: list[int] = []
    await log.prune(retention, turn, counts.append)
    return sum(counts)


async def stream(log: SQLiteLog, user: str, after: int = 0) -> tuple[list[int], int]:
    page = await log.page(user, after=after, through=log.head, max_events=10_000, max_bytes=2**30)
    return [event.seq for event in page.events], page.lost


def rows(path: Path, table: str) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(f"SELECT seq FROM {table} ORDER BY seq")  # noqa: S608 - our own names
        return [seq for (seq,) in found]


# By age


@pytest.mark.gen_test
async def test_what_was_committed_before_the_age_goes_and_what_came_at_it_stays(
    path: Path,
) -> None:
    clock = Clock()
    async with open_sqlite(path, clock=lambda _: clock) as log:
        await append(log, "a", "b", None)
        clock.ms += 1000
        await append(log, "a", "b")
        clock.ms += 500
        assert await prune(log, Retention(max_age_ms=1500), Turns()) == 0
        assert await prune(log, Retention(max_age_ms=500), Turns()) == 3
        assert await stream(log, "a") == ([4], 3)
        assert await stream(log, "b") == ([5], 3)
        assert await stream(log, "quiet") == ([], 3)
        assert rows(path, "commits") == rows(path, "events") == [4, 5]


@pytest.mark.gen_test
async def test_a_log_that_became_empty_goes_on_with_its_seqs(path: Path) -> None:
    clock = Clock()
    async with open_sqlite(path, clock=lambda _: clock) as log:
        await append(log, "a", "a")
        clock.ms += 1000
        assert await prune(log, Retention(max_age_ms=1), Turns()) == 2
        await append(log, "a")
        assert await stream(log, "a") == ([3], 2)
    async with open_sqlite(path) as log:
        assert log.head == 3


@pytest.mark.gen_test
async def test_a_quiet_user_has_lost_nothing_when_others_were_pruned(path: Path) -> None:
    clock = Clock()
    async with open_sqlite(path, clock=lambda _: clock) as log:
        await append(log, *["busy"] * 20)
        clock.ms += 1000
        await append(log, "quiet")
        assert await prune(log, Retention(max_age_ms=500), Turns()) == 20
        assert await stream(log, "quiet") == ([21], 0)
        assert await stream(log, "busy") == ([], 20)


@pytest.mark.gen_test
async def test_a_clock_that_is_set_ahead_while_the_server_runs_makes_no_event_old(
    path: Path,
) -> None:
    async with open_sqlite(path) as log:
        await append(log, "a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda: 4e9)
            assert await prune(log, Retention(max_age_ms=60_000), Turns()) == 0


# By count


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_each_user_keeps_so_many_of_the_newest(path: Path) -> None:
    async with open_sqlite(path) as log:
        await append(log, *["a", "b", None] * 7, "c")
        assert await prune(log, Retention(max_events_per_user=4), Turns()) == 9
        assert await stream(log, "a") == ([10, 12, 13, 15, 16, 18, 19, 21], 9)
        assert await stream(log, "b") == ([11, 12, 14, 15, 17, 18, 20, 21], 9)
        # The broadcasts' watermark counts for everybody, the users' only for themselves.
        assert await stream(log, "c") == ([12, 15, 18, 21, 22], 9)
        assert rows(path, "commits") == rows(path, "events")
        assert await prune(log, Retention(max_events_per_user=4), Turns()) == 0


@pytest.mark.gen_test
async def test_only_users_with_new_events_are_looked_at_again_also_after_a_restart(
    path: Path,
) -> None:
    looked_at: list[bytes] = []

    def beyond(
        connection: sqlite3.Connection, users: Sequence[bytes], max_events: int
    ) -> list[tuple[bytes, int]]:
        looked_at.extend(users)
        return real(connection, users, max_events)

    real = sql.beyond
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "beyond", beyond)
        async with open_sqlite(path) as log:
            await append(log, "a", "b", "c")
            await prune(log, Retention(max_events_per_user=2), Turns())
            assert looked_at == [b"a", b"b", b"c"]
            turns = Turns()
            await prune(log, Retention(max_events_per_user=2), turns)
            assert looked_at == [b"a", b"b", b"c"]
            assert turns.taken == 0
        async with open_sqlite(path) as log:
            await append(log, "b", "b")
            assert await prune(log, Retention(max_events_per_user=2), Turns()) == 1
            assert looked_at == [b"a", b"b", b"c", b"b"]
            # Another limit makes all of it new.
            assert await prune(log, Retention(max_events_per_user=1), Turns()) == 1
            assert looked_at[4:] == [b"a", b"b", b"c"]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_a_run_that_failed_midway_is_made_up_for_by_the_next(path: Path) -> None:
    class Failing(Turns):
        async def __call__(self, step: Step) -> int:
            if self.taken == 2:
                raise LogUnavailableError("the disk is full")
            return await super().__call__(step)

    async with open_sqlite(path) as log:
        await append(log, *["a"] * 10, *["b"] * 10)
        with pytest.raises(LogUnavailableError):
            await prune(log, Retention(max_events_per_user=1), Failing())
        assert rows(path, "events") == rows(path, "commits")
        await prune(log, Retention(max_events_per_user=1), Turns())
        assert rows(path, "events") == rows(path, "commits") == [10, 20]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_events_that_come_during_a_run_are_counted_by_the_next(path: Path) -> None:
    class Busy(Turns):
        async def __call__(self, step: Step) -> int:
            if self.taken < 5:
                await append(log, "late", "late", "late")
            return await super().__call__(step)

    async with open_sqlite(path) as log:
        await append(log, *["a"] * 10)
        await prune(log, Retention(max_events_per_user=2), Busy())
        assert await stream(log, "a") == ([9, 10], 8)
        await prune(log, Retention(max_events_per_user=2), Turns())
        assert await stream(log, "late") == ([24, 25], 23)


@pytest.mark.gen_test
async def test_a_key_can_be_used_anew_when_its_event_is_gone(path: Path) -> None:
    async with open_sqlite(path) as log:
        await log.append([[emission("a", "1", key="k")]])
        await append(log, "a")
        await prune(log, Retention(max_events_per_user=1), Turns())
        (stored,) = await log.append([[emission("a", "2", key="k")]])
        assert stored == [Stored(3, STAMP, duplicate=False)]


# By size


def size_of(path: Path) -> int:
    return path.stat().st_size


async def fill(log: SQLiteLog, count: int, users: int = 20) -> None:
    payload = '"' + "x" * 500 + '"'
    for start in range(0, count, 500):
        await log.append(
            [[emission(f"u{n % users}", payload) for n in range(start, min(start + 500, count))]]
        )


@pytest.mark.gen_test
async def test_the_oldest_of_all_go_until_database_and_wal_are_within_their_size(
    path: Path,
) -> None:
    limit = 2 * 2**20
    async with open_sqlite(path) as log:
        await fill(log, 6000)
        assert await log.size() > 1.5 * limit
        deleted = await prune(log, Retention(max_size=limit), Turns())
        kept = rows(path, "events")
        assert kept == list(range(deleted + 1, 6001))
        # What is kept nearly fills what it may.
        assert limit / 2 < await log.size() <= limit
        assert len(kept) > 1000
        assert await prune(log, Retention(max_size=limit), Turns()) == 0


@pytest.mark.gen_test
async def test_the_room_of_what_is_deleted_goes_back_to_the_file_system(path: Path) -> None:
    async with open_sqlite(path) as log:
        await fill(log, 6000)
        before = sum(sizes(path))
        turns = Turns()
        await prune(log, Retention(max_events_per_user=10), turns)
        assert sum(sizes(path)) < before / 2
        # In steps: 6 MiB of pages in one of them would hold up commits.
        assert turns.taken > 3


@pytest.mark.gen_test
async def test_the_size_of_a_log_that_a_link_leads_to_is_that_of_its_files(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with open_sqlite(link) as log:
        await fill(log, 600)
        database, wal = (size_of(path.with_name(name)) for name in ("events.db", "events.db-wal"))
        assert wal > 0
        assert await log.size() == database + wal


@pytest.mark.gen_test
async def test_a_little_free_room_is_kept_for_the_next_events(path: Path) -> None:
    async with open_sqlite(path) as log:
        await fill(log, 600)
        await prune(log, Retention(max_events_per_user=5), Turns())
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA freelist_count").fetchone()[0] > 20


# Erasure


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_erasure_takes_all_of_one_users_own_events_and_nothing_else(path: Path) -> None:
    async with open_sqlite(path) as log:
        await append(log, *["a", "b", None] * 5)
        assert await log.erase("a", Turns()) == 5
        assert await stream(log, "a") == ([3, 6, 9, 12, 15], 13)
        assert await stream(log, "b") == ([2, 3, 5, 6, 8, 9, 11, 12, 14, 15], 0)
        assert rows(path, "commits") == rows(path, "events")
        assert await log.erase("a", Turns()) == 0
        assert await log.erase("nobody", Turns()) == 0
        assert await stream(log, "nobody") == ([3, 6, 9, 12, 15], 0)


@pytest.mark.gen_test
async def test_nothing_of_what_was_erased_can_be_found_in_the_files(path: Path) -> None:
    secret = "b1946ac92492d2347c6235b4d2611184"
    async with open_sqlite(path) as log:
        for _ in range(20):
            await log.append([[emission("a", f'"{secret}"'), emission("b", '"kept"')]])
        assert await log.erase("a", Turns()) == 20
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert secret.encode() not in held
        assert b"kept" in held


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_what_comes_after_the_first_step_of_an_erasure_is_not_erased(path: Path) -> None:
    class Busy(Turns):
        async def __call__(self, step: Step) -> int:
            # What was queued before the first step goes; what comes later stays.
            await append(log, "a")
            return await super().__call__(step)

    async with open_sqlite(path) as log:
        await append(log, *["a"] * 5)
        turns = Busy()
        assert await log.erase("a", turns) == 6
        kept, lost = await stream(log, "a")
        assert kept == list(range(7, 6 + turns.taken))
        assert lost == 6


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gen_test
async def test_pages_and_appends_go_on_while_a_log_is_pruned(path: Path) -> None:
    async with open_sqlite(path) as log:
        await append(log, *["a"] * 300)
        lock = asyncio.Lock()

        async def turn(step: Step) -> int:
            async with lock:
                return await step()

        pruning = asyncio.ensure_future(prune(log, Retention(max_events_per_user=10), turn))
        reached: list[int] = []
        while not pruning.done():
            async with lock:
                await append(log, "a")
            kept, lost = await stream(log, "a")
            # Each page is of one moment: what it doesn't have, its watermark tells.
            assert kept == list(range(lost + 1, kept[-1] + 1))
            reached.append(lost)
        await pruning
        assert len(set(reached)) > 10
