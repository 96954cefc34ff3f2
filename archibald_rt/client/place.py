"""Where a client stands in its stream, over all its connections: text in, items out, no I/O."""

from archibald_rt.client.messages import (
    Gap,
    Item,
    Live,
    Message,
    ProtocolError,
    ReceivedEvent,
    Reconnect,
    Welcome,
    decode,
)


class Place:
    """The place of one client; ``position`` is the cursor that its next connection resumes by.

    Every connection begins with ``welcome()``; each message after it goes through ``take()``.
    When either raises ProtocolError, the connection is to be given up: the position is still
    that of the last good event.
    """

    def __init__(self, position: str | None) -> None:
        self.position = position
        self.reconnect_after: float | None = None
        """Seconds after the close to return, once the server asks for that; yours to reset."""
        self._before = ""
        self._last_gap: Gap | None = None

    def welcome(self, text: str) -> Welcome:
        """Begin a connection by its first message, and give that."""
        message = decode(text)
        if not isinstance(message, Welcome):
            raise ProtocolError("the first message was no rt.welcome")
        if self.position in (None, "earliest"):
            self.position = message.cursor
        self._before = message.cursor
        return message

    def take(self, text: str) -> Item | None:
        """Give what the message means to the caller; None when nothing or nothing new."""
        match decode(text):
            case Message(event=event, prev=prev):
                return event if event.id is None else self._durable(event, event.id, prev)
            case Gap() as gap:
                return self._gap(gap)
            case Live() as live:
                return live
            case Reconnect(after_ms=after_ms):
                self.reconnect_after = after_ms / 1000
        return None

    def _durable(self, event: ReceivedEvent, cursor: str, prev: str | None) -> Item | None:
        if _repeats(cursor, self.position):
            self._before = cursor
            return None
        if prev != self._before:
            raise ProtocolError(f"{cursor} comes after {prev}, not after {self._before}")
        self.position = self._before = cursor
        return event

    def _gap(self, gap: Gap) -> Item | None:
        if gap.reason != "expired":
            # The old cursor is void: repeated ids are told from here on.
            self.position = self._before
        if gap == self._last_gap:
            # A quiet user's loss lies after its position at every connect; once is enough.
            return None
        self._last_gap = gap
        return gap


def _repeats(cursor: str, position: str | None) -> bool:
    """Whether ``cursor`` is at or before ``position`` in the same log.

    What can't be compared, cursors of two logs or unreadable ones, repeats nothing.
    """
    epoch, _, seq = cursor.rpartition(":")
    known_epoch, _, known_seq = (position or "").rpartition(":")
    if epoch != known_epoch or not (seq.isdecimal() and known_seq.isdecimal()):
        return False
    return int(seq) <= int(known_seq)
