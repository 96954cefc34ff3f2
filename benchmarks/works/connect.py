"""Connecting: with nothing to replay, or with a backlog."""

import json

from benchmarks.load.devices import Group, tokens
from benchmarks.load.dialects import DIALECTS, Emission
from benchmarks.load.http import Connection, emitters
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending

BATCH = 1000


class Connect:
    """So many `devices` connect, a few at a time, each with a token of its own.

    With a `backlog` each resumes and gets so many events first. `users` share the devices.
    """

    def __init__(self, at: Endpoint, *, devices: int, backlog: int = 0, users: int = 100) -> None:
        self._at = at
        self._group = Group(at)
        self._devices, self._backlog = devices, backlog
        self._users = [f"user-{number}" for number in range(users)]
        self._cursors: dict[str, str] = {}

    async def prepare(self) -> None:
        """Fill the backlog, and connect once to warm up."""
        if self._backlog:
            async with emitters(self._at, 1) as (emitter,):
                for user in self._users:
                    self._cursors[user] = await fill(self._at, emitter, user, self._backlog)
        await self.round()

    async def round(self) -> Figures:
        """Connect all; what closing costs is not counted."""
        owners = [self._users[number % len(self._users)] for number in range(self._devices)]
        made = tokens(self._at, owners)
        resumes = [self._cursors[user] for user in owners] if self._backlog else None
        await settled(self._at.pid)
        with spending(self._at.pid) as spent:
            await self._group.connect(made, resumes=resumes)
            if resumes is None:
                await self._group.all_live()
            else:
                await self._group.all_have(self._backlog)
        await self._group.close()
        await settled(self._at.pid)
        figures = {
            "CPU µs/connect": spent.cpu / self._devices * 1e6,
            "wall µs/connect": spent.wall / self._devices * 1e6,
        }
        if self._backlog:
            events = self._devices * self._backlog
            figures["CPU µs/event"] = spent.cpu / events * 1e6
            figures["wall µs/event"] = spent.wall / events * 1e6
        return figures

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()


async def fill(at: Endpoint, emitter: Connection, user: str, events: int) -> str:
    """Emit a user's events; returns where a device resumes that is to get them all."""
    requests = DIALECTS[at.dialect].requests
    cursor = "all"
    if at.dialect == "archibald":
        # The first is the cursor of those that follow.
        (one,) = requests(at, [Emission(user)])
        cursor = json.loads(await emitter.request(one))["id"]
    for first in range(0, events, BATCH):
        for each in requests(at, [Emission(user)] * min(BATCH, events - first)):
            await emitter.request(each)
    return cursor
