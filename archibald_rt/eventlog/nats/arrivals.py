"""What has arrived from the stream and from the other servers, in the order of its dispatch."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import nats.errors
import structlog
from nats.aio.msg import Msg

from archibald_rt.errors import LogError, LogUnavailableError
from archibald_rt.eventlog.nats.asking import Asking
from archibald_rt.eventlog.nats.jet import ANSWER_WITHIN, UNSENT, Got, Jet, Message
from archibald_rt.eventlog.nats.lateness import Lateness
from archibald_rt.eventlog.nats.marks import Marks
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.peers import Answers, Arrival, PeerHooks
from archibald_rt.events import Emission

WAITING = 8 * 1024 * 1024
"""How many bytes may wait here to be dispatched; the rest waits at the NATS server.

What is transient can't wait there: it is given up.
"""

HELD = 10_000, 8 * 1024 * 1024
"""How many transient events, of how many bytes, may wait for the durable ones before them; those
that wait for the earliest go first."""

LATE = 10.0
"""After how many seconds what waits here means that the server can't do its work."""

_UNREAD = WAITING
_AFTER, _CONFLATE, _FROM = "Rt-After", "Rt-Conflate", "Rt-From"


_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


def nothing(*_: object) -> None:
    """Do nothing."""


def nothing_here(_: bytes) -> bytes:
    """Answer whatever is asked: nobody is served yet."""
    return b""


UNHEARD = PeerHooks(nothing, nothing, nothing, nothing, nothing_here, nothing, nothing, nothing)


