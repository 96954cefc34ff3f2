"""Back ends that emit at one node, or go to another one when theirs does not answer."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.nodes import ServerNode
from faults.emitters import Emitter

PADS = (0, 50, 2000)
"""By how many bytes payloads are lengthened."""


class Resident(Emitter):
    """A back end that emits at one node whatever becomes of it, durable and transient events.

    ``at`` are the moments at which something durable was answered 200, as the loop counts.
    """

    def __init__(
        self,
        node: ServerNode,
        name: str,
        users: Sequence[str],
        chance: random.Random,
        *,
        go: asyncio.Event,
        pause: float,
    ) -> None:
        super().__init__(node.internal_url, name, users, chance, pads=PADS, go=go)
        self.node = node
        self.at: list[float] = []
        self.unknown: set[str] = set()
        """What was sent once and may have been stored, at any time since."""
        self._pause = pause

    async def emit(self) -> None:
        """Emit the next thing."""
        await super().emit()
        await asyncio.sleep(self._pause)

    async def once(self, body: object, item: Mapping[str, Any]) -> None:
        """Send an emission once, and give it up where it isn't accepted."""
        known = len(self.answered), self.transient
        await super().once(body, item)
        uid = f"{self.name}-{len(self.sent) - 1}"
        if known == (len(self.answered), self.transient) and not self.sent[uid].refused:
            self.unknown.add(uid)

    def _note(
        self, items: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
    ) -> None:
        super()._note(items, results)
        if any(result["durable"] for result in results):
            self.at.append(asyncio.get_running_loop().time())


class Roamer(Resident):
    """A back end that goes on at the next node, with the same key, where one does not answer 200.

    It emits durable events only: the place of a transient one is that of the node that took it.
    """

    def __init__(self, nodes: Sequence[ServerNode], *args: Any, **options: Any) -> None:
        super().__init__(nodes[0], *args, **options)
        self._nodes = nodes
        self._turns = 0

    async def emit(self) -> None:
        """Emit the next thing."""
        users = self.chance.choices(self.users, k=self.chance.choice((1, 1, 4)))
        batch = [{"userId": user, **self.item([user], durable=True, key=True)} for user in users]
        await self._insist("emit", batch if len(batch) > 1 else batch[0], batch)
        # Its next one is at another node as well: what is answered at one precedes it.
        self._move()
        await asyncio.sleep(self._pause)

    async def request(self, body: object, path: str = "emit") -> Any:
        """Post a body; None where no answer came."""
        answer = await super().request(body, path)
        if answer is None or answer.status in {503, 504}:
            self._move()
        return answer

    def _move(self) -> None:
        self._turns += 1
        self.node = self._nodes[self._turns % len(self._nodes)]
        self._back_end.close()
        self._back_end.url = self.node.internal_url
