"""Pruning a log that no server runs on, as fast as it goes."""

import asyncio
from pathlib import Path

from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.access import Progress, require_log, unheard
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.sqlite import open_sqlite


def prune(path: Path, retention: Retention, *, progress: Progress = unheard) -> int:
    """Delete what is beyond the limits and give the room back; returns how many events went.

    What was done when this is interrupted stays done. Raises `LogOpenError`, `LogInUseError`
    while another process holds the log, and what `EventLog.prune` raises.
    """
    require_log(path)
    return asyncio.run(_prune(path, retention, progress))


async def _prune(path: Path, retention: Retention, progress: Progress) -> int:
    deleted = 0

    async def turn(step: Step) -> int:
        # Nobody else wants one.
        return await step()

    def count(more: int) -> None:
        nonlocal deleted
        deleted += more
        progress(f"pruning: {deleted} events deleted", deleted, None)

    progress("pruning", 0, None)
    async with open_sqlite(path) as log:
        await log.prune(retention, turn, count)
    return deleted
