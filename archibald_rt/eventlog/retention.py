"""What runs in the threads of the SQLite connections to delete events and give room back.

Every deletion takes the oldest of what one user has left and raises the user's watermark in
the same transaction: no event at or below a user's watermark is there. `commits` may still
tell of events that have gone, for as long as a run of pruning takes. The functions that write
do as much as they can within so many seconds, in one transaction.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from archibald_rt.eventlog.transactions import explained, reading, writing

_T = TypeVar("_T")

CHUNK = 50
"""How many events are deleted between two looks at the clock."""

PLACES = 4
"""How many users' events a step deletes at most.

Each lies in pages of its own: with a hundred of them the commit took 15 ms, and with sixteen
emitters still noticed it.
"""

# A page that is left free saves the next events from growing the file again.
FREE_KEPT = 256
FREE_KEPT_SHARE = 20

WAL_SHARE = 16
"""Which part of the size that a log may have is left to its WAL."""

FIRST_COMMIT = "SELECT seq, committed FROM commits WHERE seq > ? ORDER BY seq LIMIT 1"
OLDEST_OF = "SELECT seq FROM events WHERE user = ? AND seq <= ? ORDER BY seq LIMIT ?"
BEYOND = "SELECT seq FROM events WHERE user = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
COMMITTED_BY = "SELECT DISTINCT user FROM commits WHERE seq > ? AND seq <= ?"
DELETE_OF = "DELETE FROM events WHERE user = ? AND seq <= ?"
DELETE_COMMIT = "DELETE FROM commits WHERE seq = ?"
DELETE_COMMITS = "DELETE FROM commits WHERE seq <= ?"
RAISE_WATERMARK = """
INSERT INTO watermarks VALUES (?, ?)
ON CONFLICT (user) DO UPDATE SET seq = max(seq, excluded.seq)
"""


def first_commit(connection: sqlite3.Connection) -> int | None:
    """Return the seq of the oldest event that is left; None without one."""
    with explained():
        row = connection.execute(FIRST_COMMIT, (0,)).fetchone()
    return None if row is None else int(row[0])


def last_committed_before(connection: sqlite3.Connection, before_ms: int, head: int) -> int:
    """Return a seq up to which all was committed before a moment, and nothing after it was."""
    low, high = 0, head
    with explained(), reading(connection):
        # Commit times rise with the seqs.
        while low < high:
            middle = (low + high) // 2
            row = connection.execute(FIRST_COMMIT, (middle,)).fetchone()
            if row is not None and row[1] < before_ms:
                low = row[0]
            else:
                high = middle
    return low


def delete_events(
    connection: sqlite3.Connection, left: deque[bytes], through: int, seconds: float
) -> int:
    """Delete users' own events up to a seq, but not what `commits` says of them.

    Takes those users off the left that have no more of them, until none is left.
    """

    def some() -> int:
        return len(_delete_some(connection, left[0], through))

    return _delete_by_user(connection, left, some, seconds)


def delete_commits(connection: sqlite3.Connection, through: int, seconds: float) -> int:
    """Delete from `commits` what is left there of events up to a seq; none of them is there."""
    deadline = time.perf_counter() + seconds
    deleted = 0
    with explained(), writing(connection):
        while True:
            row = connection.execute(FIRST_COMMIT, (0,)).fetchone()
            if row is None or row[0] > through:
                break
            last = min(row[0] + CHUNK, through)
            deleted += connection.execute(DELETE_COMMITS, (last,)).rowcount
            if time.perf_counter() >= deadline:
                break
    return deleted


def delete_of(
    connection: sqlite3.Connection, left: deque[tuple[bytes, int]], seconds: float
) -> int:
    """Delete users' own events, each up to a seq; takes off the left who has no more."""

    def some() -> int:
        seqs = _delete_some(connection, *left[0])
        connection.executemany(DELETE_COMMIT, seqs)
        return len(seqs)

    return _delete_by_user(connection, left, some, seconds)


def erase(connection: sqlite3.Connection, left: deque[tuple[bytes, int]], seconds: float) -> int:
    """Delete as `delete_of` does, and overwrite what is deleted."""
    connection.execute("PRAGMA secure_delete = ON").fetchone()
    try:
        return delete_of(connection, left, seconds)
    finally:
        connection.execute("PRAGMA secure_delete = OFF").fetchone()


