"""One device's place in its user's stream.

A session is always *behind* or *live*. Behind, its pump reads pages after the session's
position from the log and writes them as the outbox drains; live, the hub hands it each event.
Reconnecting, a first replay, a slow device and one that stalled for a moment are all the
same: behind. Two guards join the halves without a gap or a double. Nothing is awaited between
looking at what was dispatched and turning live, and a durable event that is not above the
position is never written.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from archibald_rt.ends import Feed, Outbox, Resume
from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.peers import Peers
from archibald_rt.events import EARLIEST, Cursor, Event
from archibald_rt.held import HeldEvents
from archibald_rt.messages import GapReason
from archibald_rt.protocol import FRAMING, Dialect, Frames
from archibald_rt.tracing import Trace
from archibald_rt.writer import Writer

# For how many seconds a device waits for this server to be as far as another.
_AHEAD_WITHIN = 5.0

# How much of a cursor that can't be read is told back.
_REQUESTED_SHOWN = 200


class Session(Writer):
    """One device; made by its handler, handed events by the hub.

    It takes its position where it is made, so it is to be registered with the hub and started
    in the same turn of the loop. ``end`` is called if the pump can't go on, with the reason:
    a `LogError`, or a fault of our own.
    """

    __slots__ = (
        "_end",
        "_feed",
        "_filter_through",
        "_later_than",
        "_live",
        "_log",
        "_page_bytes",
        "_page_events",
        "_pump",
        "_read",
        "user",
    )

    def __init__(
        self,
        user: str,
        dialect: Dialect,
        outbox: Outbox,
        feed: Feed,
        log: EventLog,
        *,
        connection: str,
        heartbeat: float,
        page_events: int,
        page_bytes: int,
        end: Callable[[BaseException], None],
    ) -> None:
        super().__init__(
            dialect,
            outbox,
            epoch=log.epoch,
            position=feed.dispatched,
            connection=connection,
            heartbeat=heartbeat,
        )
        self.user = user
        self._feed = feed
        self._log = log
        self._page_events = page_events
        self._page_bytes = page_bytes
        self._end = end
        self._live = False
        self._pump: asyncio.Task[None] | None = None
        # Everything of the stream up to here was written, or was not to be.
        self._read = self.position
        # Up to here a v1 device is replayed only what is later than its instant.
        self._filter_through = 0
        self._later_than: int | None = None

    @property
    def live(self) -> bool:
        """Whether the hub hands this session its events; else its pump reads them."""
        return self._live

    @property
    def owed(self) -> bool:
        """Whether something is to come that the kernel has not taken."""
        return not self._live or self.outbox.size > 0

    @property
    def read(self) -> int:
        """The seq up to which everything of the stream was written, or was not to be."""
        return max(self._read, self.position)

    def start(self, resume: Resume) -> None:
        """Begin: live at once, or behind at the place that was asked for."""
        if not resume:
            self._live = True
            self._welcome(replay=False)
            self._say_live()
        elif resume.later_than is not None:
            # The replay ends where the device connected; its position is already there.
            self._read, self._filter_through = 0, self.position
            self._later_than = resume.later_than
            self._start_pump(self._catch_up())
        else:
            self._resume(resume.event_id or "")

    def close(self) -> None:
        """Stop the pump and write nothing more. Calling it again does nothing."""
        self._live = False
        if self._held is not None:
            self._held.close()
            self.dropped += self._held.dropped
            self._held = None
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def deliver(self, event: Event, frames: Frames) -> bool:
        """Take a durable event from the hub; says whether it is in the outbox now.

        A session that is behind finds it in the log, and one that has read past it does not
        write it: an event is handed out in slices, in between which a session can read as far
        from the log, where it stands or stood, and turn live.
        """
        if not self._live or event.seq <= self.position or event.seq <= self._read:
            return False
        if not self.outbox.offer(frames.durable(self.dialect, event.seq, self.position)):
            self.fall_behind()
            return False
        self.position = event.seq
        self.sent += 1
        return True

    def deliver_transient(self, frames: Frames, conflate: str | None) -> bool:
        """Take a transient event from the hub; says whether it is in the outbox now."""
        if self._live:
            if self.outbox.offer(frames.transient(self.dialect)):
                self.sent += 1
                return True
            self.fall_behind()
        if self._held is not None:
            self._held.add(self._feed.dispatched, frames, conflate)
        return False

    def fall_behind(self) -> None:
        """Go on from the log instead of the hub. Does nothing where that is so."""
        if not self._live:
            return
        self._live = False
        self._read = max(self._read, self.position)
        self._start_pump(self._catch_up())
        self._feed.turned(self.user, self.connection, live=False, position=self.position)

    def _start_pump(self, work: Coroutine[Any, Any, None]) -> None:
        self._held = HeldEvents(self.dialect, self.outbox.budget)
        self._pump = asyncio.get_running_loop().create_task(work)
        self._pump.add_done_callback(self._pump_done)

    def _pump_done(self, pump: asyncio.Task[None]) -> None:
        if not pump.cancelled() and (error := pump.exception()) is not None:
            self._end(error)

    def _resume(self, event_id: str) -> None:
        """Begin where a v2 device asked for; live at once if all that it missed is at hand."""
        cursor = Cursor.parse(event_id)
        if cursor is not None and cursor.epoch == self._log.epoch:
            if cursor.seq <= self._feed.dispatched:
                self.position = self._read = cursor.seq
                self._welcome(replay=True)
                if not self._join_at_once():
                    self._start_pump(self._catch_up())
                return
            if self._log.peers is not None:
                self._start_pump(self._resume_ahead(self._log.peers, cursor))
                return
            reason: GapReason = "ahead"
        else:
            reason = "epoch"
        self._start_pump(self._seek(event_id, None if event_id == EARLIEST else reason))

    async def _resume_ahead(self, peers: Peers, cursor: Cursor) -> None:
        """Begin at a cursor of a server that is further, once this one is there."""
        if not await peers.has(cursor.seq):
            await self._seek(str(cursor), "ahead")
            return
        try:
            async with asyncio.timeout(_AHEAD_WITHIN):
                await self._feed.reaches(cursor.seq)
        except TimeoutError:
            raise LogUnavailableError(
                "this server is behind the one that the device was at"
            ) from None
        self.position = self._read = cursor.seq
        # What came meanwhile and goes before the cursor would be out of its place.
        if self._held is not None:
            self.dropped += sum(1 for _ in self._held.take_before(cursor.seq))
        self._welcome(replay=True)
        await self._catch_up()

    async def _seek(self, event_id: str, reason: GapReason | None) -> None:
        """Welcome a device just below the first event that is retained, and catch up."""
        # Where there is none, or it came after the device registered: the seq that was
        # dispatched then, which it can't have missed.
        first = await self._log.first(self.user)
        if first is not None:
            self.position = min(self.position, first - 1)
        self._read = self.position
        self._welcome(replay=True)
        if reason is not None:
            requested = event_id[:_REQUESTED_SHOWN]
            self._push(self.dialect.gap(self.position, requested, None, reason))
            self._feed.replays.gaps[reason] += 1
        await self._catch_up()

    async def _catch_up(self) -> None:
        while not self._live:
            async with self.outbox.room(self._page_bytes) as granted:
                due = await self._read_on(granted)
            # It had room only for as long as it read: others may have it while this one waits.
            await self._feed.reaches(due)

    async def _read_on(self, granted: int) -> int:
        """Write a page of so many bytes, and turn live if that was all there is.

        What was read is kept nowhere else once this has returned. Returns the seq that has to be
        dispatched before it is worth while to read on.
        """
        filtered = self._later_than is not None
        through = self._filter_through if filtered else self._feed.dispatched
        # Small events are mostly framing, which the log doesn't count.
        max_events = min(self._page_events, 1 + granted // (2 * FRAMING))
        page = await self._log.page(
            self.user,
            after=self._read,
            through=through,
            max_events=max_events,
            max_bytes=max(0, granted - max_events * FRAMING),
            later_than=self._later_than,
        )
        if not filtered and through < page.lost <= self._log.head:
            # Deleted above what was asked for: the device may still get it from the feed, so
            # whether it is a loss shows when this has been read again, further.
            return page.lost
        # From here on nothing is awaited: what was dispatched by now either lies in the
        # page, or is at hand in the feed, or is handed over once the session is live.
        self._read = page.through
        if self._tell_loss(page.lost):
            self._feed.replays.gaps["expired"] += 1
        self._write(page.events)
        if page.complete and filtered:
            self._later_than = None
        elif page.complete:
            self._join(page.through, max(0, granted - _written(page.events)))
        return 0

    def _write(self, events: Sequence[Event]) -> None:
        super()._write(events)
        if events:
            self._feed.replays.events += len(events)
            trace = Trace(self._log.epoch)
            if trace.on:
                trace.replayed(self.user, self.connection, events)

    def _join_at_once(self) -> bool:
        """Turn live without a page, if the feed has what the device missed and nothing is lost.

        Most reconnects are of devices that were away for a moment and missed nothing; a page
        would cost each of them half of what its connection does.
        """
        events = self._feed.since(self.user, self.position)
        if events:
            spare = self.outbox.budget.spare - self.outbox.size
            # What is at hand may be gone from the log, and then that is to be told.
            gone = self._log.deleted_through(self.user) > self.position
            if gone or _written(events) > min(self._page_bytes, spare):
                return False
        if events is not None:
            self._turn_live(events)
        return self._live

    def _join(self, through: int, left: int) -> None:
        """Turn live if what was dispatched after the page is at hand and in what is left."""
        events = self._feed.since(self.user, through)
        if events is not None and _written(events) <= left:
            self._turn_live(events)

    def _turn_live(self, events: Sequence[Event]) -> None:
        """Write what was dispatched since, and have the hub hand over what comes."""
        self._write(events)
        held, self._held = self._held, None
        if held is not None:
            messages = list(held.take_before(self._feed.dispatched + 1))
            self._push(b"".join(messages))
            self.sent += len(messages)
            self.dropped += held.dropped
        self._live = True
        self._say_live()
        self._feed.turned(self.user, self.connection, live=True, position=self.position)


def _written(events: Sequence[Event]) -> int:
    """Return how many bytes events have as messages, at most."""
    return sum(len(event.tail) + FRAMING for event in events)
