"""A cluster under load, the faults it is put through, and what comes of them."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from cluster.audit import judge
from cluster.devices import Wanderer
from cluster.emitters import Resident, Roamer
from cluster.nodes import STREAM, ServerNode, server_nodes
from cluster.stored import differing, stored_in, told_by
from faults.devices import seq_of
from natscluster import PATIENCE, NatsCluster, nats_cluster
from support import eventually

_T = TypeVar("_T")

AFTER = 20
"""How many answers at each node show that all is well again after a fault."""

VISITS = 10
"""How many devices come to a node that is alone while the others go on without it."""


@dataclass
class Fault:
    """What was done to the cluster, and for how long emissions had no answer but refusals.

    Seconds from the last answer of 200 before to the first after, the longest of such.
    """

    what: str
    at_any_node: float = 0.0
    """For who would go to whichever node answers."""
    at_worst_node: float = 0.0
    """For who stays with one node, at the node where it lasted longest."""
    after_mending: float | None = None
    """Seconds from the end of a partition to the first such answer at the node that was alone."""


@dataclass
class Figures:
    """What a trial has shown."""

    seconds: float
    devices: int
    attaches: int
    moves: int
    """How many attaches were at another node than the device's last."""
    acknowledged: int
    """How many durable events were answered 200."""
    duplicates_answered: int
    """How many of those were answers to a second try, of what was stored by the first."""
    expected: int
    """How many durable events devices were to get, all of them together."""
    told_lost: int
    """How many of those were deleted before, which the devices were told."""
    transient: int
    """How many transient events devices got."""
    statuses: dict[str, int]
    """How many requests had which answer."""
    wrong: dict[str, int]
    """Whatever is missing, double, out of order or not as it was sent."""
    cut_off_live: int
    """How many live devices lost their connection though their node was up."""
    closed_behind: int
    """How many others were closed by a node that was up: 1013, the log can't be read."""
    faults: list[Fault] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return asdict(self)


