"""What a WebSocket and a stream of events have in common: one socket, its outbox, and one end."""

import asyncio
import socket
from abc import ABC, abstractmethod

from archibald_rt.budget import Budget
from archibald_rt.outbox import Outbox, Tick, tune


class Transport(ABC):
    """One connected socket, which doesn't block and is closed at the end, with its outbox.

    ``limit`` is the outbox's. An outbox that finds out that the client has gone aborts it.
    """

    __slots__ = ("_timer", "ended", "outbox", "socket", "told")

    def __init__(self, sock: socket.socket, tick: Tick, budget: Budget, *, limit: int) -> None:
        tune(sock)
        self.socket = sock
        self.outbox = Outbox(sock, tick, budget, limit=limit, lost=self.abort)
        self.told = False
        """Whether the last word was put in: nothing may follow it."""
        self.ended = False
        """Whether it is over."""
        self._timer: asyncio.TimerHandle | None = None

    def abort(self) -> None:
        """End it without another word. Doing it again does nothing."""
        if self.ended:
            return
        self.ended = self.told = True
        loop = asyncio.get_running_loop()
        self.outbox.close()
        loop.remove_reader(self.socket.fileno())
        self.socket.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Not at once: it can come in the middle of anything that writes.
        loop.call_soon(self._tell_end)

    def _end_within(self, seconds: float) -> None:
        """Abort it after so many seconds, in place of any earlier term."""
        if self._timer is not None:
            self._timer.cancel()
        # The flush of the last word may have found out that the client has gone.
        if not self.ended:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    @abstractmethod
    def _tell_end(self) -> None:
        """Tell the owner, once, that it is over; without one do nothing."""
