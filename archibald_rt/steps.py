"""Deletions in the log, waiting for their turn between two groups of the order queue."""

import asyncio
from collections import deque

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.base import Step


class Steps:
    """A line of steps; whoever owns it takes one when nothing else is done to the log."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Step, asyncio.Future[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, step: Step) -> asyncio.Future[int]:
        """Put a step in line. The future resolves to what it returns; cancelled, it isn't run."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((step, done))
        return done

    async def take(self) -> None:
        """Run the first one. Raises what it raises, unless a later try may work."""
        step, done = self._waiting.popleft()
        if done.done():
            return
        try:
            deleted = await step()
        except Exception as error:
            if not done.done():
                done.set_exception(error)
            if not isinstance(error, LogUnavailableError | LogUncertainError):
                raise
        else:
            if not done.done():
                done.set_result(deleted)

    def give_up(self) -> None:
        """Run none of them."""
        for _, done in self._waiting:
            if not done.done():
                done.set_exception(LogUnavailableError("the server is going away"))
        self._waiting.clear()
