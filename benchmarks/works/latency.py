"""Latency at a fixed rate: from when an event was due to its arrival at a device."""

import asyncio
import time

from benchmarks.load.devices import Group, tokens
from benchmarks.load.dialects import DIALECTS, Emission
from benchmarks.load.http import Connection, emitters
from benchmarks.machine import fsync_time
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending

USERS = 50
DUE = b'"due":'


def percentile(ordered: list[float], share: float) -> float:
    """Return the value that so large a share of ordered values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Latency:
    """`rate` durable events a second for so many `seconds`, `batch` a request.

    Requests leave when they are due, whether or not earlier ones are answered, and times count
    from then: a server that stops for a moment is late with all that was due meanwhile.
    """

    def __init__(self, at: Endpoint, *, rate: int, seconds: float, batch: int = 1) -> None:
        self._at = at
        self._rate, self._batch = rate, batch
        self._requests = max(1, int(rate * seconds) // batch)
        self._users = [f"user-{number}" for number in range(USERS)]
        self._group = Group(at)
        self._group.on_event = self._arrived
        self._times: list[float] = []

    def _arrived(self, text: bytes) -> None:
        start = text.index(DUE) + len(DUE)
        due = int(text[start : text.index(b"}", start)])
        self._times.append((time.perf_counter_ns() - due) / 1e6)

    async def prepare(self) -> None:
        """Connect a device for each user, and warm up."""
        await self._group.connect(tokens(self._at, self._users))
        await self._group.all_live()
        async with emitters(self._at, 8) as connections:
            await self._emit(connections, 200)

    async def round(self) -> Figures:
        """Emit at the rate."""
        async with emitters(self._at, 32) as connections:
            await settled(self._at.pid)
            with spending(self._at.pid) as spent:
                await self._emit(connections, self._requests)
        ordered = sorted(self._times)
        events = self._requests * self._batch
        return {
            "p50 ms": percentile(ordered, 0.5),
            "p99 ms": percentile(ordered, 0.99),
            "p99.9 ms": percentile(ordered, 0.999),
            "CPU µs/event": spent.cpu / events * 1e6,
            "events/s": events / spent.wall,
            "one fsync ms": fsync_time(self._at.folder) * 1e3,
        }

    async def _emit(self, connections: list[Connection], requests: int) -> None:
        self._times = []
        before = self._group.total
        make = DIALECTS[self._at.dialect].requests
        began = time.perf_counter_ns()
        answers = []
        for number in range(requests):
            due = began + number * self._batch * 1_000_000_000 // self._rate
            if (left := due - time.perf_counter_ns()) > 0:
                await asyncio.sleep(left / 1e9)
            payload = b'{"operation":"submit-order",' + DUE + b"%d}" % due
            first = number * self._batch
            emissions = [
                Emission(self._users[(first + each) % USERS], payload=payload)
                for each in range(self._batch)
            ]
            connection = connections[number % len(connections)]
            answers += [connection.request(each) for each in make(self._at, emissions)]
        await asyncio.gather(*answers)
        await self._group.has(before + requests * self._batch)

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()
