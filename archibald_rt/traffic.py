"""What `/internal/stream` says: everything dispatched, and who comes and goes. Types, no I/O."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from archibald_rt.messages import DialectName, EventMessage
from archibald_rt.shapes import Count, CursorText, Timestamp, UserId

Access = Literal["emit", "read"]
"""What the token of whoever watches is good for."""


class TrafficMessage(EventMessage, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An event that was dispatched; `userId` is null for a broadcast, `id` for a transient one.

    It is never encoded from this type: `tap` joins it from bytes that are kept.
    """

    user_id: UserId | None
    id: CursorText | None
    durable: bool
    delivered: Count


class Watching(msgspec.Struct, frozen=True):
    """What the token is good for."""

    access: Access


class Connected(msgspec.Struct, frozen=True, rename="camel"):
    """Whose device came, how, and from where; to which server, where several have one log."""

    user_id: UserId
    connection: str
    protocol: DialectName
    address: str | None
    node: str | UnsetType = UNSET


class Disconnected(msgspec.Struct, frozen=True, rename="camel"):
    """Whose device went; `code` is the close code, 1006 where there was none."""

    user_id: UserId
    connection: str
    code: int
    reason: str
    node: str | UnsetType = UNSET


class Turned(msgspec.Struct, frozen=True, rename="camel"):
    """A device fell behind, or is live."""

    user_id: UserId
    connection: str
    state: Literal["live", "behind"]
    position: CursorText
    node: str | UnsetType = UNSET


class Dropped(msgspec.Struct, frozen=True):
    """How many messages of this stream were given up here, since nobody took them."""

    count: Count


class WatchingMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.watching"):
    """The first message of the stream: from now on everything that passes the filters comes."""

    payload: Watching
    timestamp: Timestamp


class ConnectedMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.connected"):
    """A device has connected."""

    payload: Connected
    timestamp: Timestamp


class DisconnectedMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.disconnected"):
    """A device is not served any more."""

    payload: Disconnected
    timestamp: Timestamp


class TurnedMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.state"):
    """A device gets its events from the log from now on, or as they happen."""

    payload: Turned
    timestamp: Timestamp


class DroppedMessage(msgspec.Struct, frozen=True, tag_field="type", tag="rt.dropped"):
    """Something is missing here."""

    payload: Dropped
    timestamp: Timestamp


Happening = ConnectedMessage | DisconnectedMessage | TurnedMessage
"""What can happen to a device."""
