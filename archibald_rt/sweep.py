"""One task for what falls due on connections: heartbeats, expired tokens, stalls.

A timer and a task for each of twenty thousand connections cost more memory and time than
looking now and then at those whose turn it is.
"""

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Protocol

TICK = 1.0
"""How often, in seconds, the sweep looks; more often where a time of its own is shorter."""

_LOOKS = 5
"""How often a device is looked at, at least, before a stall may be called."""

_OUTDATED = 100
"""How many expiries that are of no interest any more are kept, besides as many as are."""


class Swept(Protocol):
    """A connection as the sweep sees it."""

    def beat(self) -> None:
        """Send a ping, or end the connection if the one before was missed."""

    def expire(self) -> None:
        """End the connection, whose token has expired."""

    def check_progress(self, now: float) -> None:
        """End the connection if it has stalled; ``now`` is in seconds of a steady clock."""


class Sweep:
    """Looks after the connections that are added, until they are removed.

    ``heartbeat``, for those that have none of their own, and ``stall_timeout`` are in seconds; 0
    turns either off. Expiry is by ``wall_clock``, the rest by the loop's steady one.
    """

    def __init__(
        self,
        *,
        heartbeat: float,
        stall_timeout: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._heartbeat = heartbeat
        self._look_every = stall_timeout / _LOOKS
        self._wall_clock = wall_clock
        self._next_look = 0.0
        # By how long they wait for their next beat: they stand in the order of their turns.
        self._beats: dict[float, OrderedDict[Swept, float]] = {}
        # By number, so that nothing here keeps a connection that has gone.
        self._expiries: list[tuple[float, int]] = []
        self._expiring: dict[int, tuple[float, Swept]] = {}
        self._number_of: dict[Swept, int] = {}
        self._numbers = count()

    def add(self, connection: Swept, *, every: float | None = None) -> None:
        """Begin to look after a connection, with a heartbeat of its own if there is one."""
        every = self._heartbeat if every is None else every
        due = asyncio.get_running_loop().time() + every
        self._beats.setdefault(every, OrderedDict())[connection] = due

    def remove(self, connection: Swept) -> None:
        """Stop looking after a connection. Doing it again does nothing."""
        for beats in self._beats.values():
            beats.pop(connection, None)
        self.expire_at(connection, None)

    def expire_at(self, connection: Swept, when: float | None) -> None:
        """Have a connection expired then, in seconds since 1970; replaces what was said before."""
        before = self._number_of.pop(connection, None)
        if before is not None:
            del self._expiring[before]
        if when is None:
            return
        number = self._number_of[connection] = next(self._numbers)
        self._expiring[number] = (when, connection)
        heapq.heappush(self._expiries, (when, number))
        if len(self._expiries) > 2 * len(self._expiring) + _OUTDATED:
            self._expiries = [(each, number) for number, (each, _) in self._expiring.items()]
            heapq.heapify(self._expiries)

    async def run(self) -> None:
        """Look, and look again, until cancelled."""
        times = [TICK, self._heartbeat / 2, self._look_every]
        tick = min(each for each in times if each)
        while True:
            await asyncio.sleep(tick)
            now = asyncio.get_running_loop().time()
            self._expire()
            self._beat(now)
            if self._look_every and now >= self._next_look:
                self._next_look = now + self._look_every
                self._look(now)

    def _look(self, now: float) -> None:
        # Apart from `run`, whose variables live on between two looks and would keep a connection.
        for connection in [each for beats in self._beats.values() for each in beats]:
            connection.check_progress(now)

    def _beat(self, now: float) -> None:
        for every, beats in list(self._beats.items()):
            while every and beats:
                connection, due = next(iter(beats.items()))
                if due > now:
                    break
                beats[connection] = now + every
                beats.move_to_end(connection)
                connection.beat()

    def _expire(self) -> None:
        now = self._wall_clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, number = heapq.heappop(self._expiries)
            # A token that was replaced, or whose connection has gone, is of no interest.
            if number in self._expiring:
                _, connection = self._expiring[number]
                self.expire_at(connection, None)
                connection.expire()
