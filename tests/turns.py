"""A loop that is run turn by turn, and an outbox that drains when it is told to."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextvars import Context
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVarTuple

import pytest

from archibald_rt import hub as hub_module
from archibald_rt import order as order_module
from archibald_rt.budget import Bounded, Budget
from archibald_rt.eventlog import sqlite as sqlite_module
from archibald_rt.protocol import TEXT, frame
from eventstreams import EventReader

FRAMING = 112
"""What a message has besides its event's tail, at most: what frames it, `id` and `prev`."""

PATIENCE = 20.0
"""For how many seconds threads are waited for; reaching it is a failure."""

_Ts = TypeVarTuple("_Ts")


class TurnLoop(asyncio.SelectorEventLoop):
    """A loop that is run turn by turn and knows which answers its threads owe it.

    While it is patient, a turn begins when every call to the log has come back, and a call when
    the one before it has: each then takes exactly one turn, and the same steps always give the
    same order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._arrival = threading.Condition()
        self._arrived = 0
        self._posted = 0
        self._patient = False
        self.faults: list[BaseException] = []
        self.set_exception_handler(self._note)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        # Counted before anybody can act on it.
        with self._arrival:
            self._arrived += 1
            self._arrival.notify_all()
            return super().call_soon_threadsafe(callback, *args, context=context)

    def post(self) -> None:
        """Note that a thread is about to be asked for something."""
        if self._patient:
            self._wait()
        self._posted += 1

    def count_from_here(self) -> None:
        """Begin to count: nothing is asked of any thread at the moment."""
        with self._arrival:
            self._posted = self._arrived = 0

    def turn(self, *, patient: bool = True) -> None:
        """Run what is ready, once."""
        self._patient = patient
        if patient:
            self._wait()
        self.call_soon(self.stop)
        self.run_forever()
        self._patient = False

    def _wait(self) -> None:
        with self._arrival:
            came = self._arrival.wait_for(lambda: self._arrived >= self._posted, PATIENCE)
        assert came, "a call to the log never came back"

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(context.get("exception") or AssertionError(context["message"]))


class SocketLoop(TurnLoop):
    """The same for a log behind a socket: `owed` says what it has still to answer.

    While it is patient, a turn begins when nothing is owed any more of what was owed before; how
    many turns that takes is up to the other side. Whoever changes what is owed has to `nudge` it.
    """

    def __init__(self, owed: Callable[[], AbstractSet[object]]) -> None:
        super().__init__()
        self._owed = owed
        self._waiting = False

    def nudge(self) -> None:
        """Look again whether anything is owed."""
        if self._waiting:
            self.stop()

    def turn(self, *, patient: bool = True) -> None:
        if patient:
            self._wait_for_all()
        super().turn(patient=False)

    def _wait_for_all(self) -> None:
        bound = self.call_later(PATIENCE, self.stop)
        self._waiting = True
        # A session may ask again and again until something is dispatched in a later turn.
        before = self._owed()
        while before & self._owed():
            assert self.time() < bound.when(), "the log never answered"
            self.run_forever()
        self._waiting = False
        bound.cancel()


def tighten(patch: pytest.MonkeyPatch) -> None:
    """Make the windows between the steps as many as there can be.

    After every delivery and every event of a batch the loop gets a turn, and the loop is told of
    every call to a thread.
    """
    patch.setattr(hub_module, "SLICE", 1)
    patch.setattr(order_module, "_PAUSE_AFTER", 0)
    # Every hop to a thread of the log's goes through this one method.
    connection = sqlite_module._Connection  # noqa: SLF001 - there is no other place to count hops
    plain = connection.call

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        if isinstance(loop, TurnLoop):
            loop.post()
        return await plain(self, *args, **kwargs)

    patch.setattr(connection, "call", counted)


def messages_in(data: bytes) -> Iterator[bytes]:
    """Take unmasked text frames apart (RFC 6455, section 5.2)."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81, "not one whole text frame"
        length, at = data[at + 1], at + 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + width]), at + width
        yield data[at : at + length]
        at += length
    assert at == len(data), "a frame is cut off"


