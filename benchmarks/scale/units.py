"""Measuring `costs`: servers on one NATS server and on three, one thing after the other."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
from nats.aio.msg import Msg

from benchmarks import machine
from benchmarks.load.process import loading
from benchmarks.peers.base import Endpoint, Secrets
from benchmarks.processes import cpu_time, memory
from benchmarks.scale.brokers import Cluster, brokers
from benchmarks.scale.costs import Costs, EngineCosts, NodeCosts, line, medians
from benchmarks.scale.users import node
from benchmarks.works.base import Figures, settled, spending

NODES = (2, 4)
"""With how many servers an event is followed: the difference is what one more costs."""

BATCH = 500
MOST_SUBSCRIPTIONS = 10_000
"""Of one client: each is a task there."""


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    rounds: int
    requests: int
    devices: int
    users: int
    """Of how many the stream holds events when its memory is measured."""

    seconds: float


@dataclass(frozen=True)
class Stage:
    """Servers on a stream of their own; the first takes in what is emitted."""

    cluster: Cluster
    nodes: Sequence[Endpoint]
    effort: Effort

    def work(self, name: str, *, at: int, rounds: int | None = None, **given: Any) -> Figures:
        """Have a work done at one of the servers; returns its medians."""
        with loading(name, self.nodes[at], given) as load:
            load.prepare()
            return medians(load.round() for _ in range(rounds or self.effort.rounds))

    def emit(self, **given: Any) -> Figures:
        """Emit at the first server; returns what an event cost all that had to do with it."""
        batch = given.get("batch", 1)
        requests = max(1, self.effort.requests // batch)
        with loading("emit", self.nodes[0], {**given, "requests": requests}) as load:
            load.prepare()
            rounds = []
            for _ in range(self.effort.rounds):
                self._settle()
                before, seen = self.cluster.usage(), self._seen()
                speed = load.round()["events/s"]
                self._settle()
                seen = [now - then for now, then in zip(self._seen(), seen, strict=True)]
                after = self.cluster.usage()
                events = requests * batch
                rounds.append(
                    {
                        "take": seen[0] / events,
                        "see": sum(seen[1:]) / len(seen[1:]) / events,
                        "engine": (after.cpu - before.cpu) / events,
                        "in": (after.received - before.received) / events,
                        "out": (after.sent - before.sent) / events,
                        "routed": (after.routed - before.routed) / events,
                        "events/s": speed,
                    }
                )
        return medians(rounds)

    def _seen(self) -> list[float]:
        return [cpu_time(each.pid) / 1e9 for each in self.nodes]

    def _settle(self) -> None:
        """Wait until all have done what they had to."""
        pids = [each.pid for each in self.nodes] + [each.pid for each in self.cluster.brokers]
        for pid in pids:
            asyncio.run(settled(pid))


@contextmanager
def stage(folder: Path, effort: Effort, *, replicas: int, nodes: int) -> Iterator[Stage]:
    """Run servers until the block is left."""
    secrets = Secrets()
    with ExitStack() as stack:
        cluster = stack.enter_context(brokers(folder / f"nats-{replicas}-{nodes}", replicas))
        made = [
            stack.enter_context(node(cluster, folder / f"{replicas}-{nodes}-{number}", secrets))
            for number in range(nodes)
        ]
        yield Stage(cluster, made, effort)


def measure(effort: Effort, folder: Path, say: Callable[[str], None]) -> Costs:
    """Measure everything; takes some minutes."""
    before = os.getloadavg()
    raw: dict[str, Any] = {}
    own: dict[str, float] = {}
    engines: dict[int, EngineCosts] = {}
    for replicas in (1, 3):
        by_nodes: dict[int, dict[str, Figures]] = {}
        for nodes in NODES:
            say(f"{replicas} NATS, {nodes} servers")
            with stage(folder, effort, replicas=replicas, nodes=nodes) as on:
                by_nodes[nodes] = {
                    "durable": on.emit(),
                    "transient": on.emit(durable=False),
                    "batches": on.emit(batch=BATCH),
                }
                if nodes == NODES[0]:
                    kept = _keeping(on)
                    if replicas == 1:
                        own = _serving(on, by_nodes[nodes], say)
        say(f"{replicas} NATS, subscriptions")
        kept |= _subscribing(folder / f"subscriptions-{replicas}", replicas, effort)
        raw[f"{replicas} NATS"] = {str(key): value for key, value in by_nodes.items()} | {
            "kept": kept
        }
        engines[replicas] = _engine(replicas, by_nodes, kept)
    raw["one server"] = own
    measured = machine.describe() | {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "load before": list(before),
        "load after": list(os.getloadavg()),
        "effort": vars(effort),
        "figures": raw,
    }
    return Costs(measured=measured, node=_node(own, raw), single=engines[1], clustered=engines[3])


def _keeping(on: Stage) -> Figures:
    """Return what the NATS servers keep: fill the stream for many users, twice."""
    users = on.effort.users
    given = {"requests": users // BATCH, "batch": BATCH, "users": users, "named": "kept"}
    before, stored = on.cluster.usage(), _stored(on.cluster)
    with loading("emit", on.nodes[0], given) as load:
        load.round()
        first = on.cluster.usage()
        load.round()
    second = on.cluster.usage()
    return {
        "base": float(before.memory),
        "user": (first.memory - before.memory) / users,
        "event": (second.memory - first.memory) / users,
        "disk": (_stored(on.cluster) - stored) / (2 * users),
    }


def _subscribing(folder: Path, replicas: int, effort: Effort) -> Figures:
    """Return what subscriptions of a subject each cost a NATS server, and the client."""
    # On servers of their own, whose memory has no room left by what was there before.
    with brokers(folder, replicas) as cluster:
        return asyncio.run(_subscribe(cluster, min(effort.users, MOST_SUBSCRIPTIONS)))


async def _subscribe(cluster: Cluster, count: int) -> Figures:
    async def take(_message: Msg) -> None:
        """Nothing is sent."""

    client = await nats.connect(cluster.urls)
    try:
        before, own = cluster.usage(), memory(os.getpid()).uss
        for number in range(count):
            await client.subscribe(f"BENCH.t.user-{number}", cb=take)
        await client.flush(60)
        after = cluster.usage()
        client_memory = memory(os.getpid()).uss - own
    finally:
        await client.close()
    return {
        "subscription": (after.memory - before.memory) / count,
        "subscription CPU": (after.cpu - before.cpu) / count,
        "subscription at the client": client_memory / count,
    }


def _stored(cluster: Cluster) -> int:
    found: int = cluster.brokers[0].says("jsz")["bytes"]
    return found


def _serving(
    on: Stage, emitted: Mapping[str, Figures], say: Callable[[str], None]
) -> dict[str, float]:
    """Return what devices cost a server."""
    effort, last = on.effort, len(on.nodes) - 1
    found = {"base memory": float(memory(on.nodes[last].pid).pss)}
    say("idle devices")
    with spending(on.nodes[last].pid) as spent:
        time.sleep(effort.seconds)
    found["idle"] = spent.cpu / spent.wall
    idle = on.work("memory", at=last, rounds=1, devices=effort.devices, seconds=effort.seconds)
    found["device memory"] = idle["PSS KiB/connection"] * 1024
    more = idle["idle CPU ms/s"] / 1e3 - found["idle"]
    found["idle device"] = max(0.0, more) / effort.devices
    # What is a difference is measured in turn, or the machine's moods are what differs.
    say("connects")
    devices = {"devices": effort.devices}
    connects = _in_turn(
        on.nodes[last],
        {"none": ("connect", devices), "ten": ("connect", {**devices, "backlog": 10})},
        effort.rounds,
    )
    found["connect"] = connects["none"]["CPU µs/connect"] / 1e6
    found["replay recent"] = (connects["ten"]["CPU µs/connect"] / 1e6 - found["connect"]) / 10
    found["replay old"] = (_old_replay(on, last) - found["connect"]) / 10
    say("deliveries")
    for kind, durable in (("durable", True), ("transient", False)):
        given = {"durable": durable, "users": 1000}
        each = _in_turn(
            on.nodes[last],
            {
                "with": ("fan-out", {**given, "devices": 1, "shots": 10}),
                "without": (
                    "emit",
                    {**given, "batch": 1000, "requests": 10, "emitters": 1, "named": "others"},
                ),
            },
            2 * effort.rounds,
        )
        more = each["with"]["CPU µs/delivery"] - each["without"]["CPU µs/event"]
        found[f"deliver {kind}"] = max(0.0, more) / 1e6
    found["take in batches"] = emitted["batches"]["take"]
    return found


def _in_turn(
    at: Endpoint, works: Mapping[str, tuple[str, Mapping[str, Any]]], rounds: int
) -> dict[str, Figures]:
    """Have several works at a server do their rounds in turn; returns the medians of each."""
    with ExitStack() as stack:
        loads = {
            name: stack.enter_context(loading(work, at, given))
            for name, (work, given) in works.items()
        }
        for load in loads.values():
            load.prepare()
        made = [{name: load.round() for name, load in loads.items()} for _ in range(rounds)]
    return {name: medians(each[name] for each in made) for name in works}


def _old_replay(on: Stage, at: int) -> float:
    """Return what a connect costs with ten events missed that no server has at hand."""
    effort = on.effort
    given = {"devices": effort.devices, "backlog": 10}
    much = {"requests": 20, "batch": BATCH, "named": "others"}
    with loading("connect", on.nodes[at], given) as load:
        load.prepare()
        rounds = []
        for _ in range(effort.rounds):
            # More than what is kept of what was dispatched last, 1 MiB.
            with loading("emit", on.nodes[0], much) as emitting:
                emitting.round()
            rounds.append(load.round())
    return medians(rounds)["CPU µs/connect"] / 1e6


def _engine(
    replicas: int, by_nodes: Mapping[int, Mapping[str, Figures]], kept: Figures
) -> EngineCosts:
    # Of batches, since an event alone brings a sync, which differs more than sending costs.
    _, send = line({n: each["batches"]["engine"] for n, each in by_nodes.items()})
    fewest, nodes = by_nodes[min(by_nodes)], min(by_nodes)
    # What a server has told the others does not come back to it.
    accept, pass_on = line({n - 1: each["transient"]["engine"] for n, each in by_nodes.items()})
    _, out = line({n: each["durable"]["out"] for n, each in by_nodes.items()})
    # To the other replicas; beyond that what is passed on to servers that are connected elsewhere.
    bytes_in = fewest["durable"]["in"]
    routed = (replicas - 1) * bytes_in
    passed_on = [max(0.0, each["durable"]["routed"] - routed) / n for n, each in by_nodes.items()]
    return EngineCosts(
        replicas=replicas,
        store=max(0.0, fewest["durable"]["engine"] - nodes * send),
        send_durable=send,
        accept=accept,
        send_transient=pass_on,
        bytes_in=bytes_in,
        bytes_out=out,
        transient_bytes=fewest["transient"]["in"],
        bytes_routed=routed,
        bytes_routed_each=statistics.fmean(passed_on),
        base_memory=kept["base"],
        user_memory=max(0.0, kept["user"]),
        subscription_memory=max(0.0, kept["subscription"]),
        subscription_at_client=max(0.0, kept["subscription at the client"]),
        disk=kept["disk"],
        most=max(each["batches"]["events/s"] for each in by_nodes.values()),
    )


def _node(own: Mapping[str, float], raw: Mapping[str, Any]) -> NodeCosts:
    most = raw["1 NATS"][str(NODES[0])]
    return NodeCosts(
        take_durable=most["durable"]["take"],
        take_transient=most["transient"]["take"],
        see_durable=most["durable"]["see"],
        see_transient=most["transient"]["see"],
        deliver_durable=own["deliver durable"],
        deliver_transient=own["deliver transient"],
        connect=own["connect"],
        replay_recent=own["replay recent"],
        replay_old=own["replay old"],
        idle=own["idle"],
        idle_device=own["idle device"],
        base_memory=own["base memory"],
        device_memory=own["device memory"],
    )
