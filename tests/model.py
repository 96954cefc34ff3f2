"""What the property tests hold the server's core against.

A world is one log, one hub, their order queue and their devices, with outboxes that end in a
list and a log whose calls complete when they are told to; and it knows what each device is owed.

The hub, the order queue, the sessions and the log (see `keeping`) are the real ones.
"""

import asyncio
import itertools
import json
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from archibald_rt import timestamps
from archibald_rt.budget import Budget
from archibald_rt.emissions import EmissionReader
from archibald_rt.ends import Resume
from archibald_rt.errors import EmissionError, LogUnavailableError
from archibald_rt.eventlog import (
    KeyConflict,
    Lasts,
    Page,
    Retention,
    Stored,
    Turn,
)
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.peers import Peers
from archibald_rt.events import (
    EARLIEST,
    Cursor,
    Emission,
    Outcome,
    TransientTypes,
    content_of,
    timestamp_of,
)
from archibald_rt.held import OVERHEAD
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.protocol import V1, V2, Frames
from archibald_rt.revocations import Revocation
from archibald_rt.session import Session
from archibald_rt.sse import Sse
from archibald_rt.timestamps import Stamper
from keeping import InFile, Keeping, Prune, Row, index_of
from turns import PATIENCE, FakeOutbox, Kind, Written, events_in, texts_in

TURNS = 20_000
"""Within how many turns of the loop everything has to settle."""

HELD_LIMIT = 64 * 1024
"""How many bytes of transient events are held for a device that is behind."""

LARGEST = 1000
"""How many bytes the largest durable event has as a message."""


def stamp(second: int, index: int) -> str:
    """Return the timestamp of the emission `index`: its decimals tell which one it is."""
    return f"2026-01-01T00:00:{second:02d}.{index:09d}Z"


@dataclass(eq=False)
class Request:
    """What one emitter asked for at once."""

    emissions: list[Emission]
    submitted: int = 0
    answered: int | None = None
    outcomes: list[Outcome] | None = None
    error: BaseException | None = None

    @property
    def stored(self) -> list[tuple[Emission, Outcome]]:
        """The emissions that were stored for this request, in order."""
        pairs = zip(self.emissions, self.outcomes or [], strict=self.outcomes is not None)
        return [(e, o) for e, o in pairs if o.durable and not o.duplicate]


@dataclass(frozen=True)
class Seen:
    """A message as it was put into an outbox, and what was so at that moment."""

    tick: int
    text: bytes
    message: dict[str, Any]
    offered: bool
    dispatched: int
    page_tick: int
    last_id: str | None


class WatchedSession(Session):
    """A session that says which transient events it was handed."""

    device: "Device"

    def deliver_transient(self, frames: Frames, conflate: str | None) -> bool:
        spare = self.outbox.budget.spare
        taken = super().deliver_transient(frames, conflate)
        written = next(self.device.split(frames.transient(self.dialect)))
        index = index_of(json.loads(written.text)["timestamp"])
        self.device.handed(index, frames.size, conflate, spare=spare, taken=taken)
        return taken


@dataclass
class Place:
    """How a device asks to begin."""

    kind: str = "live"
    """``live``, ``earliest``, ``seq``, ``text``, ``again`` or ``instant``."""
    number: int = 0
    text: str = ""


