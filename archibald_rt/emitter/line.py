"""The emissions that wait for their batch: in order, bounded in bytes."""

import asyncio
from collections import deque
from dataclasses import dataclass

from archibald_rt.emitter.messages import Emitted

OVERHEAD = 500
"""What an emission takes in memory besides its bytes, roughly, in bytes."""


@dataclass(slots=True, eq=False)
class Pending:
    """An emission that has no answer yet.

    ``head`` is its JSON without the closing brace, ``key`` what its key adds. ``own_key``: the
    emitter gave it that key; without any it can't be sent again once it may have been
    emitted. ``doubtful`` says that it may have been. It is given up at ``until``, a time of
    the loop's clock.
    """

    head: bytes
    key: bytes
    type: str
    answer: asyncio.Future[Emitted]
    until: float
    own_key: bool
    by_class: bool
    """Whether the server decides if it is durable."""
    broadcast: bool
    doubtful: bool = False

    @property
    def json(self) -> bytes:
        """The emission as it is sent."""
        return self.head + self.key + b"}"

    @property
    def size(self) -> int:
        """How many bytes it takes here."""
        return len(self.head) + OVERHEAD

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Line:
    """Emissions in the order in which they came. At ``max_bytes`` the next one waits outside."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Pending] = deque()
        self._outside: deque[asyncio.Future[None]] = deque()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting or self._outside)

    @property
    def size(self) -> int:
        """How many bytes have been added and are not done."""
        return self._size

    async def room(self) -> None:
        """Wait until there is room, first come, first served.

        Whoever has it must call `let_in` when it is used, or isn't needed, before it awaits.
        """
        if not self._outside and self._size < self._max_bytes:
            return
        turn = asyncio.get_running_loop().create_future()
        self._outside.append(turn)
        try:
            await turn
        except BaseException:
            # Cancelled, or given up.
            self._outside.remove(turn)
            self.let_in()
            raise
        # Only now, or somebody who comes in this turn of the loop would be first.
        self._outside.popleft()

    def add(self, pending: Pending) -> None:
        """Put an emission at the end."""
        self._waiting.append(pending)
        self._size += pending.size

    def let_in(self) -> None:
        """Let the first who waits outside in, if there is room."""
        if self._outside and self._size < self._max_bytes and not self._outside[0].done():
            self._outside[0].set_result(None)

    def take(self, *, max_count: int, max_bytes: int) -> list[Pending]:
        """Take what is to be sent together from the front: at least one, if any wait.

        A broadcast goes by itself. What nobody waits for any more is left out.
        """
        batch: list[Pending] = []
        size = 2
        while self._waiting and len(batch) < max_count:
            first = self._waiting[0]
            size += len(first.head) + len(first.key) + 2
            if batch and (size > max_bytes or first.broadcast or batch[0].broadcast):
                break
            self._waiting.popleft()
            if first.answer.done():
                self.done(first)
            else:
                batch.append(first)
        return batch

    def done(self, pending: Pending) -> None:
        """Count an emission that was taken no more."""
        self._size -= pending.size
        self.let_in()

    def give_up(self, error: BaseException) -> None:
        """Answer all that wait with an error, those outside too."""
        for pending in self._waiting:
            self._size -= pending.size
            pending.fail(error)
        self._waiting.clear()
        for turn in self._outside:
            if not turn.done():
                turn.set_exception(error)
