"""The log in a SQLite file: ``eventlog.sqlite``."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.eventlog import EventLog, Lasts, Stored
from archibald_rt.eventlog.pages import FIRST, JOINED, LAST, LOOKED_AT, ROWS, WATERMARK
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.eventlog.statements import BY_KEY
from archibald_rt.timestamps import SteadyClock
from engines import STAMP, emission, numbered, page, seqs, stored
from support import eventually


def by_hand(path: Path, *statements: str) -> None:
    """Do something to the file of a log that is closed."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def lose(path: Path, user: str, through: int) -> None:
    """Delete a user's events as retention does: with a watermark, in one transaction."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("events", "commits"):
            connection.execute(
                f"DELETE FROM {table} WHERE user = ? AND seq <= ?",  # noqa: S608 - of two
                (user.encode(), through),
            )
        connection.execute(
            "INSERT OR REPLACE INTO watermarks VALUES (?, ?)", (user.encode(), through)
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


# Appending


@pytest.mark.gen_test
async def test_seqs_are_not_used_again_after_the_table_was_emptied(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u"] * 5))
    by_hand(path, "DELETE FROM events", "DELETE FROM commits")
    async with open_sqlite(path) as log:
        assert log.head == 5
        assert (await stored(log, emission()))[0].seq == 6
        assert log.head == 6


@pytest.mark.gen_test
async def test_the_moment_of_the_commit_is_kept(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u", "u"]))
    with closing(sqlite3.connect(path)) as connection:
        recent = connection.execute(
            "SELECT count(*), count(DISTINCT committed) FROM commits JOIN events USING (user, seq)"
            " WHERE abs(committed - unixepoch('now') * 1000) < 60000"
        ).fetchone()
    assert recent == (2, 1)


@pytest.mark.gen_test
async def test_stamps_begin_where_the_last_commit_or_a_stamp_ahead_of_it_was(path: Path) -> None:
    async with open_sqlite(path, clock=lambda _: lambda: 5000) as log:
        assert log.last_stamp_ms == 0
        await stored(log, emission())
    async with open_sqlite(path, clock=lambda _: lambda: 6000, stamped=lambda: 99_000) as log:
        assert log.last_stamp_ms == 5000
        await stored(log, emission())
    began: list[int] = []

    def clock(not_before_ms: int) -> SteadyClock:
        began.append(not_before_ms)
        return SteadyClock(not_before_ms)

    async with open_sqlite(path, clock=clock) as log:
        assert log.last_stamp_ms == 99_000
    # Ages don't go by stamps: a wall clock that was set ahead makes no event young or old.
    assert began == [6000]


# Pages


@pytest.mark.gen_test
async def test_a_page_that_finds_nothing_late_enough_ends_all_the_same(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *(emission(instant=instant) for instant in [5] * LOOKED_AT))
        await stored(log, *(emission(instant=instant) for instant in (11, 3, 12)))
        read = await page(log, later_than=10)
        assert (seqs(read), read.through, read.complete) == ([], LOOKED_AT, False)
        read = await page(log, after=read.through, later_than=10)
        last = LOOKED_AT + 3
        assert (seqs(read), read.through, read.complete) == ([last - 2, last], last, True)


@pytest.mark.gen_test
async def test_the_first_retained_event_is_the_user_s_own_or_a_broadcast(path: Path) -> None:
    async with open_sqlite(path) as log:
        assert await log.first("u") is None
        await stored(log, *numbered(["v", "u", None]))
        assert [await log.first(user) for user in ("u", "v", "nobody")] == [2, 1, 3]
    by_hand(path, "DELETE FROM events WHERE seq = 2")
    async with open_sqlite(path) as log:
        assert await log.first("u") == 3


@pytest.mark.gen_test
async def test_what_was_lost_is_the_higher_of_the_user_s_and_the_broadcasts_watermark(
    path: Path,
) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u", None, "v", "u", "v", None]))
        assert (await page(log)).lost == 0
    lose(path, "u", 1)
    async with open_sqlite(path) as log:
        read = await page(log)
        assert (seqs(read), read.lost) == ([2, 4, 6], 1)
        assert (await page(log, "v")).lost == 0
    lose(path, "", 2)
    async with open_sqlite(path) as log:
        assert [(await page(log, user)).lost for user in ("u", "v", "nobody")] == [2, 2, 2]
    lose(path, "u", 4)
    async with open_sqlite(path) as log:
        read = await page(log)
        assert (seqs(read), read.lost) == ([6], 4)
        assert (await page(log, "v")).lost == 2
        # It is said whatever the page begins or ends with.
        assert (await page(log, after=5, through=5)).lost == 4


@pytest.mark.gen_test
async def test_whose_last_event_was_which_is_said_with_what_was_deleted(path: Path) -> None:
    async with open_sqlite(path) as log:
        assert await log.lasts(5) == Lasts(0, [])
        await stored(log, *numbered(["u", None, "v", "u", "w", "v"]))
        lasts = await log.lasts(100)
        assert lasts == Lasts(0, [(None, 2), ("u", 4), ("w", 5), ("v", 6)])
        assert await log.lasts(2) == Lasts(4, [("w", 5), ("v", 6)])
    lose(path, "u", 4)
    lose(path, "w", 5)
    async with open_sqlite(path) as log:
        assert await log.lasts(100) == lasts
        assert await log.lasts(2) == Lasts(2, [("u", 4), ("w", 5), ("v", 6)])


@pytest.mark.gen_test
async def test_one_who_gives_up_waiting_for_a_page_blocks_nobody(path: Path) -> None:
    async with open_sqlite(path, readers=1) as log:
        await stored(log, *numbered(["u"] * 5000))
        for _ in range(10):
            reading = asyncio.ensure_future(page(log, max_events=5000))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert len(seqs(await page(log, max_events=5000))) == 5000


users = st.lists(st.sampled_from(["u", "v", None]), min_size=1, max_size=40)


@settings(max_examples=20)
@given(users, st.integers(1, 7), st.integers(1, 200))
def test_pages_one_after_the_other_are_the_stream_without_gap_or_double(
    owners: list[str | None], max_events: int, max_bytes: int
) -> None:
    import tempfile  # noqa: PLC0415 - a folder for each example, which no fixture gives

    async def read_all(log: EventLog) -> list[int]:
        found: list[int] = []
        after = 0
        while True:
            read = await page(log, after=after, max_events=max_events, max_bytes=max_bytes)
            found += seqs(read)
            after = read.through
            if read.complete:
                return found
            assert read.events

    async def check(folder: str) -> None:
        async with open_sqlite(Path(folder) / "events.db") as log:
            await log.append([numbered(owners)])
            assert await read_all(log) == [n for n, each in enumerate(owners, 1) if each != "v"]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(folder))


# Keys


@pytest.mark.gen_test
async def test_a_key_is_free_again_when_its_event_is_gone(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, emission(key="k"))
    lose(path, "u", 1)
    async with open_sqlite(path) as log:
        assert await stored(log, emission(payload="2", key="k")) == [
            Stored(2, STAMP, duplicate=False)
        ]


# What fails


async def full(log: SQLiteLog, *, pages: int | None) -> None:
    """Let the file grow no further, as a full disk does; None: let it grow again."""
    writer = log._writer  # noqa: SLF001 - the limit is the connection's own
    limit = 2**30 if pages is None else pages
    async with writer.execute(f"PRAGMA max_page_count = {limit}"):
        pass


@pytest.mark.gen_test
async def test_a_full_disk_stores_nothing_and_the_log_works_again_with_room(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u", "u"]))
        await full(log, pages=1)
        huge = emission(payload='"' + "x" * 100_000 + '"', key="k")
        for _ in range(2):
            with pytest.raises(LogUnavailableError, match=r"full.*SQLITE_FULL"):
                await log.append([numbered(["u"]), [huge]])
            assert log.head == 2
            assert seqs(await page(log, through=100)) == [1, 2]
        await full(log, pages=None)
        await log.probe()
        assert seqs(await page(log, through=100)) == [1, 2]
        assert await stored(log, huge, emission()) == [
            Stored(3, STAMP, duplicate=False),
            Stored(4, STAMP, duplicate=False),
        ]
    async with open_sqlite(path) as log:
        assert seqs(await page(log)) == [1, 2, 3, 4]


@pytest.mark.gen_test
async def test_a_failure_in_the_middle_of_a_batch_leaves_nothing_behind(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, emission())
        # The last of them does not fit in 64 bits: a fault of ours, met half-way.
        group = [*numbered(["u"] * 10), emission(instant=2**63)]
        with pytest.raises(OverflowError):
            await log.append([group])
        assert log.head == 1
        assert (await stored(log, emission()))[0].seq == 2
        assert seqs(await page(log)) == [1, 2]


@pytest.mark.gen_test
async def test_a_probe_commits_and_is_no_event(path: Path) -> None:
    async with open_sqlite(path) as log:
        await log.probe()
        await log.probe()
        assert log.head == 0
        assert seqs(await page(log, through=100)) == []
    with closing(sqlite3.connect(path)) as connection:
        probes = connection.execute("SELECT count(*) FROM meta WHERE name = 'probe'").fetchone()
    assert probes == (1,)


@pytest.mark.gen_test
async def test_a_probe_finds_out_that_commits_fail(path: Path) -> None:
    async with open_sqlite(path) as log:
        blocking = sqlite3.connect(path, isolation_level=None)
        with closing(blocking):
            await log._writer.execute("PRAGMA busy_timeout = 0")  # noqa: SLF001 - not to wait
            blocking.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogUnavailableError, match="SQLITE_BUSY"):
                await log.probe()
            with pytest.raises(LogUnavailableError, match="SQLITE_BUSY"):
                await log.append([[emission()]])
            blocking.execute("ROLLBACK")
        await log.probe()
        assert (await stored(log, emission()))[0].seq == 1


def take_away(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("moved.db"))
    if how == "replaced":
        path.touch()


@pytest.mark.gen_test
@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_a_file_that_is_no_longer_in_its_place_breaks_the_log(path: Path, how: str) -> None:
    async with open_sqlite(path) as log:
        await stored(log, emission())
        take_away(path, how)
        with pytest.raises(LogBrokenError, match="was moved, deleted or replaced"):
            await stored(log, emission())
        with pytest.raises(LogBrokenError, match="was moved, deleted or replaced"):
            await log.probe()


@pytest.mark.gen_test
async def test_a_damaged_page_is_said_and_not_served(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *(emission(payload='"' + "x" * 3000 + '"') for _ in range(100)))
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    async with open_sqlite(path) as log:
        with pytest.raises(LogBrokenError, match="SQLITE_CORRUPT"):
            await page(log)
        with pytest.raises(LogBrokenError, match="SQLITE_CORRUPT"):
            await log.first("u")


# Cost


@pytest.mark.gen_test
@pytest.mark.parametrize("statement", [ROWS, JOINED, LAST, FIRST, WATERMARK, BY_KEY])
@pytest.mark.parametrize("analyzed", [False, True])
async def test_every_read_is_a_search_in_an_index(
    path: Path, statement: str, *, analyzed: bool
) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *(emission(str(n % 7), key=str(n)) for n in range(500)))
    lose(path, "3", 100)
    if analyzed:
        by_hand(path, "ANALYZE")
    named = {"user": b"u", "after": 0, "through": 9, "later_than": -1, "limit": 5}
    values = (b"u", b"k") if statement == BY_KEY else named
    with closing(sqlite3.connect(path)) as connection:
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]
    tables = [step for step in plan if "events" in step or "watermarks" in step]
    assert tables
    for step in tables:
        assert step.startswith("SEARCH ")
        assert " USING " in step
        assert "(user=?" in step
    # The rows that were found are joined one after the other.
    plan = [step for step in plan if "subquery" not in step.lower()]
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in plan)


@pytest.mark.gen_test
async def test_a_page_takes_as_many_steps_in_a_large_log_as_in_a_small_one(path: Path) -> None:
    def steps() -> int:
        """Count SQLite's own instructions for a page in the middle, by tens."""
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        with closing(sqlite3.connect(path)) as connection:
            values = {"user": b"u", "after": 20, "through": 10**6, "later_than": -1, "limit": 10}
            connection.execute(ROWS, values).fetchall()
            connection.set_progress_handler(tick, 10)
            assert len(connection.execute(ROWS, values).fetchall()) == 10
        return count

    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u", None, "v"] * 20))
        small = steps()
        assert small > 0
        await stored(log, *numbered(["v", "u", None, "w"] * 5000))
        assert steps() <= small + 2


