"""The event log in one SQLite file.

One connection writes and checkpoints, every other only reads; each lives in a thread of its
own, and every call is one hop to it and back (80-190 µs), so a call does all it can there.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

from archibald_rt.errors import LogBrokenError
from archibald_rt.eventlog import files, pages, revoked, schema, statements
from archibald_rt.eventlog.base import KeyConflict, Lasts, Page, Retention, Stored, Turn
from archibald_rt.eventlog.deleted import Deleted
from archibald_rt.eventlog.pruning import STEP, Pruning
from archibald_rt.events import Emission
from archibald_rt.revocations import Revocation
from archibald_rt.timestamps import SteadyClock

_P = ParamSpec("_P")
_T = TypeVar("_T")


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

    def __init__(
        self,
        path: Path,
        writer: _Connection,
        readers: Sequence[_Connection],
        scanner: _Connection,
        *,
        clock: Callable[[int], Callable[[], int]],
        stamped: Callable[[], int],
    ) -> None:
        self._path = path
        self._file = _identity(path)
        self._writer = writer
        self._readers = readers
        # What looks for events to delete, so that no page has to wait for it.
        self._scanner = scanner
        self._clock_from = clock
        self._stamped = stamped
        # Which readers have nothing to do; a page waits for one.
        self._idle: asyncio.Queue[_Connection] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._deleted = Deleted()
        self._epoch = ""
        self._head = 0
        self._last_stamp_ms = 0

    async def start(self) -> None:
        """Read what the file says of itself."""
        self._epoch = await self._writer.call(schema.read_epoch)
        self._head = await self._writer.call(schema.read_head)
        committed = await self._writer.call(schema.read_last_commit)
        self._last_stamp_ms = max(committed, await self._writer.call(schema.read_last_stamp))
        self._now_ms = self._clock_from(committed)

    @property
    def peers(self) -> None:
        """See `EventLog.peers`: one process has the file."""
        return None

    @property
    def most(self) -> int:
        """See `EventLog.most`: a transaction may be of any size."""
        return 0

    @property
    def epoch(self) -> str:
        """See `EventLog.epoch`."""
        return self._epoch

    @property
    def head(self) -> int:
        """See `EventLog.head`."""
        return self._head

    @property
    def last_stamp_ms(self) -> int:
        """See `EventLog.last_stamp_ms`."""
        return self._last_stamp_ms

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """See `EventLog.append`."""
        results, self._head = await self._writer.call(
            statements.append, self._head, groups, self._now_ms(), self._stamped()
        )
        self._check_in_place()
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
                pages.page, user.encode(), after, through, max_events, max_bytes, later_than
            )

    async def first(self, user: str) -> int | None:
        """See `EventLog.first`."""
        async with self._reader() as reader:
            return await reader.call(pages.first, user.encode())

    async def oldest(self) -> int | None:
        """See `EventLog.oldest`."""
        async with self._reader() as reader:
            return await reader.call(pages.oldest)

    async def lasts(self, count: int) -> Lasts:
        """See `EventLog.lasts`."""
        async with self._reader() as reader:
            return await reader.call(pages.lasts, count)

    def deleted_through(self, user: str) -> int:
        """See `EventLog.deleted_through`."""
        return max(map(self._deleted.through, (user.encode(), schema.EVERYBODY)))

    async def probe(self) -> None:
        """See `EventLog.probe`."""
        await self._writer.call(statements.probe)
        self._check_in_place()

    async def prune(self, retention: Retention, turn: Turn, deleted: Callable[[int], None]) -> None:
        """See `EventLog.prune`."""
        await self._pruning(turn, deleted).run(retention)

    async def erase(self, user: str, turn: Turn) -> int:
        """See `EventLog.erase`."""
        count = 0

        def deleted(more: int) -> None:
            nonlocal count
            count += more

        await self._pruning(turn, deleted).erase(user.encode())
        return count

    async def revocations(self) -> Sequence[Revocation]:
        """See `EventLog.revocations`."""
        return await self._scanner.call(revoked.read)

    async def revoke(self, revocation: Revocation, turn: Turn) -> None:
        """See `EventLog.revoke`."""

        async def step() -> int:
            await self._writer.call(revoked.write, revocation)
            self._check_in_place()
            return 0

        await turn(step)

    async def forget_revoked(self, expired_before: int, turn: Turn) -> None:
        """See `EventLog.forget_revoked`."""

        async def step() -> int:
            return await self._writer.call(revoked.forget, expired_before, STEP)

        # Nothing is committed where there is nothing to forget.
        while await self._scanner.call(revoked.any_expired, expired_before):
            await turn(step)

    async def size(self) -> int:
        """See `EventLog.size`."""
        return sum(files.sizes(self._path))

    async def close(self) -> None:
        """See `EventLog.close`."""
        for connection in (self._scanner, *self._readers, self._writer):
            await connection.close()

    def _pruning(self, turn: Turn, deleted: Callable[[int], None]) -> Pruning:
        return Pruning(
            self._writer,
            self._scanner,
            self._path,
            turn,
            deleted,
            deleting=self._deleted.note,
            head=lambda: self._head,
            now_ms=self._now_ms(),
        )

    def _check_in_place(self) -> None:
        """Raise `LogBrokenError` if a restart would not find the file that is written to."""
        if _identity(self._path) != self._file:
            raise LogBrokenError(
                f"the log failed: {self._path} was moved, deleted or replaced while it was in use"
            )

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        reader = await self._idle.get()
        try:
            yield reader
        finally:
            # A cancelled caller leaves its statement running; the next waits behind it.
            self._idle.put_nowait(reader)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    readers: int = 2,
    clock: Callable[[int], Callable[[], int]] = SteadyClock,
    stamped: Callable[[], int] = lambda: 0,
) -> AsyncIterator[SQLiteLog]:
    """Open the log in the file at `path`, making it where there is none; close it at the end.

    ``clock`` makes what tells the time of commits, in milliseconds since 1970 and not before
    the last one; ``stamped`` tells the last stamp that was given, likewise. Raises
    `LogOpenError` with one line that names the file, the cause and what to do.
    """
    with files.exclusive(path):
        connections: list[_Connection] = []
        try:
            writer = await _connect(schema.open_writer, path)
            connections.append(writer)
            for _ in range(readers + 1):
                connections.append(await _connect(schema.open_reader, path))  # noqa: PERF401 - each is closed if the next fails
            log = SQLiteLog(
                path, writer, connections[2:], connections[1], clock=clock, stamped=stamped
            )
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
