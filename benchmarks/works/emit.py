"""Emitting over HTTP: what a request costs, and an event in a batch."""

import asyncio

from benchmarks.load.dialects import DIALECTS, DURABLE, TRANSIENT, Emission
from benchmarks.load.http import Connection, emitters
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending


class Emit:
    """`emitters` keep-alive connections, each with its next request when it is answered.

    `batch` events a request, for `users` without a device, so that nothing but taking them in
    is measured.
    """

    def __init__(
        self,
        at: Endpoint,
        *,
        requests: int,
        emitters: int = 32,
        batch: int = 1,
        durable: bool = True,
        users: int = 1000,
        named: str = "user",
    ) -> None:
        self._at = at
        self._requests, self._emitters, self._batch = requests, emitters, batch
        make = DIALECTS[at.dialect].requests
        kind = DURABLE if durable else TRANSIENT
        self._made = [
            make(
                at,
                [
                    Emission(f"{named}-{(number * batch + each) % users}", kind)
                    for each in range(batch)
                ],
            )
            for number in range(max(100, users // batch))
        ]

    async def prepare(self) -> None:
        """Warm up."""
        await self.round()

    async def round(self) -> Figures:
        """Emit all."""
        waiting = iter(range(self._requests))

        async def work(emitter: Connection) -> None:
            for number in waiting:
                requests = self._made[number % len(self._made)]
                await asyncio.gather(*(emitter.request(each) for each in requests))

        async with emitters(self._at, self._emitters) as connections:
            await settled(self._at.pid)
            with spending(self._at.pid) as spent:
                await asyncio.gather(*(work(each) for each in connections))
        events = self._requests * self._batch
        return {
            "CPU µs/event": spent.cpu / events * 1e6,
            "events/s": events / spent.wall,
        }

    async def close(self) -> None:
        """Nothing is kept."""
