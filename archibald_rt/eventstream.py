"""A stream of Server-Sent Events: its head is the answer to a request, the rest the bare socket.

As with a WebSocket nothing of the request is kept: what is left is one small object with the
outbox, which drops what a client sends and notices when it goes.
"""

import asyncio
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

from tornado.httputil import ResponseStartLine, format_timestamp
from tornado.web import RequestHandler

from archibald_rt.budget import Budget
from archibald_rt.http1.answers import head_of
from archibald_rt.outbox import Tick
from archibald_rt.sockets import end_sending, received
from archibald_rt.transport import Transport

if TYPE_CHECKING:
    from archibald_rt.http1.terms import Taken

CLOSING = 5.0
"""For how many seconds a client may take to read what is left, and to close its side."""

UNASKED = 64 * 1024
"""How many bytes a client may send that has nothing more to say, before it is ended."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # Who compresses on the way holds events back until there is enough of them.
    "Cache-Control": "no-store, no-transform",
    # Has nginx hand on each event as it comes.
    "X-Accel-Buffering": "no",
    # The end of the stream is that of the connection (RFC 9112, section 6.3), which clients and
    # proxies of HTTP/1.0 understand as well: nginx speaks that by default. Chunks would say where
    # a stream was cut off; its reader knows, since what has no blank line behind it is no event.
    "Connection": "close",
}
"""What the head of a stream says."""

_READ = 16 * 1024


class Owner(Protocol):
    """Whom a stream tells of its end."""

    def on_end(self) -> None:
        """Take note that the stream has ended, once."""


class EventStream(Transport):
    """Events on one connected socket; its last word is an event.

    ``limit`` is the outbox's, into which the head of the answer goes first, in one piece, and
    then whole events. That the client goes is noticed from `start` on: when it says so, or when
    it has acknowledged nothing for ``gone_after`` seconds, 0 for as long as the kernel has it.
    """

    __slots__ = ("_owner", "unasked")

    def __init__(
        self,
        sock: socket.socket,
        tick: Tick,
        budget: Budget,
        *,
        limit: int,
        gone_after: float = 0.0,
    ) -> None:
        super().__init__(sock, tick, budget, limit=limit)
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            timeout = round(gone_after * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
        self.unasked = 0
        """How many bytes have come and were dropped."""
        self._owner: Owner | None = None

    def start(self, owner: Owner) -> None:
        """Begin to look after the client, for an owner."""
        self._owner = owner
        loop = asyncio.get_running_loop()
        if self.ended:
            loop.call_soon(self._tell_end)
        else:
            loop.add_reader(self.socket.fileno(), self._readable)

    def finish(self, last: bytes = b"") -> None:
        """End behind all that is waiting and a last event; doing it again does nothing.

        A client that doesn't take it in time is ended without.
        """
        if self.told:
            return
        self.told = True
        if last:
            self.outbox.push(last)
        self.outbox.when_empty(self._end_sending)
        self._end_within(CLOSING)

    def cut_off(self, last: bytes = b"") -> None:
        """Hand the kernel nothing more of what waits, only a last event where one may follow.

        Otherwise, in the middle of an event, it is aborted. Doing it again does nothing more.
        """
        if not self.told and self.outbox.withdraw():
            self.finish(last)
        elif not self.told or self.outbox.size:
            self.abort()

    def _end_sending(self) -> None:
        # The client closes its side then; closing this one at once would reset the connection,
        # and take the last event along, where something unread has come.
        end_sending(self.socket)

    def _tell_end(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.on_end()

    def _readable(self) -> None:
        data = received(self.socket, _READ)
        if data is None:
            return
        self.unasked += len(data)
        if not data or self.unasked > UNASKED:
            self.abort()


class StreamHandler(RequestHandler):
    """A handler whose answer may be a stream."""

    def set_stream_headers(self) -> None:
        """Set the headers that the answer has if it is a stream."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def begin_stream(
        self, tick: Tick, budget: Budget, *, limit: int, gone_after: float = 0.0
    ) -> EventStream | None:
        """Answer with a stream, and with all headers that were set; None if the client has gone.

        The request is over then. Whoever gets the stream has to start or to abort it.
        """
        self.set_stream_headers()
        self.set_header("Date", format_timestamp(time.time()))
        head = head_of(ResponseStartLine("HTTP/1.1", HTTPStatus.OK, "OK"), self._headers)
        # What came behind the request is dropped.
        taken = cast("Taken | None", self.detach())
        self.application.log_request(self)
        if taken is None:
            return None
        stream = EventStream(taken.socket, tick, budget, limit=limit, gone_after=gone_after)
        stream.outbox.push(head)
        return stream
