"""A service under load: emitters, and devices that come back by their cursor."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from faults.devices import Follower, Place, read_message
from faults.emitters import NO_ANSWER, Chatterer, Emitter
from faults.service import Service
from support import eventually

PADS = (0, 50, 2000, 15_000)
"""By how many bytes payloads are lengthened."""

PATIENCE = 60.0
"""How many seconds a load may take for what it has to come to."""


class Witness(Place):
    """A device's place in its stream that keeps what it was told as well."""

    def __init__(self, user: str) -> None:
        super().__init__(user)
        self.told: list[tuple[str | None, str, bytes]] = []
        """Each event in the order in which it came: cursor (or None), timestamp, payload."""

    def take(self, text: bytes) -> None:
        """Take what the device is told."""
        super().take(text)
        message = read_message(text)
        if not message.type.startswith("rt."):
            self.told.append((message.id, message.timestamp, bytes(message.payload)))


class Watcher(Follower):
    """A device that comes back by its cursor and keeps what it was told."""

    def __init__(self, url: Callable[[], str], user: str, *, sse: bool = False) -> None:
        super().__init__(url, user, sse=sse)
        self.place = self.witness = Witness(user)


class Load:
    """Emitters and devices at work on a service; made by `load`."""

    def __init__(
        self,
        service: Service,
        emitters: Sequence[Emitter],
        watchers: Sequence[Watcher],
        go: asyncio.Event,
        follow: Callable[[Watcher], None],
    ) -> None:
        self.service = service
        self.users = emitters[0].users
        self.go = go
        """Whether the emitters may send anything at the moment; see `hold`."""
        self.emitters = list(emitters)
        self.chance = self.emitters[0].chance
        self.watchers = list(watchers)
        self._follow = follow
        self.calm = False
        """Whether the emitters have been told to emit nothing more."""

    @property
    def answered(self) -> int:
        """How many events were answered as durable."""
        return sum(len(emitter.answered) for emitter in self.emitters)

    @property
    def transient(self) -> int:
        """How many transient events were answered."""
        return sum(emitter.transient for emitter in self.emitters)

    @property
    def statuses(self) -> Counter[int]:
        """How many requests had which answer; `NO_ANSWER` stands for none."""
        return sum((emitter.statuses for emitter in self.emitters), Counter[int]())

    async def more(self, count: int) -> None:
        """Wait until so many more events were answered as durable."""
        enough = self.answered + count
        await eventually(lambda: self.answered >= enough, within=PATIENCE)

    async def more_transient(self, count: int) -> None:
        """Wait until so many more transient events were answered, and any arrived."""
        enough, arrived = self.transient + count, self.arrived
        await eventually(
            lambda: self.transient >= enough and self.arrived > arrived, within=PATIENCE
        )

    async def refused(self, count: int) -> None:
        """Wait until so many more requests were answered 503."""
        enough = self.statuses[503] + count
        await eventually(lambda: self.statuses[503] >= enough, within=PATIENCE)

    async def join(self, watcher: Watcher) -> None:
        """Let one more device follow to the end, and wait until it is live."""
        self.watchers.append(watcher)
        self._follow(watcher)
        await eventually(lambda: watcher.place.live, within=PATIENCE)

    @property
    def arrived(self) -> int:
        """How many transient events devices were told."""
        return sum(len(watcher.place.transient) for watcher in self.watchers)

    async def hold(self) -> None:
        """Have nothing sent until ``go`` is set again; returns when nothing is on its way."""
        self.go.clear()
        await eventually(
            lambda: not any(emitter.waiting for emitter in self.emitters), within=PATIENCE
        )

    async def still(self) -> None:
        """Have the emitters emit nothing more, and wait until each has its last answer."""
        self.calm = True
        for emitter in self.emitters:
            emitter.calm = True
        await eventually(lambda: all(emitter.done for emitter in self.emitters), within=PATIENCE)

    async def finish(self) -> None:
        """Come to an end: every device has then got a last event, sent after all others."""
        await self.still()
        first = self.emitters[0]
        last = Emitter(
            self.service.internal_url, "last", first.users, first.chance, pads=[0], go=self.go
        )
        self.emitters.append(last)
        seq = await last.say_last()
        for watcher in self.watchers:
            if watcher.connection is not None:
                watcher.connection.resume()
        await eventually(
            lambda: all(watcher.place.seqs[-1:] == [seq] for watcher in self.watchers),
            within=PATIENCE,
        )

    def summary(self) -> str:
        """Return what was answered and received, for a row of the table."""
        answers = ", ".join(
            f"{count} × {'no answer' if status == NO_ANSWER else status}"
            for status, count in sorted(self.statuses.items())
        )
        connects = sum(watcher.place.welcomes for watcher in self.watchers)
        return (
            f"{self.answered} events answered; requests: {answers}; "
            f"{len(self.watchers)} devices connected {connects} times"
        )


async def told(service: Service, watcher: Watcher) -> Witness:
    """Connect a device once more where one stands; return what it is told until it is live."""
    device = Watcher(lambda: service.public_url, watcher.place.user)
    device.place.cursor = watcher.place.cursor
    following = asyncio.get_running_loop().create_task(device.follow())
    try:
        await eventually(lambda: device.place.live)
    finally:
        device.leave()
        await following
    return device.witness


@asynccontextmanager
async def load(
    service: Service,
    *,
    users: int = 6,
    devices_each: int = 2,
    emitters: int = 6,
    pads: Sequence[int] = PADS,
    unrest: bool = True,
    held: bool = False,
) -> AsyncIterator[Load]:
    """Put a service under load for the length of a block.

    With ``unrest`` devices drop their connections now and then, reset them, or don't read
    for a moment. If it is ``held``, nothing is emitted before ``go`` is set.
    """
    chance = random.Random(20260131)  # noqa: S311 - chaos that can be repeated, no secret
    go = asyncio.Event()
    if not held:
        go.set()
    names = [f"user-{number}" for number in range(users)]
    url = service.internal_url
    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:

        def follow(watcher: Watcher) -> None:
            tasks.append(group.create_task(watcher.follow()))

        work = Load(
            service,
            [
                Chatterer(url, "chat", names, chance, pads=pads, go=go),
                *(Emitter(url, f"e{n}", names, chance, pads=pads, go=go) for n in range(emitters)),
            ],
            [
                # Of each user's devices the first is connected by WebSocket, the second not, …
                Watcher(lambda: service.public_url, name, sse=place // users % 2 == 1)
                for place, name in enumerate(names * devices_each)
            ],
            go,
            follow,
        )
        try:
            for watcher in work.watchers:
                follow(watcher)
            await eventually(lambda: all(watcher.place.live for watcher in work.watchers))
            tasks += [group.create_task(emitter.run()) for emitter in work.emitters]
            if unrest:
                tasks.append(group.create_task(_trouble(work, chance)))
            yield work
        finally:
            for task in tasks:
                task.cancel()


async def _trouble(work: Load, chance: random.Random) -> None:
    """Cut devices off, one after the other, while emitters are at work."""
    while not work.calm:
        await asyncio.sleep(chance.uniform(0.01, 0.1))
        connection = chance.choice(work.watchers).connection
        if connection is None or not connection.upgraded or connection.closed.done():
            continue
        what = chance.choice((connection.drop, connection.reset, connection.pause))
        what()
        if what == connection.pause:
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            if not connection.closed.done():
                connection.resume()
