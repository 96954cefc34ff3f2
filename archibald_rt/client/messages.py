"""What a client gets from the server and hands to its caller: values, no I/O.

::

    ArchibaldError
    ├── AuthError                the token was refused (it lives in ``errors``)
    ├── ClientError              the client can't go on, and waiting would not help
    │   └── ClientClosedError    the server closed and the client must not return by itself
    └── ProtocolError            never raised to the caller: the client reconnects
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import msgspec

from archibald_rt.errors import ArchibaldError


class ClientError(ArchibaldError):
    """The client can't go on, and waiting would not help; the message is one line."""


class ClientClosedError(ClientError):
    """The server closed with a code after which a client must not return by itself."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed the connection: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class ProtocolError(ArchibaldError):
    """The server broke the protocol on this connection; another one may go well."""


@dataclass(frozen=True)
class ReceivedEvent:
    """An event as it arrived. ``id`` is its cursor; a transient event has none.

    ``raw`` is the message's text, untouched, for whoever needs numbers as they were spelled.
    """

    type: str
    timestamp: str
    id: str | None
    raw: str

    @cached_property
    def payload(self) -> Any:
        """The payload as Python values, parsed at the first use.

        Raises ValueError for an integer with more digits than Python converts
        (``sys.set_int_max_str_digits``); ``raw`` holds it all the same.
        """
        return json.loads(self.raw).get("payload")


class Gap(msgspec.Struct, frozen=True, rename="camel"):
    """Durable events are gone, or can't be told apart from those the caller has.

    ``expired``: events after ``requested``, the last of them ``missing_through``, are no longer
    held. ``epoch`` (another log) and ``ahead`` (a cursor from the future): ``missing_through`` is
    None, all that is retained follows, and ids may repeat.
    """

    requested: str
    missing_through: str | None
    reason: str


class Live(msgspec.Struct, frozen=True, rename="camel"):
    """The backlog of this connection, ``replayed`` events, is done; what follows is live."""

    cursor: str
    replayed: int


Item: TypeAlias = ReceivedEvent | Gap | Live
"""What iterating over a client yields."""


class Welcome(msgspec.Struct, frozen=True, rename="camel"):
    """The first message of a connection: where it stands and how often the server pings.

    ``timestamp`` says what time it is for the server.
    """

    cursor: str
    heartbeat_ms: int
    timestamp: str = ""


class Reconnect(msgspec.Struct, frozen=True, rename="camel"):
    """The server drains: return ``after_ms`` after the close."""

    after_ms: int


class Other(msgspec.Struct, frozen=True):
    """A control message that asks nothing of this client, such as one of a later server."""


class Message(msgspec.Struct, frozen=True):
    """An event with its place: ``prev`` is the id of the durable event before it."""

    event: ReceivedEvent
    prev: str | None


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    timestamp: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    prev: str | None = None


def decode(text: str) -> Message | Welcome | Gap | Live | Reconnect | Other:
    """Read one message; raises ProtocolError when it is none of the protocol's.

    An event's payload is only skipped over, so that nothing in it can fail here.
    """
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
        match envelope.type:
            case "rt.welcome":
                welcome = msgspec.json.decode(envelope.payload, type=Welcome)
                return msgspec.structs.replace(welcome, timestamp=envelope.timestamp)
            case "rt.gap":
                return msgspec.json.decode(envelope.payload, type=Gap)
            case "rt.live":
                return msgspec.json.decode(envelope.payload, type=Live)
            case "rt.reconnect":
                return msgspec.json.decode(envelope.payload, type=Reconnect)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"an unreadable message: {error}") from error
    if envelope.type.startswith("rt."):
        return Other()
    event = ReceivedEvent(envelope.type, envelope.timestamp, envelope.id, text)
    return Message(event, envelope.prev)