class Device:
    """One connection, and a simple notion of what it must be told."""

    def __init__(
        self,
        world: "World",
        user: str,
        *,
        v2: bool,
        place: Place,
        limit: int,
        page_events: int,
        flowing: bool,
        sse: bool = False,
    ) -> None:
        self.world = world
        self.user = user
        self.v2 = v2
        self.sse = sse
        self.split = events_in if sse else texts_in
        self.place = place
        self.limit = limit
        self.seen: list[Seen] = []
        self.indexes: set[int] = set()
        self.offered: list[int] = []
        self.page_tick = 0
        self.gone = False
        self.dropped = 0
        self.handed_to: set[int] = set()
        self._held: list[tuple[int, int, str | None, int]] = []
        self._page_events = page_events
        self._flowing = flowing
        self.session: WatchedSession | None = None

    def connect(self) -> None:
        """Register and start, as a handler does: in one turn of the loop."""
        world = self.world
        self.connected = world.tick()
        self.registered_at = world.hub.dispatched
        self.resume = self._resume()
        self.outbox = FakeOutbox(
            world.budget,
            limit=self.limit,
            flowing=self._flowing,
            split=self.split,
            put=self._put,
            rose=world.assert_within_the_total,
        )
        session = WatchedSession(
            self.user,
            world.sse if self.sse else world.v2 if self.v2 else world.v1,
            self.outbox,
            world.hub,
            LogView(world, self),
            connection="c",
            heartbeat=30.0,
            page_events=self._page_events,
            page_bytes=self.limit // 2,
            end=world.loop.faults.append,
        )
        session.device = self
        self.session = session
        world.hub.register(session)
        session.start(self.resume)

    def drop(self) -> None:
        """End the connection; doing it again does nothing."""
        if self.session is not None and not self.gone:
            self.gone = True
            self.world.hub.unregister(self.session)
            self.outbox.close()

    def read_on(self) -> None:
        """Let all that is written leave its outbox from now on."""
        if self.connected_now:
            self.outbox.flow(flowing=True)

    @property
    def connected_now(self) -> bool:
        return self.session is not None and not self.gone

    @property
    def settled(self) -> bool:
        """Whether it is live and has all that was written."""
        if self.gone:
            return True
        return self.session is not None and self.session.live and not self.outbox.size

    def last_id(self) -> str | None:
        """Return the cursor its client would hand back: of what has left the outbox whole."""
        if self.session is None:
            return None
        for seen in reversed(self.seen[: self.outbox.drained]):
            if self.sse:
                if seen.last_id is not None:
                    return seen.last_id
                continue
            if "id" in seen.message:
                return str(seen.message["id"])
            if seen.message["type"] == "rt.welcome":
                return str(seen.message["payload"]["cursor"])
        return None

    @property
    def kept(self) -> int:
        """How many bytes of memory its events take, held ones included."""
        if not self.connected_now:
            return 0
        return self.outbox.events + sum(size + OVERHEAD for _, size, *_ in self._held)

    def handed(
        self, index: int, size: int, conflate: str | None, *, spare: int, taken: bool
    ) -> None:
        """Note a transient event that the hub handed over; held, unless it was taken."""
        self.handed_to.add(index)
        if taken:
            assert self.offered[-1:] == [index], "said to be in the outbox, and is not"
        elif not self.gone:
            # What was spare, and what is held already, are all it may have.
            spare += sum(size + OVERHEAD for _, size, *_ in self._held)
            if conflate is not None:
                self._held = [each for each in self._held if each[2] != conflate]
            self._held.append((index, size, conflate, self.world.hub.dispatched))
            while self._held:
                held = sum(size for _, size, *_ in self._held)
                kept = held + len(self._held) * OVERHEAD
                if held <= HELD_LIMIT and 2 * kept <= spare:
                    break
                self._held.pop(0)
                self.dropped += 1
            self.world.assert_within_the_total()

    def _resume(self) -> Resume:
        place, world = self.place, self.world
        if place.kind == "live":
            return Resume()
        if place.kind == "instant":
            return Resume(later_than=timestamps.parse(stamp(place.number, 0)[:19] + ".9Z"))
        if place.kind == "earliest":
            return Resume(event_id=EARLIEST)
        if place.kind == "text":
            return Resume(event_id=place.text)
        if place.kind == "again":
            others = [each for each in world.devices if each.v2 and each.user == self.user]
            before = others[place.number % len(others)].last_id()
            return Resume(event_id=before or EARLIEST)
        # Places a little above what was dispatched are from the future.
        seq = place.number * (world.hub.dispatched + 3) // 30
        return Resume(event_id=str(Cursor(world.log.epoch, seq)))

    def _put(self, written: Written, offered: bool) -> Kind:  # noqa: FBT001 - the outbox's callback
        """Note a message; says what it is. What can only be seen now is checked."""
        assert self.session is not None
        world = self.world
        message = json.loads(written.text)
        self.seen.append(
            Seen(
                world.tick(),
                written.text,
                message,
                offered,
                world.hub.dispatched,
                self.page_tick,
                written.last_id,
            )
        )
        if self.sse:
            own = message["type"].startswith("rt.")
            assert written.kind == (message["type"] if own else "message")
        kind = Kind.CONTROL
        if message["type"] == "rt.welcome":
            self._begin_at(Cursor.parse(message["payload"]["cursor"]))
        if not message["type"].startswith("rt."):
            index = index_of(message["timestamp"])
            self.indexes.add(index)
            kind = Kind.EVENT
            if offered:
                self.offered.append(index)
            if world.durable[index]:
                world.assert_committed(index, self.user)
            elif not offered:
                kind = Kind.HELD
                kept = [each for each in self._held if each[0] != index]
                assert len(kept) < len(self._held), f"transient {index} was not held any more"
                self._held = kept
        self._assert_bounded()
        return kind

    def _begin_at(self, cursor: Cursor | None) -> None:
        """Give up what was held and goes before a cursor that the server had to wait for."""
        if cursor is not None and cursor.seq > self.registered_at:
            kept = [each for each in self._held if each[3] >= cursor.seq]
            self.dropped += len(self._held) - len(kept)
            self._held = kept

    def _assert_bounded(self) -> None:
        held, other = self.outbox.waiting
        largest = max((len(seen.text) for seen in self.seen[self.outbox.drained :]), default=0)
        assert held <= HELD_LIMIT, "more was held than may be"
        assert other <= self.limit + self.limit // 2 + largest, "the outbox is over its bound"

    # -- What was written, looked at afterwards ------------------------------------------

    def check(self, *, settled: bool) -> None:
        """Compare all that was written with what was to be."""
        if self.session is None:
            return
        if self.v2:
            self._check_v2(settled=settled)
        else:
            self._check_v1(settled=settled)
        events = sum(not seen.message["type"].startswith("rt.") for seen in self.seen)
        assert self.session.sent == events
        assert self.session.dropped == self.dropped
        if settled and not self.gone:
            assert self.session.live
            assert not self._held, f"never written: {self._held}"

    def _check_v1(self, *, settled: bool) -> None:
        stream = self.world.stream(self.user)
        after = self.resume.later_than
        owed = [
            row
            for row in stream
            if row.seq > self.registered_at or (after is not None and row.instant > after)
        ]
        places = {row.index: place for place, row in enumerate(owed)}
        place, last = -1, -1
        for seen in self.seen:
            assert list(seen.message) == ["type", "payload", "timestamp"]
            index = self.check_event(seen, b"{", last)
            if self.world.durable[index]:
                assert index in places, "a durable event it was not to get"
                for row in owed[place + 1 : places[index]]:
                    assert row.gone(seen.tick), f"{row.seq} was left out"
                place = places[index]
            last = index
        if settled and not self.gone:
            for row in owed[place + 1 :]:
                assert row.gone(self.world.now), f"{row.seq} was left out"

    def _check_v2(self, *, settled: bool) -> None:
        stream = self.world.stream(self.user)
        if not self.seen:
            assert self.gone or not settled
            return
        walk = _Walk(self, stream, self._check_welcome(stream, self.seen[0]))
        walk.assert_kept(self.seen[0])
        rest = self.seen[1:]
        if (reason := self._reason(self.seen[0])) is not None and rest:
            walk.assert_kept(rest[0])
            gap = rest.pop(0).message
            assert gap["type"] == "rt.gap"
            assert gap["payload"] == {
                "requested": str(self.resume.event_id)[:200],
                "missingThrough": None,
                "reason": reason,
            }
        if not self.resume:
            assert rest[0].message["type"] == "rt.live"
        for seen in rest:
            walk.step(seen)
        if settled and not self.gone:
            assert walk.live, "rt.live never came"
            walk.assert_told(self.world.hub.dispatched, self.world.now)

    def check_event(self, seen: Seen, head: bytes, last: int) -> int:
        """Check an event's bytes, its place after the one before, and whose it is."""
        index = index_of(seen.message["timestamp"])
        users, tail = self.world.made[index]
        assert seen.text == head + tail
        assert self.user in users or None in users, "an event of another user"
        assert index > last, f"{index} was overtaken, or came twice"
        return index

    def _reason(self, welcome: Seen) -> str | None:
        text = self.resume.event_id
        if text is None or text == EARLIEST:
            return None
        cursor = Cursor.parse(text)
        if cursor is None or cursor.epoch != self.world.log.epoch:
            return "epoch"
        # Its place is looked up between the connect and the welcome.
        if cursor.seq <= self.registered_at:
            return None
        if cursor.seq > welcome.dispatched:
            return "ahead"
        return None if welcome.message["payload"]["cursor"] == text else "ahead"

    def _check_welcome(self, stream: Sequence[Row], welcome: Seen) -> int:
        assert welcome.message["type"] == "rt.welcome"
        payload = welcome.message["payload"]
        assert payload["replay"] is bool(self.resume)
        position = self.world.seq(payload["cursor"])
        if not self.resume:
            assert position == self.registered_at
        elif self.resume.event_id != EARLIEST and self._reason(welcome) is None:
            assert payload["cursor"] == self.resume.event_id
        else:
            # Just below what was the first retained at some moment since the connect.
            allowed, all_gone = set(), True
            for row in stream:
                if row.seq > self.registered_at or not all_gone:
                    break
                if not row.surely_gone(self.connected):
                    allowed.add(row.seq - 1)
                all_gone = row.gone(welcome.tick)
            if all_gone:
                allowed.add(self.registered_at)
            assert position in allowed, f"welcomed at {position}, not in {allowed}"
        return position


