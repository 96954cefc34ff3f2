"""The event log in one SQLite file.

One connection writes and checkpoints, every other only reads; each lives in a thread of its
own, and every call is one hop to it and back (80-190 µs), so a call does all it can there.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.eventlog import schema
from archibald_rt.eventlog.base import KeyConflict, Page, Stored
from archibald_rt.events import Emission, Event, content_of, timestamp_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

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
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
    }
)


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole function in its thread, in one hop."""

    async def call(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        result: _T = await self._execute(function, self._conn, *args, **kwargs)  # type: ignore[no-untyped-call]  # untyped in aiosqlite
        return result


class SQLiteLog:
    """The `EventLog` in a SQLite file; made by `open_sqlite`."""

    def __init__(self, writer: _Connection, readers: Sequence[_Connection]) -> None:
        self._writer = writer
        self._readers = readers
        # Which readers have nothing to do; a page waits for one.
        self._idle: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._epoch = ""
        self._head = 0

    async def start(self) -> None:
        """Read what the file says of itself."""
        self._epoch = await self._writer.call(schema.read_epoch)
        self._head = await self._writer.call(schema.read_head)

    @property
    def epoch(self) -> str:
        """See `EventLog.epoch`."""
        return self._epoch

    @property
    def head(self) -> int:
        """See `EventLog.head`."""
        return self._head

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """See `EventLog.append`."""
        results, self._head = await self._writer.call(_append, self._head, groups)
        return results

    async def page(
        self,
        user: str,
        *,
        after: int,
        through: int,
        max_events: int,
        max_bytes: int,
        later_than: int | None = None,
    ) -> Page:
        """See `EventLog.page`."""
        async with self._reader() as reader:
            return await reader.call(
                _page, user.encode(), after, through, max_events, max_bytes, later_than
            )

    async def first(self, user: str) -> int | None:
        """See `EventLog.first`."""
        async with self._reader() as reader:
            return await reader.call(_first, user.encode())

    async def probe(self) -> None:
        """See `EventLog.probe`."""
        await self._writer.call(_probe)

    async def close(self) -> None:
        """See `EventLog.close`."""
        for connection in (*self._readers, self._writer):
            await connection.close()

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        reader = await self._idle.get()
        try:
            yield reader
        finally:
            # A cancelled caller leaves its statement running; the next waits behind it.
            self._idle.put_nowait(reader)


@asynccontextmanager
async def open_sqlite(path: Path, *, readers: int = 2) -> AsyncIterator[SQLiteLog]:
    """Open the log in the file at `path`, making it where there is none; close it at the end.

    Raises `LogOpenError` with one line that names the file, the cause and what to do.
    """
    with schema.exclusive(path):
        connections: list[_Connection] = []
        try:
            writer = await _connect(schema.open_writer, path)
            connections.append(writer)
            for _ in range(readers):
                connections.append(await _connect(schema.open_reader, path))  # noqa: PERF401 - each is closed if the next fails
            log = SQLiteLog(writer, connections[1:])
            await log.start()
            yield log
        finally:
            for connection in reversed(connections):
                await connection.close()


async def _connect(opener: Callable[[Path], sqlite3.Connection], path: Path) -> _Connection:
    # Opened before aiosqlite has it: an opener that fails there leaves a thread behind that
    # still calls the loop when that is closed.
    opened = await asyncio.to_thread(opener, path)
    connection = _Connection(lambda: opened, iter_chunk_size=64)
    await connection
    return connection


def _append(
    connection: sqlite3.Connection, head: int, groups: Sequence[Sequence[Emission]]
) -> tuple[list[list[Stored] | KeyConflict], int]:
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


def _page(
    connection: sqlite3.Connection,
    user: bytes,
    after: int,
    through: int,
    max_events: int,
    max_bytes: int,
    later_than: int | None,
) -> Page:
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


def _first(connection: sqlite3.Connection, user: bytes) -> int | None:
    with _explained():
        seq: int | None = connection.execute(FIRST, {"user": user}).fetchone()[0]
    return seq


def _probe(connection: sqlite3.Connection) -> None:
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
        connection.execute("ROLLBACK")


@contextmanager
def _explained() -> Iterator[None]:
    """Tell the errors after which the log works again from those after which nothing is sure.

    An fsync that failed may have stored the rows all the same, and a damaged page can't be
    served: both end in a restart, which reads the truth.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code & 0xFF in _PASSING:
            raise LogUnavailableError(f"the log can't commit: {error} ({name})") from error
        raise LogBrokenError(f"the log failed: {error} ({name})") from error
