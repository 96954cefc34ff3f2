"""Two servers on one log in JetStream: emitting, coming and going, a cable that is cut.

Every example has a stream of its own, with so small a limit that events go while devices are
away or their server is alone. What each device got is compared with what was answered: each durable
event of its stream once and in order, or told as lost before a later one. ``PROPERTY_EFFORT=10``
tries ten times as many examples.
"""

import asyncio
import gc
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natsservers import Cable, NatsServer, cable, nats_server
from support import Device, Harness, eventually, harness, silenced

EFFORT = float(os.environ.get("PROPERTY_EFFORT", "1"))

servers = st.integers(0, 1)
users = st.sampled_from(["ann", "ann", "bob", None])
"""One who is busy, one who must get nothing of hers, and everybody."""

steps = st.one_of(
    st.tuples(st.just("emit"), servers, users, st.integers(1, 7)),
    st.tuples(st.just("emit"), servers, users, st.integers(1, 7)),
    st.tuples(st.just("pass"), servers, users, st.just(1)),
    st.tuples(st.just("come"), servers, st.sampled_from(["ann", "bob"]), st.integers(0, 3)),
    st.tuples(st.just("go"), servers, st.none(), st.integers(0, 9)),
    st.tuples(st.just("cut"), st.just(0), st.none(), st.just(0)),
    st.tuples(st.just("mend"), st.just(0), st.none(), st.just(0)),
)


class Watched:
    """A device, and what it is owed: all of its user's and of everybody's after ``position``."""

    def __init__(self, device: Device, user: str, owed: dict[int, str | None]) -> None:
        self.device = device
        self.user = user
        self.position = -1
        self._owed = owed
        self._transient: set[int] = set()

    async def until(self, seq: int) -> bool:
        """Take and check what comes up to an event; False if the server has no log to read."""
        while self.position < seq:
            text = await self.device.text()
            if text is None:
                assert self.device.socket.close_code == 1013
                return False
            self.take(json.loads(text))
        return True

    def take(self, message: dict[str, Any]) -> None:
        """Check a message against what came before it."""
        payload = message["payload"]
        match message["type"]:
            case "rt.welcome":
                self.position = _seq(payload["cursor"])
            case "rt.gap" if payload["reason"] == "expired":
                assert _seq(payload["requested"]) == self.position
                self.excused = _seq(payload["missingThrough"])
                assert self.excused > self.position
            case "T":
                assert payload["user"] in {None, self.user}
                assert payload["number"] not in self._transient
                self._transient.add(payload["number"])
            case "D":
                assert payload["user"] in {None, self.user}
                assert _seq(message["prev"]) == self.position
                seq = _seq(message["id"])
                assert seq > self.position
                told = max(self.position, self.excused)
                missing = [
                    each
                    for each, user in self._owed.items()
                    if told < each < seq and user in {None, self.user}
                ]
                assert not missing, f"{missing} did not come and were not told as lost"
                self.position = seq
            case other:
                assert other == "rt.live"

    excused = -1
    """Up to where losses were told."""


class World:
    """Two servers, of which the second is behind a cable, and all that was emitted."""

    def __init__(
        self, both: tuple[Harness, Harness], way: Cable, connected: AsyncExitStack
    ) -> None:
        self._connected = connected
        self._both = both
        self._way = way
        self._cut = False
        self._count = 0
        self._owed: dict[int, str | None] = {}
        self._epoch = ""
        self._devices: list[Watched] = []
        self._left: list[str] = []

    async def step(self, what: str, at: int, user: str | None, number: int) -> None:
        """Do a step."""
        server = self._both[at]
        if what in {"emit", "pass"}:
            await self._emit(server, user, number, durable=what == "emit")
        elif what == "come":
            place = {1: {"lastEventId": "earliest"}, 2: self._last()}.get(number, {})
            assert user is not None
            opened = await server.connect(user, **place)  # type: ignore[arg-type]  # none is v2
            device = await self._connected.enter_async_context(opened)
            self._devices.append(Watched(device, user, self._owed))
        elif what == "go" and self._devices:
            device = self._devices.pop(number % len(self._devices)).device
            device.socket.close()
        elif what == "cut" and not self._cut:
            self._way.cut()
            self._cut = True
            await eventually(lambda: self._answers(503))
        elif what == "mend":
            await self._mend()

    def _last(self) -> dict[str, str]:
        return {"lastEventId": self._left[-1]} if self._left else {}

    async def _emit(self, server: Harness, user: str | None, count: int, *, durable: bool) -> None:
        for _ in range(count):
            self._count += 1
            body: dict[str, object] = {
                "type": "D" if durable else "T",
                "durable": durable,
                "payload": {"user": user, "number": self._count},
            }
            path = "/internal/broadcast"
            if user is not None:
                path, body = "/internal/emit", {"userId": user, **body}
            answer = await server.post(path, json.dumps(body).encode())
            if answer.code != 200:
                assert (answer.code, durable, self._cut) == (503, True, True)
            elif durable:
                cursor = json.loads(answer.body)["id"]
                # What a device comes back with lies some way back.
                self._left = [cursor, *self._left[:5]]
                self._owed[_seq(cursor)] = user

    async def _answers(self, code: int) -> bool:
        return (await self._both[1].get("/readyz", public=True)).code == code

    async def _mend(self) -> None:
        self._way.mend()
        self._cut = False
        await eventually(lambda: self._answers(200))

    async def settle(self) -> None:
        """Have all devices get what they are owed."""
        await self._mend()
        await self._emit(self._both[0], None, 1, durable=True)
        end = max(self._owed)
        for each in self._devices:
            await each.until(end)


def _seq(cursor: str) -> int:
    return int(cursor.partition(":")[2])


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


async def run(nats: NatsServer, folder: Path, todo: list[tuple[str, int, str | None, int]]) -> None:
    overrides = {
        "log.engine": "nats",
        "nats.stream": folder.name,
        "log.max_events_per_user": "2",
        "delivery.connects_per_user_per_minute": "0",
        "server.drain": "0s",
    }
    async with (
        cable(nats) as way,
        harness(folder, {**overrides, "nats.servers": nats.url}) as first,
        harness(folder, {**overrides, "nats.servers": way.url}) as second,
        AsyncExitStack() as last,
    ):
        # A drain waits for what the log may still say.
        last.callback(way.mend)
        world = World((first, second), way, last)
        for step in [("come", 0, "ann", 0), ("come", 1, "ann", 0), *todo]:
            await world.step(*step)
        await world.settle()


@pytest.mark.long
def test_nothing_is_lost_untold_whatever_happens_to_two_servers_on_one_log(
    nats: NatsServer,
) -> None:
    @settings(
        deadline=None,
        derandomize="CI" in os.environ,
        max_examples=round(12 * EFFORT),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(todo=st.lists(steps, min_size=5, max_size=25))
    def check(todo: list[tuple[str, int, str | None, int]]) -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            silenced("archibald_rt.commits"),
            silenced("archibald_rt.eventlog.nats"),
        ):
            asyncio.run(run(nats, Path(folder), todo))

    check()
    gc.collect()
