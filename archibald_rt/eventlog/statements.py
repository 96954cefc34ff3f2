"""What runs in the threads of the SQLite connections: all statements of a running server."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.eventlog import schema
from archibald_rt.eventlog.base import KeyConflict, Page, Stored
from archibald_rt.events import Emission, Event, content_of, timestamp_of

# A page of a stream: two runs of one tree, merged by seq. benchmarks/page_cost.py measures it.
PAGE = """
SELECT seq, tail, instant FROM events WHERE user = :user AND seq > :after AND seq <= :through
UNION ALL
SELECT seq, tail, instant FROM events WHERE user = x'' AND seq > :after AND seq <= :through
ORDER BY seq LIMIT :limit
"""
WATERMARK = "SELECT max(seq) FROM watermarks WHERE user IN (:user, x'')"
FIRST = """
SELECT min(seq) FROM (
    SELECT min(seq) AS seq FROM events WHERE user = :user
    UNION ALL
    SELECT min(seq) FROM events WHERE user = x''
)
"""
BY_KEY = "SELECT seq, tail FROM events WHERE user = ? AND key = ?"
INSERT = "INSERT INTO events (user, seq, instant, key, tail) VALUES (?, ?, ?, ?, ?)"
INSERT_COMMIT = "INSERT INTO commits (seq, user, committed) VALUES (?, ?, ?)"

# After these, nothing was stored and the same connection works again once the cause is gone.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
    }
)


def append(
    connection: sqlite3.Connection, head: int, groups: Sequence[Sequence[Emission]]
) -> tuple[list[list[Stored] | KeyConflict], int]:
    """Store each group, or refuse it, in one transaction; returns what became of it and the head.

    See `EventLog.append`.
    """
    committed = time.time_ns() // 1_000_000
    with _explained():
        batch = _Batch(connection, head)
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [batch.judge(group) for group in groups]
            connection.executemany(INSERT, batch.rows)
            connection.executemany(
                INSERT_COMMIT, [(seq, user, committed) for user, seq, *_ in batch.rows]
            )
            connection.execute("COMMIT")
        except BaseException:
            # What a failed statement left in the open transaction must not commit later.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return results, batch.head


class _Batch:
    """The rows of one transaction, collected group by group before the first is inserted.

    Judging a group before any of it is stored makes a savepoint needless: a refused group
    leaves nothing behind.
    """

    def __init__(self, connection: sqlite3.Connection, head: int) -> None:
        self._connection = connection
        self._keyed: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}
        self.head = head
        self.rows: list[tuple[bytes, int, int, bytes | None, bytes]] = []

    def judge(self, group: Sequence[Emission]) -> list[Stored] | KeyConflict:
        """Take up a group's rows, or refuse it for the keys that it uses otherwise."""
        head, keyed, rows = self.head, dict[tuple[bytes, bytes], tuple[int, bytes]](), []
        stored: list[Stored] = []
        conflicts: list[int] = []
        for index, emission in enumerate(group):
            user = schema.EVERYBODY if emission.user is None else emission.user.encode()
            key = None if emission.key is None else emission.key.encode()
            if key is not None:
                first = keyed.get((user, key)) or self._first(user, key)
                if first is not None:
                    seq, tail = first
                    if content_of(tail) != emission.content:
                        conflicts.append(index)
                    stored.append(Stored(seq, timestamp_of(tail), duplicate=True))
                    continue
                keyed[user, key] = (head + 1, emission.tail)
            head += 1
            rows.append((user, head, emission.instant, key, emission.tail))
            stored.append(Stored(head, emission.timestamp, duplicate=False))
        if conflicts:
            return KeyConflict(conflicts)
        self.head = head
        self.rows.extend(rows)
        self._keyed.update(keyed)
        return stored

    def _first(self, user: bytes, key: bytes) -> tuple[int, bytes] | None:
        found = self._keyed.get((user, key))
        if found is None:
            found = self._connection.execute(BY_KEY, (user, key)).fetchone()
        return found


def page(
    connection: sqlite3.Connection,
    user: bytes,
    after: int,
    through: int,
    max_events: int,
    max_bytes: int,
    later_than: int | None,
) -> Page:
    """Read a piece of a stream and its watermark at one moment; see `EventLog.page`."""
    events: list[Event] = []
    looked_at, size, reached = 0, 0, through
    values = {"user": user, "after": after, "through": through, "limit": max_events}
    with _explained(), _snapshot(connection):
        lost = connection.execute(WATERMARK, values).fetchone()[0] or 0
        rows = connection.execute(PAGE, values)
        for seq, tail, instant in rows:
            looked_at += 1
            if later_than is None or instant > later_than:
                size += len(tail)
                events.append(Event(seq, tail, instant))
            if looked_at == max_events or size >= max_bytes:
                reached = seq
                break
        rows.close()
    return Page(events, reached, reached == through, lost)


def first(connection: sqlite3.Connection, user: bytes) -> int | None:
    """Return the seq of a stream's first event; see `EventLog.first`."""
    with _explained():
        seq: int | None = connection.execute(FIRST, {"user": user}).fetchone()[0]
    return seq


def probe(connection: sqlite3.Connection) -> None:
    """Commit something of no meaning; see `EventLog.probe`."""
    with _explained():
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('probe', ?)", (time.time_ns() // 1_000_000,)
        )


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several statements see the log at one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # After some errors SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _explained() -> Iterator[None]:
    """Tell the errors after which the log works again from those after which nothing is sure.

    An fsync that failed may have stored the rows all the same, and a damaged page can't be
    served: both end in a restart, which reads the truth.
    """
    try:
        yield
    except MemoryError as error:
        # What Python makes of SQLITE_NOMEM; nothing was stored.
        raise LogUnavailableError("the log is unavailable: out of memory") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code & 0xFF in _PASSING:
            raise LogUnavailableError(f"the log is unavailable: {error} ({name})") from error
        raise LogBrokenError(f"the log failed: {error} ({name})") from error
