"""One connection of a client that speaks HTTP/1.1, under Tornado's handlers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from archibald_rt.http1.answers import failed, malformed
from archibald_rt.http1.channel import Channel
from archibald_rt.http1.exchange import Exchange
from archibald_rt.http1.requests import END, Breach, Head, RequestReader
from archibald_rt.http1.terms import Context, Limits, Owner, Taken

DROP_LIMIT, DROP_TIME = 64 * 1024 * 1024, 60.0
"""How much of a body that was answered before its end is read and dropped, and for how long.

Most clients read nothing before they have sent all. (The time where no other bound is set.)
"""

AT_ONCE = 16
"""How many requests of one connection are taken in one turn of the loop."""

_logger = structlog.stdlib.get_logger("archibald_rt.http")


class RequestConnection(HTTPConnection):
    """Reads requests from a connected socket that doesn't block, and has them answered.

    One request is worked on at a time.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Context,
        application: HTTPServerConnectionDelegate,
        limits: Limits,
        owner: Owner,
    ) -> None:
        self.context = context
        self._application = application
        self._limits = limits
        self._owner = owner
        self._requests = RequestReader(max_body=limits.max_body)
        self._channel = Channel(
            sock,
            got=self._got,
            ended=self._ended,
            drained=self._drained,
            patience=limits.idle,
        )
        self._exchange: Exchange | None = None
        self._close_callback: Callable[[], None] | None = None
        # What a part of the request made the application wait for.
        self._waiting: asyncio.Future[None] | None = None
        self._going_on = False

    @property
    def deadline(self) -> float:
        """When `time_out` is to be called, by the loop's clock."""
        return self._channel.deadline

    @property
    def idle(self) -> bool:
        """Whether nothing that was asked is being worked on."""
        return self._exchange is None or not self._exchange.complete

    def start(self) -> None:
        """Begin to read."""
        self._channel.expect(self._limits.head)
        self._channel.read()

    def time_out(self) -> None:
        """End it, for its client took too long; one that has begun to ask is told."""
        if self._exchange is None and self._requests.begun:
            detail = "the request did not come in time"
            self._refuse(Breach(HTTPStatus.REQUEST_TIMEOUT, detail))
        else:
            self._channel.reset()

    def abort(self) -> None:
        """End it without another word. Doing it again does nothing."""
        self._channel.abort()

    # What Tornado's handlers call.

    def close(self) -> None:
        """End it without another word; what was written is in the kernel's hands."""
        self._channel.abort()

    def detach(self) -> Taken | None:
        """Give the socket away for another protocol; nothing of HTTP is done with it any more.

        None if the client has gone, or reads nothing of what it asked for before.
        """
        sock = self._channel.release()
        if sock is None:
            return None
        taken = Taken(sock, self._requests.rest)
        self._forget()
        return taken

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Have something called if the client goes before it has its answer."""
        self._close_callback = callback

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> "asyncio.Future[None]":
        """Write an answer's head, and the beginning of its body or all of it.

        What is returned is done when the kernel has taken it. Raises ValueError for a header
        with a line break in it.
        """
        exchange = self._exchange
        if not isinstance(start_line, ResponseStartLine):
            raise TypeError(start_line)
        if exchange is None:
            # The client was parted from.
            return failed()
        date = "" if "Date" in headers else self._owner.date()
        # Who has not sent all of its body may not read before it has.
        unread = not exchange.complete and END not in self._requests.parts
        last = unread or self._owner.stopping
        return self._channel.write(
            exchange.answer(start_line, headers, chunk or b"", date=date, last=last)
        )

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        """Write a piece of an answer's body; what is returned is done when the kernel has it."""
        exchange = self._exchange
        return failed() if exchange is None else self._channel.write(exchange.piece(chunk))

    def finish(self) -> None:
        """End an answer."""
        exchange = self._exchange
        if exchange is None:
            return
        if not exchange.begun:
            # What was to be written could not be.
            self._channel.abort()
            return
        if end := exchange.end():
            self._channel.write(end)
        self._close_callback = None
        if exchange.complete:
            self._over(exchange)
            self._go_on()
        else:
            # What is left of the body is read and dropped.
            self._expect_body(exchange)

    # What comes from the client.

    def _got(self, data: bytes) -> None:
        try:
            self._requests.feed(data)
        except Exception:
            _logger.exception("fault in a request", address=self.context.remote_ip)
            self._channel.abort()
            return
        self._go_on()
        if self._requests.parts or self._requests.rest:
            # It waits for a request that is worked on: the client is held back.
            self._channel.pause()

    def _go_on(self) -> None:
        """Hand on what was read, until the request or the application needs time."""
        if self._going_on:
            return
        self._going_on = True
        try:
            begun = 0
            while self._requests.parts and not self._busy:
                if isinstance(self._requests.parts[0], Head):
                    if begun == AT_ONCE:
                        # Everybody else has their turn.
                        asyncio.get_running_loop().call_soon(self._go_on)
                        break
                    begun += 1
                self._take()
        except HTTPInputError as error:
            self._refuse(Breach(HTTPStatus.BAD_REQUEST, str(error)))
        except Exception:
            _logger.exception("fault in a request", address=self.context.remote_ip)
            self._channel.abort()
        finally:
            self._going_on = False
        if not self._requests.parts:
            self._channel.read()

    @property
    def _busy(self) -> bool:
        exchange = self._exchange
        if exchange is None:
            # Who does not read gets no more answers.
            return self._waiting is not None or self._channel.pending
        return self._waiting is not None or exchange.complete

    def _take(self) -> None:
        part, exchange = self._requests.parts.popleft(), self._exchange
        if isinstance(part, Head):
            self._begin(part)
        elif isinstance(part, Breach):
            self._refuse(part)
        elif exchange is None:
            # Of a request whose client was parted from.
            return
        elif part is END:
            self._end(exchange)
        elif not exchange.answered:
            self._wait_for(exchange.delegate.data_received(part))
        else:
            exchange.dropped += len(part)
            if exchange.dropped > DROP_LIMIT:
                self._channel.abort()

    def _begin(self, head: Head) -> None:
        delegate = self._application.start_request(self, self)
        exchange = self._exchange = Exchange(head, delegate)
        self._expect_body(exchange)
        self._wait_for(delegate.headers_received(head.start_line, head.headers))
        exchange.heard = True
        self._give_leave()

    def _expect_body(self, exchange: Exchange) -> None:
        self._channel.expect(self._limits.body or (DROP_TIME if exchange.answered else 0))

    def _give_leave(self) -> None:
        """Let a client send its body that waits for leave to (RFC 9110, section 10.1.1).

        Not before the application has looked at the head.
        """
        exchange = self._exchange
        if exchange is None or self._waiting is not None or not exchange.awaits_leave:
            return
        exchange.awaits_leave = False
        if not (self._requests.parts or exchange.begun):
            self._channel.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _end(self, exchange: Exchange) -> None:
        exchange.complete = True
        self._channel.expect(0)
        if exchange.answered:
            self._over(exchange)
        else:
            exchange.delegate.finish()

    def _over(self, exchange: Exchange) -> None:
        """Be ready for the next request, or part from the client."""
        self._exchange = None
        if exchange.last:
            self._part()
        else:
            self._requests.no_upgrade()
            self._channel.expect(self._limits.idle)
            self._owner.asked(self)

    def _refuse(self, breach: Breach) -> None:
        """Answer what is no request, unless its answer has begun, and part."""
        request_id = self._owner.request_ids.new()
        _logger.debug(
            "request refused",
            reason=breach.detail,
            address=self.context.remote_ip,
            request_id=request_id,
        )
        exchange, self._exchange = self._exchange, None
        self._close_callback = None
        if exchange is None or not exchange.begun:
            self._channel.write(malformed(breach.status, breach.detail, request_id))
        self._part()
        if exchange is not None and exchange.heard and not exchange.answered:
            exchange.delegate.on_connection_close()

    def _part(self) -> None:
        self._requests.close()
        self._requests.parts.clear()
        self._channel.part()

    def _wait_for(self, awaitable: Awaitable[None] | None) -> None:
        """Hand on nothing more until the application is done with a part."""
        if awaitable is None:
            return
        waiting = asyncio.ensure_future(awaitable)
        if waiting.done():
            waiting.result()
            return
        self._waiting = waiting
        waiting.add_done_callback(self._waited)

    def _waited(self, done: "asyncio.Future[None]") -> None:
        self._waiting = None
        if self._channel.closed:
            return
        if done.cancelled() or done.exception() is not None:
            _logger.error("fault in a request", exc_info=done.exception())
            self._channel.abort()
            return
        self._give_leave()
        self._go_on()

    # The end.

    def _drained(self) -> None:
        """Wait for the next request, or for the application to go on with its answer."""
        exchange = self._exchange
        if exchange is None:
            self._channel.expect(self._limits.idle)
            self._go_on()
        elif exchange.complete:
            self._channel.expect(0)
        else:
            self._expect_body(exchange)

    def _ended(self) -> None:
        exchange, callback = self._exchange, self._close_callback
        self._forget()
        try:
            # One of them, as Tornado has it: while the request is read, or afterwards.
            if exchange is not None and not exchange.complete:
                if exchange.heard:
                    exchange.delegate.on_connection_close()
            elif callback is not None:
                callback()
        except Exception:
            _logger.exception("fault at the end of a connection")

    def _forget(self) -> None:
        self._requests.close()
        self._requests.parts.clear()
        self._exchange = self._close_callback = None
        if self._waiting is not None:
            self._waiting.cancel()
        self._owner.gone(self)
