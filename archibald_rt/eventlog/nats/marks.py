"""Marks that servers leave in the bucket: who shares the log, and who may serve by what it knows.

Every server stores a mark under a key of its own, again and again, in the one stream that the
revocations are in. It serves only for `LEASE` seconds from when it sent the last mark that came
back to it; and what comes back comes in order, behind every revocation that was stored before.

So whoever has stored a revocation, and has heard it, has heard the marks of all servers that may
serve without knowing of it, and none of these serves longer than `LEASE` after its mark was heard.
A server that starts stores a mark before it serves: either that lies before the revocation, and is
heard, or behind it, and then the revocation came to it first. Hence no live server is missed, and
nobody has to wait longer than a lease for one that is not. This takes clocks that run equally fast,
within a tenth, and nothing of what they say.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex

import msgspec
import nats.errors
import structlog

from archibald_rt.errors import LogError, LogUnavailableError
from archibald_rt.eventlog.nats.jet import ANSWER_WITHIN, Got, Jet, Message

LEASE = 10.0
"""For how many seconds a server serves by what it knew: longer than a new leader takes."""

DRIFT = 1.0
"""How many seconds more others wait: clocks don't run equally fast."""

RENEW = 2.5
"""Every how many seconds a mark is stored."""

KEPT = 100.0
"""For how many seconds a server is remembered that stores none any more."""

PREFIX = "server."
"""How the keys of marks begin."""

UNHEARD = (
    "the log is unavailable: this server can't tell what was revoked lately, so it serves nobody"
)
"""What is said of a server whose lease has ended."""

_GOODBYE = 1.0
_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


class Mark(msgspec.Struct, frozen=True):
    """What a server says of itself: its name, which mark it is, whether somebody watches there.

    The last one says that it has ``gone``, and serves nobody.
    """

    name: str
    count: int
    watched: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class Other:
    """Another server, as it was heard of: when, and by which message."""

    mark: Mark
    heard: float
    seq: int

    @property
    def serves_until(self) -> float:
        """From when on it surely serves nobody, unless it knows all that was stored since."""
        return 0.0 if self.mark.gone else self.heard + LEASE + DRIFT


