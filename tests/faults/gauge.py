"""How long an event takes from a back end's request to a device, by one process's clock."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faults.backends import Account, BackEnd
from faults.connections import connect
from faults.devices import Place
from faults.service import Service
from support import PATIENCE, eventually, token

_PATIENCE = PATIENCE.total_seconds()


class Gauge:
    """A device that is live, and a back end that emits to it; made by `gauge`."""

    def __init__(self, user: str, back_end: BackEnd) -> None:
        self.place = Place(user, None)
        self.account = Account()
        self._back_end = back_end
        self._arrived: asyncio.Future[float] | None = None

    async def emit(self, payload: str = "") -> float:
        """Emit a durable event; returns after how many seconds the device had it."""
        user = self.place.user
        arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._arrived = arrived
        began = time.monotonic()
        results = await self._back_end.emit({"userId": user, "type": "E", "payload": payload})
        self.account.note([user], results)
        return await asyncio.wait_for(arrived, _PATIENCE) - began

    async def several(self, count: int) -> list[float]:
        """Emit so many events, one after the other; returns how long each took."""
        return [await self.emit() for _ in range(count)]

    async def during(self, goes_on: Callable[[], bool], *, pause: float = 0.005) -> list[float]:
        """Emit one event after the other as long as something goes on."""
        found = []
        while goes_on():
            found.append(await self.emit())
            await asyncio.sleep(pause)
        return found

    async def stats(self) -> Any:
        """Return the server's own figures."""
        return await self._back_end.get("/internal/stats")

    async def alone(self) -> bool:
        """Whether its device is the only one there is."""
        connections: int = (await self.stats())["connections"]["total"]
        return connections == 1

    def take(self, text: bytes) -> None:
        """Take what the device is told."""
        before = len(self.place.seqs)
        self.place.take(text)
        if len(self.place.seqs) > before and self._arrived and not self._arrived.done():
            self._arrived.set_result(time.monotonic())


@asynccontextmanager
async def gauge(service: Service, user: str) -> AsyncIterator[Gauge]:
    """Have a gauge for the length of a block."""
    async with BackEnd(service.internal_url) as back_end:
        made = Gauge(user, back_end)
        connection = await connect(service.public_url, {"token": token(user)}, made.take)
        try:
            await eventually(lambda: made.place.live)
            yield made
        finally:
            connection.drop()
            await connection.closed


def percentile(times: Sequence[float], part: float) -> float:
    """Return the time that so large a part (below 1) of the times stay under."""
    return sorted(times)[int(len(times) * part)]


def shown(times: Sequence[float]) -> str:
    """Return the median and the 99th percentile, for a row of the table."""
    median, most = percentile(times, 0.5), percentile(times, 0.99)
    return f"median {median * 1000:.1f} ms, p99 {most * 1000:.1f} ms"
