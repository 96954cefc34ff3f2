"""What was dispatched last, so that who was away for a moment needs nothing from the log."""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from archibald_rt.events import Event

USERS = 50_000
"""Of how many users it is known which event was their last: some 350 bytes each, at most 17 MB."""


class Recent:
    """The durable events dispatched last, and of which users there was none since when.

    ``head`` is the seq up to which nothing is known. ``limit`` bounds, in bytes, the events that
    are kept, and ``users`` how many are known of whom none is.

    An answer is sure whatever was deleted from the log meanwhile: it is all that was ever
    dispatched of a stream above a seq, so nothing of it is missing.
    """

    def __init__(self, head: int, *, limit: int, users: int = USERS) -> None:
        self._limit = limit
        self._users = users
        self._size = 0
        # By seq, each with the stream it is in.
        self._events: deque[tuple[_Stream, Event]] = deque()
        # Of each user, and None for the broadcasts; in the order of their last events. (A dict
        # would look at all that has gone before the oldest.)
        self._streams: OrderedDict[str | None, _Stream] = OrderedDict()
        # Whoever is not known had no event after this seq.
        self._unknown_until = head

    def know(self, lasts: Iterable[tuple[str | None, int]]) -> None:
        """Learn whose last event above ``head`` was which, by seq; before anything is added."""
        for user, seq in lasts:
            self._streams[user] = _Stream(seq)

    def add(self, user: str | None, event: Event) -> None:
        """Note an event as it is dispatched, for a user or (None) for everybody."""
        stream = self._streams.pop(user, None) or _Stream(self._unknown_until)
        self._streams[user] = stream
        stream.last = event.seq
        stream.events.append(event)
        self._events.append((stream, event))
        self._size += len(event.tail)
        while self._size > self._limit:
            owner, oldest = self._events.popleft()
            self._size -= len(oldest.tail)
            del owner.events[0]
            owner.complete_above = oldest.seq
        if len(self._streams) > self._users:
            self._let_go(next(iter(self._streams)))

    def clear(self) -> None:
        """Keep no event: some of them are not to be seen any more."""
        for stream, event in self._events:
            stream.events.clear()
            stream.complete_above = event.seq
        self._events.clear()
        self._size = 0

    def since(self, user: str, seq: int) -> Sequence[Event] | None:
        """Return the events of a user and of everybody above `seq`; None if not all are kept."""
        own, all_users = self._streams.get(user), self._streams.get(None)
        found: list[Event] = []
        for stream in (own, all_users):
            if seq < (self._unknown_until if stream is None else stream.complete_above):
                return None
            if stream is not None and stream.last > seq:
                found += stream.above(seq)
        if own is not None and all_users is not None:
            found.sort(key=_seq)
        return found

    def _let_go(self, user: str | None) -> None:
        """Forget the one whose last event is the oldest, unless that is kept."""
        stream = self._streams[user]
        if not stream.events:
            del self._streams[user]
            self._unknown_until = stream.last


class _Stream:
    """One user's own events, or the broadcasts: the last ones of them, by seq."""

    __slots__ = ("complete_above", "events", "last")

    def __init__(self, complete_above: int) -> None:
        self.complete_above = complete_above
        self.last = complete_above
        # No deque: an empty one takes 760 bytes, and most are empty.
        self.events: list[Event] = []

    def above(self, seq: int) -> list[Event]:
        return self.events[bisect_right(self.events, seq, key=_seq) :]


def _seq(event: Event) -> int:
    return event.seq