def clock() -> float:
    """Return seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Marks:
    """The own mark, kept up, and those of the others; to `hear` of every message of the bucket.

    ``lapsed`` is called when the own lease has ended, ``renewed`` when there is one again, and
    ``watched`` when others begin or end to have somebody who watches.
    """

    def __init__(
        self,
        jet: Jet,
        bucket: str,
        subject: str,
        name: str,
        *,
        lapsed: Callable[[LogError], None],
        renewed: Callable[[], None],
        watched: Callable[[bool], None],
    ) -> None:
        self._jet = jet
        self._bucket = bucket
        self._prefix = f"{subject}{PREFIX}"
        self.name = name
        self.id = token_hex(8)
        """Which server it is, however many have the name."""
        self._subject = f"{self._prefix}{self.id}"
        self._others: dict[str, Other] = {}
        self._until = 0.0
        # Whether the lease has ended, and it was said.
        self._was_said = False
        # When the last own mark was sent that came back.
        self._back = -LEASE
        self.pending = 0
        """How many messages are to come behind the one that is heard."""
        self._count = 0
        # When the marks were sent that have not come back.
        self._sent: dict[int, float] = {}
        self._lapsed, self._renewed, self._told_watched = lapsed, renewed, watched
        self._watched_here = False
        self.watched = False
        """Whether others have somebody who watches."""
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def others(self) -> dict[str, Other]:
        """The others by their ids, as far as they were heard of lately and did not end by order."""
        return {key: other for key, other in self._others.items() if not other.mark.gone}

    @property
    def current(self) -> bool:
        """Whether this server may serve by what it knows."""
        return clock() < self._until

    async def start(self) -> None:
        """Store a mark, and go on doing so. Raises `LogUnavailableError` if none comes back."""
        self._task = asyncio.get_running_loop().create_task(self._keep_up())
        await self.require()

    async def require(self) -> None:
        """Wait until this server may serve. Raises `LogUnavailableError` if that takes long."""
        await self._until_there(lambda: self.current)

    async def meet(self) -> None:
        """Wait until a mark has come back that is sent now: what goes before it is known then.

        Raises `LogUnavailableError` if none does.
        """
        if not self._jet.connection.is_connected:
            raise LogUnavailableError(UNHEARD)
        now = clock()
        self.renew()
        await self._until_there(lambda: self._back >= now)

    async def _until_there(self, there: Callable[[], bool]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN):
                while not there():
                    self._news.clear()
                    await self._news.wait()
        if not there():
            raise LogUnavailableError(UNHEARD)

    def renew(self) -> None:
        """Store a mark now."""
        self._wake.set()

    def watch(self, *, watched: bool) -> None:
        """Tell the others whether somebody watches here."""
        if self._watched_here != watched:
            self._watched_here = watched
            self.renew()

    async def close(self) -> None:
        """Store the last one: nobody is served any more. Calling it again does nothing."""
        self._closed = True
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
            with suppress(LogError, TimeoutError):
                # Who doesn't hear of it only waits for longer.
                async with asyncio.timeout(_GOODBYE):
                    await self._jet.store([Message(self._subject, self._mark(gone=True))])

    def hear(self, got: Got) -> None:
        """Learn of a message of the bucket, once all else is done that it says."""
        if got.subject.startswith(self._prefix):
            with suppress(msgspec.DecodeError):
                self._take(got.subject.removeprefix(self._prefix), _decode(got.data), got.seq)
        # A revocation from before the mark may have made room for a later one of the same user,
        # which is still to come.
        if not self.pending:
            self._extend(self._back + LEASE)

    def _take(self, key: str, mark: Mark, seq: int) -> None:
        if key == self.id:
            self._back = self._sent.get(mark.count, self._back)
            self._sent = {count: at for count, at in self._sent.items() if count > mark.count}
        else:
            self._others[key] = Other(mark, clock(), seq)
            self._look_who_watches()

    def _extend(self, until: float) -> None:
        before = self.current
        self._until = max(self._until, until)
        self._news.set()
        if before or not self.current:
            return
        if self._was_said:
            self._was_said = False
            _logger.info("the server serves again: it knows what was revoked")
        self._renewed()

    async def _keep_up(self) -> None:
        while not self._closed:
            self._wake.clear()
            await self._store()
            await self._tidy()
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW):
                    await self._wake.wait()
            if self._until and not self.current and not self._was_said:
                self._was_said = True
                _logger.warning("the server serves nobody until it knows what was revoked")
                self._lapsed(LogUnavailableError(UNHEARD))
            self._look_who_watches()

    async def _store(self) -> None:
        # What is sent now would wait for the connection, and come late.
        if not self._jet.connection.is_connected:
            return
        now = clock()
        self._count += 1
        # One that is older than a lease is worth nothing any more.
        self._sent = {count: at for count, at in self._sent.items() if now < at + LEASE}
        self._sent[self._count] = now
        # That it comes back says that it is stored.
        with suppress(nats.errors.Error):
            await self._jet.connection.publish(self._subject, self._mark())

    def _mark(self, *, gone: bool = False) -> bytes:
        return _encode(Mark(self.name, self._count, self._watched_here, gone))

    async def _tidy(self) -> None:
        """Take away what is left of those that have gone."""
        if not self.current:
            return
        now = clock()
        for key, other in [*self._others.items()]:
            if now > other.heard + KEPT:
                body = {"filter": self._prefix + key, "seq": other.seq + 1}
                with suppress(LogError):
                    await self._jet.ask(f"STREAM.PURGE.{self._bucket}", body)
                # It may have come back meanwhile.
                if self._others[key] is other:
                    del self._others[key]

    def _look_who_watches(self) -> None:
        now = clock()
        watched = any(
            each.mark.watched and now < each.serves_until for each in self._others.values()
        )
        if watched != self.watched:
            self.watched = watched
            self._told_watched(watched)


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Mark).decode
