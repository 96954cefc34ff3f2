"""The works by name, for the process that plays them."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Work
from benchmarks.works.callers import Callers
from benchmarks.works.connect import Connect
from benchmarks.works.crowd import Crowd
from benchmarks.works.emit import Emit
from benchmarks.works.fan_out import FanOut
from benchmarks.works.growth import Resume
from benchmarks.works.latency import Latency
from benchmarks.works.memory import Idle
from benchmarks.works.storm import Storm


def _plain(at: Endpoint, **parameters: Any) -> Work:
    from benchmarks.works.plain import Plain  # noqa: PLC0415 - nats-py is not in the extra `bench`

    return Plain(at, **parameters)


WORKS: Mapping[str, Callable[..., Work]] = {
    "fan-out": FanOut,
    "connect": Connect,
    "emit": Emit,
    "memory": Idle,
    "callers": Callers,
    "latency": Latency,
    "storm": Storm,
    "growth": Resume,
    "crowd": Crowd,
    "plain": _plain,
}
