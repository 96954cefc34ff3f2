"""Appending to the stream: what is judged, and what becomes one publish."""

import asyncio
from collections.abc import Sequence

import msgspec

from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog.base import KeyConflict, Stored
from archibald_rt.eventlog.nats.jet import KEYED, Jet, Message, SequenceError
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.events import Emission, content_of, timestamp_of

MOST = 1000
"""How many messages an atomic batch may hold; the server takes no more."""

_TRIES = 10
_AT_ONCE = 50


class _Known(msgspec.Struct, frozen=True):
    """A key as it stands in the stream.

    ``last`` is the seq of its message, 0 without one. Where its event is still there, ``seq`` and
    ``tail`` are that one's.
    """

    last: int
    seq: int = 0
    tail: bytes = b""


_UNUSED = _Known(0)
_KEYED = {KEYED: "1"}
_Key = tuple[str | None, str]


class Appender:
    """Appends to one stream; used by one task at a time."""

    def __init__(self, jet: Jet, names: Names) -> None:
        self._jet = jet
        self._names = names

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """Store every group's emissions, as `EventLog.append` says, in one publish.

        Keys are taken to be new, which they mostly are; the stream itself says where one is not,
        here or at another server at the same time, and only then are they looked up.
        """
        known: dict[_Key, _Known] = {}
        for _ in range(_TRIES):
            plan = _Plan(self._names, known)
            results = [plan.judge(group) for group in groups]
            if not known and any(isinstance(each, KeyConflict) for each in results):
                # Which of two contents is the first is not known before.
                known = await self._look_up([*plan.keys])
                continue
            if not plan.messages:
                return results
            try:
                last = await self._jet.store(plan.messages)
            except SequenceError:
                known = await self._look_up([*plan.keys])
            else:
                before = last - len(plan.messages)
                return [_placed(result, before) for result in results]
        raise LogUnavailableError("the log is unavailable: keys are used faster than looked up")

    async def _look_up(self, keys: Sequence[_Key]) -> dict[_Key, _Known]:
        found: dict[_Key, _Known] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            known = await asyncio.gather(*(self._look_up_one(*key) for key in some))
            found.update(zip(some, known, strict=True))
        return found

    async def _look_up_one(self, user: str | None, key: str) -> _Known:
        stream, names = self._names.stream, self._names
        last = await self._jet.last(stream, names.key(user, key))
        if last is None:
            return _UNUSED
        # Its event came in the same batch, right behind it.
        event = await self._jet.get(stream, last.seq + 1)
        if event is None or event.subject != names.durable(user):
            return _Known(last.seq)
        return _Known(last.seq, event.seq, event.data)


class _Plan:
    """What is to be published, group by group; a refused group leaves nothing in it."""

    def __init__(self, names: Names, known: dict[_Key, _Known]) -> None:
        self._names = names
        self._known = known
        # Keys of this plan: where in the batch their events are (from 1), and those.
        self._planned: dict[_Key, tuple[int, bytes]] = {}
        self.messages: list[Message] = []
        self.keys: dict[_Key, None] = {}

    def judge(self, group: Sequence[Emission]) -> list[Stored] | KeyConflict:
        """Take up a group, or refuse it; seqs that are not known yet are negative places."""
        messages: list[Message] = []
        planned: dict[_Key, tuple[int, bytes]] = {}
        stored: list[Stored] = []
        conflicts: list[int] = []
        begin = len(self.messages)
        for index, emission in enumerate(group):
            if emission.key is not None:
                key = (emission.user, emission.key)
                self.keys[key] = None
                first = planned.get(key) or self._first(key)
                if first is not None:
                    seq, tail = first
                    if content_of(tail) != emission.content:
                        conflicts.append(index)
                    stored.append(Stored(seq, timestamp_of(tail), duplicate=True))
                    continue
                expected = self._known.get(key, _UNUSED).last
                subject = self._names.key(*key)
                messages.append(Message(subject, emission.key.encode(), expected))
                planned[key] = (-(begin + len(messages) + 1), emission.tail)
            headers = {} if emission.key is None else _KEYED
            subject = self._names.durable(emission.user)
            messages.append(Message(subject, emission.tail, headers=headers))
            place = begin + len(messages)
            stored.append(Stored(-place, emission.timestamp, duplicate=False))
        if conflicts:
            return KeyConflict(conflicts)
        self.messages += messages
        self._planned.update(planned)
        return stored

    def _first(self, key: _Key) -> tuple[int, bytes] | None:
        if (planned := self._planned.get(key)) is not None:
            return planned
        known = self._known.get(key, _UNUSED)
        return (known.seq, known.tail) if known.seq else None


def _placed(result: list[Stored] | KeyConflict, before: int) -> list[Stored] | KeyConflict:
    if isinstance(result, KeyConflict):
        return result
    return [
        Stored(before - each.seq, each.timestamp, each.duplicate) if each.seq < 0 else each
        for each in result
    ]
