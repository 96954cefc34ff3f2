"""What runs in the threads of the SQLite connections that read: a piece of one user's stream."""

import sqlite3
from operator import itemgetter

from archibald_rt.eventlog.base import Lasts, Page
from archibald_rt.eventlog.transactions import explained, reading
from archibald_rt.events import Event

WATERMARK = "SELECT max(seq) FROM watermarks WHERE user IN (:user, x'')"

# Two runs of one tree, merged by seq. benchmarks/page_cost.py measures it.
ROWS = """
SELECT seq, tail FROM events
WHERE user = :user AND seq > :after AND seq <= :through AND instant > :later_than
UNION ALL
SELECT seq, tail FROM events
WHERE user = x'' AND seq > :after AND seq <= :through AND instant > :later_than
ORDER BY seq LIMIT :limit
"""

# The same in one row. At each row the module lets the interpreter go, and gets it back from a busy
# loop when that is made to give it up, after 5 ms: 500 rows took 0.75 s beside a loop that never
# waits, joined they take 0.4 ms. The LIMIT inside keeps the order, and no tail has a line break.
JOINED = f"""
SELECT count(*), CAST(group_concat(seq) AS BLOB), CAST(group_concat(tail, x'0a') AS BLOB)
FROM ({ROWS})
"""  # noqa: S608 - our own text

# Which of so many events is the last.
LAST = f"SELECT max(seq), count(*) FROM ({ROWS})"  # noqa: S608 - our own text

FIRST = """
SELECT min(seq) FROM (
    SELECT min(seq) AS seq FROM events WHERE user = :user
    UNION ALL
    SELECT min(seq) FROM events WHERE user = x''
)
"""

OLDEST = "SELECT committed FROM commits ORDER BY seq LIMIT 1"
COMMITS = "SELECT seq, user FROM commits ORDER BY seq DESC LIMIT ?"
# All watermarks are looked at, once a start.
DELETED = "SELECT user, seq FROM watermarks WHERE seq > ?"

LOOKED_AT = 20_000
"""How many events a page looks at where only those later than an instant are wanted: some 5 ms."""

_ALWAYS_EARLIER = float("-inf")

_FIRST_ROWS = 32
"""How many rows are joined before it is known how large they are."""


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
    part = _Part(connection, user, after, through)
    with explained(), reading(connection):
        lost = connection.execute(WATERMARK, {"user": user}).fetchone()[0] or 0
        if later_than is not None:
            part.narrow(later_than)
        part.read(max_events, max_bytes)
    return Page(part.events, part.reached, part.reached == through, lost)


def first(connection: sqlite3.Connection, user: bytes) -> int | None:
    """Return the seq of a stream's first event; see `EventLog.first`."""
    with explained():
        seq: int | None = connection.execute(FIRST, {"user": user}).fetchone()[0]
    return seq


def oldest(connection: sqlite3.Connection) -> int | None:
    """Return when the first event that is left was committed; see `EventLog.oldest`."""
    with explained():
        row: tuple[int] | None = connection.execute(OLDEST).fetchone()
    return None if row is None else row[0]


def lasts(connection: sqlite3.Connection, count: int) -> Lasts:
    """Return whose last event was which at one moment; see `EventLog.lasts`."""
    by_user: dict[bytes, int] = {}
    with explained(), reading(connection):
        rows = connection.execute(COMMITS, (count,)).fetchall()
        since = rows[-1][0] - 1 if len(rows) == count else 0
        for seq, user in rows:
            by_user.setdefault(user, seq)
        for user, seq in connection.execute(DELETED, (since,)).fetchall():
            by_user[user] = max(by_user.get(user, 0), seq)
    ordered = sorted(by_user.items(), key=itemgetter(1))
    # What is not UTF-8, in a damaged log, becomes a name that no user can have.
    names = (user.decode(errors="surrogateescape") or None for user, _ in ordered)
    return Lasts(since, list(zip(names, (seq for _, seq in ordered), strict=True)))


class _Part:
    """What has been read of a stream between two seqs, and up to where."""

    def __init__(
        self, connection: sqlite3.Connection, user: bytes, after: int, through: int
    ) -> None:
        self._connection = connection
        self._user = user
        self._through = through
        self._later_than: float = _ALWAYS_EARLIER
        self.reached = after
        self.events: list[Event] = []

    def narrow(self, later_than: int) -> None:
        """Read only what is later than an instant, and no further than is looked at in a page."""
        last, count = self._execute(LAST, LOOKED_AT).fetchone()
        if count == LOOKED_AT:
            self._through = last
        self._later_than = later_than

    def read(self, max_events: int, max_bytes: int) -> None:
        """Read until there are so many events or bytes, but one event at least."""
        wanted, left = min(max_events, _FIRST_ROWS), max_bytes
        while (taken := self._joined(wanted, left)) is not None:
            left -= taken
            if self.reached == self._through or len(self.events) == max_events or left <= 0:
                return
            # As many as will fit if they are as large as those were.
            fit = left * len(self.events) // (max_bytes - left)
            wanted = min(max_events - len(self.events), max(fit, 1))
        self._row_by_row(max_events, left)

    def _joined(self, wanted: int, max_bytes: int) -> int | None:
        """Read so many events; returns how many bytes they have, None if more than may be."""
        # What is joined can't get longer than that, nor can a single row.
        before = self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_bytes)
        try:
            count, seqs, tails = self._execute(JOINED, wanted).fetchone()
        except sqlite3.DataError:
            return None
        finally:
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
        if count:
            self.events += map(Event, map(int, seqs.split(b",")), tails.split(b"\n"))
        self.reached = self._through if count < wanted else self.events[-1].seq
        return len(tails) - (count - 1) if count else 0

    def _row_by_row(self, max_events: int, max_bytes: int) -> None:
        size, rows = 0, self._execute(ROWS, max_events - len(self.events))
        for seq, tail in rows:
            self.events.append(Event(seq, tail))
            size += len(tail)
            if len(self.events) == max_events or size >= max_bytes:
                self.reached = seq
                break
        else:
            self.reached = self._through
        rows.close()

    def _execute(self, statement: str, limit: int) -> sqlite3.Cursor:
        return self._connection.execute(
            statement,
            {
                "user": self._user,
                "after": self.reached,
                "through": self._through,
                "later_than": self._later_than,
                "limit": limit,
            },
        )
