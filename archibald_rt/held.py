"""The transient events of a device that is behind, waiting for their place in its order."""

from collections.abc import Iterator

from archibald_rt.protocol import Frames

LIMIT = 64 * 1024
"""How many bytes of transient events are held for one device."""


class HeldEvents:
    """Transient events held for one device: bounded, the oldest dropped, conflated by key.

    Each has a *mark*, the seq dispatched last when it came: it belongs after every durable
    event up to that seq and before any later one.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._dropped = 0
        # In the order of their marks, since a newer one always goes to the end. An event
        # without a conflate key has a key of its own: a number.
        self._held: dict[str | int, tuple[int, Frames]] = {}
        self._added = 0

    @property
    def dropped(self) -> int:
        """How many events were given up for want of room."""
        return self._dropped

    def add(self, mark: int, frames: Frames, conflate: str | None) -> None:
        """Hold an event; one with the same conflate key goes."""
        self._added += 1
        key: str | int = self._added if conflate is None else conflate
        replaced = self._held.pop(key, None)
        if replaced is not None:
            self._size -= replaced[1].size
        self._held[key] = (mark, frames)
        self._size += frames.size
        while self._size > self._limit:
            _, oldest = self._held.pop(next(iter(self._held)))
            self._size -= oldest.size
            self._dropped += 1

    def take_before(self, seq: int) -> Iterator[Frames]:
        """Take out, oldest first, what belongs before the durable event `seq`."""
        while self._held:
            key = next(iter(self._held))
            mark, frames = self._held[key]
            if mark >= seq:
                return
            del self._held[key]
            self._size -= frames.size
            yield frames
