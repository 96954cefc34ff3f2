"""Dispatching on one of several servers: what is emitted here, in one order with all the rest."""

import asyncio
import time
from collections.abc import Callable

from archibald_rt.errors import LogError
from archibald_rt.eventlog.peers import Arrival, Peers
from archibald_rt.events import Emission
from archibald_rt.hub import Hub
from archibald_rt.steps import Steps

_PAUSE_AFTER = 0.005
"""After how many seconds of what the others emitted the loop sees to its own."""


class AmongPeers:
    """Dispatches durable events in the order in which they arrive from the log, here as there.

    Used by the one task that serves the order queue.
    """

    def __init__(self, peers: Peers, hub: Hub) -> None:
        self._peers = peers
        self._hub = hub
        # The last seq that is known to be committed, whether or not it has arrived.
        self._committed = 0

    @property
    def fault(self) -> LogError | None:
        """See `Peers.fault`."""
        return self._peers.fault

    @property
    def waiting(self) -> bool:
        """Whether something has arrived that was not dispatched."""
        return self._peers.waiting

    async def dispatch(self, emission: Emission, seq: int | None) -> int:
        """Dispatch an emission of this server behind all that was committed before it.

        Returns to how many devices it went here. A durable one that does not arrive in time is
        dispatched when it does, since what goes before it is not known; and a transient one
        behind it waits for it.
        """
        delivered = 0
        if seq is not None:
            self.committed(seq)
            async for arrival in self._peers.through(seq):
                handed = await self._dispatch(arrival)
                if arrival.seq == seq:
                    delivered = handed
            return delivered
        after = max(self._committed, self._hub.dispatched)
        # The durable one before it may have been deleted before it arrived.
        if after > self._hub.dispatched and not self._peers.passed(after):
            self._peers.defer(emission, after)
        elif self._peers.current:
            # Else nobody may be served here, and when somebody may it is too late.
            delivered = await self._hub.dispatch(emission, None)
        await self._peers.tell(emission, after)
        return delivered

    def committed(self, seq: int) -> None:
        """Take note that an event was committed before, here or elsewhere: what comes follows it.

        It may not have arrived: its key was sent again to a server that is behind.
        """
        self._committed = max(self._committed, seq)

    async def catch_up(self, stop: Callable[[], object]) -> None:
        """Dispatch what has arrived, until there is no more or ``stop`` says so."""
        paused = time.monotonic()
        while (arrival := self._peers.take()) is not None:
            await self._dispatch(arrival)
            if stop():
                return
            if time.monotonic() - paused > _PAUSE_AFTER:
                await asyncio.sleep(0)
                paused = time.monotonic()

    async def _dispatch(self, arrival: Arrival) -> int:
        """Dispatch what has arrived, unless something that goes behind it went before it."""
        emission, dispatched = arrival.emission, self._hub.dispatched
        if emission is None:
            if arrival.seq is None:
                self._hub.advance(arrival.after)
            else:
                self._hub.skip(arrival.after)
            return 0
        if arrival.seq is not None:
            overtaken = arrival.seq <= dispatched
        elif arrival.after >= dispatched:
            overtaken = False
        else:
            # No user is called "", which has the broadcasts only. Not all at hand: who knows.
            later = self._hub.since(emission.user or "", arrival.after)
            overtaken = later is None or bool(later)
        return 0 if overtaken else await self._hub.dispatch(emission, arrival.seq)


class Turns(Steps):
    """The steps of a server with peers: what has arrived from them is dispatched like one.

    Who emits here doesn't wait for all that others emit: ``busy`` says that somebody does. At the
    end, which ``closing`` says, nobody waits for what others emit.
    """

    def __init__(
        self, among: AmongPeers, *, busy: Callable[[], bool], closing: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._among = among
        self._busy = busy
        self._closing = closing

    def __bool__(self) -> bool:
        return super().__bool__() or (self._among.waiting and not self._closing())

    async def take(self) -> None:
        """Run the first step, if there is one, and dispatch what has arrived."""
        if super().__bool__():
            await super().take()
        await self._among.catch_up(lambda: self._busy() or self._closing())
