"""The transient events of a device that is behind, waiting for their place in its order."""

from collections.abc import Iterator

from archibald_rt.budget import Budget
from archibald_rt.protocol import Dialect, Frames

LIMIT = 64 * 1024
"""How many bytes of transient events are held for one device."""

OVERHEAD = 250
"""How many bytes of memory an event takes besides its own, for being held; as measured."""


class HeldEvents:
    """Transient events held for one device: bounded, the oldest dropped, conflated by key.

    Besides their own bound they count in the budget of all devices, where those of one may take
    as much as is spare. `close` it at the end, or the budget never gets back what is left.

    Each has a *mark*, the seq dispatched last when it came: it belongs after every durable
    event up to that seq and before any later one.
    """

    __slots__ = ("_added", "_budget", "_dialect", "_dropped", "_held", "_limit", "_size")

    def __init__(self, dialect: Dialect, budget: Budget, *, limit: int = LIMIT) -> None:
        self._dialect = dialect
        self._budget = budget
        self._limit = limit
        self._size = 0
        self._dropped = 0
        # Mark, size and message, in the order of their marks, since a newer one always goes to
        # the end. An event without a conflate key has a key of its own: a number.
        self._held: dict[str | int, tuple[int, int, bytes]] = {}
        self._added = 0

    @property
    def dropped(self) -> int:
        """How many events were given up for want of room."""
        return self._dropped

    @property
    def mark(self) -> int | None:
        """The mark of the oldest event that is held; None without one."""
        return next(iter(self._held.values()))[0] if self._held else None

    def add(self, mark: int, frames: Frames, conflate: str | None) -> None:
        """Hold an event; one with the same conflate key goes."""
        self._added += 1
        key: str | int = self._added if conflate is None else conflate
        if key in self._held:
            self._remove(key)
        # Only the message: what is held lives longer than the frames that devices share.
        self._held[key] = (mark, frames.size, frames.transient(self._dialect))
        self._size += frames.size
        self._budget.take(frames.size + OVERHEAD)
        while self._held and (self._size > self._limit or self._kept > self._budget.spare):
            self._remove(next(iter(self._held)))
            self._dropped += 1

    def take_before(self, seq: int) -> Iterator[bytes]:
        """Take out, oldest first, the messages that belong before the durable event `seq`."""
        while self._held:
            key = next(iter(self._held))
            if self._held[key][0] >= seq:
                return
            yield self._remove(key)

    def close(self) -> None:
        """Give up what is left. Calling it again does nothing."""
        self._budget.give(self._kept)
        self._held.clear()
        self._size = 0

    @property
    def _kept(self) -> int:
        return self._size + OVERHEAD * len(self._held)

    def _remove(self, key: str | int) -> bytes:
        _, size, message = self._held.pop(key)
        self._size -= size
        self._budget.give(size + OVERHEAD)
        return message
