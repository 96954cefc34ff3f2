"""What becomes of devices at one server, shown to those who watch at the others."""

import asyncio

from archibald_rt.eventlog.peers import Peers
from archibald_rt.tap import Tap
from archibald_rt.watcher import Watcher

EVERY = 0.05
"""For how many seconds messages gather."""

_WAIT = 3600.0


class Relay:
    """Sends what becomes of devices here for as long as somebody watches elsewhere.

    Lossy: what other servers can't take, or where they can't be reached, is lost.
    """

    def __init__(self, tap: Tap, peers: Peers) -> None:
        self._tap = tap
        self._peers = peers
        self._sender: Watcher | None = None
        self._task: asyncio.Task[None] | None = None
        tap.changed = self._changed

    def watched(self, elsewhere: bool) -> None:  # noqa: FBT001 - a callback
        """Send from now on, or no more."""
        if elsewhere and self._sender is None and (sender := self._tap.send()) is not None:
            self._sender = sender
            self._task = asyncio.get_running_loop().create_task(self._send(sender))
        elif not elsewhere:
            self._stop()

    async def close(self) -> None:
        """Send no more. Calling it again does nothing."""
        self._stop()
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])

    def _stop(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _changed(self) -> None:
        self._peers.watch(watched=self._tap.watched > 0)

    async def _send(self, sender: Watcher) -> None:
        while (data := await sender.take(_WAIT)) is not None:
            if data:
                await self._peers.share(data)
            await sender.gather(EVERY)
