"""What a message says of the event it was in another log. No I/O.

An import gives each event a new seq, JetStream a new time. The old ones stay with it, for an
export.
"""

import re
from collections.abc import Mapping

from archibald_rt.eventlog.nats.definition import milliseconds

MOVED = "Rt-Moved"
"""The header of an event that was imported: its seq in the other log, and its commit's time."""

_STAMPED = "Nats-Time-Stamp"
_MOVED = re.compile("([0-9]{1,19}),([0-9]{1,15})", re.ASCII)


def moved(seq: int, committed: int) -> Mapping[str, str]:
    """Return the header of an event that was committed at that time (milliseconds since 1970)."""
    return {MOVED: f"{seq},{committed}"}


def seq_before(headers: Mapping[str, str]) -> int | None:
    """Return which seq an event had in the log it was imported from, None for another."""
    match = _MOVED.fullmatch(headers.get(MOVED, ""))
    return None if match is None else int(match[1])


def committed(headers: Mapping[str, str]) -> int:
    """Return when an event was first committed, in milliseconds since 1970."""
    match = _MOVED.fullmatch(headers.get(MOVED, ""))
    return milliseconds(headers[_STAMPED]) if match is None else int(match[2])
