"""Reading a user's stream back: pages, and what is missing from it."""

import asyncio
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from archibald_rt.emissions import instant_of
from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog.base import Page
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.state import State
from archibald_rt.events import Event, timestamp_of

MORE = 64 * 1024
"""How many bytes more than wanted are asked for: subjects and headers count as well."""

_BATCH = 1000
_TRIES = 40
_PAUSE = 0.05


class _Part(msgspec.Struct):
    """Some of the messages of one subject, all of them up to and including ``through``."""

    found: list[Got]
    through: int


class Reader:
    """Reads one stream.

    ``cap`` is how many events of a subject count (0: all). The stream keeps one more: where that
    many are found there was one too many, and the first of them counts as deleted. With
    ``replicas`` an answer may be behind, which is found by asking the leader; and so may be a
    leader that was cut off and does not know of that yet, which is found by how far it is.
    """

    def __init__(self, jet: Jet, names: Names, state: State, *, cap: int, replicas: int) -> None:
        self._jet = jet
        self._names = names
        self._state = state
        self._cap = cap
        self._replicas = replicas

    async def page(
        self,
        user: str,
        *,
        after: int,
        through: int,
        max_events: int,
        max_bytes: int,
        later_than: int | None,
    ) -> Page:
        """Read a piece of a stream; see `EventLog.page`.

        What is lost is asked behind what is read, so that nothing goes in between untold.
        """
        subjects = self._names.durable(user), self._names.durable(None)
        reconnects = self._jet.connection.stats["reconnects"]
        if self._replicas > 1:
            await self._info(through)
        parts = await asyncio.gather(
            *(
                self._part(
                    subject, after, through, max_events if later_than is None else _BATCH, max_bytes
                )
                for subject in subjects
            )
        )
        # Who was asked in between was as far as who is asked before and after, unless that was on
        # the other side of a cut.
        gone = await self._gone(user, through)
        if self._jet.connection.stats["reconnects"] != reconnects:
            raise LogUnavailableError("the log is unavailable: disconnected while it was read")
        lost = max(gone)
        reached = min(part.through for part in parts)
        found = sorted(
            (
                got
                for part, below in zip(parts, gone, strict=True)
                for got in part.found
                if below < got.seq <= reached
            ),
            key=attrgetter("seq"),
        )
        events: list[Event] = []
        size = 0
        for got in found:
            if later_than is not None and instant_of(timestamp_of(got.data)) <= later_than:
                continue
            events.append(Event(got.seq, got.data))
            size += len(got.data)
            if len(events) == max_events or size >= max_bytes:
                # It may be the last one all the same, which costs no more than an empty page.
                reached = got.seq
                break
        return Page(events, reached, reached == through, lost)

    async def first(self, user: str) -> int | None:
        """Return the seq of the first event of a stream; see `EventLog.first`."""
        subjects = self._names.durable(user), self._names.durable(None)
        gone = await self._gone(user)
        firsts = await asyncio.gather(
            *(
                self._jet.first(self._names.stream, subject, after=below)
                for subject, below in zip(subjects, gone, strict=True)
            )
        )
        return min((first.seq for first in firsts if first is not None), default=None)

    async def _part(
        self, subject: str, after: int, through: int, max_events: int, max_bytes: int
    ) -> _Part:
        """Read a subject until there is enough, or all of it up to a seq."""
        found: list[Got] = []
        if after >= through:
            return _Part(found, through)
        size, tries, position = 0, 0, after
        while True:
            some, more = await self._jet.read(
                self._names.stream,
                subject,
                after=position,
                count=min(_BATCH, max_events - len(found)),
                max_bytes=max(0, max_bytes - size) + MORE,
            )
            for got in some:
                if got.seq > through:
                    return _Part(found, through)
                found.append(got)
                size += len(got.data)
                position = got.seq
                if len(found) >= max_events or size >= max_bytes:
                    return _Part(found, position)
            if more:
                continue
            if await self._all_read(subject, position, through):
                return _Part(found, through)
            tries += 1
            if tries == _TRIES:
                raise LogUnavailableError("the log is unavailable: a replica stays behind")
            await asyncio.sleep(_PAUSE)

    async def _all_read(self, subject: str, position: int, through: int) -> bool:
        """Whether the leader has no message of a subject between two seqs."""
        if self._replicas == 1:
            return True
        first = await self._jet.first(self._names.stream, subject, after=position)
        return first is None or first.seq > through

    async def _gone(self, user: str, through: int = 0) -> tuple[int, int]:
        """Return up to where a user's own events and the broadcasts may be gone."""
        own, everybody, erased = await asyncio.gather(
            self._gone_of(self._names.durable(user), through),
            self._gone_of(self._names.durable(None), through),
            # At another server it may have been erased a moment ago; broadcasts never are.
            self._state.erased_by_now(user),
        )
        return max(own, erased), max(everybody, self._state.erased(None))

    async def _gone_of(self, subject: str, through: int) -> int:
        state = await self._info(through, {"subjects_filter": subject})
        # What went by age or size left no trace of whose it was.
        gone: int = max(0, state["first_seq"] - 1)
        if self._too_many(state, subject):
            first = await self._jet.first(self._names.stream, subject, after=gone)
            # Where some went meanwhile it may be one of those that are kept.
            state = await self._info(through, {"subjects_filter": subject})
            gone = max(gone, state["first_seq"] - 1)
            if first is not None and self._too_many(state, subject):
                gone = max(gone, first.seq)
        return gone

    def _too_many(self, state: Mapping[str, Any], subject: str) -> bool:
        count = (state.get("subjects") or {}).get(subject, 0)
        return bool(self._cap and count > self._cap)

    async def _info(self, through: int, body: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the state of the stream, from who has all of it up to a seq."""
        stream = self._names.stream
        for _ in range(_TRIES):
            info = await self._jet.ask(f"STREAM.INFO.{stream}", body)
            if info is None:
                raise LogUnavailableError(f"the log is unavailable: there is no stream {stream}")
            state: dict[str, Any] = info["state"]
            if self._replicas == 1 or state["last_seq"] >= through:
                return state
            # It may be a moment behind the replica that this server follows.
            await asyncio.sleep(_PAUSE)
        raise LogUnavailableError("the log is unavailable: who answers for it is behind")
