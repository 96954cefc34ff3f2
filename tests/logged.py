"""What the server writes about itself, as tests read it."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from archibald_rt.logs import configure


class Lines:
    """The lines of a log so far."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        """Return all of them as they were written."""
        return self._stream.getvalue()

    def entries(self, **having: Any) -> list[dict[str, Any]]:
        """Return those with these values, as objects."""
        found = [json.loads(line) for line in self.text.splitlines()]
        return [each for each in found if having.items() <= each.items()]


@contextmanager
def logged(level: str = "debug") -> Iterator[Lines]:
    """Log as JSON for the length of a block, and leave logging as it was found."""
    root = logging.getLogger()
    handlers, before = list(root.handlers), root.level
    stream = io.StringIO()
    configure(level=level, log_format="json", stream=stream)
    try:
        yield Lines(stream)
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        for name in ("aiosqlite", "tornado.general"):
            logging.getLogger(name).setLevel(logging.NOTSET)
        structlog.reset_defaults()
