"""What a device is owed and the kernel has not taken: bounded, one write a turn of the loop."""

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

import structlog

from archibald_rt.budget import Bounded, Budget
from archibald_rt.sockets import FULL, sender_of

NOTSENT_LOWAT = 64 * 1024
"""How many unsent bytes the kernel takes (``TCP_NOTSENT_LOWAT``).

With its defaults it takes 3.7 MiB and then nothing for two minutes from a healthy reader of
10 KB/s, and a ping waits behind that.
"""

GRACE = 1.5
"""For how many times `stall_timeout` a device shows no progress before it counts as stalled.

A kernel with a receive buffer of 128 KiB opens its window only when nearly all of that was
read: at 4 KB/s it shows progress every 31 seconds, which must not be a matter of luck with the
default of 30.
"""

# Where struct tcp_info (linux/tcp.h) has tcpi_last_data_recv, in milliseconds.
_LAST_DATA_RECEIVED = 52

# And tcpi_rtt, in microseconds.
_ROUND_TRIP = 68

_NOTHING = memoryview(b"")

_logger = structlog.stdlib.get_logger("archibald_rt.outbox")


class Tick:
    """Flushes every outbox that was written to in a turn of the loop, at the turn's end.

    One callback for all of them, however many devices an event goes to.
    """

    def __init__(self) -> None:
        self._dirty: list[Outbox] = []

    def add(self, outbox: "Outbox") -> None:
        """Have an outbox flushed."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self.flush)
        self._dirty.append(outbox)

    def flush(self) -> None:
        """Flush them now; those that are written to afterwards have their turn as well."""
        dirty, self._dirty = self._dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception:
                # One that can't be flushed ends by itself; the others have their turn.
                _logger.exception("an outbox failed")
                outbox.fail()


class Outbox(Bounded):
    """The bytes on their way to one device.

    ``limit`` bounds what `offer` takes, in bytes; 0 is no bound. It writes whole frames in
    the order they were put in, and nobody else may write to the socket, which doesn't block.
    ``lost`` is called, at any moment, if the connection turns out to have ended. It is to be
    closed when that has happened, or the budget never gets back what it kept.
    """

    __slots__ = (
        "_closed",
        "_emptied",
        "_frames",
        "_lost",
        "_rest",
        "_send",
        "_socket",
        "_spent",
        "_taken",
        "_tick",
        "_waiting",
    )

    def __init__(
        self,
        sock: socket.socket,
        tick: Tick,
        budget: Budget,
        *,
        limit: int,
        lost: Callable[[], None],
    ) -> None:
        super().__init__(budget, limit=limit)
        self._socket = sock
        self._send = sender_of(sock)
        self._tick = tick
        self._lost = lost
        self._frames: list[bytes] = []
        self._rest = _NOTHING
        # How much of the rest's buffer was taken and is kept all the same.
        self._spent = 0
        # Whether the loop tells when the socket takes more.
        self._waiting = False
        self._closed = False
        # Called when all was taken that is ever put in.
        self._emptied: Callable[[], None] | None = None
        self._taken = 0

    @property
    def size(self) -> int:
        """How many bytes wait for the kernel to take them."""
        return self._kept - self._spent

    @property
    def taken(self) -> int:
        """How many bytes the kernel has taken in all."""
        return self._taken

    def push(self, data: bytes) -> None:
        """Put data in whether it fits or not: for what is small, or was made to fit."""
        if self._closed:
            return
        if not self._frames and not self._waiting:
            self._tick.add(self)
        self._frames.append(data)
        # Written out, and not `Budget.take`, since it is done for every delivery.
        size = len(data)
        self._kept += size
        self.budget.spare -= size

    def flush(self) -> None:
        """Hand to the kernel what it takes. Doing it again does nothing."""
        frames = self._frames
        if not frames or self._waiting or self._closed:
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        try:
            sent = self._send(data)
        except FULL:
            sent = 0
        except OSError:
            self.fail()
            return
        if sent == len(data):
            self._taken += sent
            self._release(sent)
            return
        self._waiting = True
        asyncio.get_running_loop().add_writer(self._socket.fileno(), self._writable)
        self._keep(memoryview(data), sent)

    def withdraw(self) -> bool:
        """Give up all that waits, if something else may follow what the kernel has; says whether.

        Nothing may in the middle of a frame, and what waits for the kernel is taken to begin
        there. The answer to the handshake, the first thing that is ever put in, stays: without
        it nothing that follows would be understood.
        """
        if self._waiting:
            return False
        del self._frames[0 if self._taken else 1 :]
        self._release(self._kept - sum(map(len, self._frames)))
        return True

    def when_empty(self, emptied: Callable[[], None]) -> None:
        """Have something called once the kernel has taken all; now, if it has.

        For the end: nothing may be put in any more, and it isn't called if the connection ends.
        """
        self.flush()
        if self._closed:
            return
        if self._kept:
            self._emptied = emptied
        else:
            emptied()

    def fail(self) -> None:
        """Give up the connection, whose device would miss something; its owner is told."""
        self._lost()

    def close(self) -> None:
        """Give up what is left and take nothing more. Calling it again does nothing."""
        self._closed = True
        self._emptied = None
        self._stop_waiting()
        self._frames.clear()
        self._rest = _NOTHING
        self._spent = 0
        self._release(self._kept)

    def _relieve(self) -> None:
        """Hand to the kernel what it takes, of every outbox that was written to in this turn."""
        self._tick.flush()

    def _writable(self) -> None:
        """Hand on more of the rest, and when that is gone what was put in meanwhile."""
        data, self._rest = self._rest, _NOTHING
        try:
            sent = self._send(data)
        except FULL:
            sent = 0
        except OSError:
            self.fail()
            return
        if sent < len(data):
            self._keep(data, sent)
            return
        self._stop_waiting()
        spent, self._spent = self._spent, 0
        self._taken += sent
        self._release(sent + spent)
        self.flush()
        if self._emptied is not None and not self._kept:
            emptied, self._emptied = self._emptied, None
            emptied()

    def _keep(self, data: memoryview, sent: int) -> None:
        """Keep what the kernel has not taken of data, and count what it has."""
        rest, spent = data[sent:], self._spent + sent
        if spent >= len(rest):
            # A view keeps the whole of what it was cut from.
            rest, spent = memoryview(bytes(rest)), 0
        gone = sent + self._spent - spent
        self._rest, self._spent = rest, spent
        self._taken += sent
        self._release(gone)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            asyncio.get_running_loop().remove_writer(self._socket.fileno())


class Progress:
    """Tells a device that is slow from one that has stalled.

    A stalled one makes no progress of any kind: the kernel takes nothing more for it, its
    queue there doesn't fall, and no byte comes from it. (The queue alone would not tell: it
    stands still where what drained was topped up.)
    """

    def __init__(self, outbox: Outbox, sock: socket.socket, *, now: float) -> None:
        self._outbox = outbox
        self._socket = sock
        self._taken = outbox.taken
        self._queued = 0
        self._since = now

    def stalled_for(self, now: float) -> float:
        """Look at the device; returns for how many seconds it has made no progress.

        To be called every second or so while something is owed.
        """
        queued = queued_bytes(self._socket)
        received_ago = seconds_since_received(self._socket)
        if self._outbox.taken != self._taken or queued < self._queued:
            self._since = now
        elif received_ago is not None:
            self._since = max(self._since, now - received_ago)
        self._taken, self._queued = self._outbox.taken, queued
        return now - self._since


def tune(sock: socket.socket) -> None:
    """Set a device's socket up: no delay for small writes, little that is unsent."""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


def queued_bytes(sock: socket.socket) -> int:
    """Return how many bytes of the socket's the other side has not acknowledged (tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)


class Link(NamedTuple):
    """A connection as the kernel sees it: how long nothing came, and how long a round trip takes.

    Both in seconds; the round trip is TCP's own to the next peer, which may be a proxy.
    """

    silent: float
    round_trip: float


def link_of(sock: socket.socket) -> Link | None:
    """Return what the kernel knows of a connection; None where it doesn't say."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP + 4)
    silent = info[_LAST_DATA_RECEIVED : _LAST_DATA_RECEIVED + 4]
    return Link(
        int.from_bytes(silent, sys.byteorder) / 1000,
        int.from_bytes(info[_ROUND_TRIP:], sys.byteorder) / 1_000_000,
    )


def seconds_since_received(sock: socket.socket) -> float | None:
    """Return how long ago a byte came, as the kernel knows it; None where it doesn't say."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
    return int.from_bytes(info[_LAST_DATA_RECEIVED:], sys.byteorder) / 1000
