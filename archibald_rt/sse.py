"""Server-Sent Events: their format, and the dialect of devices that read them. No I/O.

The format is a part of the HTML standard (section 9.2): a stream is made of blocks of lines, each
ended by an empty line. An event's data is what a v2 device would get, on one line.
"""

from collections.abc import Sequence

from archibald_rt.controls import Controls
from archibald_rt.events import Event
from archibald_rt.messages import DialectName, GapReason, Transport
from archibald_rt.timestamps import Stamper

COMMENT = b":\n\n"
"""A block that says nothing: readers pass over it, and everybody in between sees life."""

RETRY = 2000
"""After how many milliseconds a device comes back unless it is told otherwise."""


def event(
    data: bytes, *, kind: str = "", last_id: str | None = None, retry: int | None = None
) -> bytes:
    """Write an event whose data is one line of UTF-8.

    ``kind`` is its type; without one it is a ``message``. A reader keeps ``last_id``, also past
    events that have none, and says it when it comes back, ``retry`` milliseconds after the
    connection has ended. Raises ValueError for a line break or a null in what has to be a line.
    """
    lines = []
    if retry is not None:
        lines.append(b"retry: %d\n" % retry)
    if last_id is not None:
        lines.append(b"id: %b\n" % last_id.encode())
    if kind:
        lines.append(b"event: %b\n" % kind.encode())
    lines.append(b"data: %b\n" % data)
    block = b"".join(lines)
    if b"\r" in block or b"\0" in block or block.count(b"\n") != len(lines):
        raise ValueError("what has to be a line has a line break in it")
    return block + b"\n"


class Sse:
    """The dialect of ``/events`` for one log's epoch.

    What says where the device stands has an id, so that it comes back to that place by itself; a
    transient event has none, and leaves the one before.
    """

    name: DialectName = "sse"
    transport: Transport = "sse"
    chained = True

    def __init__(self, epoch: str, stamp: Stamper) -> None:
        self._controls = Controls(epoch, stamp)
        self._id = f"id: {epoch}:".encode()
        self._data = f'\ndata: {{"id":"{epoch}:'.encode()
        self._prev = f'","prev":"{epoch}:'.encode()

    def durable(self, seq: int, tail: bytes, prev: int) -> bytes:
        """Write the event with its cursor, twice, and the cursor before it."""
        parts = (self._id, seq, self._data, seq, self._prev, prev, tail)
        # The tail has no line breaks: `emissions` makes spaces of those between tokens.
        return b'%b%d%b%d%b%d",%b\n\n' % parts

    def durables(self, events: Sequence[Event], prev: int) -> bytes:
        """Write the events, each with its cursor and the cursor before it."""
        # All parts are joined once, as in v2.
        parts: list[bytes] = []
        before = b"%d" % prev
        for each in events:
            seq = b"%d" % each.seq
            parts += (self._id, seq, self._data, seq, self._prev, before, b'",', each.tail, b"\n\n")
            before = seq
        return b"".join(parts)

    def transient(self, tail: bytes) -> bytes:
        """Write the event without an id."""
        return b"data: {%b\n\n" % tail

    def welcome(self, position: int, connection: str, heartbeat: float, *, replay: bool) -> bytes:
        """Write ``rt.welcome``, and when to come back after a connection that is lost."""
        data = self._controls.welcome(position, connection, heartbeat, replay=replay)
        return event(data, kind="rt.welcome", last_id=self._controls.cursor(position), retry=RETRY)

    def gap(
        self, position: int, requested: str, missing_through: int | None, reason: GapReason
    ) -> bytes:
        """Write ``rt.gap``."""
        data = self._controls.gap(requested, missing_through, reason)
        return event(data, kind="rt.gap", last_id=self._controls.cursor(position))

    def live(self, position: int, replayed: int) -> bytes:
        """Write ``rt.live``."""
        data = self._controls.live(position, replayed)
        return event(data, kind="rt.live", last_id=self._controls.cursor(position))

    def auth(self, expires: float | None) -> bytes:  # noqa: ARG002 - the signature is the dialect's
        """Write nothing: such a device can send no token."""
        return b""

    def reconnect(self, after_ms: int) -> bytes:
        """Write ``rt.reconnect``; the device heeds it by itself."""
        return event(self._controls.reconnect(after_ms), kind="rt.reconnect", retry=after_ms)

    def close(self, code: int, reason: str, *, retry: int | None = None) -> bytes:
        """Write ``rt.close``, the last event, and when to come back if that is not as before."""
        return event(self._controls.close(code, reason), kind="rt.close", retry=retry)