class _Walk:
    """Goes over what a v2 device was written after its welcome, a message at a time."""

    def __init__(self, device: Device, stream: Sequence[Row], position: int) -> None:
        self.live = False
        self._device = device
        self._world = device.world
        self._stream = stream
        self._rows = {row.seq: row for row in stream}
        self._position = position
        self._told = 0
        self._lost: set[int] = set()
        self._count = 0
        self._last = -1

    def step(self, seen: Seen) -> None:
        if seen.message["type"] == "rt.gap":
            self._gap(seen)
        elif seen.message["type"] == "rt.live":
            assert not self.live, "rt.live came twice"
            self.live = True
            cursor = self._world.cursor(self._position)
            assert seen.message["payload"] == {"cursor": cursor, "replayed": self._count}
            self.assert_told(seen.dispatched, seen.tick)
        elif "id" in seen.message:
            self._durable(seen)
        else:
            self._last = self._device.check_event(seen, b"{", self._last)
            assert not self._world.durable[self._last]
            assert seen.last_id is None, "a transient event has an id"
            return
        self.assert_kept(seen)

    def assert_kept(self, seen: Seen) -> None:
        """Check that a reader of Server-Sent Events keeps where it stands now."""
        if self._device.sse:
            assert seen.last_id == self._world.cursor(self._position)

    def assert_told(self, through: int, tick: int) -> None:
        """Check that what was left out after the position is gone, and was told."""
        for row in self._after_position():
            if row.seq > through:
                break
            assert row.gone(tick), f"{row.seq} was left out"
            assert row.seq <= self._told, f"the loss of {row.seq} was not told"

    def _gap(self, seen: Seen) -> None:
        payload = seen.message["payload"]
        assert payload["reason"] == "expired"
        assert payload["requested"] == self._world.cursor(self._position)
        missing = self._world.seq(payload["missingThrough"])
        assert missing > max(self._position, self._told), "a loss was told that is none, or twice"
        if missing in self._rows or self._world.keeping.engine.exact:
            assert missing in self._rows, "the loss is not of this stream"
            assert self._rows[missing].gone(seen.tick), "a loss was told of what is there"
        else:
            rows = self._world.rows().values()
            before = [row for row in rows if row.seq <= missing]
            assert all(row.gone(seen.tick) for row in before), "others' losses, and not all of them"
        self._told = missing
        self._lost.add(missing)

    def _durable(self, seen: Seen) -> None:
        seq = self._world.seq(seen.message["id"])
        prev = self._world.cursor(self._position)
        head = f'{{"id":"{self._world.cursor(seq)}","prev":"{prev}",'
        assert seq > self._position, "a durable event came twice, or too late"
        assert seq in self._rows, "a durable event of another stream"
        assert seq not in self._lost, "a loss was told of an event that came"
        self._last = self._device.check_event(seen, head.encode(), self._last)
        assert self._rows[seq].index == self._last
        self.assert_told(seq - 1, seen.tick)
        if not seen.offered:
            # All that was gone when its page was read has to be told before it.
            for row in self._after_position():
                if row.surely_gone(seen.page_tick):
                    assert row.seq <= self._told, f"the loss of {row.seq} was told too late"
        self._position = seq
        self._count += 1

    def _after_position(self) -> Sequence[Row]:
        return self._stream[bisect_right(self._stream, self._position, key=_seq) :]


