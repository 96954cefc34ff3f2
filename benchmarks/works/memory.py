"""Idle connections: their memory, and what they cost while nothing happens."""

import asyncio
import dataclasses
import resource
from pathlib import Path

from benchmarks.load.devices import Group, tokens
from benchmarks.peers.base import Endpoint
from benchmarks.processes import memory
from benchmarks.works.base import Figures, settled, spending

WARM_UP = 100
PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
SPARE = 500
"""Descriptors and ports that are left for all else."""


def most_connections() -> int:
    """Return how many a process can have to one port: by its descriptors, and by the ports."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    low, high = map(int, PORTS.read_text().split())
    return min(descriptors, high - low) - SPARE


class Idle:
    """So many `devices` connect to a server that was started for it, and stay; 0 is the most."""

    def __init__(self, at: Endpoint, *, devices: int, seconds: float) -> None:
        self._at = at
        self._group = Group(at)
        self._devices, self._seconds = devices or most_connections(), seconds

    async def prepare(self) -> None:
        """Let a few connect, for what is made once and not for each."""
        await self._group.connect(tokens(self._at, (f"warm-{each}" for each in range(WARM_UP))))
        await self._group.all_live()
        await self._group.close()
        await settled(self._at.pid)

    async def round(self) -> Figures:
        """Connect, a user for every two devices, and look before and after."""
        owners = [f"user-{number // 2}" for number in range(self._devices)]
        before = dataclasses.asdict(memory(self._at.pid))
        await self._group.connect(tokens(self._at, owners))
        await self._group.all_live()
        await settled(self._at.pid)
        after = dataclasses.asdict(memory(self._at.pid))
        with spending(self._at.pid) as spent:
            await asyncio.sleep(self._seconds)
        figures = {
            f"{name.upper()} KiB/connection": (after[name] - before[name]) / self._devices / 1024
            for name in before
        }
        return figures | {"idle CPU ms/s": spent.cpu / spent.wall * 1e3}

    async def close(self) -> None:
        """Disconnect the devices."""
        await self._group.close()
