"""What keeps the log of a `model.World`: a file, or a stream of JetStream.

Each opens the real log, deletes from it as retention does there, and reads it as somebody else
would, to say what is in it and what ever was.
"""

import itertools
import sqlite3
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from archibald_rt import timestamps
from archibald_rt.eventlog import EventLog, KeyConflict, Retention, Stored, retention, schema
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.nats.arrivals import UNHEARD
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.events import Emission, timestamp_of
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from engines import NATS, SQLITE, Engine, streams_of
from natswire import Wire
from turns import PATIENCE, SocketLoop, TurnLoop


@dataclass(eq=False)
class Prune:
    """One deletion of rows: when it was begun, and when it was known to be done."""

    started: int
    done: int | None = None


@dataclass(eq=False)
class Row:
    """A durable event that is, or was, in the log."""

    seq: int
    user: str | None
    key: str | None
    tail: bytes
    prune: Prune | None = None

    @property
    def index(self) -> int:
        return index_of(timestamp_of(self.tail))

    @property
    def instant(self) -> int:
        return timestamps.parse(timestamp_of(self.tail))

    def gone(self, tick: int) -> bool:
        """Whether it may have been deleted by then."""
        return self.prune is not None and self.prune.started <= tick

    def surely_gone(self, tick: int) -> bool:
        """Whether it was deleted by then for sure."""
        return self.prune is not None and self.prune.done is not None and self.prune.done <= tick


def index_of(timestamp: str) -> int:
    """Return which emission a timestamp belongs to."""
    return int(timestamp[20:29])


class Keeping(ABC):
    """What keeps a log; `open` it first."""

    engine: Engine
    loop: TurnLoop
    log: EventLog
    probe_every = 1.0

    @abstractmethod
    async def open(self, stack: AsyncExitStack) -> None:
        """Open the log, until the stack is closed."""

    @abstractmethod
    def attach(self, hub: Hub, order: OrderQueue) -> None:
        """Have what arrives by itself dispatched."""

    @abstractmethod
    def rows(self) -> dict[int, Row]:
        """Return every durable event that an independent reader finds, or ever found."""

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Take note that the log is called for the length of a block."""
        yield

    @abstractmethod
    def appended(
        self,
        prune: Prune,
        groups: Sequence[Sequence[Emission]],
        results: Sequence[Sequence[Stored] | KeyConflict],
    ) -> None:
        """Take note of what was appended, which may have deleted what there was."""

    @abstractmethod
    async def delete_first(self, count: int, prune: Prune) -> None:
        """Delete what was committed first, whosever it is."""

    @abstractmethod
    async def erase(self, user: str, prune: Prune) -> None:
        """Delete all of a user's own events."""

    @abstractmethod
    def assert_kept(self, kept: Sequence[int]) -> None:
        """Check that just these are in the log."""

    @abstractmethod
    def close(self) -> None:
        """End the reading."""


_Buried = list[tuple[Prune, tuple[Any, ...]]]


