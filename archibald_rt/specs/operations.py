"""What can be asked of the two listeners by HTTP: the operations, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from archibald_rt.answers import (
    DEFAULT_LIMIT,
    MAX_CONNECTIONS,
    MAX_LIMIT,
    MAX_PATTERNS,
    Alive,
    ConnectionOrder,
    Connections,
    Erased,
    EventsPage,
    Health,
    Problem,
    Ready,
    Stats,
)
from archibald_rt.bodies import (
    Batch,
    BroadcastBody,
    DisconnectBody,
    DisconnectedBody,
    EmissionBody,
    ResultBody,
    ResultsBody,
    RevokeBody,
)
from archibald_rt.events import MAX_TYPE
from archibald_rt.messages import SUBPROTOCOL, StreamEvent
from archibald_rt.shapes import CursorText, UserId

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
EVENTS, HTML = "text/event-stream", "text/html"

Lines = Annotated[str, Meta(description="An emission a line, each as in JSON; at most 10,000.")]
MetricsText = Annotated[str, Meta(description="A sample a line, with what it is before it.")]
Source = Annotated[str, Meta(description="The text of the file.")]
Document = Annotated[dict[str, Any], Meta(description="A document such as this one.")]
Jwt = Annotated[str, Meta(max_length=8192, pattern=r"^[A-Za-z0-9_.-]*$")]
Text = Annotated[str, Meta(max_length=200)]

PROMETHEUS = "text/plain"
Html = Annotated[str, Meta(description="As browsers read it.")]
Pattern = Annotated[str, Meta(max_length=MAX_TYPE, description="`*`, `?` and `[…]` as in a shell.")]
Patterns = Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)]
FileName = Annotated[str, Meta(pattern=r"^[a-z]+\.[a-z]+$", max_length=40)]

PUBLIC, INTERNAL = "public", "internal"
"""The listeners."""

EMIT, READ, USER = "emitToken", "readToken", "userToken"
"""The tokens."""

USER_IN_QUERY = "userTokenInQuery"
"""A user's token as the query has it."""


@dataclass(frozen=True)
class Parameter:
    """A part of the path, of the query or of the header."""

    name: str
    where: str
    type: Any
    description: str
    default: Any = None


