"""What one device is written, in its dialect, and how far it is.

The durable events of a stream, each behind the transient ones that were held for it and belong
before it, and what the server says of itself.
"""

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from archibald_rt import timestamps
from archibald_rt.ends import Outbox
from archibald_rt.events import Cursor, Event
from archibald_rt.protocol import Dialect

if TYPE_CHECKING:
    from archibald_rt.held import HeldEvents


class Writer:
    """Writes into an outbox for one device; ``position`` is where it begins."""

    __slots__ = (
        "_epoch",
        "_heartbeat",
        "_held",
        "_replayed",
        "_told",
        "began",
        "connection",
        "dialect",
        "dropped",
        "outbox",
        "position",
        "sent",
    )

    def __init__(
        self,
        dialect: Dialect,
        outbox: Outbox,
        *,
        epoch: str,
        position: int,
        connection: str,
        heartbeat: float,
    ) -> None:
        self.dialect = dialect
        self.outbox = outbox
        self.connection = connection
        self.position = position
        """The seq of the last durable event written, at first the welcome's cursor."""
        self.sent = 0
        """How many events were put into the outbox."""
        self.dropped = 0
        """How many held transient events were given up for want of room."""
        self.began = time.time()
        """When the device connected, in seconds since 1970."""
        self._epoch = epoch
        self._heartbeat = heartbeat
        self._held: HeldEvents | None = None
        # Losses up to here have been told.
        self._told = 0
        # How many events were replayed; None once rt.live was said.
        self._replayed: int | None = 0

    @property
    def since(self) -> str:
        """When the device connected."""
        return timestamps.from_epoch(self.began)

    def _tell_loss(self, lost: int) -> bool:
        """Tell what was lost up to there, unless that was told; says whether it told it."""
        if lost > max(self.position, self._told):
            self._told = lost
            requested = str(Cursor(self._epoch, self.position))
            self._push(self.dialect.gap(self.position, requested, lost, "expired"))
            return True
        return False

    def _write(self, events: Sequence[Event]) -> None:
        """Write durable events, each behind the held transient ones that belong before it."""
        parts: list[bytes] = []
        held, begun = self._held, 0
        while held is not None and (mark := held.mark) is not None:
            end = bisect_right(events, mark, begun, key=_seq)
            if end == len(events):
                break
            messages = list(held.take_before(events[end].seq))
            parts += (self._chain(events[begun:end]), *messages)
            self.sent += len(messages)
            begun = end
        parts.append(self._chain(events[begun:] if begun else events))
        self._push(b"".join(parts))
        self.sent += len(events)
        if self._replayed is not None:
            self._replayed += len(events)

    def _chain(self, events: Sequence[Event]) -> bytes:
        """Return durable events that follow one another as they are written."""
        if not events:
            return b""
        data = self.dialect.durables(events, self.position)
        # A v1 replay lies below the position, which must not go back.
        self.position = max(self.position, events[-1].seq)
        return data

    def _welcome(self, *, replay: bool) -> None:
        self._push(
            self.dialect.welcome(self.position, self.connection, self._heartbeat, replay=replay)
        )

    def _say_live(self) -> None:
        if self._replayed is not None:
            self._push(self.dialect.live(self.position, self._replayed))
            self._replayed = None

    def _push(self, data: bytes) -> None:
        if data:
            self.outbox.push(data)


def _seq(event: Event) -> int:
    return event.seq
