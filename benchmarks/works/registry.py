"""The works by name, for the process that plays them."""

from collections.abc import Callable, Mapping

from benchmarks.works.base import Work
from benchmarks.works.connect import Connect
from benchmarks.works.emit import Emit
from benchmarks.works.fan_out import FanOut
from benchmarks.works.memory import Idle

WORKS: Mapping[str, Callable[..., Work]] = {
    "fan-out": FanOut,
    "connect": Connect,
    "emit": Emit,
    "memory": Idle,
}
