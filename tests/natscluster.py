"""A cluster of real NATS servers for tests, whose links among themselves and to clients can be cut.

No server reaches another, and no client a server, but through a proxy of its own. So a partition
needs no rights on the machine, and is one in both directions: what was sent into it arrives late,
as TCP has it, or not at all.
"""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from faults.proxy import Proxy, proxied
from natsservers import PROGRAM
from support import eventually

PATIENCE = 60.0
"""How many seconds an election, and what has to follow it, may take on a busy machine."""

_CONFIG = """
server_name: {name}
listen: "127.0.0.1:-1"
http: "127.0.0.1:-1"
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}", max_file_store: 4GB, sync_interval: always }}
# The shortest there may be.
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
cluster {{
    name: cluster
    listen: "127.0.0.1:-1"
    # Where the others may look for it besides their routes: nobody is there.
    advertise: "127.0.0.1:1"
    # Clients are to know no way but their own.
    no_advertise: true
    routes: [{routes}]
}}
"""


class ClusterNode:
    """One server of a cluster; made by `nats_cluster`. ``routes`` are its ways to the others."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.routes: Sequence[Proxy] = ()
        self.entries: list[tuple[str, Proxy]] = []
        """The proxies that lead here, each with the name of the port that it leads to."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor = ""

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return all that it ever wrote."""
        return (self._folder / "server.log").read_text()

    async def start(self) -> None:
        """Start it and wait until it listens; it may know of no leader yet."""
        assert not self.running
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "server.conf"
        routes = ", ".join(f'"nats-route{way.url.removeprefix("http")}"' for way in self.routes)
        config.write_text(_CONFIG.format(name=self.name, folder=self._folder, routes=routes))
        with (self._folder / "server.log").open("ab") as log:
            # Waiting for a process would hold the proxies up.
            self._process = await asyncio.to_thread(
                subprocess.Popen, [PROGRAM, "-c", str(config)], stdout=log, stderr=log
            )
        file = self._folder / f"nats-server_{self._process.pid}.ports"

        def listening() -> bool:
            assert self.running, self.log()
            return file.exists() and file.read_text().endswith("}")

        await eventually(listening, within=PATIENCE)
        ports = json.loads(file.read_text())
        (self._monitor,) = ports["monitoring"]
        for kind, proxy in self.entries:
            proxy.target = "127.0.0.1", int(ports[kind][0].rpartition(":")[2])

    async def kill(self) -> None:
        """End it as a crash would."""
        await self._end(signal.SIGKILL)

    async def retire(self) -> None:
        """End it as an operator should: it hands over what it leads, and sends clients away."""
        # SIGUSR2 is its lame-duck mode.
        await self._end(signal.SIGUSR2)

    async def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        await eventually(lambda: not self.running, within=PATIENCE)

    async def healthy(self) -> bool:
        """Whether all that it has of streams is as far as the others' is."""
        return (await self.ask("healthz")).get("status") == "ok"

    async def leader_of(self, stream: str) -> str | None:
        """Return the name of the server that leads a stream, as far as this one knows."""
        answer = await self.ask("jsz?streams=true")
        for account in answer.get("account_details") or ():
            for each in account.get("stream_detail") or ():
                if each["name"] == stream:
                    leader: str | None = each.get("cluster", {}).get("leader")
                    return leader
        return None

    async def ask(self, what: str) -> dict[str, Any]:
        """Return what its monitoring answers, which no partition hides; {} for no answer."""
        if not self.running:
            return {}

        def fetch() -> dict[str, Any]:
            try:
                with urlopen(f"{self._monitor}/{what}", timeout=PATIENCE) as answer:  # noqa: S310 - http of ours
                    found: dict[str, Any] = json.load(answer)
                    return found
            except (URLError, OSError, ValueError):
                return {}

        return await asyncio.to_thread(fetch)


class NatsCluster:
    """Three servers; ``ways[place][node]`` leads a client at a place to a node."""

    def __init__(
        self,
        nodes: Sequence[ClusterNode],
        ways: Sequence[Sequence[Proxy]],
        routes: dict[tuple[int, int], Proxy],
    ) -> None:
        self.nodes = nodes
        self.ways = ways
        self._routes = routes

    def urls(self, place: int) -> str:
        """Return the addresses of all servers for a client at a place, the nearest first."""
        near_first = sorted(range(len(self.nodes)), key=lambda node: node != place)
        return ", ".join(
            f"nats{self.ways[place][node].url.removeprefix('http')}" for node in near_first
        )

    async def start(self) -> None:
        """Start all, and wait until they have a leader and take streams."""
        await asyncio.gather(*(node.start() for node in self.nodes))

        async def led() -> bool:
            told = [(await node.ask("jsz")).get("meta_cluster", {}) for node in self.nodes]
            return all(each.get("leader") for each in told)

        await eventually(led, within=PATIENCE)
        await self.healthy()

    async def healthy(self) -> None:
        """Wait until every server is as far as the others."""

        async def all_healthy() -> bool:
            return all([await node.healthy() for node in self.nodes])

        await eventually(all_healthy, within=PATIENCE)

    async def leader(self, stream: str, *, among: Collection[int] | None = None) -> int:
        """Wait until these servers, or all that run, agree on who leads a stream; return which."""
        asked = [node for place, node in enumerate(self.nodes) if among is None or place in among]
        names = [node.name for node in self.nodes]
        found = ""

        async def agreed() -> bool:
            nonlocal found
            told = {await node.leader_of(stream) for node in asked if node.running}
            (found, *others) = [each or "" for each in told]
            return not others and found in {node.name for node in asked if node.running}

        await eventually(agreed, within=PATIENCE)
        return names.index(found)

    def isolate(self, alone: int) -> None:
        """Cut a server and the clients at its place off from all the others, until `mend`."""
        for (one, other), proxy in self._routes.items():
            if alone in {one, other}:
                proxy.stall()
        for place, ways in enumerate(self.ways):
            for node, proxy in enumerate(ways):
                if (place == alone) != (node == alone):
                    proxy.stall()

    def mute(self, place: int) -> None:
        """Let no answer of any server through to the clients at a place, until `mend`."""
        for proxy in self.ways[place]:
            proxy.stall(up=False)

    def mend(self) -> None:
        """Let everything through again, first what was held up."""
        for proxy in (*self._routes.values(), *(way for ways in self.ways for way in ways)):
            proxy.resume()


@asynccontextmanager
async def nats_cluster(folder: Path, *, size: int = 3) -> AsyncIterator[NatsCluster]:
    """Run a cluster for the length of a block; clients have a place beside each of its servers."""
    nodes = [ClusterNode(folder / f"n{number}", f"n{number}") for number in range(size)]
    async with AsyncExitStack() as stack:

        async def way(to: ClusterNode, kind: str) -> Proxy:
            # Nobody listens there before the server is started.
            made = await stack.enter_async_context(proxied("http://127.0.0.1:1", buffer=None))
            to.entries.append((kind, made))
            return made

        routes = {
            (one, other): await way(nodes[other], "cluster")
            for one, other in permutations(range(size), 2)
        }
        ways = [[await way(node, "nats") for node in nodes] for _ in range(size)]
        for place, node in enumerate(nodes):
            node.routes = [proxy for (one, _), proxy in routes.items() if one == place]
        try:
            cluster = NatsCluster(nodes, ways, routes)
            await cluster.start()
            yield cluster
        finally:
            for node in nodes:
                if node.running:
                    await node.kill()
