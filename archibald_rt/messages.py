"""The messages of devices besides events' own bytes, both ways: their types. No I/O."""

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from archibald_rt.shapes import Count, CursorText, EventType, Timestamp

SUBPROTOCOL = "archibald.v2"
"""What a device offers to speak v2."""

DialectName = Literal["v1", "v2", "sse"]
Transport = Literal["websocket", "sse"]
GapReason = Literal["expired", "epoch", "ahead"]


class EventMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event as v1 has every one of them, and v2 the transient ones.

    It is never encoded from this type: `protocol` joins it from bytes that are kept.
    """

    type: EventType
    payload: Raw
    timestamp: Timestamp


class DurableMessage(EventMessage, frozen=True, forbid_unknown_fields=True):
    """A durable event in v2; `prev` is the `id` of the one before it on this connection."""

    id: CursorText
    prev: CursorText


class Welcome(msgspec.Struct, frozen=True, rename="camel"):
    """Where a device stands, how its connection is called, and how often the server pings."""

    cursor: CursorText
    connection: str
    heartbeat_ms: Count
    replay: bool


class Gap(msgspec.Struct, frozen=True, rename="camel"):
    """Events are missing: which, if it can be known, and why."""

    requested: str
    missing_through: CursorText | None
    reason: GapReason


class Live(msgspec.Struct, frozen=True):
    """The position with which live begins, and how many events were replayed before."""

    cursor: CursorText
    replayed: Count


class Renewed(msgspec.Struct, frozen=True):
    """When the new token expires, null for never."""

    expires: Timestamp | None


class Reconnect(msgspec.Struct, frozen=True, rename="camel"):
    """How long after the close a device is to come back."""

    after_ms: Count


class Close(msgspec.Struct, frozen=True):
    """Why the connection ends: a close code as a WebSocket has it, and a word for it."""

    code: Count
    reason: str


class WelcomeMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.welcome"):
    """The first message of a connection, but for v1."""

    payload: Welcome
    timestamp: Timestamp


class GapMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.gap"):
    """Something of the stream can't be had any more, or the cursor can't be used."""

    payload: Gap
    timestamp: Timestamp


class LiveMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.live"):
    """The backlog is done, what follows is live; once a connection."""

    payload: Live
    timestamp: Timestamp


class RenewedMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.auth"):
    """A new token was accepted."""

    payload: Renewed
    timestamp: Timestamp


class ReconnectMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.reconnect"):
    """The server is going away: stay until it closes, then wait that long."""

    payload: Reconnect
    timestamp: Timestamp


class CloseMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.close"):
    """The last event of a stream, in place of a close frame."""

    payload: Close
    timestamp: Timestamp


class StreamEvent(msgspec.Struct, frozen=True):
    """An event of a stream as its reader has it; the data is a message's JSON."""

    data: str
    event: str | UnsetType = UNSET
    id: CursorText | UnsetType = UNSET
    retry: Count | UnsetType = UNSET


class ClientEnvelope(msgspec.Struct, frozen=True):
    """What is read of every message of a client: a JSON object with a text as `type`."""

    type: str


class Token(msgspec.Struct, frozen=True):
    """A token to take the place of the one that is about to expire."""

    token: str


class RenewalMessage(msgspec.Struct, frozen=True):
    """A client's `rt.auth`: replaces its token in place."""

    type: Literal["rt.auth"]
    payload: Token