class Trial:
    """Emitters and devices at work on a cluster; made by `trial`."""

    def __init__(
        self,
        cluster: NatsCluster,
        nodes: Sequence[ServerNode],
        emitters: Sequence[Resident],
        devices: Sequence[Wanderer],
        users: Sequence[str],
        go: asyncio.Event,
        *,
        keep: int,
    ) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.emitters = list(emitters)
        self.devices = devices
        self.faults: list[Fault] = []
        self._users = users
        self._keep = keep
        self._go = go
        self._began = time.monotonic()

    @property
    def delivered(self) -> int:
        """How many durable events devices have got so far, all of them together."""
        return sum(len(device.witness.seqs) for device in self.devices)

    @property
    def attaches(self) -> int:
        """How many connections devices have made so far."""
        return sum(device.attaches for device in self.devices)

    async def more(self, count: int, *, at: Sequence[int] | None = None) -> None:
        """Wait until each of these nodes, or all, has answered 200 so many times more."""
        places = range(len(self.nodes)) if at is None else at
        enough = {place: self._answers(place) + count for place in places}

        def answered() -> bool:
            for node in self.nodes:
                assert not (node.up and node.ended), node.output()
            return all(self._answers(place) >= many for place, many in enough.items())

        await eventually(answered, within=PATIENCE)

    def _answers(self, place: int) -> int:
        return sum(len(each.at) for each in self._residents(place))

    def _residents(self, place: int) -> list[Resident]:
        return [
            each
            for each in self.emitters
            if each.node.place == place and not isinstance(each, Roamer)
        ]

    async def on_leader(self, fault: Callable[[int], Awaitable[_T]]) -> _T:
        """Do something to the place whose NATS server leads the stream."""
        return await fault(await self.cluster.leader(STREAM))

    async def on_follower(self, fault: Callable[[int], Awaitable[_T]]) -> _T:
        """Do something to a place whose NATS server does not lead the stream."""
        return await fault((await self.cluster.leader(STREAM) + 1) % len(self.nodes))

    async def nats_killed(self, place: int) -> None:
        """Kill a NATS server, have emissions go on without it, and start it again."""
        node = self.cluster.nodes[place]
        await node.kill()
        await self.more(AFTER)
        await node.start()
        await self.cluster.healthy()
        await self.more(AFTER)

    async def all_killed(self) -> None:
        """Kill all NATS servers at once, and start them again."""
        await asyncio.gather(*(node.kill() for node in self.cluster.nodes))
        await self.cluster.start()
        await self.more(AFTER)

    async def server_killed(self, place: int) -> None:
        """Kill one of our servers, have emissions go on at the others, and start it again."""
        node = self.nodes[place]
        await node.kill()
        await self.more(AFTER, at=[other for other in range(len(self.nodes)) if other != place])
        await node.start()
        await self.more(AFTER)

    async def partitioned(self, alone: int) -> float:
        """Cut a NATS server and the one of ours beside it off, and let them in again.

        Returns how many seconds after that ours answered 200 again.
        """
        others = [place for place in range(len(self.nodes)) if place != alone]
        refused = self._refusals(alone)
        self.cluster.isolate(alone)
        try:
            await eventually(lambda: self._refusals(alone) > refused, within=PATIENCE)
            await self.more(AFTER, at=others)
            # Whoever comes from the others to the one that is behind may lose nothing by that.
            enough = self._visits(alone) + VISITS
            await eventually(lambda: self._visits(alone) >= enough, within=PATIENCE)
        finally:
            self.cluster.mend()
        return await self._recovered(alone)

    async def muted(self, place: int) -> float:
        """Let no answer of NATS come to one of our servers: what it emits is stored all the same.

        Returns how many seconds after that it answered 200 again.
        """
        refused = self._refusals(place)
        self.cluster.mute(place)
        try:
            # Whose publish was on its way gets a 504; who waited behind that, a 503.
            await eventually(lambda: self._refusals(place) > refused, within=PATIENCE)
        finally:
            self.cluster.mend()
        return await self._recovered(place)

    async def _recovered(self, place: int) -> float:
        mended = asyncio.get_running_loop().time()
        await self.cluster.healthy()
        await self.more(AFTER)
        answers = [moment for each in self._residents(place) for moment in each.at]
        return min(each for each in answers if each > mended) - mended

    def _visits(self, place: int) -> int:
        return sum(device.visits[place] for device in self.devices)

    def _refusals(self, place: int) -> int:
        return sum(each.statuses[503] + each.statuses[504] for each in self._residents(place))

    async def nats_restarted(self, places: Sequence[int]) -> None:
        """Restart NATS servers by lame-duck mode, one after the other."""
        for place in places:
            node = self.cluster.nodes[place]
            await node.retire()
            await node.start()
            await self.cluster.healthy()
            await self.more(AFTER)

    async def servers_restarted(self, places: Sequence[int]) -> None:
        """Restart servers of ours as an operator does, one after the other."""
        for place in places:
            node = self.nodes[place]
            await node.stop()
            await node.start()
            await self.more(AFTER)

    async def put_through(self, what: str, fault: Awaitable[float | None]) -> Fault:
        """Have a fault done, and note for how long it stopped emissions."""
        began = asyncio.get_running_loop().time()
        after_mending = await fault
        noted = Fault(
            what,
            at_any_node=self._outage(self.emitters, began),
            at_worst_node=max(
                self._outage(self._residents(place), began) for place in range(len(self.nodes))
            ),
            after_mending=after_mending,
        )
        self.faults.append(noted)
        return noted

    @staticmethod
    def _outage(emitters: Sequence[Resident], began: float) -> float:
        """Return the longest time without an answer of 200 since a moment, and from before it."""
        at = sorted(moment for each in emitters for moment in each.at)
        before = max((moment for moment in at if moment < began), default=began)
        since = [before, *(moment for moment in at if moment >= began)]
        return max((b - a for a, b in pairwise(since)), default=0.0)

    async def finish(self) -> Figures:
        """Come to an end: every device gets a last event, and all that there is is compared."""
        for emitter in self.emitters:
            emitter.calm = True
        await eventually(lambda: all(each.done for each in self.emitters), within=PATIENCE)
        for device in self.devices:
            device.settle()
        last = Resident(
            self.nodes[0], "last", self._users, self.emitters[0].chance, go=self._go, pause=0
        )
        self.emitters.append(last)
        seq = await last.say_last()
        await eventually(
            lambda: all(device.witness.seqs[-1:] == [seq] for device in self.devices),
            within=PATIENCE,
        )
        (epoch,) = {cursor.rpartition(":")[0] for each in self.emitters for cursor in each.answered}
        assert seq == max(seq_of(cursor) for each in self.emitters for cursor in each.answered)
        stored = await stored_in(self.cluster.ways[0][0].url.replace("http", "nats"), epoch)
        told = [await told_by(node, self._users) for node in self.nodes]
        # What it computes must not hold the proxies up.
        verdict = await asyncio.to_thread(
            judge, stored, self.emitters, self.devices, complete=not self._keep
        )
        wrong = Counter(verdict.wrong)
        for each in told:
            wrong["told otherwise by a node"] += (
                each != told[0] if self._keep else differing(stored, self._users, each)
            )
        for node in self.nodes:
            wrong["nodes that ended"] += node.ended
            said = "".join([*node.outputs, node.output()])
            wrong["faults in logs"] += said.count("Traceback") + said.count('"critical"')
        ends = [end for device in self.devices for end in device.ends if end.node_up]
        behind = [end for end in ends if not end.live]
        wrong["closed for no reason"] = sum(end.code != 1013 for end in behind)
        return Figures(
            seconds=time.monotonic() - self._began,
            devices=len(self.devices),
            attaches=self.attaches,
            moves=sum(device.moves for device in self.devices),
            acknowledged=sum(len(each.answered) for each in self.emitters),
            duplicates_answered=sum(each.duplicates for each in self.emitters),
            expected=verdict.expected,
            told_lost=verdict.told_lost,
            transient=sum(len(device.witness.transient) for device in self.devices),
            statuses={
                str(status): count
                for status, count in sorted(
                    sum((each.statuses for each in self.emitters), Counter[int]()).items()
                )
            },
            wrong=dict(+wrong),
            cut_off_live=len(ends) - len(behind),
            closed_behind=len(behind),
            faults=self.faults,
        )


