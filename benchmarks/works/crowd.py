"""The devices and emitters of one of several servers that share a log."""

import itertools
import statistics
from collections.abc import Sequence

from benchmarks.load.devices import Group, tokens
from benchmarks.load.dialects import DIALECTS, Emission
from benchmarks.load.http import Connection, emitters
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending
from benchmarks.works.traffic import Traffic

BATCH = 500
CALLERS = 16


class Crowd:
    """A part of the users connect here, a device each; all places emit for all users.

    Rounds take turns: in one the next devices connect, up to the next of `steps` (of all places
    together), in the other all emit, and the devices here get what they are owed, wherever it was
    emitted. The figures are of this server's own process.
    """

    def __init__(self, at: Endpoint, *, place: int, steps: Sequence[int], **traffic: float) -> None:
        self._at = at
        self._place = place
        self._traffic = Traffic(**traffic)  # type: ignore[arg-type]  # by name, from a table
        self._steps = iter(steps)
        self._group = Group(at)
        self._mine = range(place, self._traffic.users, self._traffic.places)
        self._connected = 0
        self._due = 0
        self._turn = itertools.cycle((self._connect, self._emit))

    async def prepare(self) -> None:
        """Emit an event for each of the users here: what is kept for each is there then."""
        requests = DIALECTS[self._at.dialect].requests
        async with emitters(self._at, 1) as (emitter,):
            for some in _batches(self._mine):
                for each in requests(self._at, [Emission(f"user-{user}") for user in some]):
                    await emitter.request(each)

    async def round(self) -> Figures:
        """Connect the next, or emit."""
        return await next(self._turn)()

    async def _connect(self) -> Figures:
        wanted = next(self._steps) // self._traffic.places
        users = [f"user-{user}" for user in self._mine[self._connected : wanted]]
        with spending(self._at.pid) as spent:
            await self._group.connect(tokens(self._at, users))
            await self._group.all_live()
        self._connected = wanted
        await settled(self._at.pid)
        return {"CPU s": spent.cpu, "connects": float(len(users))}

    async def _emit(self) -> Figures:
        here = set(self._mine[: self._connected])
        owed = self._traffic.owed(here.__contains__) * (1 + self._traffic.transient)
        requests = DIALECTS[self._at.dialect].requests
        async with emitters(self._at, CALLERS) as callers:
            turn = itertools.cycle(callers)

            async def emit(emission: Emission) -> None:
                caller: Connection = next(turn)
                (request,) = requests(self._at, [emission])
                await caller.request(request)

            with spending(self._at.pid) as spent:
                took = await self._traffic.pace(self._place, emit)
                self._due += owed
                await self._group.has(self._due)
        cuts = statistics.quantiles(took, n=100)
        return {
            "CPU s": spent.cpu,
            "seconds": spent.wall,
            "emitted": float(self._traffic.events),
            "delivered": float(owed),
            "p50 ms": cuts[49] * 1e3,
            "p99 ms": cuts[98] * 1e3,
        }

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()


def _batches(users: range) -> list[range]:
    return [users[start : start + BATCH] for start in range(0, len(users), BATCH)]
