"""Fan-out: events to many live devices, of one user or of many."""

import asyncio

from benchmarks.load.devices import Group, tokens
from benchmarks.load.dialects import DIALECTS, DURABLE, TRANSIENT, Emission
from benchmarks.load.http import Connection, emitters
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending

WARM_UP = 3


class FanOut:
    """Emit, wait until all devices have it and the emitter its answer, emit the next.

    `shots` times a round; each time `burst` events for each of `users`, who have so many
    `devices` each, in one request where the server takes one.
    """

    def __init__(
        self,
        at: Endpoint,
        *,
        devices: int,
        shots: int,
        users: int = 1,
        burst: int = 1,
        durable: bool = True,
    ) -> None:
        self._at = at
        self._group = Group(at)
        self._users = [f"user-{number}" for number in range(users)]
        self._devices, self._shots, self._burst = devices, shots, burst
        kind = DURABLE if durable else TRANSIENT
        emissions = [Emission(user, kind) for _ in range(burst) for user in self._users]
        self._requests = DIALECTS[at.dialect].requests(at, emissions)
        self._done = 0

    async def prepare(self) -> None:
        """Connect the devices."""
        owners = [user for user in self._users for _ in range(self._devices)]
        await self._group.connect(tokens(self._at, owners))
        await self._group.all_live()
        async with emitters(self._at, 1) as (emitter,):
            for _ in range(WARM_UP):
                await self._shoot(emitter)

    async def round(self) -> Figures:
        """Emit one after the other."""
        async with emitters(self._at, 1) as (emitter,):
            await settled(self._at.pid)
            with spending(self._at.pid) as spent:
                for _ in range(self._shots):
                    await self._shoot(emitter)
        deliveries = self._shots * self._burst * len(self._group.devices)
        return {
            "CPU µs/delivery": spent.cpu / deliveries * 1e6,
            "wall µs/delivery": spent.wall / deliveries * 1e6,
            "ms to the last device": spent.wall / self._shots * 1e3,
        }

    async def _shoot(self, emitter: Connection) -> None:
        self._done += self._burst
        answers = [emitter.request(request) for request in self._requests]
        await self._group.all_have(self._done)
        await asyncio.gather(*answers)

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()
