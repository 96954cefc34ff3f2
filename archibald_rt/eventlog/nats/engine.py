"""The event log in a stream of NATS JetStream, which several servers append to.

One consumer for the whole server, the *spine*, brings every durable event in order; what was
dispatched before comes from Direct Gets. The stream keeps to the limits by itself.
"""

from collections.abc import Callable, Sequence

import structlog

from archibald_rt.errors import (
    LogBrokenError,
    LogError,
    LogUnavailableError,
    LogUncertainError,
)
from archibald_rt.eventlog.base import KeyConflict, Lasts, Page, Retention, Stored, Turn
from archibald_rt.eventlog.nats.appending import MOST, Appender
from archibald_rt.eventlog.nats.arrivals import Arrivals
from archibald_rt.eventlog.nats.definition import Opened, milliseconds, open_bucket
from archibald_rt.eventlog.nats.follower import Follower
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.marks import UNHEARD, Marks
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.reading import Reader
from archibald_rt.eventlog.nats.state import State
from archibald_rt.events import Emission
from archibald_rt.revocations import Revocation

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


class NatsLog:
    """The `EventLog` in a stream; made by `opening.open_nats`."""

    def __init__(self, jet: Jet, names: Names, opened: Opened, *, name: str) -> None:
        self._jet = jet
        self._names = names
        self._opened = opened
        self._state = State(jet, names.stream, revoked=self._revoked, erased=self._erased)
        self._marks = Marks(
            jet,
            self._state.bucket,
            self._state.prefix,
            name,
            lapsed=self._doubted,
            renewed=self._renewed,
            watched=self._watched,
        )
        self._arrivals = Arrivals(jet, names, self._marks, position=opened.last)
        self._appender = Appender(jet, names, lambda: self._arrivals.position)
        self._reader = Reader(jet, names, self._state, cap=opened.cap, replicas=opened.replicas)
        self._size = 0
        self._spine = Follower(
            jet,
            names.stream,
            names.followed,
            self._arrivals.durable,
            after=opened.last,
            probe=names.probe,
            missed=self._missed,
            pending=self._arrivals.expect,
            doubted=self._doubted,
            broken=self._broken,
        )
        self._changes = Follower(
            jet,
            self._state.bucket,
            [self._state.subjects],
            self._heard,
            after=0,
            probe=self._state.probe,
            pending=self._changes_pending,
            doubted=self._doubted,
            broken=self._broken,
        )
        self._arrivals.silence = self._silence

    async def start(self) -> None:
        """Follow the stream and the bucket. Raises `LogError`."""
        opened = self._opened
        await open_bucket(
            self._jet, self._state.bucket, self._state.subjects, replicas=opened.replicas
        )
        await self._arrivals.start()
        await self._spine.start()
        await self._changes.start()
        await self._changes.caught_up()
        await self._marks.start()

    def reconnected(self) -> None:
        """Go on after the connection was lost."""
        self._spine.restart()
        self._changes.restart()
        self._marks.renew()

    def disconnected(self) -> None:
        """Take note that the connection was lost."""
        self._doubted(LogUnavailableError("the log is unavailable: not connected to NATS"))

    @property
    def peers(self) -> Arrivals:
        """See `EventLog.peers`."""
        return self._arrivals

    @property
    def most(self) -> int:
        """See `EventLog.most`."""
        return MOST

    @property
    def epoch(self) -> str:
        """See `EventLog.epoch`."""
        return self._opened.epoch

    @property
    def head(self) -> int:
        """See `EventLog.head`."""
        return self._arrivals.position

    @property
    def last_stamp_ms(self) -> int:
        """See `EventLog.last_stamp_ms`."""
        return self._opened.last_ms

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        """See `EventLog.append`."""
        return await self._appender.append(groups)

    async def page(
        self,
        user: str,
        *,
        after: int,
        through: int,
        max_events: int,
        max_bytes: int,
        later_than: int | None = None,
    ) -> Page:
        """See `EventLog.page`."""
        page = await self._reader.page(
            user,
            after=after,
            through=through,
            max_events=max_events,
            max_bytes=max_bytes,
            later_than=later_than,
        )
        # Whom it is for may have been revoked while this server was cut off.
        await self._marks.require()
        return page

    async def first(self, user: str) -> int | None:
        """See `EventLog.first`."""
        return await self._reader.first(user)

    async def oldest(self) -> int | None:
        """See `EventLog.oldest`."""
        info = await self._jet.ask(f"STREAM.INFO.{self._names.stream}")
        if info is None or not info["state"]["messages"]:
            return None
        return milliseconds(info["state"]["first_ts"])

    async def lasts(self, count: int) -> Lasts:  # noqa: ARG002 - nothing is known without reading it all
        """See `EventLog.lasts`: nothing is known of what arrived before somebody looked."""
        return Lasts(self.head, [])

    def deleted_through(self, user: str) -> int:
        """See `EventLog.deleted_through`: what is at hand is delivered unless it was erased."""
        return self._state.erased(user)

    async def probe(self) -> None:
        """See `EventLog.probe`."""
        if (silence := self._silence()) is not None:
            raise LogUnavailableError(str(silence))
        if not self._marks.current:
            raise LogUnavailableError(UNHEARD)
        await self._appender.probe()

    async def prune(self, retention: Retention, turn: Turn, deleted: Callable[[int], None]) -> None:
        """See `EventLog.prune`: the stream does it by itself."""

    async def erase(self, user: str, turn: Turn) -> int:
        """See `EventLog.erase`."""
        erased = 0

        async def step() -> int:
            nonlocal erased
            stream, subject = self._names.stream, self._names.durable(user)
            last = await self._jet.last(stream, subject)
            if last is None:
                return 0
            # That it will be gone has to be known before it is.
            await self._state.erase(user, last.seq)
            for filtered in (subject, self._names.keys_of(user)):
                body = {"filter": filtered, "seq": last.seq + 1}
                answer = await self._jet.ask(f"STREAM.PURGE.{stream}", body, once=True)
                if filtered == subject and answer is not None:
                    erased = answer["purged"]
            return erased

        await turn(step)
        return erased

    async def revocations(self) -> Sequence[Revocation]:
        """See `EventLog.revocations`."""
        return self._state.revocations

    async def revoke(self, revocation: Revocation, turn: Turn) -> None:
        """See `EventLog.revoke`."""
        seq = 0

        async def step() -> int:
            nonlocal seq
            seq = await self._state.revoke(revocation)
            return 0

        await turn(step)
        try:
            # From then on it is known which other servers have to hear of it.
            await self._changes.reached(seq)
        except LogUnavailableError as error:
            raise LogUncertainError(str(error)) from None

    async def forget_revoked(self, expired_before: int, turn: Turn) -> None:  # noqa: ARG002 - no order to keep
        """See `EventLog.forget_revoked`."""
        await self._state.forget(expired_before)

    async def size(self) -> int:
        """See `EventLog.size`: the last known where JetStream can't be asked."""
        try:
            info = await self._jet.ask(f"STREAM.INFO.{self._names.stream}")
        except LogUnavailableError:
            return self._size
        if info is not None:
            self._size = info["state"]["bytes"]
        return self._size

    async def close(self) -> None:
        """See `EventLog.close`; the connection is for whoever made it to close."""
        await self._marks.close()
        for follower in (self._spine, self._changes):
            await follower.close()

    def overrun(self, subject: str) -> None:
        """Take note that a message came faster than messages are taken, and was dropped."""
        if subject.startswith(self._names.transients[:-1]):
            self._arrivals.dropped += 1

    def closed(self, reason: str) -> None:
        """Take note that the connection will not come back."""
        self._broken(LogBrokenError(f"the connection to NATS is closed for good: {reason}"))

    async def _missed(self, through: int) -> None:
        _logger.warning(
            "events were deleted before they came here: devices read what the stream has",
            through=through,
            late_seconds=round(self._arrivals.late, 3),
        )
        self._arrivals.skip(through)

    def _silence(self) -> LogError | None:
        """Return why not all that is stored comes here, None where it does."""
        connection = self._jet.connection
        if not connection.is_connected:
            why = "" if connection.last_error is None else f", {connection.last_error}"
            return LogUnavailableError(f"the log is unavailable: not connected to NATS{why}")
        return self._spine.fault or self._changes.fault

    async def _heard(self, got: Got) -> None:
        await self._state.hear(got)
        self._marks.hear(got)

    def _changes_pending(self, count: int) -> None:
        # The one that is heard counts as one to come.
        self._marks.pending = max(0, count - 1)

    def _renewed(self) -> None:
        self._arrivals.hooks.arrived()

    def _watched(self, watched: bool) -> None:  # noqa: FBT001 - a callback
        self._arrivals.hooks.watched(watched)

    def _revoked(self, revocation: Revocation) -> None:
        self._arrivals.hooks.revoked(revocation)

    def _erased(self) -> None:
        self._arrivals.hooks.erased()

    def _doubted(self, error: LogError) -> None:
        self._arrivals.hooks.doubted(error)

    def _broken(self, error: BaseException) -> None:
        self._arrivals.hooks.broken(error)
