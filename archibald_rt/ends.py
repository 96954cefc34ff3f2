"""The two ends of a session, as it sees them: the hub's feed and the device's outbox."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from archibald_rt.budget import Budget
from archibald_rt.events import Event
from archibald_rt.measures import Replays


class Outbox(Protocol):
    """Where a session writes: bounded, and emptied by the socket."""

    budget: Budget
    """Where it counts what it keeps."""

    @property
    def size(self) -> int:
        """How many bytes wait for the kernel to take them."""

    def offer(self, data: bytes) -> bool:
        """Put data in if it fits; says whether it did."""

    def push(self, data: bytes) -> None:
        """Put data in whether it fits or not: for what is small, or was made to fit."""

    def room(self, wanted: int) -> AbstractAsyncContextManager[int]:
        """Wait until there is room for a page and have it for a block; ends without waiting.

        Gives how many bytes the page may have: as many as are wanted, or less. A page may have
        one event more than that.
        """


class Feed(Protocol):
    """What a session asks of the hub."""

    replays: Replays
    """Where a session counts what it writes while it is behind."""

    @property
    def dispatched(self) -> int:
        """The seq of the last durable event handed to live devices."""

    async def reaches(self, seq: int) -> None:
        """Wait until all up to a seq was dispatched."""

    def since(self, user: str, seq: int) -> Sequence[Event] | None:
        """Return the dispatched events of a stream above `seq`; None if not all are at hand."""

    def turned(self, user: str, connection: str, *, live: bool, position: int) -> None:
        """Take note that a session fell behind or is live."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a device asks to begin: by cursor or ``earliest`` (v2), or after an instant (v1)."""

    event_id: str | None = None
    later_than: int | None = None

    def __bool__(self) -> bool:
        return self.event_id is not None or self.later_than is not None
