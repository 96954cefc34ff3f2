"""Emitters that send again until they are answered, and keep what they sent and were answered."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from faults.backends import Answer, BackEnd
from faults.devices import seq_of

NO_ANSWER = 0
"""Counted as the status of a request that was not answered."""

_PAUSE = 0.02
# What a request to a server that ends, or has ended, may end with.
_CUT = (OSError, EOFError)


@dataclass
class Sent:
    """One emission: its payload as it was written, whom it is for, and what was heard of it."""

    number: int
    users: Sequence[str]
    payload: bytes
    durable: bool
    refused: bool = False
    """Whether it was answered 503 and not sent again: nobody may ever see it."""
    again: bool = False
    """Whether it was sent a second time after no answer, or none that tells."""


class Emitter:
    """A back end that emits one thing after the other, each once the one before has its answer.

    What has a key is sent again until it is answered; what has none is sent once. It sends
    only while ``go`` is set.
    """

    def __init__(
        self,
        url: str,
        name: str,
        users: Sequence[str],
        chance: random.Random,
        *,
        pads: Sequence[int],
        go: asyncio.Event,
    ) -> None:
        self.name = name
        self.sent: dict[str, Sent] = {}
        """Each emission by the id in its payload."""
        self.answered: dict[str, tuple[str | None, str]] = {}
        """Whose event each cursor of an answer is (None: everybody's), and the id in it."""
        self.batches: list[list[tuple[str, str]]] = []
        """Each batch's durable emissions: whose, and the id in it."""
        self.keyed: tuple[dict[str, Any], str] | None = None
        """The last answered emission with a key, to one user, and its cursor."""
        self.statuses: Counter[int] = Counter()
        self.duplicates = 0
        self.transient = 0
        """How many transient emissions were answered."""
        self.wrong: list[str] = []
        """Answers that should not have been given."""
        self.calm = False
        """Whether to emit nothing more."""
        self.done = False
        """Whether it does not, and has its last answer."""
        self.waiting = False
        """Whether it has sent a request and has no answer yet."""
        self.longest = 0.0
        """How many seconds the slowest answer took."""
        self.users = users
        self.go = go
        self.chance = chance
        self._pads = pads
        self._back_end = BackEnd(url)

    async def run(self) -> None:
        """Emit until it is calm."""
        try:
            while not self.calm:
                await self.emit()
        finally:
            self.done = True
            self._back_end.close()

    async def request(self, body: object, path: str = "emit") -> Answer | None:
        """Post a body; None where no answer came."""
        await self.go.wait()
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.waiting = True
        try:
            answer = await self._back_end.request(
                "POST", f"/internal/{path}", msgspec.json.encode(body)
            )
        except _CUT:
            self.statuses[NO_ANSWER] += 1
            return None
        finally:
            self.waiting = False
        self.longest = max(self.longest, loop.time() - began)
        self.statuses[answer.status] += 1
        if answer.status not in {200, 503, 504}:
            self.wrong.append(f"{answer.status} {answer.body}")
        elif answer.status == 503 and int(answer.headers.get("retry-after", "0")) < 1:
            self.wrong.append("503 without Retry-After")
        return answer

    async def say_last(self) -> int:
        """Send everybody a last durable event, until it is answered; return its seq."""
        item = self.item(self.users, durable=True, key=True)
        await self._insist("broadcast", item, [item])
        self._back_end.close()
        return max(seq_of(cursor) for cursor in self.answered)

    async def emit(self) -> None:
        """Emit the next thing, and see to it that it is answered if it has a key."""
        chosen = self.chance.random()
        user = self.chance.choice(self.users)
        if chosen < 0.02:
            item = self.item(self.users, durable=True, key=True)
            await self._insist("broadcast", item, [item])
        elif chosen < 0.2:
            item = self.item([user], durable=chosen < 0.1, key=False)
            await self.once({"userId": user, **item}, item)
        elif chosen < 0.3:
            several = self.chance.sample(self.users, min(3, len(self.users)))
            item = self.item(several, durable=True, key=True)
            await self._insist("emit", {"userIds": several, **item}, [item] * len(several))
        else:
            await self._batch([user, user, user, user, self.chance.choice(self.users)])

    async def _batch(self, users: Sequence[str]) -> None:
        batch = [
            {"userId": user, **self.item([user], durable=durable, key=durable)}
            for user, durable in zip(users, (True, False, False, True, True), strict=True)
        ]
        self.batches.append(
            [(item["userId"], uid_of(item["payload"])) for item in batch if item["durable"]]
        )
        results = await self._insist("emit", batch, batch)
        self.keyed = (batch[0], results[0]["id"])

    def item(self, users: Sequence[str], *, durable: bool, key: bool) -> dict[str, Any]:
        """Make an emission, without whom it is for."""
        number = len(self.sent)
        uid = f"{self.name}-{number}"
        pad = "x" * self.chance.choice(self._pads)
        payload = msgspec.json.encode({"uid": uid, "pad": pad})
        self.sent[uid] = Sent(number, users, payload, durable)
        item = {"type": "E", "durable": durable, "payload": msgspec.Raw(payload)}
        return {**item, "key": uid} if key else item

    async def once(self, body: object, item: Mapping[str, Any]) -> None:
        """Send an emission once, and give it up where it isn't accepted."""
        answer = await self.request(body)
        if answer is None or answer.status == 504:
            return
        if answer.status == 503:
            self.sent[uid_of(item["payload"])].refused = True
            await asyncio.sleep(_PAUSE)
        elif answer.status == 200:
            self._note([item], [answer.body])

    async def _insist(
        self, path: str, body: object, items: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        while (answer := await self.request(body, path)) is None or answer.status in {503, 504}:
            if answer is None or answer.status == 504:
                for item in items:
                    self.sent[uid_of(item["payload"])].again = True
            # A back end that is cut off waits a little, or it would try thousands of times.
            await asyncio.sleep(_PAUSE)
        results: list[dict[str, Any]] = answer.body.get("results", [answer.body])
        self._note(items, results)
        return results

    def _note(
        self, items: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
    ) -> None:
        whose = Counter[str]()
        for item, result in zip(items, results, strict=True):
            uid = uid_of(item["payload"])
            users = self.sent[uid].users
            if result["durable"] is not item["durable"]:
                self.wrong.append(f"{uid} was answered {result}")
            elif result["durable"]:
                # A broadcast has one result, several users one each, in their order.
                user = users[whose[uid]] if len(items) > 1 or len(users) == 1 else None
                whose[uid] += 1
                self.answered[result["id"]] = (user, uid)
                self.duplicates += result["duplicate"]
            else:
                self.transient += 1


class Chatterer(Emitter):
    """A back end that emits nothing but what is transient."""

    async def emit(self) -> None:
        """Emit a transient event to one user."""
        user = self.chance.choice(self.users)
        item = self.item([user], durable=False, key=False)
        await self.once({"userId": user, **item}, item)
        await asyncio.sleep(_PAUSE)


def uid_of(payload: msgspec.Raw | bytes) -> str:
    """Return the id in a payload."""
    uid: str = msgspec.json.decode(payload)["uid"]
    return uid