@dataclass(frozen=True)
class Answer:
    """What an operation answers with one status; a body is of any one of the types."""

    description: str
    types: Sequence[Any] = ()
    media_type: str = JSON


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    ``problems`` are the statuses it may refuse with besides those that all of its listener have,
    ``tokens`` those of which one is needed.
    """

    listener: str
    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    tokens: Sequence[str] = ()
    problems: Sequence[int] = ()
    parameters: Sequence[Parameter] = ()
    body: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    body_needed: bool = True


OF_INTERNAL = (401, 500)
"""What every operation of the internal listener may refuse with."""

_USER_ID = Parameter("userId", "path", UserId, "The user's id, percent-encoded as UTF-8.")
_EMITTED = {200: Answer("Committed if durable, and dispatched.", (ResultBody,))}
_EMITTED_MANY = {200: Answer("Committed if durable, and dispatched.", (ResultBody, ResultsBody))}
_REFUSED = (400, 409, 413, 415, 503, 504)
_EITHER = (EMIT, READ)
_EMISSIONS = {JSON: (EmissionBody, Batch), NDJSON: (Lines,)}
_UNREADY = {503: Answer("The last commit failed, or the server drains.", (Problem,), PROBLEM)}
_UNCHANGED = {304: Answer("The caller has it already, by `If-None-Match`.")}
_PAGE = (
    Parameter("after", "query", CursorText | Literal[""], "What comes after it is returned."),
    Parameter(
        "limit",
        "query",
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        "How many events at most.",
        DEFAULT_LIMIT,
    ),
)
_OF_CONNECTIONS = (
    Parameter("user", "query", UserId | Literal[""], "Only those of this user."),
    Parameter("search", "query", Text, "Only where the user, connection or address has this."),
    Parameter("sort", "query", ConnectionOrder | Literal[""], "Which come first."),
    Parameter(
        "limit",
        "query",
        Annotated[int, Meta(ge=1, le=MAX_CONNECTIONS)],
        "How many at most.",
        MAX_CONNECTIONS,
    ),
)
_OF_STREAM = (
    Parameter("user", "query", UserId | Literal[""], "Only what is of this user."),
    Parameter("type", "query", Patterns, "Only what is of a type that matches one of these."),
)
_FILE = Parameter("file", "path", FileName, "Its name.")
_HANDSHAKE = (
    Parameter("token", "query", Jwt, "The user's token; else it is taken from the header."),
    Parameter("lastEventId", "query", Text, "v2: where to resume, a cursor or `earliest`."),
    Parameter("lastEventTs", "query", Text, "v1: what is later than this is replayed."),
    Parameter(
        "Sec-WebSocket-Protocol",
        "header",
        Text,
        f"`{SUBPROTOCOL}` for v2, which may stand beside `bearer.<token>`; nothing for v1.",
    ),
)
_LISTENING = (
    _HANDSHAKE[0],
    Parameter("lastEventId", "query", Text, "Where to resume, a cursor or `earliest`."),
    Parameter("Last-Event-ID", "header", Text, "The same, by browsers; it counts before that."),
)

OPERATIONS = (
    Operation(
        *(INTERNAL, "post", "/internal/emit", "emit", "Emit to users: one event, or many at once"),
        _EMITTED_MANY,
        (EMIT,),
        _REFUSED,
        body=_EMISSIONS,
    ),
    Operation(
        *(INTERNAL, "post", "/internal/broadcast", "broadcast", "Emit to everybody"),
        _EMITTED,
        (EMIT,),
        _REFUSED,
        body={JSON: (BroadcastBody,)},
    ),
    Operation(
        *(INTERNAL, "get", "/metrics", "metrics", "The server in figures, for Prometheus"),
        {
            200: Answer(
                "The metrics of this process; in OpenMetrics where `Accept` names that.",
                (MetricsText,),
                PROMETHEUS,
            )
        },
        _EITHER,
    ),
    Operation(
        *(INTERNAL, "get", "/internal/stats", "stats", "The server in figures"),
        {200: Answer("The figures of this process.", (Stats,))},
        _EITHER,
    ),
    Operation(
        *(INTERNAL, "get", "/internal/connections", "connections", "Who is connected"),
        {200: Answer("Those who are, or some of them.", (Connections,))},
        _EITHER,
        (400,),
        _OF_CONNECTIONS,
    ),
    Operation(
        *(INTERNAL, "get", "/internal/stream", "stream", "Follow all traffic"),
        {200: Answer("All that happens from now on; see AsyncAPI.", (StreamEvent,), EVENTS)},
        _EITHER,
        (400, 503),
        _OF_STREAM,
    ),
    Operation(
        *(INTERNAL, "get", "/internal/users/{userId}/events", "userEvents"),
        "What is retained of a user's stream, page by page",
        {200: Answer("A page, oldest first.", (EventsPage,))},
        _EITHER,
        (400, 503),
        (_USER_ID, *_PAGE),
    ),
    Operation(
        *(INTERNAL, "delete", "/internal/users/{userId}/events", "eraseUserEvents"),
        "Erase a user's own events",
        {200: Answer("They are gone.", (Erased,))},
        (EMIT,),
        (400, 503, 504),
        (_USER_ID,),
    ),
    Operation(
        *(INTERNAL, "post", "/internal/users/{userId}/disconnect", "disconnect"),
        "Disconnect a user's devices, and revoke the tokens issued before a moment",
        {200: Answer("They are shut.", (DisconnectedBody,))},
        (EMIT,),
        (400, 413, 415, 503, 504),
        (_USER_ID,),
        {JSON: (DisconnectBody,)},
        body_needed=False,
    ),
    Operation(
        *(INTERNAL, "post", "/internal/tokens/revoke", "revokeToken"),
        "Revoke one token, and disconnect the devices that hold it",
        {200: Answer("It is refused from now on.", (DisconnectedBody,))},
        (EMIT,),
        (400, 413, 415, 503, 504),
        body={JSON: (RevokeBody,)},
    ),
    Operation(
        *(INTERNAL, "get", "/internal/openapi.json", "openapi", "This document"),
        {200: Answer("This document.", (Document,))},
        _EITHER,
    ),
    Operation(
        *(INTERNAL, "get", "/internal/asyncapi.json", "asyncapi", "The messages of the WebSocket"),
        {200: Answer("An AsyncAPI document.", (Document,))},
        _EITHER,
    ),
    Operation(
        *(INTERNAL, "get", "/console", "console", "The console: a page, which asks for a token"),
        {200: Answer("The page.", (Html,), HTML), 304: Answer("It has not changed.")},
    ),
    Operation(
        *(INTERNAL, "head", "/console", "headConsole", "The same without a body"),
        {200: Answer("It is there."), 304: Answer("It has not changed.")},
    ),
    Operation(
        *(INTERNAL, "get", "/console/{file}", "consoleFile", "What belongs to the page"),
        {200: Answer("The file.", (Html,), "*/*"), 304: Answer("It has not changed.")},
        (),
        (404,),
        (_FILE,),
    ),
    Operation(
        *(INTERNAL, "head", "/console/{file}", "headConsoleFile", "The same without a body"),
        {
            200: Answer("It is there."),
            304: Answer("It has not changed."),
            404: Answer("It is not."),
        },
        (),
        (),
        (_FILE,),
    ),
    Operation(
        *(PUBLIC, "get", "/ws/realtime", "realtime", "Connect a device by WebSocket"),
        {101: Answer("The connection is open; a bad token is refused on it, by close code 1008.")},
        (USER, USER_IN_QUERY),
        (400, 403, 426),
        _HANDSHAKE,
    ),
    Operation(
        *(PUBLIC, "get", "/events", "events", "Connect a device by Server-Sent Events"),
        {
            200: Answer(
                "The stream, which ends with the connection; one who is to come back later gets"
                " `rt.close` alone.",
                (StreamEvent,),
                EVENTS,
            )
        },
        (USER, USER_IN_QUERY),
        (401, 403),
        _LISTENING,
    ),
    Operation(
        *(PUBLIC, "head", "/events", "headEvents", "Whether that would be let in"),
        {
            200: Answer("It would."),
            401: Answer("The token is missing or wrong."),
            403: Answer("The page has not the origin."),
        },
        (USER, USER_IN_QUERY),
        parameters=_LISTENING,
    ),
    Operation(
        *(PUBLIC, "options", "/events", "optionsEvents", "What a page may send"),
        {204: Answer("For browsers, which ask by themselves.")},
        problems=(403,),
    ),
    Operation(
        *(PUBLIC, "get", "/healthz", "healthz", "Whether the process answers"),
        {200: Answer("It does.", (Alive,))},
    ),
    Operation(
        *(PUBLIC, "head", "/healthz", "headHealthz", "The same without a body"),
        {200: Answer("It does.")},
    ),
    Operation(
        *(PUBLIC, "get", "/readyz", "readyz", "Whether the server can do its work"),
        {200: Answer("It can.", (Ready,)), **_UNREADY},
    ),
    Operation(
        *(PUBLIC, "head", "/readyz", "headReadyz", "The same without a body"),
        {200: Answer("It can."), 503: Answer("It can't.")},
    ),
    Operation(
        *(PUBLIC, "get", "/api/websocket/health", "health", "The connections in figures"),
        {200: Answer("The figures of this process.", (Health,))},
        (USER, USER_IN_QUERY),
        (401, 403),
    ),
    Operation(
        *(PUBLIC, "get", "/client.js", "clientJs", "The JavaScript client, a module"),
        {200: Answer("The module.", (Source,), "text/javascript; charset=utf-8"), **_UNCHANGED},
    ),
    Operation(
        *(PUBLIC, "head", "/client.js", "headClientJs", "The same without a body"),
        {200: Answer("It is there."), **_UNCHANGED},
    ),
    Operation(
        *(PUBLIC, "get", "/client.d.ts", "clientTypes", "Its types, for TypeScript"),
        {200: Answer("The types.", (Source,), "text/plain; charset=utf-8"), **_UNCHANGED},
    ),
    Operation(
        *(PUBLIC, "head", "/client.d.ts", "headClientTypes", "The same without a body"),
        {200: Answer("They are there."), **_UNCHANGED},
    ),
)
"""All of them."""