class InFile(Keeping):
    """A log in a file."""

    engine = SQLITE

    def __init__(self, path: Path) -> None:
        self._path = path
        self.loop = TurnLoop()
        self._rows: dict[int, Row] = {}
        self._read_through = 0
        self._buried: _Buried = []
        self._unburied = 0

    async def open(self, stack: AsyncExitStack) -> None:
        moments = itertools.count(1)
        self.log: SQLiteLog = await stack.enter_async_context(
            open_sqlite(self._path, clock=lambda _before: moments.__next__)
        )
        self._file = schema.open_reader(self._path)

    def attach(self, hub: Hub, order: OrderQueue) -> None:
        """Do nothing: nobody else appends to it."""

    def appended(
        self,
        prune: Prune,
        groups: Sequence[Sequence[Emission]],
        results: Sequence[Sequence[Stored] | KeyConflict],
    ) -> None:
        """Do nothing: an append deletes nothing."""

    def rows(self) -> dict[int, Row]:
        found = self._file.execute(
            "SELECT seq, user, key, tail FROM events WHERE seq > ? ORDER BY seq",
            (self._read_through,),
        ).fetchall()
        for row in found:
            self._read_through = row[0]
            self._rows.setdefault(row[0], _row(row))
        for prune, row in self._buried[self._unburied :]:
            self._unburied += 1
            self._rows.setdefault(row[0], _row(row)).prune = prune
        return self._rows

    async def delete_of(self, owner: str | None, count: int, prune: Prune) -> None:
        """Delete the oldest events of a user, or broadcasts."""
        user = schema.EVERYBODY if owner is None else owner.encode()
        await self._delete(_delete_of, user, count, prune)

    async def delete_first(self, count: int, prune: Prune) -> None:
        await self._delete(_delete_first, count, prune)

    async def erase(self, user: str, prune: Prune) -> None:
        await self.delete_of(user, 1000, prune)

    async def _delete(self, delete: Callable[..., None], *args: Any) -> None:
        writer = self.log._writer  # noqa: SLF001 - whatever deletes has to use this connection
        await writer.call(delete, *args, self._buried)

    def assert_kept(self, kept: Sequence[int]) -> None:
        for table in ("events", "commits"):
            found = self._file.execute(f"SELECT seq FROM {table} ORDER BY seq").fetchall()  # noqa: S608 - our own names
            assert [seq for (seq,) in found] == kept

    def close(self) -> None:
        self._file.close()


class InStream(Keeping):
    """A log in a stream of its own that keeps ``cap`` events of each user (0: all).

    The stream deletes them with the very append that makes them too many.
    """

    engine = NATS
    # What a probe stores would be taken for an event that is still to come.
    probe_every = 3600.0

    def __init__(self, url: str, stream: str, *, cap: int) -> None:
        self._url = url
        self._stream = stream
        self._names = Names(stream)
        self._cap = cap
        self.loop: SocketLoop = SocketLoop(self._owed)
        self._calls: set[object] = set()
        self._last = 0
        self._rows: dict[int, Row] = {}
        self._read_through = 0
        self._key: tuple[int, str] = (0, "")
        self._wire = Wire(url)

    def _owed(self) -> set[object]:
        arrivals = {"arrivals"} if self.log.head < self._last else set()
        return arrivals | self._calls

    async def open(self, stack: AsyncExitStack) -> None:
        kept = Retention(max_events_per_user=self._cap)
        self.log = await stack.enter_async_context(
            open_nats([self._url], self._stream, retention=kept)
        )

    def attach(self, hub: Hub, order: OrderQueue) -> None:
        def arrived() -> None:
            order.dispatch_arrived()
            self.loop.nudge()

        assert self.log.peers is not None
        self.log.peers.attach(
            replace(
                # There is no other server.
                UNHEARD,
                arrived=arrived,
                doubted=order.doubt,
                erased=hub.forget,
                broken=self.loop.faults.append,
            )
        )

    def rows(self) -> dict[int, Row]:
        for message in self._wire.read(self._stream, after=self._read_through):
            self._read_through = message.seq
            if self._names.is_key(message.subject):
                self._key = message.seq + 1, message.data.decode()
            elif self._names.is_event(message.subject):
                seq, key = self._key
                user = self._names.user(message.subject)
                row = Row(message.seq, user, key if seq == message.seq else None, message.data)
                self._rows.setdefault(row.seq, row)
        return self._rows

    @contextmanager
    def calling(self) -> Iterator[None]:
        call = object()
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.remove(call)
            self.loop.nudge()

    def appended(
        self,
        prune: Prune,
        groups: Sequence[Sequence[Emission]],
        results: Sequence[Sequence[Stored] | KeyConflict],
    ) -> None:
        rows = self.rows()
        for group, result in zip(groups, results, strict=True):
            for emission, stored in zip(group, () if isinstance(result, KeyConflict) else result):  # noqa: B905 - nothing is stored of a group that is refused
                if not stored.duplicate:
                    # Where more than are kept were appended at once the first were never there.
                    row = Row(stored.seq, emission.user, emission.key, emission.tail)
                    rows.setdefault(stored.seq, row)
                    self._last = max(self._last, stored.seq)
        if self._cap:
            for seqs in self._by_owner(sorted(rows)).values():
                self._bury([rows[seq] for seq in seqs[: -self._cap]], prune)

    async def delete_first(self, count: int, prune: Prune) -> None:
        # What is gone by its age has arrived long ago.
        there = [row for row in self.rows().values() if row.seq <= self.log.head]
        kept = sorted(row.seq for row in there if row.prune is None)[:count]
        if kept:
            self._bury([row for row in there if row.seq <= kept[-1]], prune)
            # One by one as by age. (A purge up to a seq, behind one of a subject, deletes more than
            # it is asked to in NATS 2.15.1.)
            for seq in range(1, kept[-1] + 1):
                self._wire.ask(f"STREAM.MSG.DELETE.{self._stream}", {"seq": seq, "no_erase": True})

    async def erase(self, user: str, prune: Prune) -> None:
        async def plainly(step: Step) -> int:
            return await step()

        self._bury([row for row in self.rows().values() if row.user == user], prune)
        with self.calling():
            await self.log.erase(user, plainly)

    def assert_kept(self, kept: Sequence[int]) -> None:
        messages = self._wire.read(self._stream)
        there = [each.seq for each in messages if self._names.is_event(each.subject)]
        if self._cap:
            spare = self._cap + self.engine.spare
            for seqs in self._by_owner(there).values():
                assert len(seqs) <= spare
                if len(seqs) == spare:
                    there.remove(seqs[0])
        assert there == kept

    def close(self) -> None:
        self._wire.delete(streams_of(self._stream))
        self._wire.close()

    def _by_owner(self, seqs: Sequence[int]) -> dict[str | None, list[int]]:
        found: dict[str | None, list[int]] = defaultdict(list)
        for seq in seqs:
            found[self._rows[seq].user].append(seq)
        return found

    def _bury(self, rows: Sequence[Row], prune: Prune) -> None:
        for row in rows:
            row.prune = row.prune or prune