async def put_through_all(
    under: Trial, *, thorough: bool, say: Callable[[str], object] = lambda _text: None
) -> None:
    """Have every fault done, one after the other; ``thorough`` restarts all servers, not one."""
    places = range(len(under.nodes))
    some = places if thorough else places[:1]
    faults: list[tuple[str, Callable[[], Awaitable[float | None]]]] = [
        ("kill -9 of the leader", lambda: under.on_leader(under.nats_killed)),
        ("kill -9 of a follower", lambda: under.on_follower(under.nats_killed)),
        ("kill -9 of a server", lambda: under.on_follower(under.server_killed)),
        ("partition of the leader", lambda: under.on_leader(under.partitioned)),
        ("no answer of NATS to a server", lambda: under.on_leader(under.muted)),
        ("rolling restart of NATS", lambda: under.nats_restarted(some)),
        ("rolling restart of the servers", lambda: under.servers_restarted(some)),
    ]
    if thorough:
        faults += [
            ("partition of a follower", lambda: under.on_follower(under.partitioned)),
            ("kill -9 of all NATS servers", under.all_killed),
        ]
    for what, fault in faults:
        noted = await under.put_through(what, fault())
        say(f"{what}: {noted.at_any_node:.1f} s without a 200, {under.delivered} delivered")


@asynccontextmanager
async def trial(
    folder: Path,
    *,
    users: int,
    devices_each: int,
    stay: float,
    pause: float,
    keep: int = 0,
    seed: int = 20260417,
    say: Callable[[str], object] = lambda _text: None,
) -> AsyncIterator[Trial]:
    """Put a cluster of three under load for the length of a block.

    Of each user's devices one of three stays where it is; the others go on after ``stay`` seconds
    on average. An emitter waits ``pause`` seconds after each request. So many events of a user are
    to ``keep`` (0: all).
    """
    chance = random.Random(seed)  # noqa: S311 - chaos that can be repeated, no secret
    names = [f"user-{number}" for number in range(users)]
    go = asyncio.Event()
    go.set()
    async with nats_cluster(folder / "nats") as cluster:
        say("the NATS servers are there")
        async with server_nodes(folder, cluster, keep=keep) as nodes, asyncio.TaskGroup() as group:
            say("our servers are there")
            emitters = [
                Resident(nodes[place], f"e{place}{letter}", names, chance, go=go, pause=pause)
                for place in range(len(nodes))
                for letter in "ab"
            ]
            emitters += [
                Roamer(nodes, f"r{letter}", names, chance, go=go, pause=pause) for letter in "ab"
            ]
            devices = [
                Wanderer(
                    name,
                    nodes,
                    chance,
                    stay=None if number % 3 == 0 else stay,
                    sse=number % 2 == 1,
                )
                for number in range(devices_each)
                for name in names
            ]
            tasks = [group.create_task(each.wander()) for each in devices]
            try:
                await eventually(
                    lambda: all(each.witness.replays for each in devices), within=PATIENCE
                )
                say(f"{len(devices)} devices are live")
                made = Trial(cluster, nodes, emitters, devices, names, go, keep=keep)
                tasks += [group.create_task(each.run()) for each in emitters]
                await made.more(AFTER)
                yield made
            finally:
                for task in tasks:
                    task.cancel()
