"""From what things cost to what so many users need. No I/O.

A server sees every event of all users, whoever is connected to it, unless the users are divided
among groups of servers: that is the wall. Subjects carry a partition for it, but servers don't
follow a part of them yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scale.costs import Costs, EngineCosts, NodeCosts

PARTITIONS = 64
"""Over how many partitions users are spread: there can't be more groups."""


@dataclass(frozen=True)
class Profile:
    """What the users of an application do; rates are of a connected user."""

    name: str
    devices: float
    """Of each user."""

    durable: float
    """Durable events a second."""

    transient: float
    """Transient events a second."""

    connects: float
    """Of each device, a second."""

    missed: float
    """Durable events that a device has missed when it connects."""

    known: float
    """How many users have events, for each who is connected."""

    retained: float
    """How long durable events are kept, in seconds."""


@dataclass(frozen=True)
class Limits:
    """What a machine may be asked for: shares leave room for bursts and for one that is away."""

    core: float = 0.6
    """Of a server's one core."""

    devices: int = 50_000
    """Of a server."""

    engine_cores: float = 8 * 0.6
    """Of a NATS server."""

    engine_bytes: float = 10e9 / 8 * 0.5
    """That a NATS server may send, a second."""

    stream: float = 0.6
    """Of the events that one stream took at most."""


@dataclass(frozen=True)
class Plan:
    """What so many connected users need: servers in groups, each of which follows its part."""

    users: int
    groups: int
    servers: int
    """Of all groups together."""

    core: float
    """How much of a core each server uses."""

    foreign: float
    """How much of that for events of users who are connected elsewhere."""

    memory: float
    """Of each server, in bytes."""

    traffic: float
    """Bytes that each server is sent by NATS, a second."""

    durable: float
    """Durable events a second, of all users."""

    transient: float
    engine_cores: float
    """Of all NATS servers of a cluster together; were it one cluster."""

    engine_bytes: float
    """Bytes that the busiest NATS server sends, a second; likewise."""

    engine_memory: float
    """Of each replica, in bytes; likewise."""

    disk: float
    """Of each replica, in bytes; likewise."""

    streams: int
    """How many streams, each on a cluster of its own, the events have to be divided among."""


def plan(
    users: int,
    profile: Profile,
    costs: Costs,
    limits: Limits = Limits(),
    *,
    partitions: int = 1,
) -> Plan | None:
    """Return the least servers that so many connected users need, in at most so many groups.

    None where no number of servers is enough: what each of them sees of the others is too much.
    Of plans with as many servers the one with the fewest groups.
    """
    made = (_grouped(users, profile, costs, limits, groups) for groups in _groups(partitions))
    plans = [each for each in made if each is not None]
    return min(plans, key=lambda each: (each.servers, each.groups), default=None)


def most_users(
    profile: Profile,
    costs: Costs,
    limits: Limits = Limits(),
    *,
    partitions: int = 1,
) -> int:
    """Return up to how many connected users there is a plan, rounded down to three digits."""
    low, high = 0, 1
    while plan(high, profile, costs, limits, partitions=partitions) is not None:
        low, high = high, 2 * high
        if high > 10**12:
            return high
    while high - low > max(1, low // 10_000):
        middle = (low + high) // 2
        if plan(middle, profile, costs, limits, partitions=partitions) is None:
            high = middle
        else:
            low = middle
    digits = int(10 ** max(0, len(str(low)) - 3))
    return low // digits * digits


def _groups(partitions: int) -> Sequence[int]:
    return range(1, min(partitions, PARTITIONS) + 1)


def _grouped(
    users: int, profile: Profile, costs: Costs, limits: Limits, groups: int
) -> Plan | None:
    """Return the plan with so many groups; None where there is none."""
    node, engine = costs.node, costs.clustered
    durable, transient = users * profile.durable, users * profile.transient
    devices = users * profile.devices
    foreign = (durable * node.see_durable + transient * node.see_transient) / groups
    room = limits.core - node.idle - foreign
    if room <= 0:
        return None
    # What there is to do once, whichever server does it, less that this one has seen it then.
    once = _own(profile, node) * users - foreign * groups
    each_group = max(
        math.ceil(max(0.0, once) / groups / room),
        math.ceil(devices / groups / limits.devices),
        # So that none of them is missed.
        2,
    )
    servers = each_group * groups
    followers = float(each_group)
    streams = max(1, math.ceil(durable / (engine.most * limits.stream)))
    sent = _sent(engine, durable, transient, followers)
    cores = durable * (engine.store + engine.send_durable * followers) + transient * (
        engine.accept + engine.send_transient * (followers - 1)
    )
    stored = durable * profile.retained
    return Plan(
        users=users,
        groups=groups,
        servers=servers,
        core=node.idle + foreign + max(0.0, once) / servers,
        foreign=foreign * (1 - groups / servers),
        memory=node.base_memory + devices / servers * node.device_memory,
        traffic=(durable * engine.bytes_out + transient * engine.transient_bytes) / groups,
        durable=durable,
        transient=transient,
        engine_cores=cores,
        engine_bytes=sent,
        engine_memory=engine.base_memory + users * profile.known * engine.user_memory,
        disk=stored * engine.disk,
        streams=max(
            streams,
            math.ceil(cores / engine.replicas / limits.engine_cores),
            math.ceil(sent / limits.engine_bytes),
        ),
    )


def _own(profile: Profile, node: NodeCosts) -> float:
    """Return what a connected user costs its server, a second."""
    missed = profile.missed * node.replay_recent
    return (
        profile.durable * (node.take_durable + profile.devices * node.deliver_durable)
        + profile.transient * (node.take_transient + profile.devices * node.deliver_transient)
        + profile.devices * (profile.connects * (node.connect + missed) + node.idle_device)
    )


def _sent(engine: EngineCosts, durable: float, transient: float, followers: float) -> float:
    """Return what the busiest NATS server sends: to its share of servers, and the replicas."""
    to_servers = durable * engine.bytes_out + transient * engine.transient_bytes
    routed = durable * (engine.bytes_routed + engine.bytes_routed_each * followers)
    return to_servers * followers / engine.replicas + routed


_HOUR = 3600.0
_DAY = 24 * _HOUR

PROFILES: Sequence[Profile] = (
    Profile(
        "quiet",
        devices=1.2,
        durable=2 / _HOUR,
        transient=4 / _HOUR,
        connects=2 / _HOUR,
        missed=1,
        known=10,
        retained=7 * _DAY,
    ),
    Profile(
        "jobs",
        devices=2,
        durable=2 / 600,
        transient=10 / 600,
        connects=4 / _HOUR,
        missed=2,
        known=5,
        retained=7 * _DAY,
    ),
    Profile(
        "busy",
        devices=2,
        durable=6 / 60,
        transient=12 / 60,
        connects=6 / _HOUR,
        missed=5,
        known=3,
        retained=_DAY,
    ),
)
"""Notifications; a job of a dozen events every ten minutes; a desk that works all day."""