def _seq(row: Row) -> int:
    return row.seq


class LogView:
    """The log as the order queue or a session sees it: its calls wait at the world's gates."""

    def __init__(self, world: "World", device: Device | None = None) -> None:
        self._world = world
        self._log = world.log
        self._device = device

    @property
    def peers(self) -> Peers | None:
        return self._log.peers

    @property
    def most(self) -> int:
        return self._log.most

    @property
    def epoch(self) -> str:
        return self._log.epoch

    @property
    def head(self) -> int:
        return self._log.head

    @property
    def last_stamp_ms(self) -> int:
        return self._log.last_stamp_ms

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        await self._world.gate("before append")
        if self._world.failing:
            self._world.failing -= 1
            raise LogUnavailableError("the disk is full")
        prune = Prune(self._world.tick())
        with self._world.keeping.calling():
            results = await self._log.append(groups)
        prune.done = self._world.tick()
        self._world.keeping.appended(prune, groups, results)
        await self._world.gate("after append")
        return results

    async def page(self, user: str, **options: Any) -> Page:
        await self._world.gate("before page")
        begun = self._world.tick()
        with self._world.keeping.calling():
            page = await self._log.page(user, **options)
        await self._world.gate("after page")
        if self._device is not None:
            self._device.page_tick = begun
        return page

    async def first(self, user: str) -> int | None:
        await self._world.gate("before first")
        with self._world.keeping.calling():
            seq = await self._log.first(user)
        await self._world.gate("after first")
        return seq

    async def oldest(self) -> int | None:
        return await self._log.oldest()

    async def lasts(self, count: int) -> Lasts:
        return await self._log.lasts(count)

    def deleted_through(self, user: str) -> int:
        return self._log.deleted_through(user)

    async def probe(self) -> None:
        await self._log.probe()

    async def prune(self, retention: Retention, turn: Turn, deleted: Callable[[int], None]) -> None:
        await self._log.prune(retention, turn, deleted)

    async def erase(self, user: str, turn: Turn) -> int:
        return await self._log.erase(user, turn)

    async def revocations(self) -> Sequence[Revocation]:
        return await self._log.revocations()

    async def revoke(self, revocation: Revocation, turn: Turn) -> None:
        await self._log.revoke(revocation, turn)

    async def forget_revoked(self, expired_before: int, turn: Turn) -> None:
        await self._log.forget_revoked(expired_before, turn)

    async def size(self) -> int:
        return await self._log.size()

    async def close(self) -> None:
        raise AssertionError("nobody but the world closes the log")


