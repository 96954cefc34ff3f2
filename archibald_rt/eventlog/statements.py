"""What runs in the thread of the SQLite connection that writes, to append and to probe."""

import sqlite3
import time
from collections.abc import Sequence
from operator import itemgetter

from archibald_rt.eventlog import schema
from archibald_rt.eventlog.base import KeyConflict, Stored
from archibald_rt.eventlog.transactions import explained, writing
from archibald_rt.events import Emission, content_of, timestamp_of

BY_KEY = "SELECT seq, tail FROM events WHERE user = ? AND key = ?"
INSERT = "INSERT INTO events (user, seq, instant, key, tail) VALUES (?, ?, ?, ?, ?)"
INSERT_COMMIT = "INSERT INTO commits (seq, user, committed) VALUES (?, ?, ?)"
STAMPED = "INSERT OR REPLACE INTO meta VALUES ('stamped', ?)"

# By how many milliseconds the stamps have to be ahead to be noted, which is a page more to
# write: only where a wall clock was set ahead since the start.
_STAMPS_AHEAD = 1000


_place = itemgetter(0, 1)


def append(
    connection: sqlite3.Connection,
    head: int,
    groups: Sequence[Sequence[Emission]],
    committed: int,
    stamped: int,
) -> tuple[list[list[Stored] | KeyConflict], int]:
    """Store each group, or refuse it, in one transaction; returns what became of it and the head.

    ``committed`` is the moment as retention goes by it, ``stamped`` as events are stamped; both
    in milliseconds since 1970. See `EventLog.append`.
    """
    batch = _Batch(connection, head)
    with explained(), writing(connection):
        results = [batch.judge(group) for group in groups]
        # In the order of the tree: neighbours are found without another descent, which takes a
        # seventh off the transaction of a thousand events for a thousand users.
        connection.executemany(INSERT, sorted(batch.rows, key=_place))
        connection.executemany(
            INSERT_COMMIT, [(seq, user, committed) for user, seq, *_ in batch.rows]
        )
        if stamped > committed + _STAMPS_AHEAD:
            connection.execute(STAMPED, (stamped,))
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


def probe(connection: sqlite3.Connection) -> None:
    """Commit something of no meaning; see `EventLog.probe`."""
    with explained():
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('probe', ?)", (time.time_ns() // 1_000_000,)
        )