@dataclass(frozen=True)
class Written:
    """A message as a device reads it, of so many bytes with what frames it.

    ``last_id`` is what a reader of Server-Sent Events keeps from then on, if it is another one.
    """

    text: bytes
    size: int
    kind: str = ""
    last_id: str | None = None


def texts_in(data: bytes) -> Iterator[Written]:
    """Take what a device by WebSocket is written apart."""
    for text in messages_in(data):
        yield Written(text, len(frame(TEXT, text)))


def events_in(data: bytes) -> Iterator[Written]:
    """Take what a device by Server-Sent Events is written apart, in whole events."""
    assert data.endswith(b"\n\n"), "an event is cut off"
    for block in data.removesuffix(b"\n\n").split(b"\n\n"):
        reader = EventReader()
        reader.feed(block + b"\n\n")
        (event,) = reader.events
        given = event.last_id if b"id: " in block.partition(b"data: ")[0] else None
        yield Written(event.data.encode(), len(block) + 2, event.kind, given)


class Kind(Enum):
    """What a message in an outbox is."""

    EVENT = auto()
    HELD = auto()
    CONTROL = auto()


class FakeOutbox(Bounded):
    """A `session.Outbox` that ends in a list; the test says when it drains.

    While it is flowing it is emptied at the end of each turn, as a socket that takes all. Its
    bounds are the real ones.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        limit: int,
        flowing: bool,
        split: Callable[[bytes], Iterator[Written]],
        put: Callable[[Written, bool], Kind],
        rose: Callable[[], None],
    ) -> None:
        super().__init__(budget, limit=limit)
        self._split = split
        self._put = put
        self._rose = rose
        self._flowing = flowing
        self._flushing = False
        self._offering = False
        # Each message's bytes, and what it is.
        self._waiting: deque[tuple[int, Kind]] = deque()
        # How many bytes of the first of them are gone.
        self._begun = 0
        self.events = 0
        """How many bytes of events wait, messages of the server's own not counted in."""
        self.drained = 0
        """How many messages have left it whole."""
        self.closed = False

    @property
    def size(self) -> int:
        return self._kept

    def offer(self, data: bytes) -> bool:
        self._offering = True
        try:
            return super().offer(data)
        finally:
            self._offering = False

    def push(self, data: bytes) -> None:
        assert data, "nothing was written"
        assert not self.closed, "something was written to a device that is gone"
        for written in self._split(data):
            self._kept += written.size
            self.budget.take(written.size)
            kind = self._put(written, self._offering)
            self._waiting.append((written.size, kind))
            self.events += written.size if kind is not Kind.CONTROL else 0
            self._rose()
        self._flush_soon()

    def flow(self, *, flowing: bool) -> None:
        """Let it flow, or stop it."""
        self._flowing = flowing
        self._flush_soon()

    def drain(self, count: int) -> None:
        """Take so many bytes out."""
        left = count = min(count, self.size)
        while left:
            size, kind = self._waiting[0]
            part = min(left, size - self._begun)
            left -= part
            self._begun += part
            self.events -= part if kind is not Kind.CONTROL else 0
            if self._begun == size:
                self._waiting.popleft()
                self._begun = 0
                self.drained += 1
        self._release(count)

    def close(self) -> None:
        self.closed = True
        self._waiting.clear()
        self.events = 0
        self._release(self._kept)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many bytes wait that had been held, and how many that had not, without framing."""
        held = sum(size - FRAMING for size, kind in self._waiting if kind is Kind.HELD)
        return held, sum(size - FRAMING for size, kind in self._waiting if kind is not Kind.HELD)

    def _relieve(self) -> None:
        """Do nothing: its kernel takes what it takes at the end of a turn."""

    def _flush_soon(self) -> None:
        if self._flowing and not self._flushing and self.size:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._flowing:
            self.drain(self.size)