class Arrivals:
    """The `Peers` on a stream; ``position`` is the last seq that was not to arrive.

    Transient events are held until the durable ones before them have arrived.
    """

    def __init__(self, jet: Jet, names: Names, marks: Marks, *, position: int) -> None:
        self._jet = jet
        self._names = names
        self._marks = marks
        self._asking = Asking(jet, names, marks, UNHEARD)
        self.position = position
        """The seq of the last message that has arrived, for anybody or nobody."""
        self.hooks = UNHEARD
        self._waiting: deque[Arrival] = deque()
        self._size = 0
        # Where it was when something did not arrive in time: until it moves nobody waits again.
        self._stood_at: int | None = None
        # By the seq they go behind, those of the same one in the order they came.
        self._held: list[tuple[int, int, Arrival]] = []
        self._held_size = 0
        self._count = 0
        self.dropped = 0
        """See `Peers.dropped`."""
        self._pending = 0
        self._lateness = Lateness()
        # How many came that are to be taken, of all times, and how many were.
        self._came = self._went = 0
        self.silence: Callable[[], LogError | None] = nothing
        """Why nothing comes from the stream, None where it does."""
        self._moved = asyncio.Event()
        self._taken = asyncio.Event()

    def attach(self, hooks: PeerHooks) -> None:
        """See `Peers.attach`."""
        self.hooks = self._asking.hooks = hooks
        hooks.watched(self._marks.watched)
        if self._waiting:
            hooks.arrived()

    @property
    def waiting(self) -> bool:
        """See `Peers.waiting`."""
        return bool(self._waiting) and self.current

    @property
    def lag(self) -> int:
        """See `Peers.lag`."""
        return self._pending + self._came - self._went

    @property
    def late(self) -> float:
        """See `Peers.late`."""
        return self._lateness.seconds

    @property
    def fault(self) -> LogError | None:
        """See `Peers.fault`."""
        if (silence := self.silence()) is not None:
            return silence
        if (late := self.late) >= LATE:
            return LogUnavailableError(
                f"what is committed is dispatched too late: {self.lag} events wait, the first for"
                f" {late:.0f} s"
            )
        return None

    def expect(self, count: int) -> None:
        """Take note how many messages are to come from the stream, as far as is known."""
        self._pending = count
        self._lateness.there(self._came + count)

    def take(self) -> Arrival | None:
        """See `Peers.take`."""
        if not self.waiting:
            return None
        arrival = self._waiting.popleft()
        self._size -= _size(arrival)
        self._taken.set()
        if arrival.seq is not None:
            self._went += 1
            self._lateness.taken(self._went)
        return arrival

    async def through(self, seq: int) -> AsyncIterator[Arrival]:
        """See `Peers.through`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_WITHIN
        while True:
            while self.waiting and (self._waiting[0].seq or 0) <= seq:
                arrival = self.take()
                if arrival is not None:
                    yield arrival
                    if arrival.seq == seq:
                        return
            if self.waiting and self._waiting[0].emission is None:
                # It stands for this event as well. The rest stays: a transient event has its place
                # behind this one, and before what else is gone.
                yield Arrival(None, seq, seq)
                return
            if self.position >= seq or self._stood_at == self.position or not self.current:
                return
            self._moved.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._moved.wait()
            except TimeoutError:
                self._stood_at = self.position
                return

    def passed(self, seq: int) -> bool:
        """See `Peers.passed`."""
        first = next((each.seq for each in self._waiting if each.seq is not None), seq + 1)
        return self.position >= seq < first

    async def has(self, seq: int) -> bool:
        """See `Peers.has`."""
        info = await self._jet.ask(f"STREAM.INFO.{self._names.stream}")
        if info is not None and seq <= info["state"]["last_seq"]:
            return True
        # A leader that was cut off may answer before it knows of that; it can't store any more.
        return seq < await self._jet.store([Message(self._names.probe, b"")])

    def defer(self, emission: Emission, after: int) -> None:
        """See `Peers.defer`."""
        arrival = Arrival(emission, None, after)
        if after <= self.position:
            self._add(arrival)
            return
        self._count += 1
        insort(self._held, (after, self._count, arrival), key=_place)
        self._held_size += _size(arrival)
        most, most_bytes = HELD
        while len(self._held) > most or self._held_size > most_bytes:
            self._held_size -= _size(self._held.pop(0)[2])
            self.dropped += 1

    async def tell(self, emission: Emission, after: int) -> None:
        """See `Peers.tell`."""
        headers = {_AFTER: str(after), _FROM: self._marks.id}
        if emission.conflate is not None:
            # A header is no place for any text.
            headers[_CONFLATE] = emission.conflate.encode().hex()
        await self._publish(self._names.transient(emission.user), emission.tail, headers)

    @property
    def name(self) -> str:
        """See `Peers.name`."""
        return self._marks.name

    @property
    def current(self) -> bool:
        """See `Peers.current`."""
        return self._marks.current

    async def meet(self) -> None:
        """See `Peers.meet`."""
        await self._marks.meet()

    async def ask(self, question: bytes, within: float | None) -> Answers:
        """See `Peers.ask`."""
        return await self._asking.ask(question, within)

    def watch(self, *, watched: bool) -> None:
        """See `Peers.watch`."""
        self._marks.watch(watched=watched)

    async def share(self, data: bytes) -> None:
        """See `Peers.share`."""
        await self._publish(self._names.watched, data, None)

    async def start(self) -> None:
        """Hear of the others, and answer them."""
        connection = self._jet.connection
        await connection.subscribe(
            self._names.transients, cb=self.transient, pending_bytes_limit=_UNREAD
        )
        await connection.subscribe(self._names.watched, cb=self._shared)
        await self._asking.start()

    async def _shared(self, message: Msg) -> None:
        self.hooks.shared(message.data)

    async def durable(self, got: Got) -> None:
        """Take an event from the stream, when there is room for it.

        What is no event counts as well: another server may have begun behind it, so that devices
        come with its seq, and transient events that go behind it.
        """
        while self._size > WAITING:
            self._taken.clear()
            await self._taken.wait()
        self._release(got.seq - 1)
        self.position = got.seq
        emission = self._emission(got)
        self._pending = max(0, self._pending - 1)
        self._add(Arrival(emission, None if emission is None else got.seq, got.seq))
        self._lateness.there(self._came + self._pending)
        self._release(got.seq)
        self._moved.set()

    def _emission(self, got: Got) -> Emission | None:
        if got.subject == self._names.probe or self._names.is_fence(got.subject):
            return None
        try:
            return Emission(self._names.user(got.subject), got.data, "", 0, durable=True)
        except ValueError:
            # Not from one of us. It must not stop what comes after it.
            _logger.warning("message of no user in the stream", seq=got.seq)
            return None

    async def transient(self, message: Msg) -> None:
        """Take an event from another server."""
        headers = message.headers or {}
        if headers.get(_FROM) == self._marks.id:
            # It was on its way when the connection was given up, and is none of the one there is.
            return
        conflate = headers.get(_CONFLATE)
        try:
            emission = Emission(
                self._names.user(message.subject),
                message.data,
                "",
                0,
                durable=False,
                conflate=None if conflate is None else bytes.fromhex(conflate).decode(),
            )
            after = int(headers[_AFTER])
        except (KeyError, ValueError):
            _logger.warning("transient message of no user")
            return
        if self._size > WAITING:
            self.dropped += 1
            return
        self.defer(emission, after)

    def skip(self, seq: int) -> None:
        """Take it that nothing arrives any more up to a seq, though there was something."""
        if seq <= self.position:
            return
        self.position = seq
        self._pending = 0
        self._add(Arrival(None, seq, seq))
        self._release(seq)
        self._moved.set()

    def _release(self, through: int) -> None:
        while self._held and self._held[0][0] <= through:
            arrival = self._held.pop(0)[2]
            self._held_size -= _size(arrival)
            self._add(arrival)

    def _add(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)
        self._size += _size(arrival)
        if arrival.seq is not None:
            self._came += 1
            self._lateness.there(self._came + self._pending)
        self.hooks.arrived()

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None) -> None:
        # What is transient is late when the connection is back, or takes something again.
        connection = self._jet.connection
        if connection.is_connected and connection.pending_data_size <= UNSENT:
            with suppress(nats.errors.Error):
                await connection.publish(subject, data, headers=headers)


def _size(arrival: Arrival) -> int:
    return 0 if arrival.emission is None else len(arrival.emission.tail)


def _place(held: tuple[int, int, Arrival]) -> tuple[int, int]:
    return held[:2]
