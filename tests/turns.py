"""A loop that is run turn by turn, and an outbox that drains when it is told to."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any, TypeVarTuple

import pytest

from archibald_rt import hub as hub_module
from archibald_rt import order as order_module
from archibald_rt.eventlog import sqlite as sqlite_module

FRAMING = 80
"""What a message has besides its event's tail, at most: a frame's header, `id` and `prev`."""

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


class FakeOutbox:
    """A `session.Outbox` that ends in a list; the test says when it drains.

    While it is flowing it is emptied at the end of each turn, as a socket that takes all.
    """

    def __init__(self, limit: int, *, flowing: bool, put: Callable[[bytes, bool], bool]) -> None:
        self._limit = limit
        self._low = limit // 4
        self._put = put
        self._flowing = flowing
        self._flushing = False
        # Each message's bytes, and whether it had been held.
        self._waiting: deque[tuple[int, bool]] = deque()
        self._rest = 0
        self._room: asyncio.Future[None] | None = None
        self.size = 0
        self.drained = 0
        """How many messages have left it whole."""
        self.closed = False

    def offer(self, data: bytes) -> bool:
        if self._limit and self.size and self.size + len(data) > self._limit:
            return False
        self._add(data, offered=True)
        return True

    def push(self, data: bytes) -> None:
        self._add(data, offered=False)

    async def room(self) -> None:
        while self.size > self._low:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def flow(self, *, flowing: bool) -> None:
        """Let it flow, or stop it."""
        self._flowing = flowing
        self._flush_soon()

    def drain(self, count: int) -> None:
        """Take so many bytes out."""
        count = min(count, self.size)
        self.size -= count
        self._rest += count
        while self._waiting and self._rest >= self._waiting[0][0]:
            self._rest -= self._waiting.popleft()[0]
            self.drained += 1
        if self._room is not None and self.size <= self._low:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    def close(self) -> None:
        self.closed = True
        self.size = 0
        self._waiting.clear()

    @property
    def waiting(self) -> tuple[int, int]:
        """How many bytes wait that had been held, and how many that had not, without framing."""
        held = sum(size - FRAMING for size, held in self._waiting if held)
        return held, sum(size - FRAMING for size, held in self._waiting if not held)

    def _add(self, data: bytes, *, offered: bool) -> None:
        assert data, "nothing was written"
        assert not self.closed, "something was written to a device that is gone"
        for text in messages_in(data):
            size = len(text) + (2 if len(text) < 126 else 4 if len(text) < 65536 else 10)
            self.size += size
            self._waiting.append((size, self._put(text, offered)))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flowing and not self._flushing and self.size:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._flowing:
            self.drain(self.size)
