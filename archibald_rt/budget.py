"""What all outboxes together keep in memory, and which part of it each may have.

Devices that stall must not starve the others, and nobody can tell them apart beforehand. So
nothing is set aside for a device. One may hold as much as is *spare*, which is what all of them
together leave over (the dynamic thresholds of switch buffers, Choudhury and Hahne 1998): of
``k`` that stall each ends with a ``k + 1``-th, and as much stays spare. Below that lie two
reserves for those who prove that they read: one for pages, which only a device gets that has
drained, and under it one for live events, which an outbox takes that is empty.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PAGES = 4
"""How many pages are under way at once: the log has two readers, and each its next in line."""

SHARES = 1024
"""Into how many parts what is free is divided to make the share of a device that is behind.

One that never reads keeps its last page, and what was left of the one before, until it is ended.
Each is a share at most, or the largest event.
"""

RESERVED = 16
"""Which part of the bound each of the two reserves is, at least."""

_NO_BOUND = 2**62


class Budget:
    """Counts the bytes that all outboxes and held events keep, against one bound.

    ``limit`` is in bytes, 0 is no bound. ``largest`` is how many bytes the largest event has as
    a message; a limit should be four times that at least.
    """

    def __init__(self, *, limit: int, largest: int) -> None:
        self.limit = limit
        self._bound = limit or _NO_BOUND
        self.largest = largest
        """How many bytes the largest event has as a message."""
        self._for_live = self._bound // RESERVED
        # Enough that those who are offered more than they read never keep a page from anybody.
        self._for_pages = max(self._bound // RESERVED, 2 * largest)
        self.spare = self._bound - self._for_pages - self._for_live
        """How many bytes one that already holds so many may hold; below 0 in the reserves."""
        self._turns = asyncio.Semaphore(PAGES)
        self._line = asyncio.Lock()
        self._short: asyncio.Future[None] | None = None

    @property
    def free(self) -> int:
        """How many bytes may still be taken; what is small is taken whether there are or not."""
        return self.spare + self._for_pages + self._for_live

    @property
    def used(self) -> int:
        """How many bytes are taken."""
        return self._bound - self.free

    def take(self, count: int) -> None:
        """Count bytes that are kept from now on."""
        self.spare -= count

    def give(self, count: int) -> None:
        """Count bytes that are not kept any more."""
        self.spare += count
        if self._short is not None and self._page_fits():
            if not self._short.done():
                self._short.set_result(None)
            self._short = None

    @asynccontextmanager
    async def page(self, wanted: int) -> AsyncIterator[int]:
        """Wait for one's turn and for memory, first come, first served; lend it for the block.

        Yields how many bytes the page may have: no more than are wanted, otherwise room for the
        largest event at least. That and one event more count as taken until the block's end,
        which doesn't wait for anything.
        """
        if not self.limit:
            yield wanted
            return
        async with self._turns:
            async with self._line:
                while not self._page_fits():
                    self._short = asyncio.get_running_loop().create_future()
                    await self._short
            granted = min(wanted, max(self.largest, (self.spare + self._for_pages) // SHARES))
            lent = granted + self.largest
            self.take(lent)
            try:
                yield granted
            finally:
                self.give(lent)

    def _page_fits(self) -> bool:
        return self.spare + self._for_pages >= 2 * self.largest


class Bounded(ABC):
    """What one device is owed, in bytes, within a bound of its own and the budget of all.

    ``limit`` is its own bound, in bytes; 0 is none. What `push` puts in it adds to ``_kept`` and
    takes from the budget; what is gone is to be released.
    """

    __slots__ = ("_kept", "_limit", "_low", "_room", "budget")

    def __init__(self, budget: Budget, *, limit: int) -> None:
        self.budget = budget
        self._limit = limit or _NO_BOUND
        self._low = limit // 4
        self._kept = 0
        self._room: asyncio.Future[None] | None = None

    @abstractmethod
    def push(self, data: bytes) -> None:
        """Put data in whether it fits or not: for what is small, or was made to fit."""

    def offer(self, data: bytes) -> bool:
        """Put data in if it fits; says whether it did.

        What is empty takes anything as far as its own bound is concerned.
        """
        kept = self._kept + len(data)
        if kept > self._limit and self._kept:
            return False
        if kept > self.budget.spare and not self._fits_at_last(len(data)):
            return False
        self.push(data)
        return True

    @asynccontextmanager
    async def room(self, wanted: int) -> AsyncIterator[int]:
        """Wait until most of it is gone, then for memory for a page; lend that for the block.

        Yields how many bytes the page may have, see `Budget.page`. One waiter.
        """
        while not self._has_room():
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        async with self.budget.page(wanted) as granted:
            yield granted

    @abstractmethod
    def _relieve(self) -> None:
        """Hand on what can be, of all outboxes, since memory is short."""

    def _release(self, count: int) -> None:
        """Count bytes as gone; who waits for room is told when there is."""
        self._kept -= count
        self.budget.give(count)
        if self._room is not None and self._has_room():
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    def _fits_at_last(self, count: int) -> bool:
        """Whether data fits once the kernel has what it takes, or into the last reserve."""
        self._relieve()
        if self._kept:
            return self._kept + count <= self.budget.spare
        return count <= self.budget.free

    def _has_room(self) -> bool:
        # Where memory is short only one that has drained whole proves that it reads.
        return self._kept == 0 or self._kept <= min(self._low, self.budget.spare // SHARES)