def _row(values: tuple[Any, ...]) -> Row:
    seq, user, key, tail = values
    return Row(seq, user.decode() or None, None if key is None else key.decode(), tail)


def _delete_of(
    connection: sqlite3.Connection, owner: bytes, count: int, prune: Prune, buried: _Buried
) -> None:
    rows = connection.execute(
        "SELECT seq, user, key, tail FROM events WHERE user = ? ORDER BY seq LIMIT ?",
        (owner, count),
    ).fetchall()
    # Before they are gone, so that no moment lies between in which they are nowhere.
    buried.extend((prune, row) for row in rows)
    if rows:
        left = deque([(owner, rows[-1][0])])
        assert retention.delete_of(connection, left, PATIENCE) == len(rows)


def _delete_first(
    connection: sqlite3.Connection, count: int, prune: Prune, buried: _Buried
) -> None:
    # Each commit has a time of its own in this world; what was committed together goes together.
    commits = connection.execute(
        "SELECT DISTINCT committed FROM commits ORDER BY seq LIMIT ?", (count,)
    ).fetchall()
    if commits:
        head = schema.read_head(connection)
        last = retention.last_committed_before(connection, commits[-1][0] + 1, head)
        rows = connection.execute(
            "SELECT seq, user, key, tail FROM events WHERE seq <= ?", (last,)
        ).fetchall()
        buried.extend((prune, row) for row in rows)
        users = deque(retention.users_between(connection, 0, last))
        assert retention.delete_events(connection, users, last, PATIENCE) == len(rows)
        retention.delete_commits(connection, last, PATIENCE)
