"""What the listeners answer besides the results of emissions: the types. No I/O."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from archibald_rt.messages import DialectName, Transport
from archibald_rt.shapes import (
    Count,
    CursorText,
    EventType,
    Milliseconds,
    RequestId,
    Timestamp,
    UserId,
)

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
"""How many events a page holds at most, unless the request says so, and whatever it says."""

MAX_CONNECTIONS = 100_000
"""How many connections may be asked for at once."""

MAX_PATTERNS = 20
"""How many patterns of types whoever watches may name."""

ConnectionOrder = Literal["oldest", "newest", "slow"]
"""Which connections are listed first; the slow ones are those that are owed most."""

HealthStatus = Literal["healthy", "idle", "offline"]


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """A problem document (RFC 9457): what is wrong, in a sentence, where, and in which request."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    field: str | UnsetType = UNSET
    indexes: Sequence[Count] | UnsetType = UNSET
    key: str | UnsetType = UNSET
    keys: Sequence[str | None] | UnsetType = UNSET
    request_id: RequestId | UnsetType = UNSET


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    alive: Literal[True]


class Ready(msgspec.Struct, frozen=True):
    """The server can do its work."""

    ready: Literal[True]


class HealthFigures(msgspec.Struct, frozen=True, rename="camel"):
    """The connections in figures; times are in milliseconds."""

    total_connections: Count
    active_users: Count
    uptime: Count
    reconnection_count: Count
    messages_sent: Count
    messages_received: Count
    average_latency: Milliseconds
    connections_per_user: dict[UserId, Count]


class Health(msgspec.Struct, frozen=True):
    """Whether anybody is connected (`healthy`) or not (`idle`), or the server drains."""

    success: Literal[True]
    status: HealthStatus
    stats: HealthFigures


class ConnectionFigures(msgspec.Struct, frozen=True, rename="camel"):
    """Who is connected, and who was."""

    total: Count
    live: Count
    behind: Count
    users: Count
    resumed: Count
    refused: Count
    refused_for: dict[str, Count]


class EventFigures(msgspec.Struct, frozen=True, rename="camel"):
    """What went through since the start."""

    durable: Count
    transient: Count
    sent: Count
    dropped: Count
    average_latency_ms: Milliseconds


class RevocationFigures(msgspec.Struct, frozen=True):
    """How many revocations are in force."""

    users: Count
    tokens: Count


class MessageFigures(msgspec.Struct, frozen=True):
    """What devices sent."""

    received: Count
    ignored: Count


class LimitFigures(msgspec.Struct, frozen=True):
    """What was beyond a limit: connects refused, devices that made room or sent too much."""

    connects: Count
    devices: Count
    messages: Count


class WebhookFigures(msgspec.Struct, frozen=True):
    """What became of the messages that were to be posted."""

    posted: Count
    failed: Count
    dropped: Count


class OutboxFigures(msgspec.Struct, frozen=True):
    """The memory of all outboxes, and its bound; null is none."""

    bytes: Count
    limit: Count | None


class LogFigures(msgspec.Struct, frozen=True):
    """The log; `limit` of its size is null for none, `fault` says why the last commit failed."""

    epoch: str
    head: Count
    dispatched: Count
    bytes: Count
    limit: Count | None
    pruned: Count
    erased: Count
    fault: str | None


class NodeFigures(msgspec.Struct, frozen=True, rename="camel"):
    """One of several servers on one log."""

    node: str
    uptime_ms: Count
    draining: bool
    connections: Count
    fault: str | None


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """The server in figures.

    Where several have one log, `nodes` are those that answered, and `missing` those that did not.
    Sums are over all that answered; `uptimeMs`, `draining`, `revoked` and `log` (but for `erased`)
    are of the one that was asked.
    """

    uptime_ms: Count
    draining: bool
    connections: ConnectionFigures
    events: EventFigures
    revoked: RevocationFigures
    limits: LimitFigures
    client_messages: MessageFigures
    webhook: WebhookFigures
    outbox_bytes: Count
    outbox_total: OutboxFigures
    queue_bytes: Count
    log: LogFigures
    nodes: list[NodeFigures] | UnsetType = UNSET
    missing: list[str] | UnsetType = UNSET


class ConnectionState(msgspec.Struct, frozen=True, rename="camel"):
    """One connection; `position` is the seq of the last durable event written to it.

    Where several servers have one log, `node` is the one it is connected to.
    """

    connection: str
    user_id: UserId
    transport: Transport
    protocol: DialectName
    address: str | None
    since: Timestamp
    state: Literal["live", "behind"]
    position: Count
    behind_by: Count
    outbox_bytes: Count
    sent: Count
    dropped: Count
    silent_ms: Count | None
    round_trip_ms: Milliseconds | None
    node: str | UnsetType = UNSET


class Connections(msgspec.Struct, frozen=True):
    """Those who are connected and were asked for, as many as fit, and how many there are.

    Where several servers have one log, `missing` are those that did not answer.
    """

    connections: list[ConnectionState]
    total: Count
    missing: list[str] | UnsetType = UNSET


class RetainedEvent(msgspec.Struct, frozen=True):
    """A durable event as the log has it. Like those of devices it is joined from bytes."""

    id: CursorText
    type: EventType
    payload: Raw
    timestamp: Timestamp


class EventsPage(msgspec.Struct, frozen=True):
    """Events of a user's stream, and the `after` of the next page; null where there is none."""

    events: list[RetainedEvent]
    next: CursorText | None


class Erased(msgspec.Struct, frozen=True):
    """How many events were erased."""

    erased: Count
