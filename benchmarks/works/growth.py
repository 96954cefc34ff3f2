"""Growth: what resuming costs as the log grows."""

import json

from benchmarks.load.devices import Group, tokens
from benchmarks.page_cost import OWN
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending

READER = "reader"
"""Whose events `benchmarks.page_cost.fill` spreads over the log."""


class Resume:
    """`devices` of one user resume by a cursor in a log of so many `rows`, `events` before the end.

    None, and attaching is all there is; one page, and reading it is most of it.
    """

    def __init__(self, at: Endpoint, *, devices: int, events: int, rows: int) -> None:
        self._at = at
        self._group = Group(at)
        self._devices, self._events = devices, events
        self._seq = rows - events * (rows // OWN)
        self._cursor = ""

    async def prepare(self) -> None:
        """Find out the log's epoch, and warm up."""
        await self._group.connect(tokens(self._at, [READER]))
        await self._group.all_live()
        live = json.loads(self._group.devices[0].first_ready)
        epoch = live["payload"]["cursor"].partition(":")[0]
        self._cursor = f"{epoch}:{self._seq}"
        await self._group.close()
        await self.round()

    async def round(self) -> Figures:
        """Resume with all."""
        made = tokens(self._at, [READER] * self._devices)
        await settled(self._at.pid)
        with spending(self._at.pid) as spent:
            await self._group.connect(made, resumes=[self._cursor] * self._devices)
            await self._group.all_live()
            await self._group.all_have(self._events)
        await self._group.close()
        await settled(self._at.pid)
        return {
            "CPU µs/resume": spent.cpu / self._devices * 1e6,
            "wall µs/resume": spent.wall / self._devices * 1e6,
        }

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()
