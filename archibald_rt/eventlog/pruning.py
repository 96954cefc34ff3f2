"""Retention and erasure of the SQLite log: which steps, in which order.

What is to be deleted is found by a reader of its own, so that neither commits nor pages wait
for the search; only the deleting has its turn on the connection that writes.
"""

import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from archibald_rt.eventlog import files
from archibald_rt.eventlog import retention as sql
from archibald_rt.eventlog.base import Retention, Step, Turn

STEP = 0.002
"""How many seconds a step may take before it commits: about as long as a small commit."""

SEQS_AT_ONCE = 2000
"""Over how many seqs the users who have new events are looked for at a time."""

WINDOW = 1_000_000
"""Over how many seqs, at most, events are deleted user by user: neighbours in the file.

A commit costs by the pages it touches: with one event of each of ten thousand users at a time a
row took seven times as long as with a hundred.
"""

USERS_IN_WINDOW = 50_000
"""Of about how many users they are, at most: all of them are remembered meanwhile (some 5 MB)."""

USERS_AT_ONCE = 50
"""How many users' events are counted at a time."""

USERS_REMEMBERED = 100_000
"""How many users are known in one run to be within the limit; more are looked at again."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Connection(Protocol):
    """A SQLite connection that runs a function in its thread."""

    async def call(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run it, and return what it returns."""


class Pruning:
    """One run over a log, whose files are `path` and its WAL.

    ``deleted`` is told how many events went; before, ``deleting`` whose (None: anybody's) may go,
    and up to which seq. ``head`` returns the last seq at the moment,
    ``now_ms`` is the one that ages are counted to.
    """

    def __init__(
        self,
        writer: Connection,
        scanner: Connection,
        path: Path,
        turn: Turn,
        deleted: Callable[[int], None],
        *,
        deleting: Callable[[bytes | None, int], None],
        head: Callable[[], int],
        now_ms: int,
    ) -> None:
        self._writer = writer
        self._scanner = scanner
        self._path = path
        self._turn = turn
        self._deleted = deleted
        self._deleting = deleting
        self._head = head
        self._now_ms = now_ms

    async def run(self, retention: Retention) -> None:
        """Delete what is beyond the limits and give the room back."""
        if retention.max_age_ms:
            await self._by_age(self._now_ms - retention.max_age_ms)
        if retention.max_events_per_user:
            await self._by_count(retention.max_events_per_user)
        if retention.max_size:
            await self._by_size(retention.max_size)
        await self._give_back(retention.max_size)

    async def erase(self, user: bytes) -> None:
        """Delete one user's own events, and leave nothing of them in the file."""
        left: deque[tuple[bytes, int]] | None = None

        async def step() -> int:
            nonlocal left
            if left is None:
                # All that was queued before this is committed by now.
                left = deque([(user, self._head())])
                self._deleting(user, self._head())
            return await self._writer.call(sql.erase, left, STEP)

        while left is None or left:
            self._deleted(await self._turn(step))
        await self._turn(self._step(sql.truncate_wal))

    async def _by_age(self, before_ms: int) -> None:
        head = self._head()
        through = await self._scanner.call(sql.last_committed_before, before_ms, head)
        await self._all_through(through)

    async def _all_through(self, through: int) -> None:
        """Delete the events of all users up to a seq."""
        while (first := await self._scanner.call(sql.first_commit) or through + 1) <= through:
            users, last = await self._window(first, through)
            self._deleting(None, last)
            # In the order in which they lie in the file: neighbours share its pages.
            left = deque(sorted(users))
            await self._delete(left, self._step(sql.delete_events, left, last, STEP))
            while await self._turn(self._step(sql.delete_commits, last, STEP)):
                pass

    async def _window(self, first: int, through: int) -> tuple[set[bytes], int]:
        """Return whose events come next, and up to which seq; looked for in small pieces."""
        users: set[bytes] = set()
        last = first - 1
        end = min(first + WINDOW, through)
        while last < end and len(users) < USERS_IN_WINDOW:
            after, last = last, min(last + SEQS_AT_ONCE, end)
            users |= await self._scanner.call(sql.users_between, after, last)
        return users, last

    async def _by_count(self, max_events: int) -> None:
        """Look at the users who got events since the run before, or at all of them."""
        head = self._head()
        counted = await self._scanner.call(sql.read_counted, max_events)
        if counted >= head:
            return
        seen: set[bytes] = set()
        for after in range(counted, head, SEQS_AT_ONCE):
            through = min(after + SEQS_AT_ONCE, head)
            new = await self._scanner.call(sql.users_between, after, through) - seen
            if len(seen) > USERS_REMEMBERED:
                seen.clear()
            seen |= new
            users = sorted(new)
            for first in range(0, len(users), USERS_AT_ONCE):
                some = users[first : first + USERS_AT_ONCE]
                if found := await self._scanner.call(sql.beyond, some, max_events):
                    left = deque(found)
                    for user, last in found:
                        self._deleting(user, last)
                    await self._delete(left, self._step(sql.delete_of, left, STEP))
        await self._turn(self._step(sql.write_counted, max_events, head))

    async def _by_size(self, max_size: int) -> None:
        if sum(files.sizes(self._path)) <= max_size:
            return
        while (share := await self._scanner.call(sql.used_share, max_size)) > 1:
            first = await self._scanner.call(sql.first_commit)
            if first is None:
                return
            # So much of the seqs as is too much of the room, but only half of it at once: the
            # oldest may be larger than the others.
            head = self._head()
            too_many = (head - first + 1) * (1 - 1 / share)
            await self._all_through(min(first + max(int(too_many / 2), SEQS_AT_ONCE), head))

    async def _give_back(self, max_size: int) -> None:
        superfluous = left = await self._scanner.call(sql.superfluous_pages, max_size)
        while left > 0:
            left -= await self._turn(self._step(sql.give_back, left, STEP))
        # The file gets smaller only when the WAL is moved into it.
        if superfluous or (max_size and sum(files.sizes(self._path)) > max_size):
            await self._turn(self._step(sql.truncate_wal))

    async def _delete(self, left: deque[_T], step: Step) -> None:
        """Have turns until a step has left nobody."""
        while left:
            self._deleted(await self._turn(step))

    def _step(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], int | None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Step:
        """Return what runs a function on the connection that writes."""

        async def step() -> int:
            return await self._writer.call(function, *args, **kwargs) or 0

        return step
