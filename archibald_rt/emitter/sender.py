"""Having each emission of a batch answered: sent, judged, sent again as far as it is safe."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from archibald_rt.emitter.connection import Connection, CutError, NotSentError, UntrustedError
from archibald_rt.emitter.line import Pending
from archibald_rt.emitter.messages import (
    Accepted,
    EmissionRefusedError,
    Emitted,
    EmitterError,
    Later,
    NotEmittedError,
    OutcomeUnknownError,
    Refused,
    Unknown,
    judge,
)
from archibald_rt.errors import ArchibaldError

# How long the first pause before another try is, in seconds, and the longest.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# Types the server said to be transient; a back end has a few dozen of them.
_TYPES_KEPT = 10_000

_log = logging.getLogger("archibald_rt.emitter")


class Sender:
    """Sends batches over one connection, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transient: set[str] = set()

    async def settle(self, batch: Sequence[Pending]) -> None:
        """Send a batch, in parts and again where need be, until each has its answer."""
        parts = deque([batch])
        pause = _SHORTEST_PAUSE
        while parts:
            # What nobody waits for any more is not sent again.
            part = [each for each in parts.popleft() if not each.answer.done()]
            if not part:
                continue
            self._take_back_keys(part)
            match await self._exchange(part):
                case Accepted(results):
                    for pending, emitted in zip(part, results, strict=True):
                        self._accept(pending, emitted)
                case Refused(error, indexes):
                    parts.extendleft(reversed(self._refuse(part, error, indexes)))
                case Later(reason, after):
                    error = NotEmittedError(f"not emitted: {reason}")
                    parts.appendleft(await self._pause(part, error, after or pause))
                    pause = min(pause * 2, _LONGEST_PAUSE)
                case Unknown(reason):
                    for each in part:
                        each.doubtful = True
                        if not each.key:
                            fail(each, OutcomeUnknownError(f"outcome unknown: {reason}"))
                    error = OutcomeUnknownError(f"outcome unknown: {reason}")
                    parts.appendleft(await self._pause(part, error, pause))
                    pause = min(pause * 2, _LONGEST_PAUSE)

    async def _exchange(self, part: Sequence[Pending]) -> Accepted | Refused | Later | Unknown:
        alone = part[0].broadcast
        try:
            if alone:
                answer = await self._connection.post("/internal/broadcast", part[0].json)
            else:
                body = b"[%b]" % b",".join([each.json for each in part])
                answer = await self._connection.post("/internal/emit", body)
        except NotSentError as error:
            return Later(str(error))
        except UntrustedError as error:
            return Refused(NotEmittedError(f"not emitted: {error}"), range(len(part)))
        except CutError as error:
            return Unknown(str(error))
        retry_after = answer.headers.get("Retry-After")
        return judge(answer.status, retry_after, answer.body, len(part), alone=alone)

    def _accept(self, pending: Pending, emitted: Emitted) -> None:
        if pending.by_class and emitted.durable:
            # The server may have been configured anew.
            self._transient.discard(pending.type)
        if not pending.answer.done():
            pending.answer.set_result(emitted)

    def _refuse(
        self, part: Sequence[Pending], error: ArchibaldError, indexes: Sequence[int]
    ) -> Sequence[Sequence[Pending]]:
        """Answer those that are to blame; return what is to be sent again, in order."""
        if not indexes:
            # Nobody was named, so it is searched for.
            half = len(part) // 2
            return part[:half], part[half:]
        for index in indexes:
            pending = part[index]
            if pending.own_key and pending.by_class and _blames_key(error):
                # Only the server knows its classes: this type is transient there.
                if len(self._transient) >= _TYPES_KEPT:
                    self._transient.clear()
                self._transient.add(pending.type)
            else:
                fail(pending, error)
        return (part,)

    def _take_back_keys(self, part: Sequence[Pending]) -> None:
        for pending in part:
            if pending.own_key and pending.by_class and pending.type in self._transient:
                pending.key, pending.own_key = b"", False

    async def _pause(
        self, part: Sequence[Pending], error: EmitterError, seconds: float
    ) -> Sequence[Pending]:
        """Wait before another try; return those that have time left for it."""
        now = asyncio.get_running_loop().time()
        for pending in part:
            if pending.until <= now:
                fail(pending, error)
        left = [each for each in part if not each.answer.done()]
        if left:
            seconds = min(seconds, max(each.until for each in left) - now)
            _log.info("emitting again in %.2f s: %s", seconds, error)
            await asyncio.sleep(seconds)
        return left


def _blames_key(error: ArchibaldError) -> bool:
    return (
        isinstance(error, EmissionRefusedError)
        and error.status == 400  # noqa: PLR2004 - a conflict is 409
        and error.field == "key"
    )


def fail(pending: Pending, error: ArchibaldError) -> None:
    """Answer with an error; where an earlier try may have done it, that is not known."""
    if pending.doubtful and not isinstance(error, OutcomeUnknownError):
        error = OutcomeUnknownError(f"outcome unknown: an earlier try may have done it; {error}")
    # Each caller has its own: a traceback is written into what is raised.
    pending.fail(type(error)(*error.args))
