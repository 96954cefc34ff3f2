"""What tests of a log's engines share: emissions, and the log as one looks at it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import pytest

from archibald_rt.eventlog import EventLog, KeyConflict, Page, Stored
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.sqlite import SQLiteLog
from archibald_rt.events import Emission, make_tail

STAMP = "2026-01-01T00:00:00Z"
COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"

Opener = Callable[..., AbstractAsyncContextManager[EventLog]]
"""Opens a log of one engine; by the same name it is the same log again."""


def emission(
    user: str | None = "u",
    payload: str = "1",
    *,
    key: str | None = None,
    instant: int = 0,
    timestamp: str = STAMP,
    event_type: str = "T",
) -> Emission:
    tail = make_tail(f'"{event_type}"'.encode(), payload.encode(), timestamp)
    return Emission(user, tail, timestamp, instant, durable=True, key=key)


def numbered(users: Sequence[str | None]) -> list[Emission]:
    return [emission(user, str(number)) for number, user in enumerate(users, 1)]


async def stored(log: EventLog, *emissions: Emission) -> list[Stored]:
    (group,) = await appended(log, [emissions])
    assert isinstance(group, list)
    return group


async def appended(
    log: EventLog, groups: Sequence[Sequence[Emission]]
) -> list[list[Stored] | KeyConflict]:
    """Append, and take what has arrived by it as the order queue does."""
    results = await log.append(groups)
    news = [each.seq for one in results if isinstance(one, list) for each in one]
    if log.peers is not None and news:
        async for _ in log.peers.through(max(news)):
            pass
    return results


async def page(
    log: EventLog,
    user: str = "u",
    *,
    after: int = 0,
    through: int | None = None,
    max_events: int = 1000,
    max_bytes: int = 2**30,
    later_than: int | None = None,
) -> Page:
    return await log.page(
        user,
        after=after,
        through=log.head if through is None else through,
        max_events=max_events,
        max_bytes=max_bytes,
        later_than=later_than,
    )


def seqs(read: Page) -> list[int]:
    return [event.seq for event in read.events]


class Engine(NamedTuple):
    """An engine, and how far it differs from what SQLite does: docs/scale-out.md says why.

    Tests that run over both know no other differences than these.
    """

    name: str
    log: type[EventLog]
    spare: int
    """How many events of a user are kept beyond the limit, and count as deleted."""
    exact: bool
    """Whether a loss is told to none but those who had it, however old their cursor is."""
    at_hand: bool
    """Whether what was dispatched lately comes though the limits have deleted it since."""
    alone: bool
    """Whether no other server can be further, so that a cursor from the future is refused."""


SQLITE = Engine("sqlite", SQLiteLog, spare=0, exact=True, at_hand=False, alone=True)
NATS = Engine("nats", NatsLog, spare=1, exact=False, at_hand=True, alone=False)
ENGINES = [SQLITE, NATS]

over_both = pytest.mark.usefixtures("engine")
"""Marks a test whose servers, in its own process, keep their logs by each engine in turn."""


def streams_of(stream: str) -> list[str]:
    """Return the names of all streams that belong to a log."""
    return [stream, f"KV_{stream}_state"]
