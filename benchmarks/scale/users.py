"""What more users cost the NATS server: as the server has it, and as a consumer each would."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load.process import Load, WorkError, loading
from benchmarks.peers.base import Endpoint, NotStartedError, Secrets, Start
from benchmarks.peers.ours import Ours
from benchmarks.scale.brokers import Cluster, brokers
from benchmarks.works.base import Figures

PLACES = 2
CONTENDERS = ("archibald_rt", "one consumer", "a consumer each")
"""Two servers on the stream; a plain consumer of all of it; and one for each user."""


@dataclass(frozen=True)
class Effort:
    """How much is done: `steps` are numbers of users, at each of which all emit for a while."""

    steps: Sequence[int]
    rate: float
    seconds: float
    transient: int

    @property
    def traffic(self) -> dict[str, float]:
        """What the works are told of it."""
        return {
            "users": max(self.steps),
            "places": PLACES,
            "rate": self.rate,
            "seconds": self.seconds,
            "transient": self.transient,
        }


def play(
    contender: str, effort: Effort, folder: Path, say: Callable[[str], None]
) -> tuple[list[Figures], str | None]:
    """Measure a contender on a NATS server of its own.

    Returns the figures of each step, as far as it came, and why it came no further.
    """
    rows: list[Figures] = []
    try:
        with brokers(folder / "nats") as cluster, ExitStack() as stack:
            loads = list(_loads(contender, effort, cluster, folder, stack))
            _together(loads, Load.prepare)
            for users in effort.steps:
                say(f"{contender}: {users:,} users")
                rows.append(_step(users, cluster, loads))
    except (WorkError, NotStartedError) as error:
        return rows, str(error)
    return rows, None


def _loads(
    contender: str, effort: Effort, cluster: Cluster, folder: Path, stack: ExitStack
) -> Iterator[Load]:
    secrets = Secrets()
    for place in range(PLACES):
        given: dict[str, Any] = {**effort.traffic, "place": place, "steps": list(effort.steps)}
        if contender == "archibald_rt":
            at = stack.enter_context(node(cluster, folder / f"node-{place}", secrets))
            yield stack.enter_context(loading("crowd", at, given))
        else:
            (broker,) = cluster.brokers
            port = int(broker.url.rpartition(":")[2])
            at = Endpoint("nats", port, 0, broker.pid, "", "", folder)
            whole = contender == "one consumer"
            if whole:
                # The same one all along, at the first place.
                given["steps"] = [PLACES if place == 0 else 0] * len(effort.steps)
            yield stack.enter_context(loading("plain", at, {**given, "whole": whole}))


@contextmanager
def node(cluster: Cluster, folder: Path, secrets: Secrets) -> Iterator[Endpoint]:
    """Run one of several servers on a stream, with its limits as they come."""
    settings = {
        "LOG_ENGINE": "nats",
        "LOG_MAX_AGE": "7d",
        "LOG_MAX_EVENTS_PER_USER": "1000",
        "NATS_SERVERS": ",".join(cluster.urls),
        "NATS_REPLICAS": str(cluster.replicas),
    }
    with Ours("archibald_rt", sys.executable, settings=settings).start(
        Start(folder, secrets)
    ) as at:
        yield at


def _step(users: int, cluster: Cluster, loads: Sequence[Load]) -> Figures:
    """Connect up to so many, emit, and see what the NATS server used for that."""
    joined = cluster.cpu()
    connected = _together(loads, Load.round)
    before = cluster.usage()
    emitted = _together(loads, Load.round)
    after = cluster.usage()
    seconds = max(each["seconds"] for each in emitted)
    count = sum(each["emitted"] for each in emitted)
    return {
        "users": float(users),
        "NATS CPU % of a core": (after.cpu - before.cpu) / seconds * 100,
        "NATS CPU µs/event": (after.cpu - before.cpu) / count * 1e6,
        "NATS memory MiB": after.memory / 2**20,
        "NATS CPU s to join": before.cpu - joined,
        "consumers": float(after.consumers),
        "subscriptions": float(after.subscriptions),
        "bytes in/event": (after.received - before.received) / count,
        "bytes out/event": (after.sent - before.sent) / count,
        "own CPU % of a core": sum(each["CPU s"] for each in emitted) / seconds * 100,
        "own CPU s to join": sum(each["CPU s"] for each in connected),
        "events": count,
        "deliveries": sum(each["delivered"] for each in emitted),
        "p50 ms": max(each["p50 ms"] for each in emitted),
        "p99 ms": max(each["p99 ms"] for each in emitted),
        "seconds": seconds,
    }


def _together(loads: Sequence[Load], what: Callable[[Load], Any]) -> list[Any]:
    """Have all do it at the same time."""
    with ThreadPoolExecutor(len(loads)) as threads:
        return list(threads.map(what, loads))
