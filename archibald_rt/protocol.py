"""The messages devices get and the frames around them: bytes in, bytes out, no I/O.

A *dialect* turns events and the server's own messages into what one kind of connection
reads. Dialects have no state, so one serves every device of its kind; what an event looks
like in a dialect depends only on the event and, where the dialect chains events, on the
seq before it, which is why `Frames` can share one `bytes` among many devices.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from archibald_rt.controls import Controls
from archibald_rt.events import Event
from archibald_rt.messages import (
    ClientEnvelope,
    DialectName,
    GapReason,
    RenewalMessage,
    Transport,
)
from archibald_rt.timestamps import Stamper

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
"""The opcodes of frames (RFC 6455, section 5.2)."""

FRAMING = 128
"""How many bytes the message of an event has besides its tail, at most, in any dialect."""


def frame(opcode: int, data: bytes) -> bytes:
    """Put a WebSocket frame, final and unmasked, around data (RFC 6455, section 5.2)."""
    return _header(opcode, len(data)) + data


def _header(opcode: int, length: int) -> bytes:
    if length < 126:  # noqa: PLR2004 - the three forms a length has there
        return bytes((0x80 | opcode, length))
    if length < 65536:  # noqa: PLR2004 - as above
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2)
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8)


class Dialect(Protocol):
    """How one kind of connection writes what its device is told.

    ``chained`` says whether a durable event names the one before it. A message a dialect
    does not have is an empty `bytes`.
    """

    name: DialectName
    transport: Transport
    chained: bool

    def durable(self, seq: int, tail: bytes, prev: int) -> bytes:
        """Write a durable event that follows the one at ``prev``."""

    def durables(self, events: Sequence[Event], prev: int) -> bytes:
        """Write durable events one after the other, of which the first follows ``prev``."""

    def transient(self, tail: bytes) -> bytes:
        """Write a transient event."""

    def welcome(self, position: int, connection: str, heartbeat: float, *, replay: bool) -> bytes:
        """Write the first message; ``heartbeat`` is in seconds."""

    def gap(
        self, position: int, requested: str, missing_through: int | None, reason: GapReason
    ) -> bytes:
        """Write that events after the position are missing: ``expired``, ``epoch`` or ``ahead``."""

    def live(self, position: int, replayed: int) -> bytes:
        """Write that the backlog is done."""

    def auth(self, expires: float | None) -> bytes:
        """Write that a new token was accepted; ``expires`` is in seconds since 1970."""

    def reconnect(self, after_ms: int) -> bytes:
        """Write when to come back after the server has closed the connection."""


class V1:
    """The dialect without a subprotocol: events only, each ``{type, payload, timestamp}``."""

    name: DialectName = "v1"
    transport: Transport = "websocket"
    chained = False

    def durable(self, seq: int, tail: bytes, prev: int) -> bytes:  # noqa: ARG002 - v1 has no ids
        """Write the event as every v1 message."""
        return frame(TEXT, b"{" + tail)

    def durables(self, events: Sequence[Event], prev: int) -> bytes:  # noqa: ARG002 - as above
        """Write each event as every v1 message."""
        return b"".join([frame(TEXT, b"{" + event.tail) for event in events])

    def transient(self, tail: bytes) -> bytes:
        """Write the event as every v1 message."""
        return frame(TEXT, b"{" + tail)

    def welcome(self, *_args: Any, **_options: Any) -> bytes:
        """Write nothing."""
        return b""

    gap = live = auth = reconnect = welcome


class V2:
    """The dialect of the subprotocol ``archibald.v2`` for one log's epoch."""

    name: DialectName = "v2"
    transport: Transport = "websocket"
    chained = True

    def __init__(self, epoch: str, stamp: Stamper) -> None:
        self._controls = Controls(epoch, stamp)
        self._id = f'{{"id":"{epoch}:'.encode()
        self._prev = f'","prev":"{epoch}:'.encode()

    def durable(self, seq: int, tail: bytes, prev: int) -> bytes:
        """Write the event with its cursor and the cursor before it."""
        return frame(TEXT, b'%b%d%b%d",%b' % (self._id, seq, self._prev, prev, tail))

    def durables(self, events: Sequence[Event], prev: int) -> bytes:
        """Write the events, each with its cursor and the cursor before it."""
        # All parts are joined once, and the same length has the same header: half of what the
        # frames cost one by one, which is a quarter of a replay.
        parts: list[bytes] = []
        heads: dict[int, bytes] = {}
        fixed = len(self._id) + len(self._prev) + len(b'",')
        before = b"%d" % prev
        for event in events:
            seq, tail = b"%d" % event.seq, event.tail
            length = fixed + len(seq) + len(before) + len(tail)
            head = heads.get(length)
            if head is None:
                head = heads[length] = _header(TEXT, length) + self._id
            parts += (head, seq, self._prev, before, b'",', tail)
            before = seq
        return b"".join(parts)

    def transient(self, tail: bytes) -> bytes:
        """Write the event without an id."""
        return frame(TEXT, b"{" + tail)

    def welcome(self, position: int, connection: str, heartbeat: float, *, replay: bool) -> bytes:
        """Write ``rt.welcome``."""
        return _text(self._controls.welcome(position, connection, heartbeat, replay=replay))

    def gap(
        self,
        position: int,  # noqa: ARG002 - a device that reads `requested` knows it
        requested: str,
        missing_through: int | None,
        reason: GapReason,
    ) -> bytes:
        """Write ``rt.gap``."""
        return _text(self._controls.gap(requested, missing_through, reason))

    def live(self, position: int, replayed: int) -> bytes:
        """Write ``rt.live``."""
        return _text(self._controls.live(position, replayed))

    def auth(self, expires: float | None) -> bytes:
        """Write ``rt.auth``."""
        return _text(self._controls.auth(expires))

    def reconnect(self, after_ms: int) -> bytes:
        """Write ``rt.reconnect``."""
        return _text(self._controls.reconnect(after_ms))


def _text(data: bytes) -> bytes:
    return frame(TEXT, data)


class Frames:
    """One event's frames, each built when it is first asked for and then shared.

    Encoding once a (dialect, prev) instead of once a device is what makes a fan-out cheap.
    """

    def __init__(self, tail: bytes) -> None:
        self._tail = tail
        self._built: dict[tuple[str, int], bytes] = {}

    @property
    def size(self) -> int:
        """How many bytes the event's tail has."""
        return len(self._tail)

    def durable(self, dialect: Dialect, seq: int, prev: int) -> bytes:
        """Return the frame of a durable event that follows ``prev``."""
        key = (dialect.name, prev if dialect.chained else -1)
        frame = self._built.get(key)
        if frame is None:
            frame = self._built[key] = dialect.durable(seq, self._tail, prev)
        return frame

    def transient(self, dialect: Dialect) -> bytes:
        """Return the frame of a transient event."""
        key = (dialect.name, -1)
        frame = self._built.get(key)
        if frame is None:
            frame = self._built[key] = dialect.transient(self._tail)
        return frame


_message = msgspec.json.Decoder(ClientEnvelope)
_renewal = msgspec.json.Decoder(RenewalMessage)
# What a decoder raises on a text of any kind; the last two on nesting and on lone surrogates.
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)


def type_of(message: str) -> str | None:
    """Return the type of a client's message; None if it is no JSON object with one."""
    try:
        return _message.decode(message).type
    except _UNREADABLE:
        return None


def token_of(message: str) -> str:
    """Return the token of a client's ``rt.auth``, empty if there is none to be read."""
    try:
        return _renewal.decode(message).payload.token
    except _UNREADABLE:
        return ""
