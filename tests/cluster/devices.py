"""Devices that go from node to node and come back by their cursor, and some that stay."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from cluster.nodes import ServerNode
from faults.connections import connect
from faults.devices import PAUSE
from faults.load import Witness
from support import token


class End(NamedTuple):
    """How a connection ended that the device did not end."""

    code: int
    live: bool
    """Whether the device had been told that it is live."""
    node_up: bool
    """Whether the server was meant to go on."""


class Wanderer:
    """A device that connects to any node, and after a while to another one, until `leave`.

    ``stay`` is for how many seconds at a time, on average; None until its connection ends. It is
    connected by WebSocket, or with ``sse`` by Server-Sent Events.
    """

    def __init__(
        self,
        user: str,
        nodes: Sequence[ServerNode],
        chance: random.Random,
        *,
        stay: float | None,
        sse: bool,
    ) -> None:
        self.witness = Witness(user)
        self.attaches = 0
        """How many connections were made on which it was welcomed."""
        self.moves = 0
        """How many of those were at another node than the one before."""
        self.begins: list[int] = []
        """How much it had been told when it connected, each time."""
        self.visits: Counter[int] = Counter()
        """How often it has connected to each node, by place, welcomed or not."""
        self.ends: list[End] = []
        self._nodes = nodes
        self._chance = chance
        self._stay = stay
        self._sse = sse
        self._token = token(user)
        self._last: ServerNode | None = None
        self._left = asyncio.Event()

    async def wander(self) -> None:
        """Connect, and connect again, until told to leave."""
        while not self._left.is_set():
            node = self._chance.choice(self._nodes)
            try:
                await self._visit(node)
            except OSError:
                await asyncio.sleep(PAUSE)

    async def _visit(self, node: ServerNode) -> None:
        witness = self.witness
        query = {"token": self._token, "lastEventId": witness.cursor or "earliest"}
        welcomes, lives = witness.welcomes, len(witness.replays)
        self.begins.append(len(witness.told))
        starts = node.starts
        connection = await connect(node.public_url, query, witness.take, sse=self._sse)
        self.visits[node.place] += 1
        leaving = asyncio.create_task(self._left.wait())
        stay = None if self._stay is None else self._chance.expovariate(1 / self._stay)
        try:
            both: list[asyncio.Future[Any]] = [connection.closed, leaving]
            await asyncio.wait(both, timeout=stay, return_when=asyncio.FIRST_COMPLETED)
            welcomed = witness.welcomes > welcomes
            if connection.closed.done():
                live = len(witness.replays) > lives
                node_up = node.up and node.starts == starts
                self.ends.append(End(connection.closed.result(), live, node_up))
                await asyncio.sleep(PAUSE)
            elif self._chance.random() < 0.5 and connection.upgraded:
                connection.reset()
            if welcomed:
                self.attaches += 1
                self.moves += self._last not in {None, node}
                self._last = node
        finally:
            leaving.cancel()
            connection.drop()
            await connection.closed

    def settle(self) -> None:
        """Stay from now on where it gets to."""
        self._stay = None

    def leave(self) -> None:
        """Come back no more, and end the connection there is."""
        self._left.set()
