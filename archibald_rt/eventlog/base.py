"""What the server asks of an event log, whatever keeps it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from archibald_rt.eventlog.peers import Peers
from archibald_rt.events import Emission, Event
from archibald_rt.revocations import Revocation


class Page(msgspec.Struct, frozen=True, gc=False):
    """A piece of one user's stream, read at one moment.

    ``events`` rise by seq. Everything of the stream up to and including ``through`` has been
    looked at; ``complete`` says that this is as far as was asked for. ``lost`` is the highest
    seq of the stream that was ever deleted, 0 for none: something is missing after a
    position if and only if ``lost`` lies above it.
    """

    events: Sequence[Event]
    through: int
    complete: bool
    lost: int


class Lasts(msgspec.Struct, frozen=True):
    """Whose last event was which, of everybody who had one above a seq, ``since``.

    ``by_user`` rises by seq; None is for the broadcasts. Events that were deleted count.
    """

    since: int
    by_user: Sequence[tuple[str | None, int]]


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Where a durable emission stands in the log.

    ``duplicate`` says that it stood there before, under the same key; ``timestamp`` is then
    the first one's.
    """

    seq: int
    timestamp: str
    duplicate: bool


class KeyConflict(msgspec.Struct, frozen=True, gc=False):
    """A group was refused: these of its emissions repeat a key with another content."""

    indexes: Sequence[int]


class Retention(msgspec.Struct, frozen=True, gc=False):
    """How much a log keeps; 0 is no limit.

    ``max_age_ms`` counts from the commit. ``max_events_per_user`` counts each user's own
    events, and the broadcasts as one more user's. ``max_size`` is in bytes on disk.
    """

    max_age_ms: int = 0
    max_events_per_user: int = 0
    max_size: int = 0


Step = Callable[[], Awaitable[int]]
"""A small piece of work on the log that deletes; returns how much it did, 0 for nothing left."""

Turn = Callable[[Step], Awaitable[int]]
"""Runs a step when no append is under way and nothing lies between commit and dispatch."""


class EventLog(Protocol):
    """An append-only log of durable events, one series of seqs for all users.

    One task appends, and lets deletions have their turn; any number of tasks read. Every
    method may raise `LogUnavailableError` (nothing happened, a later try may work) and
    `LogBrokenError` (only a restart helps); what changes the log may raise `LogUncertainError`
    (it may have happened, a later try may work) where ``peers`` is not None. A stream is a
    user's own events and the broadcasts.
    """

    @property
    def peers(self) -> Peers | None:
        """The other servers that append to this log; None where there can't be any."""

    @property
    def most(self) -> int:
        """How many emissions an append takes, one with a key counting twice; 0: any number."""

    @property
    def epoch(self) -> str:
        """The random name of this log; cursors of another log have another."""

    @property
    def head(self) -> int:
        """The seq of the last event ever committed, 0 before the first.

        With peers, of the last one that has arrived here.
        """

    @property
    def last_stamp_ms(self) -> int:
        """The latest moment that was stamped before the log was opened, as far as it knows.

        In milliseconds since 1970, 0 without one: a server's stamps begin there.
        """

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """Commit every group's durable emissions in one transaction, in order.

        Each group is stored whole or refused whole, without a bearing on its neighbours. On
        return all of it is on disk; when this raises, nothing of it is stored, unless it
        raises `LogBrokenError` or `LogUncertainError`. Not to be called again before it has
        returned.
        """

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
        """Read a user's stream after one seq, through another.

        A page ends at ``max_events`` or ``max_bytes`` of tails, but holds at least one event
        where there is one. With ``later_than`` (nanoseconds since 1970) it holds only events
        whose own timestamp is later, and may end before it has found any.
        """

    async def first(self, user: str) -> int | None:
        """Return the seq of the first event of a stream that is retained, None without one."""

    async def oldest(self) -> int | None:
        """Return when the first event that is retained was committed, None without one.

        In milliseconds since 1970. Quick however large the log is.
        """

    async def lasts(self, count: int) -> Lasts:
        """Return whose last event was which, as far as the last so many of all tell it."""

    def deleted_through(self, user: str) -> int:
        """Return a seq above which nothing of a stream was deleted since the log was opened.

        Asks nothing of the disk; it may be higher than need be.
        """

    async def probe(self) -> None:
        """Commit something of no meaning; returns if commits work. Same caller as `append`."""

    async def prune(self, retention: Retention, turn: Turn, deleted: Callable[[int], None]) -> None:
        """Delete what is beyond the limits, oldest first; tells ``deleted`` how many went.

        Works in steps that are short beside a commit, each run by ``turn``, and gives the
        room back in such steps too. What one run left undone, because it failed or was
        cancelled, the next does. Not to be called again before it has returned.
        """

    async def erase(self, user: str, turn: Turn) -> int:
        """Delete a user's own events of before the first step; returns how many there were.

        Works in steps as `prune` does. Once this has returned, no page holds any of them.
        """

    async def revocations(self) -> Sequence[Revocation]:
        """Return all revocations that are kept; to be called before the first device comes."""

    async def revoke(self, revocation: Revocation, turn: Turn) -> None:
        """Commit a revocation in a step run by `turn`; on return it is on disk.

        Where the same user or token is revoked already, the later moment counts.
        """

    async def forget_revoked(self, expired_before: int, turn: Turn) -> None:
        """Delete the revocations of tokens that expired before a moment, in steps as `prune`.

        The moment is in nanoseconds since 1970. Those of users stay for good.
        """

    async def size(self) -> int:
        """Return how many bytes the log takes on disk."""

    async def close(self) -> None:
        """Close the log. Calling it again does nothing."""
