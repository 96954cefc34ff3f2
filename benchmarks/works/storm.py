"""A reconnect storm: everybody comes back at once to a server that was started again."""

from benchmarks.load.devices import Group, tokens
from benchmarks.load.http import emitters
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending
from benchmarks.works.connect import fill


class Storm:
    """All `devices` connect at the same moment and resume; each has missed `backlog` events.

    Servers that keep events in memory have lost them with the restart and replay nothing.
    """

    def __init__(self, at: Endpoint, *, devices: int, backlog: int, users: int = 500) -> None:
        self._at = at
        self._group = Group(at)
        self._devices, self._backlog = devices, backlog
        self._users = [f"user-{number}" for number in range(users)]
        self._cursors: dict[str, str] = {}

    async def prepare(self) -> None:
        """Emit what will have been missed."""
        async with emitters(self._at, 1) as (emitter,):
            for user in self._users:
                self._cursors[user] = await fill(self._at, emitter, user, self._backlog)

    def move(self, at: Endpoint) -> None:
        """Take the server's new place after its restart."""
        self._at = at
        self._group = Group(at)

    async def round(self) -> Figures:
        """Come back."""
        owners = [self._users[number % len(self._users)] for number in range(self._devices)]
        made = tokens(self._at, owners)
        resumes = [self._cursors[user] for user in owners]
        await settled(self._at.pid)
        with spending(self._at.pid) as spent:
            await self._group.connect(made, resumes=resumes, at_once=self._devices)
            if self._at.dialect == "archibald":
                await self._group.all_have(self._backlog)
            await self._group.all_live()
        return {
            "CPU µs/connect": spent.cpu / self._devices * 1e6,
            "s until all are live": spent.wall,
            "events replayed": float(self._group.total),
        }

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()