class World:
    """One log, one hub and their order queue, on a loop that is run turn by turn.

    What is done to it is done inside the next turn, in the order it was asked for.
    """

    def __init__(
        self, keeping: Keeping, *, recent: int, total: int = 0, gates: frozenset[str] = frozenset()
    ) -> None:
        self.keeping = keeping
        self.loop = keeping.loop
        self.total = total
        self.now = 0
        self.devices: list[Device] = []
        self.requests: list[Request] = []
        self.failing = 0
        """How many commits are to fail."""
        self.sound = True
        """Whether nothing has gone wrong so far."""
        self.made: dict[int, tuple[set[str | None], bytes]] = {}
        """Whom each emission was for, and its tail."""
        self.durable: dict[int, bool] = {}
        self._of: dict[int, Request] = {}
        self._unanswered: deque[Request] = deque()
        self._gated = gates
        self._gates: list[asyncio.Future[None]] = []
        self._prunes: list[Prune] = []
        self._reader = EmissionReader(Stamper(), TransientTypes(()), max_event=65536)
        self._stack = AsyncExitStack()
        self.loop.run_until_complete(self._open(recent))
        self.loop.count_from_here()

    async def _open(self, recent: int) -> None:
        await self.keeping.open(self._stack)
        self.log = self.keeping.log
        self.hub = Hub(self.log.head, recent=recent)
        self.budget = Budget(limit=self.total, largest=LARGEST)
        self.order = OrderQueue(
            LogView(self),
            self.hub,
            max_bytes=0,
            on_broken=self.loop.faults.append,
            probe_every=self.keeping.probe_every,
        )
        self.keeping.attach(self.hub, self.order)
        self.v1, self.v2 = V1(), V2(self.log.epoch, Stamper())
        self.sse = Sse(self.log.epoch, Stamper())

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self._open_gates()
        for device in self.devices:
            device.drop()
        self.loop.run_until_complete(self._end())
        self.keeping.close()
        self.loop.close()

    async def _end(self) -> None:
        await asyncio.wait_for(self.order.close(), PATIENCE)
        if self.keeping.engine.alone:
            await _gathered()
            await self._stack.aclose()
        else:
            # Tasks of its connection go on until that is closed.
            await self._stack.aclose()
            await _gathered()

    # -- Doing something -----------------------------------------------------------------

    def tick(self) -> int:
        """Return a new moment: later than all before it."""
        self.now += 1
        return self.now

    def soon(self, action: Callable[[], object]) -> None:
        """Do something inside the next turn."""
        self.loop.call_soon(action)

    def turns(self, count: int, *, patient: bool) -> None:
        """Run the loop so many turns."""
        for _ in range(count):
            self.loop.turn(patient=patient)
            self.raise_faults()

    def emit(self, items: Sequence[Mapping[str, Any]], *, broadcast: bool = False) -> None:
        """Have one request's items emitted; each is stamped so that it is known again."""
        request = Request([])
        bodies = []
        for item in items:
            index = len(self.made)
            body = {key: value for key, value in item.items() if key != "second"}
            body["timestamp"] = stamp(item["second"], index)
            bodies.append(body)
            users = {body["userId"]} if "userId" in body else set(body.get("userIds", [None]))
            self.made[index] = (users, b"")
            self.durable[index] = body["durable"]
            self._of[index] = request
        if broadcast:
            request.emissions = [self._reader.read_broadcast(json.dumps(bodies[0]).encode())]
        else:
            request.emissions = self._reader.read(json.dumps(bodies).encode())[0]
        for emission in request.emissions:
            index = index_of(emission.timestamp)
            self.made[index] = (self.made[index][0], emission.tail)
        self.requests.append(request)
        self.soon(lambda: self._submit(request))

    def _submit(self, request: Request) -> None:
        request.submitted = self.tick()
        self._unanswered.append(request)
        answer = self.order.submit(request.emissions)
        answer.add_done_callback(lambda done: self._answered(request, done))

    def connect(self, user: str, **how: Any) -> None:
        """Have a device connect."""
        device = Device(self, user, **how)
        self.devices.append(device)
        self.soon(device.connect)

    def kick(self, user: str) -> None:
        """Take out all devices of a user in one turn; nothing may be written to them after it."""

        def out() -> None:
            for device in self.devices:
                if device.user == user:
                    device.drop()

        self.soon(out)

    def prune(self, owner: str | None, count: int) -> None:
        """Delete the oldest events of a user, or broadcasts, whatever else goes on."""
        assert isinstance(self.keeping, InFile), "JetStream has nothing like it"
        delete = partial(self.keeping.delete_of, owner, count)
        self.soon(lambda: self._delete(delete, between=False))

    def prune_all(self, count: int, *, between: bool) -> None:
        """Delete what was committed first, of all users, as retention by age does."""
        delete = partial(self.keeping.delete_first, count)
        self.soon(lambda: self._delete(delete, between=between))

    def erase(self, user: str) -> None:
        """Delete all of a user's own events, between two groups, as erasure does."""

        def begin() -> None:
            task = self._delete(partial(self.keeping.erase, user), between=True)
            task.add_done_callback(lambda _done: self.hub.forget())

        self.soon(begin)

    def _delete(
        self, delete: Callable[[Prune], Awaitable[None]], *, between: bool
    ) -> "asyncio.Task[int]":
        prune = Prune(self.tick())
        self._prunes.append(prune)

        async def step() -> int:
            prune.started = self.tick()
            await delete(prune)
            return 0

        def done(task: asyncio.Task[int]) -> None:
            task.result()
            prune.done = self.tick()

        task = self.loop.create_task(self.order.between(step) if between else _plainly(step))
        task.add_done_callback(done)
        return task

    def release(self, number: int) -> None:
        """Let one of the calls to the log that wait at a gate go on."""
        if waiting := [gate for gate in self._gates if not gate.done()]:
            waiting[number % len(waiting)].set_result(None)

    async def gate(self, name: str) -> None:
        """Wait until one is let through a gate, if there is one of this name."""
        if name in self._gated:
            gate = self.loop.create_future()
            self._gates.append(gate)
            try:
                await gate
            finally:
                self._gates.remove(gate)

    def _open_gates(self) -> None:
        self._gated = frozenset()
        for gate in self._gates:
            if not gate.done():
                gate.set_result(None)

    def settle(self) -> None:
        """Let everything come to rest, and compare it with what was to be."""
        gated = self._gated
        self.sound = False
        self._open_gates()
        for device in self.devices:
            self.soon(device.read_on)
        bound = self.loop.time() + PATIENCE
        for turn in itertools.count():
            self.turns(1, patient=True)
            if self._at_rest():
                break
            # Turns are short where it is a clock that is waited for.
            late = turn > TURNS and self.loop.time() > bound
            assert not late, f"it never came to rest: {self._restless()}"
        self._gated = gated
        self.check()
        self.sound = True

    def _restless(self) -> list[str]:
        found = [f"{request} has no answer" for request in self.requests if not request.answered]
        found += [f"{device} is behind" for device in self.devices if not device.settled]
        found += [f"{prune} is not done" for prune in self._prunes if prune.done is None]
        return found + (["memory was not given back"] if self.budget.used else [])

    def _at_rest(self) -> bool:
        return (
            not self._unanswered
            and all(request.answered is not None for request in self.requests)
            and all(device.settled for device in self.devices)
            and all(prune.done is not None for prune in self._prunes)
            # A pump that was stopped in the middle of a page gives that back a turn later.
            and self.budget.used == 0
        )

    # -- What is so ----------------------------------------------------------------------

    def raise_faults(self) -> None:
        """Raise what went wrong inside the loop."""
        if self.loop.faults:
            self.sound = False
            raise self.loop.faults[0]

    def cursor(self, seq: int) -> str:
        return str(Cursor(self.log.epoch, seq))

    def seq(self, cursor: str) -> int:
        parsed = Cursor.parse(cursor)
        assert parsed is not None
        assert parsed.epoch == self.log.epoch
        return parsed.seq

    def rows(self) -> dict[int, Row]:
        """Return every durable event that an independent reader sees in the log, or saw."""
        return self.keeping.rows()

    def stream(self, user: str) -> list[Row]:
        """Return all that a user was ever owed, by seq."""
        rows = sorted(self.rows().values(), key=_seq)
        return [row for row in rows if row.user is None or row.user == user]

    def assert_within_the_total(self) -> None:
        """Check that all events that wait anywhere are within the bound of all together."""
        if self.total:
            assert sum(device.kept for device in self.devices) <= self.total, "over the total"

    def assert_committed(self, index: int, user: str) -> None:
        """Check that a durable event is on disk at this moment, and its whole batch with it."""
        stored = {(row.index, row.user) for row in self.rows().values()}
        assert (index, user) in stored or (index, None) in stored, "delivered before its commit"
        for emission in self._of[index].emissions:
            if emission.durable and emission.key is None:
                place = (index_of(emission.timestamp), emission.user)
                assert place in stored, "a batch was delivered before all of it was committed"

    def _answered(self, request: Request, done: "asyncio.Future[list[Outcome]]") -> None:
        request.answered = self.tick()
        assert self._unanswered.popleft() is request, "answered out of turn"
        request.error = done.exception()
        if isinstance(request.error, EmissionError):
            assert request.error.status == 409
            self._check_conflict(request, request.error.indexes)
        elif request.error is not None:
            assert isinstance(request.error, LogUnavailableError)
        else:
            request.outcomes = done.result()
            for emission, outcome in zip(request.emissions, request.outcomes, strict=True):
                self._check_outcome(request, emission, outcome)

    def _check_outcome(self, request: Request, emission: Emission, outcome: Outcome) -> None:
        index = index_of(emission.timestamp)
        assert outcome.durable is emission.durable
        if outcome.duplicate:
            assert outcome.delivered == 0
            assert outcome.seq is not None
            first = self.rows()[outcome.seq]
            assert (first.user, first.key) == (emission.user, emission.key)
            assert content_of(first.tail) == emission.content
            assert timestamp_of(first.tail) == outcome.timestamp
            return
        assert outcome.timestamp == emission.timestamp
        devices = [
            device
            for device in self.devices
            if device.connected_now and emission.user in {None, device.user}
        ]
        gone = [each for each in self.devices if each.gone and emission.user in {None, each.user}]
        assert outcome.delivered == sum(each.offered.count(index) for each in devices + gone)
        if outcome.seq is None:
            for device in devices:
                if device.connected < request.submitted:
                    assert index in device.handed_to, "a device never got a transient event"
            return
        row = self.rows().get(outcome.seq)
        assert row is not None, "answered before it was on disk"
        assert (row.user, row.index) == (emission.user, index)
        for other in self.rows().values():
            if emission.key is not None and other.seq < row.seq and not other.gone(self.now):
                assert (other.user, other.key) != (row.user, row.key), "a key was used twice"
        for device in devices:
            if device.connected < request.submitted and device.session and device.session.live:
                assert index in device.indexes or row.gone(self.now), "answered before delivered"

    def _check_conflict(self, request: Request, items: Sequence[int]) -> None:
        """Check that each item that was named is in conflict, or what came alone is."""
        named: Sequence[int | None] = items or [None]
        for item in named:
            places = [at for at, each in enumerate(request.emissions) if each.item == item]
            assert any(self._conflicts(request, at) for at in places)

    def _conflicts(self, request: Request, at: int) -> bool:
        refused = request.emissions[at]
        contents = [
            emission.content
            for emission in request.emissions[:at]
            if (emission.user, emission.key) == (refused.user, refused.key)
        ]
        contents += [
            content_of(row.tail)
            for row in self.rows().values()
            if (row.user, row.key) == (refused.user, refused.key)
        ]
        return any(content != refused.content for content in contents)

    def check(self) -> None:
        """Compare everything with what was to be; all is at rest."""
        self.raise_faults()
        rows = self.rows()
        stored = [pair for request in self.requests for pair in request.stored]
        # What was answered is what is in the file, in the order it was accepted, and nothing else.
        assert [outcome.seq for _, outcome in stored] == sorted(rows)
        self.keeping.assert_kept([seq for seq in sorted(rows) if rows[seq].prune is None])
        for emission, outcome in stored:
            assert outcome.seq is not None
            assert rows[outcome.seq].tail == emission.tail
        for request in self.requests:
            if request.error is not None:
                refused = {index_of(emission.timestamp) for emission in request.emissions}
                for device in self.devices:
                    assert not refused & device.indexes, "delivered, and answered with an error"
        for device in self.devices:
            device.check(settled=True)
        assert self.budget.used == 0, "memory was not given back"
        # The figures hold for those that have gone as well.
        sessions = [device.session for device in self.devices if device.session is not None]
        assert self.hub.sent == sum(session.sent for session in sessions)
        assert self.hub.dropped == sum(device.dropped for device in self.devices)


async def _gathered() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*left, return_exceptions=True)


async def _plainly(step: Step) -> int:
    return await step()
