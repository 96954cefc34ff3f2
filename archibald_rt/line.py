"""The requests that wait to be committed and dispatched, bounded in bytes."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from archibald_rt.errors import EmissionError, QueueFullError
from archibald_rt.events import Emission, Outcome

OVERHEAD = 500
"""What an emission takes in memory besides its tail, roughly, in bytes."""

GROUP_LIMIT = 8 * 1024 * 1024
"""How many queued bytes are committed at once, so that no transaction grows without bound."""


# A frozen dataclass takes a microsecond to make, five times as much.
class Request(msgspec.Struct, frozen=True, eq=False):
    """What one emitter asked for at once; ``durable`` are the durable ones of its emissions."""

    emissions: Sequence[Emission]
    durable: Sequence[Emission]
    size: int
    answer: asyncio.Future[list[Outcome]]
    accepted: float
    """When it was added, in seconds of a steady clock."""
    request_id: str

    def finish(self, outcomes: list[Outcome]) -> None:
        """Answer, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_result(outcomes)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Line:
    """Requests in the order in which they came. ``max_bytes`` bounds it (0: unbounded)."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Request] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def size(self) -> int:
        """How many bytes have been added and are not done."""
        return self._size

    def add(self, emissions: Sequence[Emission], request_id: str = "") -> Request:
        """Put a request at the end. Raises `QueueFullError`."""
        size = sum(len(emission.tail) + OVERHEAD for emission in emissions)
        # What is larger than the whole line would else never be taken.
        if self._max_bytes and self._size and self._size + size > self._max_bytes:
            raise QueueFullError(f"{self._size} bytes are queued, at most {self._max_bytes} may be")
        durable = [emission for emission in emissions if emission.durable]
        answer = asyncio.get_running_loop().create_future()
        request = Request(emissions, durable, size, answer, time.monotonic(), request_id)
        self._waiting.append(request)
        self._size += size
        return request

    def next_group(self) -> list[Request]:
        """Take what is to be committed together from the front."""
        group: list[Request] = []
        size = 0
        while self._waiting and size < GROUP_LIMIT:
            # What is transient and first in line has no commit to wait for.
            if group and not group[0].durable and self._waiting[0].durable:
                break
            group.append(self._waiting.popleft())
            size += group[-1].size
        return group

    def done(self, request: Request) -> None:
        """Count a request that was taken no more."""
        self._size -= request.size

    def give_up(self, error: BaseException) -> None:
        """Answer all that wait with an error."""
        for request in self._waiting:
            request.fail(error)
        self._waiting.clear()


class WeighedLine(Line):
    """A line whose groups are no heavier than ``most`` emissions; one with a key weighs two."""

    def __init__(self, *, max_bytes: int, most: int) -> None:
        super().__init__(max_bytes=max_bytes)
        self._most = most

    def add(self, emissions: Sequence[Emission], request_id: str = "") -> Request:
        """See `Line.add`. Raises `EmissionError` (413) for a request too heavy for any group."""
        weight = _weight([emission for emission in emissions if emission.durable])
        if weight > self._most:
            raise EmissionError(
                f"{weight} durable emissions, those with a key counted twice: at most"
                f" {self._most} are taken at once",
                status=413,
            )
        return super().add(emissions, request_id)

    def next_group(self) -> list[Request]:
        """See `Line.next_group`; what is too much goes back to the front."""
        group = super().next_group()
        left = self._most
        for place, request in enumerate(group):
            left -= _weight(request.durable)
            if left < 0:
                self._waiting.extendleft(reversed(group[place:]))
                return group[:place]
        return group


def _weight(durable: Sequence[Emission]) -> int:
    return len(durable) + sum(emission.key is not None for emission in durable)
