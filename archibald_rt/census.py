"""The sessions in figures, counted without holding up the loop."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from archibald_rt.hub import Hub

SLICE = 1000
"""How many sessions are looked at before the loop sees to others."""


@dataclass(frozen=True, slots=True)
class Census:
    """What the sessions of a hub come to.

    ``connections`` counts them by dialect and by whether they are live. ``sent`` and ``dropped``
    are since the start, and never less than in an earlier census.
    """

    connections: Counter[tuple[str, bool]]
    users: int
    sent: int
    dropped: int


async def take_census(hub: Hub) -> Census:
    """Look at all sessions, some at a time."""
    # In one turn: whoever goes meanwhile is in the list and not in what was counted before.
    sent, dropped = hub.sent_before, hub.dropped_before
    users, sessions = hub.connected_users, list(hub.sessions())
    connections: Counter[tuple[str, bool]] = Counter()
    for start in range(0, len(sessions), SLICE):
        if start:
            await asyncio.sleep(0)
        for session in sessions[start : start + SLICE]:
            connections[session.dialect.name, session.live] += 1
            sent += session.sent
            dropped += session.dropped
    return Census(connections, users, sent, dropped)
