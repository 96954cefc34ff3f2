"""What servers on one log ask each other, over NATS as it is: nothing of it is stored."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

import nats.errors
from nats.aio.msg import Msg

from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.marks import Marks, Other, clock
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.peers import Answers, PeerHooks

AGAIN = 1.0
"""After how many seconds those are asked again who have not answered: they may have had no
connection just then."""

_FROM, _MORE = "Rt-From", "Rt-More"


class Asking:
    """Asks the other servers, which `Marks` knows, and answers them."""

    def __init__(self, jet: Jet, names: Names, marks: Marks, hooks: PeerHooks) -> None:
        self._jet = jet
        self._names = names
        self._marks = marks
        self.hooks = hooks

    async def start(self) -> None:
        """Answer from now on."""
        await self._jet.connection.subscribe(self._names.ask, cb=self._answer)

    async def ask(self, question: bytes, within: float | None) -> Answers:
        """See `Peers.ask`."""
        began = clock()
        others = dict(self._marks.others)
        waited_for = {
            key: other.serves_until for key, other in others.items() if began < other.serves_until
        }
        if within is not None:
            waited_for = {key: min(end, began + within) for key, end in waited_for.items()}
        answers = await self._gather(question, waited_for)
        return _sorted(others, waited_for, answers)

    async def _gather(self, question: bytes, waited_for: Mapping[str, float]) -> dict[str, bytes]:
        """Ask until everybody who is waited for has answered, each as long as that."""
        whole: dict[str, bytes] = {}
        parts: dict[tuple[str, str], list[bytes]] = {}
        news = asyncio.Event()

        async def hear(message: Msg) -> None:
            headers = message.headers or {}
            key = headers.get(_FROM, "")
            gathered = parts.setdefault((key, message.subject), [])
            gathered.append(message.data)
            if _MORE not in headers:
                whole.setdefault(key, b"".join(gathered))
                news.set()

        connection, inbox = self._jet.connection, self._jet.connection.new_inbox()
        if not waited_for:
            return whole
        subscription = await connection.subscribe(f"{inbox}.*", cb=hear)
        try:
            tries = 0
            while left := [end for key, end in waited_for.items() if key not in whole]:
                patience = min(max(left) - clock(), AGAIN)
                if patience <= 0:
                    break
                if connection.is_connected:
                    tries += 1
                    with suppress(nats.errors.Error):
                        await connection.publish(
                            self._names.ask, question, reply=f"{inbox}.{tries}"
                        )
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        while any(key not in whole for key in waited_for):
                            news.clear()
                            await news.wait()
        finally:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
        return whole

    async def _answer(self, message: Msg) -> None:
        answer = self.hooks.asked(message.data)
        if answer is None:
            return
        most = self._jet.connection.max_payload // 2
        pieces = [answer[start : start + most] for start in range(0, len(answer), most)] or [b""]
        for piece in pieces[:-1]:
            await self._reply(message, piece, {_MORE: "1"})
        await self._reply(message, pieces[-1], {})

    async def _reply(self, message: Msg, piece: bytes, headers: Mapping[str, str]) -> None:
        with suppress(nats.errors.Error):
            await self._jet.connection.publish(
                message.reply, piece, headers={_FROM: self._marks.id, **headers}
            )


def _sorted(
    others: Mapping[str, Other], waited_for: Mapping[str, float], answers: Mapping[str, bytes]
) -> Answers:
    """Sort the servers by what became of the question."""

    def names(keys: Sequence[str]) -> list[str]:
        return sorted(others[key].mark.name for key in keys)

    return Answers(
        [*answers.values()],
        silent=names([key for key in waited_for if key not in answers]),
        gone=names([key for key in others if key not in waited_for and key not in answers]),
    )
