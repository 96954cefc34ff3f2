"""Up to where whose events of a stream are gone, all users at one moment."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import islice

from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.state import State

_AT_ONCE = 50


async def counts(jet: Jet, names: Names, subjects: str) -> AsyncIterator[Mapping[str, int]]:
    """Yield how many messages subjects have, a part of them at a time.

    Raises `LogUnavailableError`.
    """
    offset = 0
    while True:
        body = {"subjects_filter": subjects, "offset": offset}
        info = await jet.ask(f"STREAM.INFO.{names.stream}", body)
        if info is None:
            raise LogUnavailableError(f"the log is unavailable: no stream {names.stream}")
        found = info["state"].get("subjects") or {}
        if not found:
            return
        yield found
        offset += len(found)


async def losses(jet: Jet, names: Names, state: State, *, cap: int) -> dict[bytes, int]:
    """Return the watermarks of users and (by an empty name) of the broadcasts.

    What went by age or size left no trace of whose it was, and lies before all that is left. With a
    ``cap`` the first event of a user who has more counts as gone; see `Reader`.
    """
    gone = {user.encode(): seq for user, seq in state.erasures.items()}
    if not cap:
        return gone
    async for part in counts(jet, names, names.events):
        full = (subject for subject, count in part.items() if count > cap)
        while some := [*islice(full, _AT_ONCE)]:
            for user, seq in await _firsts(jet, names, some):
                gone[user] = max(seq, gone.get(user, 0))
    return gone


async def _firsts(jet: Jet, names: Names, subjects: Iterable[str]) -> list[tuple[bytes, int]]:
    firsts = await asyncio.gather(*(jet.first(names.stream, subject) for subject in subjects))
    return [
        ((names.user(first.subject) or "").encode(), first.seq)
        for first in firsts
        if first is not None and names.is_event(first.subject)
    ]
