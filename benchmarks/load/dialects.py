"""How each kind of server is spoken to: addresses, handshakes, what is an event, emissions."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.peers.base import Endpoint

PAYLOAD = {
    "jobId": "00000000-0000-0000-0000-000000000000",
    "operation": "submit-order",
    "message": "The order was submitted.",
    "progress": 100,
}
"""The payload of all events but those that carry a time: 127 bytes of JSON."""

DURABLE = "JOB_COMPLETED"
TRANSIENT = "JOB_PROGRESS"


@dataclass(frozen=True)
class Emission:
    """One event to be emitted: for whom, of which type, its payload as JSON."""

    user: str
    type: str = DURABLE
    payload: bytes = json.dumps(PAYLOAD, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Greeting:
    """What a device sends to connect."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    first: bytes = b""
    """The text it sends once the WebSocket is open."""


class Dialect(Protocol):
    """One way to be spoken to."""

    @property
    def control(self) -> bytes:
        """How a text begins that is no event; empty where all are events."""

    @property
    def ready(self) -> bytes:
        """How the text begins after which a device is live; empty where the 101 says it."""

    def greeting(self, at: Endpoint, user: str, token: str, resume: str) -> Greeting:
        """Return what connects a device; `resume` is empty for one that wants no replay."""

    def requests(self, at: Endpoint, emissions: Sequence[Emission]) -> list[bytes]:
        """Return the HTTP requests that emit these: in one where the server can."""


class Archibald:
    """This project's, version 2."""

    control = b'{"type":"rt.'
    ready = b'{"type":"rt.live"'

    def greeting(self, at: Endpoint, user: str, token: str, resume: str) -> Greeting:
        """Connect with the token beside the subprotocol."""
        _ = user
        query = f"?lastEventId={resume}" if resume else ""
        return Greeting(
            f"ws://127.0.0.1:{at.public}/ws/realtime{query}",
            (("Sec-WebSocket-Protocol", f"archibald.v2, bearer.{token}"),),
        )

    def requests(self, at: Endpoint, emissions: Sequence[Emission]) -> list[bytes]:
        """Emit in one request."""
        return [post(at, "/internal/emit", body_of(emissions))]


class Ws:
    """The plain server on Node, which the others with `/internal/emit` take after."""

    control = b""
    ready = b""

    def greeting(self, at: Endpoint, user: str, token: str, resume: str) -> Greeting:
        """Connect with the token in the query; all that is kept is replayed."""
        _ = user
        since = "&lastEventTs=1970-01-01T00:00:00.000Z" if resume else ""
        return Greeting(f"ws://127.0.0.1:{at.public}/ws?token={token}{since}")

    def requests(self, at: Endpoint, emissions: Sequence[Emission]) -> list[bytes]:
        """Emit in one request."""
        return [post(at, "/internal/emit", body_of(emissions))]


class SocketIo:
    """Socket.IO 4 over Engine.IO 4: `0`, `2` and `40` are its own, `42` is an event."""

    control = b"0"
    ready = b"40"

    def greeting(self, at: Endpoint, user: str, token: str, resume: str) -> Greeting:
        """Connect to the main namespace; `resume` is `<private id> <offset>`."""
        _ = user
        auth = {"token": token}
        if resume:
            auth["pid"], auth["offset"] = resume.split()
        url = f"ws://127.0.0.1:{at.public}/socket.io/?EIO=4&transport=websocket"
        return Greeting(url, first=b"40" + json.dumps(auth).encode())

    def requests(self, at: Endpoint, emissions: Sequence[Emission]) -> list[bytes]:
        """Emit in one request."""
        return [post(at, "/internal/emit", body_of(emissions))]


class Nchan:
    """Nchan: a channel for each user, and the event as it is published."""

    control = b""
    ready = b""

    def greeting(self, at: Endpoint, user: str, token: str, resume: str) -> Greeting:
        """Connect; the token is sent, but nobody looks at it."""
        place = "all" if resume else "live"
        return Greeting(f"ws://127.0.0.1:{at.public}/{place}/{user}?token={token}")

    def requests(self, at: Endpoint, emissions: Sequence[Emission]) -> list[bytes]:
        """Publish each by a request of its own: there are no batches."""
        return [
            post(at, f"/publish/{each.user}", _event(each) + b',"timestamp":"' + STAMP + b'"}')
            for each in emissions
        ]


STAMP = b"2026-01-01T00:00:00.000Z"
DIALECTS: dict[str, Dialect] = {
    "archibald": Archibald(),
    "ws": Ws(),
    "socketio": SocketIo(),
    "nchan": Nchan(),
}


def _event(emission: Emission) -> bytes:
    return b'{"type":"%s","payload":%s' % (emission.type.encode(), emission.payload)


def body_of(emissions: Sequence[Emission]) -> bytes:
    """Write one emission, or an array of several, as `/internal/emit` takes it."""
    bodies: Iterable[bytes] = (
        b'{"userId":"%s",' % each.user.encode() + _event(each)[1:] + b"}" for each in emissions
    )
    return next(iter(bodies)) if len(emissions) == 1 else b"[" + b",".join(bodies) + b"]"


def post(at: Endpoint, path: str, body: bytes) -> bytes:
    """Return the bytes of a request to the internal listener."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{at.internal}\r\n"
        f"Authorization: Bearer {at.emit_token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
