"""The works by name, for the process that plays them."""

from collections.abc import Callable, Mapping

from benchmarks.works.base import Work
from benchmarks.works.callers import Callers
from benchmarks.works.connect import Connect
from benchmarks.works.emit import Emit
from benchmarks.works.fan_out import FanOut
from benchmarks.works.growth import Resume
from benchmarks.works.latency import Latency
from benchmarks.works.memory import Idle
from benchmarks.works.storm import Storm

WORKS: Mapping[str, Callable[..., Work]] = {
    "fan-out": FanOut,
    "connect": Connect,
    "emit": Emit,
    "memory": Idle,
    "callers": Callers,
    "latency": Latency,
    "storm": Storm,
    "growth": Resume,
}