def users_between(connection: sqlite3.Connection, after: int, through: int) -> set[bytes]:
    """Return who has events with seqs above one and up to another."""
    with explained():
        return {user for (user,) in connection.execute(COMMITTED_BY, (after, through))}


def beyond(
    connection: sqlite3.Connection, users: Iterable[bytes], max_events: int
) -> list[tuple[bytes, int]]:
    """Return those users who have more than so many events, with the last seq that is too many."""
    found: list[tuple[bytes, int]] = []
    with explained(), reading(connection):
        for user in users:
            row = connection.execute(BEYOND, (user, max_events)).fetchone()
            if row is not None:
                found.append((user, row[0]))
    return found


def read_counted(connection: sqlite3.Connection, max_events: int) -> int:
    """Return up to which seq no user has more than so many events; 0 where that is not known."""
    with explained():
        row = connection.execute("SELECT value FROM meta WHERE name = 'counted'").fetchone()
    limit, _, through = ("" if row is None else str(row[0])).partition(":")
    return int(through) if limit == str(max_events) else 0


def write_counted(connection: sqlite3.Connection, max_events: int, through: int) -> None:
    """Note for the next start what `read_counted` is to return."""
    with explained(), writing(connection):
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('counted', ?)", (f"{max_events}:{through}",)
        )


def used_share(connection: sqlite3.Connection, max_size: int) -> float:
    """Return how much of the pages that hold something there may be; above 1 it is too many."""
    with explained(), reading(connection):
        used = _pages(connection) - _free_pages(connection)
        return float(used / max_pages(connection, max_size))


def max_pages(connection: sqlite3.Connection, max_size: int) -> int:
    """Return how many pages the file may have where the log may have so many bytes."""
    with explained():
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return max(1, (max_size - max_size // WAL_SHARE) // int(page_size))


def superfluous_pages(connection: sqlite3.Connection, max_size: int) -> int:
    """Return how many free pages the file has beyond those it will soon need again.

    With a limit of its size in bytes (else 0), as many as that takes are superfluous.
    """
    with explained(), reading(connection):
        pages, free = _pages(connection), _free_pages(connection)
        kept = max(FREE_KEPT, pages // FREE_KEPT_SHARE)
        if max_size:
            kept = min(kept, max(0, max_pages(connection, max_size) - (pages - free)))
        return max(0, free - kept)


def give_back(connection: sqlite3.Connection, pages: int, seconds: float) -> int:
    """Take free pages out of the file; returns how many. Until a checkpoint it keeps its size."""
    deadline = time.perf_counter() + seconds
    with explained(), writing(connection):
        for count in range(pages):
            # One at a time: the module steps this statement just once, whatever its argument.
            connection.execute("PRAGMA incremental_vacuum(1)").fetchall()
            if time.perf_counter() >= deadline:
                return count + 1
    return pages


def truncate_wal(connection: sqlite3.Connection) -> None:
    """Move the WAL into the file and make it empty, unless a reader is in the way."""
    with explained():
        (waits,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout = {waits}")


def _delete_by_user(
    connection: sqlite3.Connection, left: deque[_T], some: Callable[[], int], seconds: float
) -> int:
    """Delete some of the first one left, and again, until the time or the places are used up."""
    deadline = time.perf_counter() + seconds
    deleted = places = 0
    with explained(), writing(connection):
        while left and places < PLACES:
            if count := some():
                deleted += count
                places += 1
            else:
                left.popleft()
            if time.perf_counter() >= deadline:
                break
    return deleted


def _delete_some(connection: sqlite3.Connection, user: bytes, through: int) -> list[tuple[int]]:
    """Delete the oldest of a user's own events, at most a chunk; returns their seqs."""
    seqs: list[tuple[int]] = connection.execute(OLDEST_OF, (user, through, CHUNK)).fetchall()
    if seqs:
        last = seqs[-1][0]
        connection.execute(DELETE_OF, (user, last))
        connection.execute(RAISE_WATERMARK, (user, last))
    return seqs


def _pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
