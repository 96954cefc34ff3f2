"""The servers of a cluster, each beside a NATS server, as their operator runs them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from faults.service import Service
from natscluster import NatsCluster

STREAM = "RT"


class ServerNode(Service):
    """A server that knows whether it is meant to run."""

    def __init__(self, folder: Path, place: int) -> None:
        super().__init__(folder)
        self.place = place
        self.up = False
        """Whether it listens, and nobody is about to end it."""
        self.outputs: list[str] = []
        """What its processes have written, as far as they have ended."""

    async def start(self) -> None:
        """Start a process and wait until it listens."""
        await super().start()
        self.up = True

    async def kill(self) -> None:
        """End the process as ``kill -9`` does."""
        self.up = False
        await super().kill()
        self.outputs.append(self.output())

    async def stop(self) -> None:
        """End the process as an operator does."""
        self.up = False
        await super().stop()
        self.outputs.append(self.output())


@asynccontextmanager
async def server_nodes(
    folder: Path, cluster: NatsCluster, *, keep: int
) -> AsyncIterator[Sequence[ServerNode]]:
    """Run a server beside each NATS server for the length of a block.

    They keep so many events of a user (0: all).
    """
    async with AsyncExitStack() as stack:
        nodes = []
        for place in range(len(cluster.nodes)):
            own = folder / f"s{place}"
            own.mkdir(parents=True)
            node = await stack.enter_async_context(ServerNode(own, place))
            node.settings |= {
                "log.engine": "nats",
                "nats.servers": cluster.urls(place),
                "nats.stream": STREAM,
                "nats.replicas": "3",
                "log.max_events_per_user": str(keep),
                "delivery.max_outbox": "1MiB",
            }
            # Of a try to connect anew that fails, the client leaves its socket to the collector.
            ignored = "ignore:unclosed <StreamWriter:ResourceWarning"
            node.program = ("-W", "error", "-W", ignored, "-m", "archibald_rt", "serve")
            await node.start()
            nodes.append(node)
        yield nodes
