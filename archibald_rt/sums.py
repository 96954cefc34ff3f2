"""What several servers on one log come to. No I/O."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import astuple, replace

from archibald_rt.answers import (
    ConnectionFigures,
    Connections,
    ConnectionState,
    EventFigures,
    NodeFigures,
    OutboxFigures,
    Stats,
)
from archibald_rt.questions import AboutConnections

_T = TypeVar("_T", bound=msgspec.Struct)


def node_of(stats: Stats, name: str) -> Stats:
    """Return a server's figures as one of several says them."""
    node = NodeFigures(
        name, stats.uptime_ms, stats.draining, stats.connections.total, stats.log.fault
    )
    return replace(stats, nodes=[node])


def all_stats(own: Stats, others: Sequence[Stats], missing: Sequence[str]) -> Stats:
    """Return the figures of all servers, as one of them answers with them."""
    every = [own, *others]
    nodes = [node for stats in every for node in stats.nodes or ()]
    return replace(
        own,
        connections=_connections([each.connections for each in every]),
        events=_events([each.events for each in every]),
        limits=_sum([each.limits for each in every]),
        client_messages=_sum([each.client_messages for each in every]),
        webhook=_sum([each.webhook for each in every]),
        outbox_bytes=sum(each.outbox_bytes for each in every),
        outbox_total=_outboxes([each.outbox_total for each in every]),
        queue_bytes=sum(each.queue_bytes for each in every),
        log=replace(own.log, erased=sum(each.log.erased for each in every)),
        nodes=sorted(nodes, key=lambda node: node.node),
        missing=list(missing),
    )


def all_connections(
    about: AboutConnections, each: Sequence[Connections], missing: Sequence[str]
) -> Connections:
    """Return the connections of all servers that were asked for, as many as fit."""
    rows = [row for connections in each for row in connections.connections]
    if about.order is not None:
        key, falling = _ORDERS[about.order]
        rows.sort(key=key, reverse=falling)
    total = sum(connections.total for connections in each)
    return Connections(rows[: about.limit], total, list(missing))


def _owed(row: ConnectionState) -> Any:
    return row.state == "behind", row.behind_by, row.outbox_bytes


# Of each how it is sorted, and whether the highest come first. Moments are all written alike.
_ORDERS: dict[str, tuple[Callable[[ConnectionState], Any], bool]] = {
    "slow": (_owed, True),
    "newest": (lambda row: row.since, True),
    "oldest": (lambda row: row.since, False),
}


def _sum(every: Sequence[_T]) -> _T:
    """Add up structs of nothing but numbers."""
    return type(every[0])(*map(sum, zip(*map(astuple, every), strict=True)))


def _connections(every: Sequence[ConnectionFigures]) -> ConnectionFigures:
    why = sorted({why for each in every for why in each.refused_for})
    return ConnectionFigures(
        total=sum(each.total for each in every),
        live=sum(each.live for each in every),
        behind=sum(each.behind for each in every),
        users=sum(each.users for each in every),
        resumed=sum(each.resumed for each in every),
        refused=sum(each.refused for each in every),
        refused_for={w: sum(each.refused_for.get(w, 0) for each in every) for w in why},
    )


def _events(every: Sequence[EventFigures]) -> EventFigures:
    durable = sum(each.durable for each in every)
    # Each as often as something was committed by way of it.
    weighed = sum(each.average_latency_ms * each.durable for each in every)
    return replace(_sum(every), average_latency_ms=round(weighed / durable, 3) if durable else 0.0)


def _outboxes(every: Sequence[OutboxFigures]) -> OutboxFigures:
    limits = [each.limit for each in every if each.limit is not None]
    whole = sum(limits) if len(limits) == len(every) else None
    return OutboxFigures(sum(each.bytes for each in every), whole)
