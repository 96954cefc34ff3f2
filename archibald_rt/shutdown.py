"""Whether the server has to end, and why; what its end has to wait for."""

import asyncio
import contextlib
from collections.abc import Hashable

import structlog

from archibald_rt.errors import LogError

_logger = structlog.stdlib.get_logger("archibald_rt.shutdown")


class Shutdown:
    """The one place where the end of a server is asked for, by an operator or by a fault."""

    def __init__(self) -> None:
        self.fault: BaseException | None = None
        """What broke; None when the end was asked for."""
        self._wanted = asyncio.Event()

    def ask(self) -> None:
        """Have the server drained and closed. Doing it again does nothing."""
        self._wanted.set()

    def broken(self, error: BaseException) -> None:
        """Have it closed soon: what this process believes about the log may be wrong."""
        if self.fault is None:
            self.fault = error
            _logger.critical(
                "the event log can't be relied on, exiting; a restart reads what is on disk",
                reason=str(error),
                # A fault of our own needs to be found; one of the log is told in its text.
                exc_info=None if isinstance(error, LogError) else error,
            )
        self._wanted.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Have it closed soon if a task that runs for good has failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.critical("a task failed, exiting", exc_info=error)
            self.fault = self.fault or error
            self._wanted.set()

    async def wanted(self) -> None:
        """Wait until the server has to end."""
        await self._wanted.wait()


class Underway:
    """What has begun and not ended, such as the connections that a drain waits for."""

    def __init__(self) -> None:
        self._those: set[Hashable] = set()
        self._none = asyncio.Event()
        self._none.set()

    def enter(self, one: Hashable) -> None:
        """Count something from now on."""
        self._those.add(one)
        self._none.clear()

    def leave(self, one: Hashable) -> None:
        """Count it no more. Doing it again does nothing."""
        self._those.discard(one)
        if not self._those:
            self._none.set()

    async def over(self, within: float) -> None:
        """Wait until nothing is underway, but no longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within)
