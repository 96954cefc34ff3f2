"""Answers, written: their heads, and the bytes that the kernel has not taken yet."""

import asyncio
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from tornado.httputil import HTTPHeaders, ResponseStartLine, format_timestamp
from tornado.iostream import StreamClosedError

from archibald_rt.answers import Problem
from archibald_rt.requestids import HEADER
from archibald_rt.sockets import FULL, end_sending, sender_of

_PIECE = 256 * 1024


def head_of(start_line: ResponseStartLine, headers: HTTPHeaders, date: str = "") -> bytes:
    """Return an answer's head. Raises ValueError for a line break within a header.

    The ``date`` is our own, so it is written past what headers go through.
    """
    text, breaks = f"HTTP/1.1 {start_line.code} {start_line.reason}", 0
    if date:
        text, breaks = f"{text}\r\nDate: {date}", 1
    # Added to in place, which takes a fifth less than to join a list of them.
    for name, value in headers.get_all():
        text += f"\r\n{name}: {value}"
        breaks += 1
    # RFC 9112, section 11.1: whoever gets a line break in can write an answer of its own.
    if text.count("\n") != breaks or text.count("\r") != breaks:
        raise ValueError("a header has a line break in it")
    return f"{text}\r\n\r\n".encode("latin-1")


def malformed(status: HTTPStatus, detail: str, request_id: str) -> bytes:
    """Return the whole answer to what is no request: a problem document (RFC 9457)."""
    problem = Problem("about:blank", status.phrase, status, detail, request_id=request_id)
    body = msgspec.json.encode(problem)
    headers = HTTPHeaders(
        {
            "Content-Type": "application/problem+json",
            "Cache-Control": "no-store",
            HEADER: request_id,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return head_of(ResponseStartLine("HTTP/1.1", status, status.phrase), headers) + body


class DateHeader:
    """The ``Date`` of an answer (RFC 9110, section 6.6.1), written once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        """Return the header's value for this moment."""
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, format_timestamp(second)
        return self._text


class AnswerWriter:
    """Writes to a connected socket that doesn't block, whatever the kernel takes at once.

    ``progress`` is called when it has taken more of what had to wait, ``lost`` when the client
    turns out to have gone.
    """

    __slots__ = ("_closed", "_ended", "_lost", "_out", "_progress", "_send", "_socket", "_waiters")

    def __init__(
        self, sock: socket.socket, *, progress: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self._socket = sock
        self._send = sender_of(sock)
        self._progress = progress
        self._lost = lost
        self._out = bytearray()
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self._ended = False

    @property
    def pending(self) -> bool:
        """Whether something waits for the kernel to take it."""
        return bool(self._out)

    def write(self, data: bytes) -> "asyncio.Future[None]":
        """Write; what is returned is done when the kernel has taken it, or fails if it won't."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        if not (self._out or self._closed):
            data = data[self._sent(data) :]
            if not data and not self._closed:
                written.set_result(None)
                return written
            if not self._closed:
                loop.add_writer(self._socket.fileno(), self._writable)
        if self._closed:
            return failed()
        self._out += data
        self._waiters.append(written)
        return written

    def end(self) -> None:
        """Write nothing more: the client is told when it has all. Doing it again does nothing."""
        self._ended = True
        if not (self._out or self._closed):
            end_sending(self._socket)

    def close(self) -> None:
        """Give up what is left. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        # Whoever they belong to has this object, too.
        self._progress = self._lost = _nothing
        if self._out:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())
            # Not cleared: what is being sent is looked at through a view.
            self._out = bytearray()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                _fail(waiter)

    def _writable(self) -> None:
        with memoryview(self._out) as view:
            sent = self._sent(view[:_PIECE])
        if self._closed:
            return
        del self._out[:sent]
        self._progress()
        if self._out:
            return
        asyncio.get_running_loop().remove_writer(self._socket.fileno())
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._ended:
            end_sending(self._socket)

    def _sent(self, data: bytes | memoryview) -> int:
        try:
            return self._send(data)
        except FULL:
            return 0
        except OSError:
            self._lost()
            return 0


def _nothing() -> None:
    """Do nothing."""


def failed() -> "asyncio.Future[None]":
    """Return what a write comes to that has nobody to read it."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _fail(future)
    return future


def _fail(future: "asyncio.Future[None]") -> None:
    future.set_exception(StreamClosedError())
    # Nobody need ask for it.
    future.exception()
