"""What a log says of itself: its figures, read beside a running server or without one."""

import sqlite3
from pathlib import Path

import msgspec

from archibald_rt.eventlog import files, schema
from archibald_rt.eventlog.access import read_access
from archibald_rt.eventlog.epochs import backup_made_ms
from archibald_rt.eventlog.transactions import reading

# In the narrow table: the events themselves would have to be read with all their bytes.
_COUNTS = "SELECT count(*), count(*) FILTER (WHERE user = x'') FROM commits"
_FIRST_AND_LAST = """
SELECT (SELECT committed FROM commits ORDER BY seq LIMIT 1),
       (SELECT committed FROM commits ORDER BY seq DESC LIMIT 1)
"""
# From user to user, not from event to event.
_USERS = """
WITH RECURSIVE users(user) AS (
    SELECT min(user) FROM events WHERE user > x''
    UNION ALL
    SELECT (SELECT min(user) FROM events WHERE user > users.user) FROM users
    WHERE users.user IS NOT NULL
)
SELECT count(user) FROM users
"""


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """The figures of a log at one moment.

    ``events`` counts all that are retained, broadcasts included, and while a run of pruning
    is under way some that it has deleted; ``users`` those who have one of their own. Times
    are in milliseconds since 1970, None without an event. ``free_bytes`` are of the database,
    and used again. ``backup_made`` is None for a log that is no backup, or one that was
    started as a log since.
    """

    epoch: str
    head: int
    events: int
    broadcasts: int
    users: int
    oldest_commit: int | None
    newest_commit: int | None
    database_bytes: int
    wal_bytes: int
    free_bytes: int
    backup_made: int | None


def read_stats(path: Path) -> Stats:
    """Read the figures of the log at `path`. Raises `LogOpenError`."""
    with read_access(path) as source, source.connected() as connection, reading(connection):
        events, broadcasts = _row(connection, _COUNTS)
        oldest, newest = _row(connection, _FIRST_AND_LAST)
        free_pages = _row(connection, "PRAGMA freelist_count")[0]
        page_size = _row(connection, "PRAGMA page_size")[0]
        with files.explained(path):
            database_bytes, wal_bytes = files.sizes(path)
        return Stats(
            schema.read_epoch(connection),
            schema.read_head(connection),
            events,
            broadcasts,
            _row(connection, _USERS)[0],
            oldest,
            newest,
            database_bytes,
            wal_bytes,
            free_pages * page_size,
            backup_made_ms(connection),
        )


def _row(connection: sqlite3.Connection, query: str) -> tuple[int, ...]:
    row: tuple[int, ...] = connection.execute(query).fetchone()
    return row
