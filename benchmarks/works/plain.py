"""A stream without archibald_rt: what publishes as its servers do, and consumers beside it."""

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.load.dialects import DURABLE, Emission
from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures
from benchmarks.works.traffic import Traffic

STREAM = "PLAIN"
AT_ONCE = 64
PATIENCE = 60.0
"""How long anything is waited for, in seconds."""

TAIL = b'"type":"%s","payload":%s,"timestamp":"2026-01-01T00:00:00.000Z"}'


class Plain:
    """Consumers of a stream, and a publisher; rounds take turns as those of `Crowd` do.

    In one of two the next consumers are made, up to the next of `steps` (of all places together):
    each gets all events (`whole`), or those of a user of its own.
    """

    def __init__(
        self, at: Endpoint, *, place: int, steps: Sequence[int], whole: bool, **traffic: float
    ) -> None:
        self._url = f"nats://127.0.0.1:{at.public}"
        self._place = place
        self._whole = whole
        self._traffic = Traffic(**traffic)  # type: ignore[arg-type]  # by name, from a table
        self._steps = iter(steps)
        self._mine = range(place, self._traffic.users, self._traffic.places)
        self._client = Client()
        self._consumers = 0
        self._got = self._due = 0
        self._came = asyncio.Event()
        self._turn = itertools.cycle((self._consume, self._emit))

    async def prepare(self) -> None:
        """Make the stream, and store an event for each of the users here."""
        self._client = await nats.connect(self._url)
        made = {
            "name": STREAM,
            "subjects": [f"{STREAM}.d.>"],
            "storage": "file",
            "max_msgs_per_subject": 1001,
            "max_consumers": 2 * self._traffic.users,
        }
        await self._ask(f"STREAM.CREATE.{STREAM}", made)
        await self._client.subscribe(f"bench.{self._place}", cb=self._take)
        for start in range(0, len(self._mine), AT_ONCE):
            some = self._mine[start : start + AT_ONCE]
            await asyncio.gather(*(self._publish(Emission(f"user-{user}")) for user in some))

    async def round(self) -> Figures:
        """Make the next consumers, or publish."""
        return await next(self._turn)()

    async def _consume(self) -> Figures:
        wanted = next(self._steps) // self._traffic.places
        new = range(self._consumers, wanted)
        for start in range(0, len(new), AT_ONCE):
            await asyncio.gather(*map(self._make, new[start : start + AT_ONCE]))
        made, self._consumers = wanted - self._consumers, wanted
        return {"CPU s": 0.0, "connects": float(made)}

    async def _make(self, number: int) -> None:
        name = f"c{self._place}-{number}"
        subject = f"{STREAM}.d.>" if self._whole else f"{STREAM}.d.user-{self._mine[number]}"
        config = {
            "name": name,
            "deliver_subject": f"bench.{self._place}",
            "deliver_policy": "new",
            "filter_subject": subject,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": int(PATIENCE * 1e9),
        }
        await self._ask(
            f"CONSUMER.CREATE.{STREAM}.{name}",
            {"stream_name": STREAM, "config": config, "action": "create"},
        )

    async def _emit(self) -> Figures:
        """Publish, and wait until all consumers here have what is theirs: durable events only."""
        if self._whole:
            owed = self._consumers * self._traffic.count * self._traffic.places
        else:
            here = set(self._mine[: self._consumers])
            owed = self._traffic.owed(here.__contains__)
        began = time.perf_counter()
        took = await self._traffic.pace(self._place, self._publish)
        self._due += owed
        async with asyncio.timeout(PATIENCE):
            while self._got < self._due:
                self._came.clear()
                await self._came.wait()
        cuts = statistics.quantiles(took, n=100)
        return {
            # There is no server but the NATS server, which is measured by whoever runs it.
            "CPU s": 0.0,
            "seconds": time.perf_counter() - began,
            "emitted": float(self._traffic.events),
            "delivered": float(owed),
            "p50 ms": cuts[49] * 1e3,
            "p99 ms": cuts[98] * 1e3,
        }

    async def _publish(self, emission: Emission) -> None:
        tail = TAIL % (emission.type.encode(), emission.payload)
        if emission.type == DURABLE:
            await self._client.request(f"{STREAM}.d.{emission.user}", tail, timeout=PATIENCE)
        else:
            await self._client.publish(f"{STREAM}.t.{emission.user}", tail)

    async def _take(self, _message: Msg) -> None:
        self._got += 1
        self._came.set()

    async def _ask(self, what: str, body: Any) -> None:
        answer = await self._client.request(
            f"$JS.API.{what}", json.dumps(body).encode(), timeout=PATIENCE
        )
        if error := json.loads(answer.data).get("error"):
            raise RuntimeError(f"{what}: {error}")

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()
