"""The order queue: everything emitted, in one line, committed in groups and then dispatched.

One task serves it. Whatever has queued while a commit was under way is the next group: one
transaction, one fsync, no timer. Transient events ride along to keep their place. Answers
resolve after the dispatch, so an emitter that has its answer knows that the event is on disk
and has been handed to every live device.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from archibald_rt.among import AmongPeers, Turns
from archibald_rt.commits import CommitWatch
from archibald_rt.emissions import key_conflict
from archibald_rt.errors import (
    DrainingError,
    LogBrokenError,
    LogError,
    LogUnavailableError,
    LogUncertainError,
)
from archibald_rt.eventlog import EventLog, KeyConflict, Stored
from archibald_rt.eventlog.base import Step
from archibald_rt.events import Emission, Outcome
from archibald_rt.hub import Hub
from archibald_rt.line import Line, Request, WeighedLine
from archibald_rt.measures import Emitted
from archibald_rt.steps import Steps
from archibald_rt.tracing import Trace

_PAUSE_AFTER = 0.005
"""After how many seconds the dispatch lets others have a turn of the loop.

All frames of a turn go to a device in one write, so fewer pauses make cheaper bursts: with a
pause every two events, a burst of 200 to 500 devices cost four times as much a delivery.
"""

_LATELY = 0.02
"""How much the last request counts in the average latency: some fifty are remembered."""


class OrderQueue:
    """The line in which emissions wait.

    ``max_bytes`` bounds it (0: unbounded). ``on_broken`` is called when what the process
    believes about the log may be wrong and it has to end. While commits fail, one of no
    meaning is tried every ``probe_every`` seconds.
    """

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        *,
        max_bytes: int,
        on_broken: Callable[[BaseException], None],
        probe_every: float = 1.0,
    ) -> None:
        self._log = log
        self._hub = hub
        self._on_broken = on_broken
        self._among = None if log.peers is None else AmongPeers(log.peers, hub)
        # Chosen here, so that a server without peers does not ask for them at each event.
        self._target: Hub | AmongPeers = self._among or hub
        self._line = Line(max_bytes=max_bytes)
        if log.most:
            self._line = WeighedLine(max_bytes=max_bytes, most=log.most)
        self._steps = Steps()
        if self._among is not None:
            self._steps = Turns(
                self._among, busy=self._line.__bool__, closing=lambda: self._closing
            )
        self._server: asyncio.Task[None] | None = None
        self._watch = CommitWatch(self._wake, every=probe_every)
        self._closing = False
        # The requests being served, and whether what came of them has become unknowable.
        self._group: Sequence[Request] = ()
        self._broken = False
        # When the dispatch last let others have a turn.
        self._paused = 0.0
        self.durable = 0
        """How many durable events were committed and dispatched since the start."""
        self.transient = 0
        """How many transient events were dispatched since the start."""
        self.measured = Emitted()
        """What else is counted of them, and how long it takes."""
        self._trace = Trace(log.epoch)
        self.average_latency = 0.0
        """How long it takes from the commit into the outboxes, in seconds, lately."""

    @property
    def fault(self) -> LogError | None:
        """Why the last commit failed; None while commits work."""
        return self._watch.fault

    @property
    def unready(self) -> str | None:
        """Why emissions can't be taken and dispatched in time, in a line; None where they can."""
        if self._among is not None and (late := self._among.fault) is not None:
            return str(late)
        fault = self._watch.fault
        return None if fault is None else f"the last commit failed: {fault}"

    @property
    def size(self) -> int:
        """How many bytes wait to be committed or dispatched."""
        return self._line.size

    def submit(
        self, emissions: Sequence[Emission], request_id: str = ""
    ) -> asyncio.Future[list[Outcome]]:
        """Queue one request's emissions: all of them are stored, or none.

        The order of the calls is the order of the events. The future resolves after the
        dispatch; it fails with `EmissionError` (409, a key is used otherwise),
        `LogUnavailableError` (nothing was stored), `LogUncertainError` or `LogBrokenError` (the
        outcome is unknown). Raises `DrainingError`, `QueueFullError` and `EmissionError` (413)
        when nothing was queued. Log lines about them have the ``request_id``.
        """
        if self._closing or self._broken:
            raise DrainingError("the server is going away")
        request = self._line.add(emissions, request_id)
        if self._trace.on:
            self._trace.accepted(request_id, emissions)
        self._wake()
        return request.answer

    async def between(self, step: Step) -> int:
        """Run a deletion between two groups, when all that is committed is dispatched.

        Raises what the step raises, and `DrainingError` when it was not taken.
        """
        if self._closing or self._broken:
            raise DrainingError("the server is going away")
        done = self._steps.add(step)
        self._wake()
        return await done

    async def close(self) -> None:
        """Take nothing more, and return when what is queued is done. Safe to call twice."""
        self._closing = True
        self._watch.close()
        while self._server is not None:
            await asyncio.wait([self._server])

    def doubt(self, error: LogError) -> None:
        """Take commits to fail until one of no meaning has gone well."""
        self._watch.failed(error)

    def dispatch_arrived(self) -> None:
        """Have what has arrived from the log's other servers dispatched in its turn."""
        if not self._closing and not self._broken:
            self._wake()

    def _wake(self) -> None:
        if self._server is None:
            self._server = asyncio.get_running_loop().create_task(self._serve_all())
            self._server.add_done_callback(self._served)

    def _served(self, server: asyncio.Task[None]) -> None:
        self._server = None
        if server.cancelled():
            return
        if (error := server.exception()) is not None:
            # A fault of our own in the middle of the order: nothing can go on after it.
            self._give_up(error)
        elif self._line or self._steps or self._watch.due:
            self._wake()

    def _give_up(self, error: BaseException) -> None:
        """Answer all that is left, take nothing more, and have the process ended."""
        self._broken = True
        reason = str(error) if isinstance(error, LogError) else f"{type(error).__name__}: {error}"
        for request in self._group:
            request.fail(LogBrokenError(reason))
        self._line.give_up(LogUnavailableError("the server is going away"))
        self._steps.give_up()
        self._on_broken(error)

    async def _serve_all(self) -> None:
        while self._line or self._steps or self._watch.due:
            if self._watch.due:
                await self._probe()
            if self._line:
                # What has come to the sockets by now joins the group: no timer, one turn of the
                # loop. Larger groups take a tenth off the CPU of an event with 32 emitters.
                await asyncio.sleep(0)
                self._group = self._line.next_group()
                await self._serve(self._group)
                self._group = ()
            # One at a time, so that no group waits for more than one.
            if self._steps:
                await self._steps.take()

    async def _serve(self, group: Sequence[Request]) -> None:
        trace = self._trace if self._trace.on else None
        durable = [each.durable for each in group if each.durable]
        results, faults = await self._commit(durable, trace)
        committed = self._paused = time.monotonic()
        measured, before = self.measured, self.durable
        for request in group:
            if faults is not None and request.durable:
                request.fail(next(faults))
            else:
                stored = next(results) if request.durable else []
                if isinstance(stored, KeyConflict):
                    request.fail(key_conflict(request.emissions, stored.indexes))
                else:
                    outcomes = await self._dispatch(request, stored, trace)
                    done = time.monotonic()
                    measured.delivery_time.observe(done - request.accepted)
                    if request.durable:
                        latency = done - committed
                        self.average_latency += (latency - self.average_latency) * _LATELY
                    request.finish(outcomes)
            self._line.done(request)
        if stored_now := self.durable - before:
            measured.commit_size.observe(stored_now)

    async def _commit(
        self, groups: Sequence[Sequence[Emission]], trace: Trace | None = None
    ) -> tuple[Iterator[list[Stored] | KeyConflict], Iterator[LogError] | None]:
        """Commit what is durable of the requests being served.

        Returns what became of each of these requests, or else what each of them is told.
        """
        if not groups:
            return iter(()), None
        began = time.monotonic()
        try:
            results = await self._log.append(groups)
        except LogError as error:
            requests = [each for each in self._group if each.durable]
            self._failed(error, [each.request_id for each in requests])
            return iter(()), _told(error, requests)
        took = time.monotonic() - began
        self.measured.commit_time.observe(took)
        if trace is not None:
            trace.group(len(groups), took)
        if any(not each.duplicate for result in results for each in _stored(result)):
            # Nothing but duplicates stores nothing, and so shows nothing.
            self._watch.worked()
        return iter(results), None

    async def _dispatch(
        self, request: Request, stored: Sequence[Stored], trace: Trace | None
    ) -> list[Outcome]:
        places = iter(stored)
        outcomes: list[Outcome] = []
        if trace is not None:
            trace.committed(request.request_id, request.emissions, stored)
        for index, emission in enumerate(request.emissions):
            place = next(places) if emission.durable else None
            if place is not None and place.duplicate:
                self.measured.duplicates += 1
                if self._among is not None:
                    self._among.committed(place.seq)
                outcomes.append(
                    Outcome(place.seq, place.timestamp, durable=True, duplicate=True, delivered=0)
                )
                continue
            seq = None if place is None else place.seq
            if place is None:
                self.transient += 1
            else:
                self.durable += 1
            delivered = await self._target.dispatch(emission, seq)
            if emission.user is None:
                self.measured.broadcast(durable=emission.durable)
            if trace is not None:
                live = self._hub.live_of(emission.user)
                trace.dispatched(request.request_id, index, seq, delivered, live)
            outcomes.append(
                Outcome(
                    seq,
                    emission.timestamp,
                    durable=emission.durable,
                    duplicate=False,
                    delivered=delivered,
                )
            )
            if time.monotonic() - self._paused > _PAUSE_AFTER:
                await asyncio.sleep(0)
                self._paused = time.monotonic()
        return outcomes

    def _failed(self, error: LogError, request_ids: Sequence[str] = ()) -> None:
        self.measured.failed_commits += 1
        self._watch.failed(error, request_ids)
        if not isinstance(error, LogUnavailableError | LogUncertainError):
            self._give_up(error)

    async def _probe(self) -> None:
        """Find out by a commit of no meaning whether commits work again."""
        self._watch.due = False
        if self._watch.fault is None:
            return
        try:
            await self._log.probe()
        except LogError as error:
            self._failed(error)
        else:
            self._watch.worked()


def _told(fault: LogError, requests: Sequence[Request]) -> Iterator[LogError]:
    """Go over a fault of a commit as the emitter of each of these requests is told."""
    keys = iter(fault.keys if isinstance(fault, LogUncertainError) else ())
    for request in requests:
        if own := next(keys, ()):
            durable = iter(own)
            each = [next(durable) if emission.durable else None for emission in request.emissions]
            yield LogUncertainError(str(fault), keys=[each])
        else:
            yield type(fault)(str(fault))


def _stored(result: list[Stored] | KeyConflict) -> Sequence[Stored]:
    return () if isinstance(result, KeyConflict) else result
