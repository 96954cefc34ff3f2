"""Pruning at intervals, at a pace that leaves the log to others."""

import asyncio
import time
from collections.abc import Callable

import structlog

from archibald_rt.errors import (
    DrainingError,
    LogBrokenError,
    LogUnavailableError,
    LogUncertainError,
)
from archibald_rt.eventlog import EventLog, Retention
from archibald_rt.eventlog.base import Step, Turn
from archibald_rt.revocations import Revocations

PAUSE = 20.0
"""How much longer than a step the pause after it is, so that few emissions meet one.

With 3 every fourth does, and their 99th percentile was four times as long as without pruning;
with 10 it was two to three times as long.
"""

HURRY = 4.0
"""The same while more is committed than deleted: then the log would grow without end."""

_logger = structlog.stdlib.get_logger("archibald_rt.upkeep")


class Upkeep:
    """Holds a log to its limits, every so many seconds and once at the beginning.

    Revocations of tokens that have expired are forgotten as well.

    ``turn`` is the order queue's. ``forget`` is called after an erasure, so that nobody has
    the events at hand any more; ``broken`` when what is known of the log may be wrong.
    """

    def __init__(
        self,
        log: EventLog,
        turn: Turn,
        *,
        revocations: Revocations,
        retention: Retention,
        every: float,
        forget: Callable[[], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._turn = turn
        self._revocations = revocations
        self.retention = retention
        """How much the log keeps."""
        self._every = every
        self._forget = forget
        self._broken = broken
        self.pruned = 0
        """How many events were pruned since the start."""
        self.erased = 0
        """How many events were erased since the start."""
        self.runs = 0
        """How many runs of pruning were done whole since the start."""
        self.failed_runs = 0
        """How many could not be."""
        self.seconds = 0.0
        """How many seconds the whole runs took together, pauses included."""
        self.last_run: float | None = None
        """How many seconds the last whole run took."""

    async def run(self) -> None:
        """Prune, and prune again, until cancelled or the log takes no steps any more.

        Without an interval (0) it never does.
        """
        while self._every:
            try:
                await self._prune()
            except DrainingError:
                return
            except (LogUnavailableError, LogUncertainError) as error:
                self.failed_runs += 1
                _logger.warning("pruning failed, trying again later", reason=str(error))
            except LogBrokenError as error:
                self._broken(error)
                return
            await asyncio.sleep(self._every)

    async def erase(self, user: str) -> int:
        """Delete a user's own events for good; returns how many there were.

        Raises `DrainingError`, `LogUnavailableError` or `LogUncertainError` (some may be gone), or
        `LogBrokenError`.
        """
        try:
            deleted = await self._log.erase(user, self._turn)
        finally:
            self._forget()
        self.erased += deleted
        return deleted

    async def _prune(self) -> None:
        began, before, head = time.monotonic(), self.pruned, self._log.head

        async def turn(step: Step) -> int:
            took = 0.0

            async def timed() -> int:
                nonlocal took
                started = time.monotonic()
                try:
                    return await step()
                finally:
                    took = time.monotonic() - started

            done = await self._turn(timed)
            late = time.monotonic() - began > self._every
            grows = self._log.head - head > self.pruned - before
            await asyncio.sleep(took * (HURRY if late and grows else PAUSE))
            return done

        expired_before = self._revocations.forgettable
        await self._log.forget_revoked(expired_before, turn)
        self._revocations.forget(expired_before)
        await self._log.prune(self.retention, turn, self._count)
        self.last_run = time.monotonic() - began
        self.runs += 1
        self.seconds += self.last_run
        if self.pruned > before:
            _logger.info(
                "pruned",
                events=self.pruned - before,
                seconds=round(self.last_run, 3),
                log_bytes=await self._log.size(),
            )

    def _count(self, deleted: int) -> None:
        self.pruned += deleted
