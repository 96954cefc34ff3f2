"""Appending to the stream: what is judged, and what becomes one publish."""

import asyncio
from collections.abc import Callable, Sequence
from secrets import token_hex

import msgspec

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.base import KeyConflict, Stored
from archibald_rt.eventlog.nats import minted
from archibald_rt.eventlog.nats.jet import KEYED, Jet, Message, SequenceError
from archibald_rt.eventlog.nats.minted import Minted
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
    """Appends to one stream; used by one task at a time.

    ``head`` gives a seq that the stream has reached.
    """

    def __init__(self, jet: Jet, names: Names, head: Callable[[], int]) -> None:
        self._jet = jet
        self._names = names
        self._head = head
        # Whether the last publish was not answered.
        self._unanswered = False

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """Store every group's emissions, as `EventLog.append` says, in one publish.

        Keys are taken to be new, which they mostly are; the stream itself says where one is not,
        here or at another server at the same time, and only then are they looked up. One that was
        made here for an emission without one is not: its event may be stored without it.
        """
        await self._require_leader()
        known = await self._look_up(_minted(groups))
        looked_up = False
        for _ in range(_TRIES):
            publish = token_hex(8)
            plan = _Plan(self._names, known, self._names.fence(publish))
            results = [plan.judge(group) for group in groups]
            if not looked_up and any(isinstance(each, KeyConflict) for each in results):
                # Which of two contents is the first is not known before.
                known, looked_up = await self._look_up([*plan.keys]), True
                continue
            if not plan.messages:
                return results
            after = self._head()
            try:
                last = await self._store(plan.messages, name=publish)
            except SequenceError:
                known, looked_up = await self._look_up([*plan.keys]), True
            except LogUncertainError as error:
                keys = [
                    _keys(group, result, after, publish)
                    for group, result in zip(groups, results, strict=True)
                ]
                raise LogUncertainError(str(error), keys=keys) from None
            else:
                before = last - len(plan.messages)
                return [_placed(result, before) for result in results]
        raise LogUnavailableError("the log is unavailable: keys are used faster than looked up")

    async def probe(self) -> None:
        """Commit something of no meaning; raises as `append` does."""
        await self._require_leader()
        await self._store([Message(self._names.probe, b"")])

    async def _store(self, messages: Sequence[Message], *, name: str = "") -> int:
        try:
            return await self._jet.store(messages, name=name)
        except LogUncertainError:
            self._unanswered = True
            raise

    async def _require_leader(self) -> None:
        """Raise `LogUnavailableError` where nobody has answered since a publish that was not.

        What is published where the leader has fallen silent is answered by no other one, and so
        uncertain, like the one before; by asking first it is not, and goes on with the next leader.
        """
        if self._unanswered:
            await self._jet.ask(f"STREAM.INFO.{self._names.stream}")
            self._unanswered = False

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
        if last is not None:
            # Its event came in the same batch, right behind it.
            event = await self._jet.get(stream, last.seq + 1)
            if event is not None and event.subject == names.durable(user):
                return _Known(last.seq, event.seq, event.data)
        found = None
        if (made := minted.parse(key)) is not None:
            found = await minted.find(self._jet, names, user, made)
        before = 0 if last is None else last.seq
        return _Known(before) if found is None else _Known(before, found.seq, found.data)


class _Plan:
    """What is to be published, group by group; a refused group leaves nothing in it.

    It is stored only where ``fence`` is not, if an event has no key.
    """

    def __init__(self, names: Names, known: dict[_Key, _Known], fence: str) -> None:
        self._names = names
        self._known = known
        self._fence = fence
        self._fenced = False
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
        fenced = self._fenced
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
            messages.append(self._event(emission, fenced=fenced))
            fenced = fenced or emission.key is None
            place = begin + len(messages)
            stored.append(Stored(-place, emission.timestamp, duplicate=False))
        if conflicts:
            return KeyConflict(conflicts)
        self.messages += messages
        self._planned.update(planned)
        self._fenced = fenced
        return stored

    def _event(self, emission: Emission, *, fenced: bool) -> Message:
        subject = self._names.durable(emission.user)
        if emission.key is not None:
            return Message(subject, emission.tail, headers=_KEYED)
        # All or none are stored, so one condition is enough.
        if fenced:
            return Message(subject, emission.tail)
        return Message(subject, emission.tail, 0, guard=self._fence)

    def _first(self, key: _Key) -> tuple[int, bytes] | None:
        if (planned := self._planned.get(key)) is not None:
            return planned
        known = self._known.get(key, _UNUSED)
        return (known.seq, known.tail) if known.seq else None


def _minted(groups: Sequence[Sequence[Emission]]) -> list[_Key]:
    """Return the keys that were made for emissions without one."""
    return [
        (emission.user, emission.key)
        for group in groups
        for emission in group
        if emission.key is not None and minted.parse(emission.key) is not None
    ]


def _keys(
    group: Sequence[Emission], result: list[Stored] | KeyConflict, after: int, publish: str
) -> list[str | None]:
    """Return with which key each emission of a publish of unknown outcome can be tried again."""
    if isinstance(result, KeyConflict):
        return [emission.key for emission in group]
    return [
        emission.key or str(Minted(after, publish, -stored.seq))
        for emission, stored in zip(group, result, strict=True)
    ]


def _placed(result: list[Stored] | KeyConflict, before: int) -> list[Stored] | KeyConflict:
    if isinstance(result, KeyConflict):
        return result
    return [
        Stored(before - each.seq, each.timestamp, each.duplicate) if each.seq < 0 else each
        for each in result
    ]
