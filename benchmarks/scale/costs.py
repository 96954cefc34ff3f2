"""What things cost, as it was measured: the figures that all reckoning begins with. No I/O."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class NodeCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server process uses: CPU time in seconds, memory in bytes."""

    take_durable: float
    """An event that is emitted there, in a request of its own; its answer and its arrival."""

    take_transient: float
    see_durable: float
    """An event that was emitted at another server, for none of its devices."""

    see_transient: float
    deliver_durable: float
    """Handing an event to one device."""

    deliver_transient: float
    connect: float
    """A device that connects and has missed nothing."""

    replay_recent: float
    """An event that a device has missed, from what the server has at hand."""

    replay_old: float
    """An event that a device has missed, from the stream."""

    idle: float
    """A server without devices, a second."""

    idle_device: float
    """A connected device, a second."""

    base_memory: float
    device_memory: float


class EngineCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the NATS servers use, all replicas together: seconds of CPU, bytes."""

    replicas: int
    store: float
    """A durable event, without sending it to anybody."""

    send_durable: float
    """Sending it to one server."""

    accept: float
    """A transient event, without sending it to anybody."""

    send_transient: float
    bytes_in: float
    """What a durable event is on its way from the server that takes it."""

    bytes_out: float
    """What it is on its way to each server."""

    transient_bytes: float
    """What a transient event is on one way."""

    bytes_routed: float
    """What a durable event is on its way to the other replicas."""

    bytes_routed_each: float
    """What it is between NATS servers besides, for each server that follows."""

    base_memory: float
    user_memory: float
    """Of each replica, for a user of whom it holds an event."""

    subscription_memory: float
    """What a subscription of a subject would add, of each NATS server: there are none now."""

    subscription_at_client: float
    """And to a server process."""

    disk: float
    """Of each replica, a durable event."""

    most: float
    """How many durable events a second it took, in batches, beside all else on the machine."""


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measurement: the figures, and `measured`, which says where and how."""

    measured: dict[str, Any]
    node: NodeCosts
    single: EngineCosts
    """One NATS server."""

    clustered: EngineCosts
    """Three, and three replicas."""


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure; all rounds have the same ones."""
    some = list(rounds)
    return {name: statistics.median(each[name] for each in some) for name in some[0]}


def line(points: Mapping[float, float]) -> tuple[float, float]:
    """Return what a figure is at 0, and what it grows by, of two points or more: least squares.

    Neither is negative: where the points fall, it is their mean.
    """
    found = statistics.linear_regression(list(points), list(points.values()))
    if found.slope < 0:
        return statistics.fmean(points.values()), 0.0
    if found.intercept < 0:
        slope, _ = statistics.linear_regression(
            list(points), list(points.values()), proportional=True
        )
        return 0.0, slope
    return found.intercept, found.slope


def load(text: bytes) -> Costs:
    """Read what `dump` has written. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(text, type=Costs)


def dump(costs: Costs) -> bytes:
    """Write figures as JSON, with four digits that count."""
    rounded = msgspec.json.decode(msgspec.json.encode(costs))
    return msgspec.json.format(msgspec.json.encode(_short(rounded)), indent=1) + b"\n"


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
