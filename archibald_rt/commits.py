"""Whether commits work, and when to find out if they do again."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from archibald_rt.errors import LogError

_TOLD = 10
"""Of how many requests the log line has the ids."""

_logger = structlog.stdlib.get_logger("archibald_rt.commits")


class CommitWatch:
    """Keeps the last commit's fault; while there is one, has a commit tried now and then.

    Behind a balancer that asks ``/readyz`` no emit arrives any more that would show by itself
    that the disk has room again. ``wake`` is called every so many seconds then, with ``due``
    set.
    """

    def __init__(self, wake: Callable[[], None], *, every: float) -> None:
        self.fault: LogError | None = None
        """Why the last commit failed; None while commits work."""
        self.due = False
        """Whether a commit of no meaning is to be tried."""
        self._wake = wake
        self._every = every
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def failed(self, error: LogError, request_ids: Sequence[str] = ()) -> None:
        """Take note that a commit failed, of these requests, and have one tried later."""
        if self.fault is None or str(self.fault) != str(error):
            told = {"request_ids": [*request_ids[:_TOLD]]} if request_ids else {}
            _logger.error("commits fail", reason=str(error), **told)
        self.fault = error
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._every, self._fall_due)

    def worked(self) -> None:
        """Take note that a commit went well."""
        if self.fault is not None:
            self.fault = None
            _logger.info("commits work again")

    def close(self) -> None:
        """Have nothing tried any more. Calling it again does nothing."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _fall_due(self) -> None:
        self._timer = None
        self.due = True
        self._wake()
