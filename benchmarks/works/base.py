"""What a work is to the process that plays the load."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from benchmarks.peers.base import Endpoint
from benchmarks.processes import cpu_time

Figures = dict[str, float]
"""What a round has shown: by name, which says the unit."""

QUIET = 0.02
"""A server that uses less than this share of a core has settled."""


class Work(Protocol):
    """Something to be measured on one server, round by round."""

    async def prepare(self) -> None:
        """Connect, fill and warm up; what this costs is not measured."""

    async def round(self) -> Figures:
        """Do it once more; raises when not everything has arrived."""

    async def close(self) -> None:
        """Disconnect; safe to call twice."""


@runtime_checkable
class Moving(Work, Protocol):
    """A work whose server is started again between preparing and the round."""

    def move(self, at: Endpoint) -> None:
        """Take the server's new place."""


class Spent:
    """What a block has cost: CPU time of the server and time that passed, in seconds."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def spending(pid: int) -> Iterator[Spent]:
    """Measure a block; the figures are there when it has been left."""
    spent = Spent()
    cpu, wall = cpu_time(pid), time.perf_counter_ns()
    yield spent
    # The time first: reading the CPU time takes some.
    spent.wall = (time.perf_counter_ns() - wall) / 1e9
    spent.cpu = (cpu_time(pid) - cpu) / 1e9


async def settled(pid: int, within: float = 10.0) -> None:
    """Wait until a server has done what it had still to do, such as closing connections."""
    for _ in range(int(within / 0.1)):
        before = cpu_time(pid)
        await asyncio.sleep(0.1)
        if cpu_time(pid) - before < QUIET * 1e8:
            return