# Closing


def of_the_log() -> set[threading.Thread]:
    # The loop's own threads wait for other work until the loop is closed.
    return {each for each in threading.enumerate() if not each.name.startswith("asyncio_")}


@pytest.mark.gen_test
async def test_no_thread_is_left_after_the_end(path: Path) -> None:
    before = of_the_log()
    async with open_sqlite(path, readers=3) as log:
        await stored(log, emission())
        # One that writes, three that read, and one that looks for what is to be deleted.
        assert len(of_the_log() - before) == 5
        await log.close()
        await eventually(lambda: of_the_log() <= before)
        await log.close()
    assert of_the_log() <= before


@pytest.mark.gen_test
async def test_no_thread_is_left_when_the_block_fails(path: Path) -> None:
    before = of_the_log()
    with pytest.raises(ZeroDivisionError):
        async with open_sqlite(path):
            _ = 1 / 0
    await eventually(lambda: of_the_log() <= before)


@pytest.mark.gen_test
async def test_nothing_but_the_log_itself_is_left_after_the_end(path: Path) -> None:
    async with open_sqlite(path) as log:
        await stored(log, *numbered(["u"] * 100))
    # All of it is in the one file: there is no write-ahead log to be copied along.
    assert not path.with_name("events.db-wal").exists()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (100,)


@pytest.mark.gen_test
async def test_a_new_log_is_for_nobody_but_the_servers_user(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with open_sqlite(path):
        assert modes(path) == {"events.db": 0o600, "events.db-shm": 0o600, "events.db-wal": 0o600}
    path.chmod(0o640)
    async with open_sqlite(path):
        # An operator's own choice stays.
        assert set(modes(path).values()) == {0o640}


def modes(path: Path) -> dict[str, int]:
    """Return the permissions of a log's files by their names; its lock holds nothing."""
    files = [each for each in path.parent.glob(f"{path.name}*") if each.suffix != ".lock"]
    return {each.name: each.stat().st_mode & 0o777 for each in files}
