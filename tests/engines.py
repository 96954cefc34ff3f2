"""What tests of a log's engines share: emissions, and the log as one looks at it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from archibald_rt.eventlog import EventLog, KeyConflict, Page, Stored
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
