"""Who is connected, and the handing over of events to them."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice

from archibald_rt.eventlog import Lasts
from archibald_rt.events import Emission, Event
from archibald_rt.measures import Replays
from archibald_rt.protocol import Frames
from archibald_rt.recent import Recent
from archibald_rt.session import Session
from archibald_rt.tap import LOST, Tap

SLICE = 500
"""How many sessions a broadcast goes to before the loop sees to others."""

_NOBODY: dict[Session, None] = {}


class Hub:
    """The sessions of one server, by user, and what was dispatched to them last.

    ``head`` is the seq of the log's last event, so that a restarted server goes on where the
    one before it stopped, and ``lasts`` are whose last was which, as far as that is known.
    ``recent`` bounds, in bytes, how much of what was dispatched last
    is kept at hand for sessions that catch up. ``tap`` is told what is dispatched and what
    becomes of sessions, while somebody watches.
    """

    def __init__(
        self, head: int, *, recent: int, lasts: Lasts | None = None, tap: Tap | None = None
    ) -> None:
        self.tap = tap or Tap("")
        """Who watches."""
        self._users: dict[str, dict[Session, None]] = {}
        self._count = 0
        self._dispatched = head
        # Set when the next event is dispatched; there is one only while somebody waits for that.
        self._moves: asyncio.Event | None = None
        self._limit = recent
        self._recent = Recent(head if lasts is None else lasts.since, limit=recent)
        if lasts is not None:
            self._recent.know(lasts.by_user)
        self.replays = Replays()
        """What sessions were given while they were behind, all of them together."""
        # What the sessions that have gone had counted.
        self._sent_before = 0
        self._dropped_before = 0

    @property
    def dispatched(self) -> int:
        """The seq of the last durable event handed to live devices."""
        return self._dispatched

    @property
    def connections(self) -> int:
        """How many sessions are registered."""
        return self._count

    @property
    def connected_users(self) -> int:
        """How many users have a session."""
        return len(self._users)

    @property
    def sent_before(self) -> int:
        """How many events were put into the outboxes of sessions that have gone."""
        return self._sent_before

    @property
    def dropped_before(self) -> int:
        """How many transient events held for sessions that have gone were given up."""
        return self._dropped_before

    @property
    def sent(self) -> int:
        """How many events were put into outboxes since the start."""
        return self._sent_before + sum(session.sent for session in self.sessions())

    @property
    def dropped(self) -> int:
        """How many transient events held for devices were given up since the start."""
        return self._dropped_before + sum(session.dropped for session in self.sessions())

    def users(self) -> dict[str, int]:
        """Return how many sessions each connected user has."""
        return {user: len(sessions) for user, sessions in self._users.items()}

    def sessions(self) -> Iterator[Session]:
        """Go over all sessions; none may come or go meanwhile."""
        for sessions in self._users.values():
            yield from sessions

    def sessions_of(self, user: str) -> Sequence[Session]:
        """Return a user's sessions, in the order in which they were registered."""
        return list(self._users.get(user, _NOBODY))

    def live_of(self, user: str | None) -> Iterator[str]:
        """Go over the connections of a user, or of everybody, whose sessions are live."""
        sessions = self.sessions() if user is None else iter(self._users.get(user, _NOBODY))
        return (session.connection for session in sessions if session.live)

    def register(self, session: Session, address: str | None = None) -> None:
        """Let a session, of a device at some address, get what is dispatched from now on."""
        self._users.setdefault(session.user, {})[session] = None
        self._count += 1
        if self.tap.watchers:
            self.tap.connected(session.user, session.connection, session.dialect.name, address)

    def unregister(self, session: Session, code: int = LOST, reason: str = "") -> None:
        """Take a session out and close it, for this reason. Doing it again does nothing."""
        session.close()
        sessions = self._users.get(session.user, _NOBODY)
        if session in sessions:
            del sessions[session]
            self._count -= 1
            self._sent_before += session.sent
            self._dropped_before += session.dropped
            if not sessions:
                del self._users[session.user]
            if self.tap.watchers:
                self.tap.disconnected(session.user, session.connection, code, reason)

    def turned(self, user: str, connection: str, *, live: bool, position: int) -> None:
        """Take note that a session fell behind or is live."""
        if self.tap.watchers:
            self.tap.turned(user, connection, "live" if live else "behind", position)

    def since(self, user: str, seq: int) -> Sequence[Event] | None:
        """Return the dispatched events of a stream above `seq`; None if not all are at hand."""
        return self._recent.since(user, seq)

    def forget(self) -> None:
        """Keep nothing at hand of what was dispatched: some of it is not to be seen any more."""
        self._recent.clear()

    async def reaches(self, seq: int) -> None:
        """Wait until all up to a seq was dispatched."""
        while self._dispatched < seq:
            self._moves = self._moves or asyncio.Event()
            await self._moves.wait()

    def advance(self, seq: int) -> None:
        """Take all up to a seq as dispatched: there was nothing for anybody."""
        if seq > self._dispatched:
            self._dispatched = seq
            if self._moves is not None:
                self._wake(self._moves)

    def _wake(self, moves: asyncio.Event) -> None:
        self._moves = None
        moves.set()

    def skip(self, seq: int) -> None:
        """Take all up to a seq as dispatched that was not: who is live has to read it."""
        if seq <= self._dispatched:
            return
        self.advance(seq)
        self._recent = Recent(seq, limit=self._limit)
        for session in self.sessions():
            session.fall_behind()

    async def dispatch(self, emission: Emission, seq: int | None) -> int:
        """Hand an event to every live session it is for; returns to how many.

        Durable events (those with a seq) come in the order of their seqs. Nobody else may
        dispatch before this has returned. It awaits only in a broadcast, between slices, and
        where one user has a broadcast's number of devices.
        """
        event = None
        if seq is not None:
            event = Event(seq, emission.tail)
            # Before the first slice: who registers or turns live in between begins after
            # this event or takes it from the log. As `advance`, without a call for each event.
            self._dispatched = seq
            if self._moves is not None:
                self._wake(self._moves)
            self._recent.add(emission.user, event)
        if emission.user is None:
            sessions: Sequence[Session] = [s for s in self.sessions() if s.live or event is None]
        else:
            sessions = list(self._users.get(emission.user, _NOBODY))
        frames = Frames(emission.tail)
        delivered = 0
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            for session in islice(sessions, start, start + SLICE):
                if event is not None:
                    delivered += session.deliver(event, frames)
                else:
                    delivered += session.deliver_transient(frames, emission.conflate)
        if self.tap.watchers:
            self.tap.dispatched(emission, seq, delivered)
        return delivered
