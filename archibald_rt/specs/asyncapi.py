"""The AsyncAPI 3 document of what goes over a device's connection, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from archibald_rt import __version__
from archibald_rt.errors import CloseCode
from archibald_rt.messages import (
    SUBPROTOCOL,
    ClientEnvelope,
    CloseMessage,
    DurableMessage,
    EventMessage,
    GapMessage,
    LiveMessage,
    ReconnectMessage,
    RenewalMessage,
    RenewedMessage,
    WelcomeMessage,
)
from archibald_rt.shapes import CursorText, Timestamp, UserId
from archibald_rt.specs.schemas import Schema, schemas_of
from archibald_rt.traffic import (
    ConnectedMessage,
    DisconnectedMessage,
    DroppedMessage,
    TrafficMessage,
    TurnedMessage,
    WatchingMessage,
)

_TEXT = "text/plain"
_WS, _HTTP, _INTERNAL = "public", "publicHttp", "internal"


@dataclass(frozen=True)
class Message:
    """One kind of message."""

    name: str
    type: Any
    summary: str
    media_type: str = "application/json"


@dataclass(frozen=True)
class Channel:
    """One way of being connected; ``sent`` is what the server writes, ``received`` what it reads.

    ``query`` has the parameters of the handshake besides the token, ``server`` is one of those
    that the document names.
    """

    name: str
    address: str
    description: str
    sent: Sequence[Message]
    received: Sequence[Message]
    query: Sequence[tuple[str, Any]]
    server: str = _WS


_DURABLE = Message("durable", DurableMessage, "A durable event, with its cursor")
_EVENT = Message("event", EventMessage, "An event; in v2 a transient one")
_CONTROL = (
    Message("welcome", WelcomeMessage, "First, once"),
    Message("gap", GapMessage, "Something is missing"),
    Message("live", LiveMessage, "Once: what follows is live"),
    Message("reconnect", ReconnectMessage, "The server is going away"),
)
_RENEWED = Message("renewed", RenewedMessage, "A new token was accepted")
_CLOSE = Message("close", CloseMessage, "The last of all: why the stream ends")
_WATCHED = (
    Message("watching", WatchingMessage, "First, once"),
    Message("traffic", TrafficMessage, "An event that was dispatched, and to how many devices"),
    Message("connected", ConnectedMessage, "A device has come"),
    Message("disconnected", DisconnectedMessage, "A device has gone"),
    Message("state", TurnedMessage, "A device fell behind, or is live"),
    Message("dropped", DroppedMessage, "Messages were given up here"),
    _CLOSE,
)
_PING = Message("ping", Literal["ping"], "Asks for `pong`", _TEXT)
_PONG = Message("pong", Literal["pong"], "Answers `ping`", _TEXT)
_RENEWAL = Message("renewal", RenewalMessage, "Replaces the token in place")
_OF_CLIENT = Message("client", ClientEnvelope, "Any other JSON object: for the application's hook")

CHANNELS = (
    Channel(
        "v1",
        "/ws/realtime",
        "Without a subprotocol: events only. It can't resume exactly; new clients speak v2.",
        (_EVENT, _PONG),
        (_PING, _OF_CLIENT),
        [("lastEventTs", Timestamp)],
    ),
    Channel(
        "v2",
        "/ws/realtime",
        f"With the subprotocol `{SUBPROTOCOL}`: cursors, exact resume, and losses are said.",
        (*_CONTROL, _RENEWED, _DURABLE, _EVENT, _PONG),
        (_PING, _RENEWAL, _OF_CLIENT),
        [("lastEventId", CursorText | Literal["earliest"])],
    ),
    Channel(
        "sse",
        "/events",
        "Server-Sent Events: each message is an event's data, on one line. What says where the "
        "device stands has an `id`; the server's own messages have their type as `event`.",
        (*_CONTROL, _CLOSE, _DURABLE, _EVENT),
        (),
        [("lastEventId", CursorText | Literal["earliest"])],
        _HTTP,
    ),
    Channel(
        "stream",
        "/internal/stream",
        "Server-Sent Events for those who look on: all traffic, bounded and lossy. The server's "
        "own messages have their type as `event`.",
        _WATCHED,
        (),
        [("user", UserId), ("type", list[str])],
        _INTERNAL,
    ),
)
"""All of them."""


def asyncapi(channels: Sequence[Channel] = CHANNELS) -> dict[str, Any]:
    """Return the document, ready to be written as JSON."""
    messages = {one.name: one for each in channels for one in (*each.sent, *each.received)}
    parameters = [one for each in channels for _, one in each.query]
    types = [*(one.type for one in messages.values()), *parameters]
    schemas, named = schemas_of(list(dict.fromkeys(types)))
    operations: dict[str, Any] = {}
    for each in channels:
        operations[f"{each.name}Send"] = _operation(each, "send", each.sent, schemas)
        if each.received:
            operations[f"{each.name}Receive"] = _operation(each, "receive", each.received, schemas)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "archibald_rt",
            "version": __version__,
            "description": "What devices and those who look on get and send; "
            "`docs/protocol.md` says it in words.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            _WS: _server("ws", "The public listener; `wss` behind a proxy that ends TLS."),
            _HTTP: _server("http", "The same; `https` behind a proxy that ends TLS."),
            _INTERNAL: _server(
                "http",
                "The internal listener, for back ends and operators.",
                8081,
                ["internalToken"],
            ),
        },
        "channels": {each.name: _channel(each, schemas) for each in channels},
        "operations": operations,
        "components": {
            "messages": {name: _message(one, schemas) for name, one in messages.items()},
            "schemas": named,
            "securitySchemes": _SECURITY,
        },
    }


_SECURITY = {
    "internalToken": {"type": "http", "scheme": "bearer"},
    "userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "userTokenInQuery": {"type": "httpApiKey", "in": "query", "name": "token"},
}


def _server(
    protocol: str,
    description: str,
    port: int = 8080,
    tokens: Sequence[str] = ("userToken", "userTokenInQuery"),
) -> dict[str, Any]:
    return {
        "host": f"127.0.0.1:{port}",
        "protocol": protocol,
        "description": description,
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in tokens],
    }


def _channel(channel: Channel, schemas: dict[Any, Schema]) -> dict[str, Any]:
    names = [one.name for one in (*channel.sent, *channel.received)]
    described = {
        "address": channel.address,
        "description": channel.description,
        "servers": [{"$ref": f"#/servers/{channel.server}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "x-close-codes": {str(int(code)): code.name for code in CloseCode},
    }
    if channel.server == _WS:
        described["bindings"] = {"ws": {**_handshake(channel, schemas), "bindingVersion": "0.1.0"}}
    return described


def _handshake(channel: Channel, schemas: dict[Any, Schema]) -> dict[str, Any]:
    """Return the request it begins with, which the two protocols' bindings have elsewhere."""
    query = {name: schemas[one] for name, one in channel.query}
    return {"method": "GET", "query": {"type": "object", "properties": query}}


def _operation(
    channel: Channel, action: str, messages: Sequence[Message], schemas: dict[Any, Schema]
) -> dict[str, Any]:
    at = f"#/channels/{channel.name}"
    described = {
        "action": action,
        "channel": {"$ref": at},
        "messages": [{"$ref": f"{at}/messages/{one.name}"} for one in messages],
    }
    if channel.server != _WS:
        binding = {**_handshake(channel, schemas), "bindingVersion": "0.3.0"}
        described["bindings"] = {"http": binding}
    return described


def _message(message: Message, schemas: dict[Any, Schema]) -> dict[str, Any]:
    return {
        "name": message.name,
        "summary": message.summary,
        "contentType": message.media_type,
        "payload": schemas[message.type],
    }
