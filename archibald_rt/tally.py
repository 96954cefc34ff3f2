"""Log lines that a flood doesn't multiply."""

import asyncio
import logging
from typing import Any

import structlog

EVERY = 60.0
"""How many seconds lie between two lines of one kind, at least."""


class Tally:
    """Says what happens at once, and then at most every so many seconds how often it did.

    ``event`` is the line; its ``count`` is how often since the line before, the rest is of
    the last time. In each such time the first ``at_once`` have a line each. To be used in a
    running loop; `close` says what is left to say.
    """

    def __init__(
        self,
        logger: structlog.stdlib.BoundLogger,
        event: str,
        *,
        every: float = EVERY,
        at_once: int = 1,
        level: int = logging.WARNING,
    ) -> None:
        self._logger = logger
        self._event = event
        self._every = every
        self._at_once = self._left = at_once
        self._level = level
        self._count = 0
        self._last: dict[str, Any] = {}
        self._pause: asyncio.TimerHandle | None = None

    def note(self, **details: Any) -> None:
        """Say that it happened, now or with the next line."""
        self._count += 1
        self._last = details
        if self._pause is None:
            self._say()
        elif self._left:
            self._write()

    def close(self) -> None:
        """Say what was not said yet. Doing it again does nothing."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._write()

    def _say(self) -> None:
        """Say how often it was, and look again later; be silent when it was not."""
        self._pause = None
        self._left = self._at_once
        if self._count:
            self._write()
            self._pause = asyncio.get_running_loop().call_later(self._every, self._say)

    def _write(self) -> None:
        if self._count:
            self._logger.log(self._level, self._event, count=self._count, **self._last)
            self._count, self._last = 0, {}
            self._left = max(0, self._left - 1)
