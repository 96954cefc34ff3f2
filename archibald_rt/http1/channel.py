"""A connected socket that is read when there is room, written to, timed and ended."""

import asyncio
import math
import socket
import struct
from collections.abc import Callable

from archibald_rt.http1.answers import AnswerWriter
from archibald_rt.sockets import received

LINGER = 2.0
"""For how many seconds what a client still sends behind its last answer is read and dropped.

Closing a socket with unread bytes resets it, and takes the answer along (RFC 9112, section 9.6).
"""

_READ = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)


class Channel:
    """``got`` is called with what has come, ``ended`` once when it is over.

    The socket doesn't block. While something waits for a client to read it, that may take
    ``patience`` seconds from one step to the next; ``drained`` is called when nothing does any
    more, to say what is expected then. ``deadline`` is by the loop's clock.
    """

    __slots__ = (
        "_drained",
        "_ended",
        "_got",
        "_loop",
        "_parted",
        "_patience",
        "_reading",
        "_socket",
        "_writer",
        "closed",
        "deadline",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        got: Callable[[bytes], None],
        ended: Callable[[], None],
        drained: Callable[[], None],
        patience: float,
    ) -> None:
        self.closed = False
        """Whether it is over, or the socket was given away."""
        self.deadline = math.inf
        """When the client will have taken too long."""
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._got = got
        self._ended = ended
        self._drained = drained
        self._patience = patience
        self._writer = AnswerWriter(sock, progress=self._progress, lost=self.abort)
        self._reading = False
        self._parted = False

    @property
    def pending(self) -> bool:
        """Whether something waits for the client to read it."""
        return self._writer.pending

    def expect(self, seconds: float) -> None:
        """Give the client so long from now; 0 is no bound."""
        self.deadline = self._loop.time() + seconds if seconds else math.inf

    def read(self) -> None:
        """Read what comes. Calling it again does nothing."""
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def pause(self) -> None:
        """Hold the client back until `read`. Calling it again does nothing."""
        if self._reading and not self.closed:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def write(self, data: bytes) -> "asyncio.Future[None]":
        """Write; what is returned is done when the kernel has taken it, or fails if it won't."""
        waited = self._writer.pending
        written = self._writer.write(data)
        # More to read is no step of the client's.
        if self._writer.pending and not waited and not self.closed:
            self.expect(self._patience)
        return written

    def part(self) -> None:
        """Write what is left, say that nothing more will come, and drop what still does."""
        self._parted = True
        self._writer.end()
        self.read()
        if not self._writer.pending:
            self.expect(LINGER)

    def release(self) -> socket.socket | None:
        """Give the socket away; None if it is over, or the client reads nothing.

        It stays registered with the loop, for the same descriptor to be registered anew.
        """
        if self._writer.pending:
            self.abort()
        if self.closed:
            return None
        self.closed = True
        self._let_go()
        return self._socket

    def reset(self) -> None:
        """End it for a client that took too long: what it doesn't read is given up."""
        if self._writer.pending and not self.closed:
            # The kernel would go on trying.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.abort()

    def abort(self) -> None:
        """End it without another word. Doing it again does nothing."""
        if self.closed:
            return
        self.closed = True
        self.deadline = math.inf
        self._loop.remove_reader(self._socket.fileno())
        ended = self._ended
        self._let_go()
        self._socket.close()
        ended()

    def _let_go(self) -> None:
        """Keep nothing that keeps this: no garbage is to be looked for."""
        self._writer.close()
        self._got, self._ended, self._drained = _drop, _nothing, _nothing

    def _progress(self) -> None:
        if self._writer.pending:
            self.expect(self._patience)
        elif self._parted:
            self.expect(LINGER)
        else:
            self._drained()

    def _readable(self) -> None:
        data = received(self._socket, _READ)
        if data is None:
            return
        if not data:
            self.abort()
        elif not self._parted:
            self._got(data)


def _drop(_data: bytes) -> None:
    """Drop what has come."""


def _nothing() -> None:
    """Do nothing."""
