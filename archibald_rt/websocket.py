"""A WebSocket after its handshake: frames on the bare socket, until it ends as RFC 6455 wants it.

One small object reads frames when the loop says so, and writes through the device's outbox.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable
from typing import Protocol

import structlog

from archibald_rt.budget import Budget
from archibald_rt.frames import FrameError, FrameReader, close_of, text_of
from archibald_rt.outbox import Tick, seconds_since_received
from archibald_rt.protocol import CLOSE, PING, PONG, TEXT, frame
from archibald_rt.sockets import received
from archibald_rt.transport import Transport

LINGER = 2.0
"""For how many seconds what still comes from a client that broke the rules is read and dropped.

Closing a socket with unread bytes resets it, and takes the close frame along.
"""

CLOSING = 5.0
"""For how many seconds a client may take to answer a close frame."""

ANSWERS_LIMIT = 64 * 1024
"""How many bytes of answers may wait for a client that asks without reading."""

ANSWERS_SURE = 1024
"""So many of them are put in even if the memory of all outboxes is short."""

NO_CODE, ABNORMAL = 1005, 1006
"""What stands for a close frame without a code, and for none (RFC 6455, section 7.4.1)."""

_READ = 16 * 1024

_logger = structlog.stdlib.get_logger("archibald_rt.websocket")


class Owner(Protocol):
    """Whom a connection tells what comes."""

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Take a message; nothing more is read until what it returns is done."""

    def on_pong(self) -> None:
        """Take note of a pong."""

    def on_breach(self, code: int, reason: str) -> None:
        """Take note that the client broke the rules: nothing may follow the close frame."""

    def on_close(self, code: int | None, reason: str | None) -> None:
        """Take note that the connection has ended, once; with what the client's close said."""


class Connection(Transport):
    """RFC 6455 on one connected socket; its last word is a close frame.

    A message may have ``max_message`` bytes (0: no bound), ``limit`` is the outbox's. Nothing is
    read before `start`.
    """

    __slots__ = (
        "_answers",
        "_closed",
        "_code",
        "_frames",
        "_owner",
        "_received_at",
        "_waiting",
    )

    def __init__(
        self, sock: socket.socket, tick: Tick, budget: Budget, *, limit: int, max_message: int
    ) -> None:
        super().__init__(sock, tick, budget, limit=limit)
        self._frames: FrameReader | None = FrameReader(max_message)
        self._owner: Owner | None = None
        self._received_at = time.monotonic()
        self._answers = 0
        # What the client's close frame said.
        self._closed: tuple[int | None, str | None] = (None, None)
        self._code = ABNORMAL
        # What the owner made of a message, while it is not done.
        self._waiting: asyncio.Future[None] | None = None

    @property
    def code(self) -> int:
        """The code of the close frame that was first, ours or the client's; else `ABNORMAL`."""
        return self._code

    def start(self, owner: Owner, early: bytes = b"") -> None:
        """Begin to read for an owner; ``early`` is what has come already."""
        self._owner = owner
        if self.ended:
            asyncio.get_running_loop().call_soon(self._tell_end)
            return
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._readable)
        if early:
            self._take(early)

    def received_ago(self) -> float:
        """Return for how many seconds nothing has come from the client."""
        ago = None if self.ended else seconds_since_received(self.socket)
        return time.monotonic() - self._received_at if ago is None else ago

    def answer(self, opcode: int, data: bytes) -> None:
        """Answer a ping of any kind, unless answers pile up for one who doesn't read them.

        RFC 6455, section 5.5.3, lets one who is behind answer only the latest.
        """
        self.put_answer(frame(opcode, data))

    def put_answer(self, answer: bytes) -> None:
        """Put in the frame of an answer, unless answers pile up for one who doesn't read them."""
        if self.outbox.size == 0:
            self._answers = 0
        if self._answers > ANSWERS_LIMIT or self.told:
            return
        self._answers += len(answer)
        if self._answers <= ANSWERS_SURE:
            self.outbox.push(answer)
        else:
            self.outbox.offer(answer)

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Send a close frame behind all that is waiting, and give the client time to answer.

        Doing it again does nothing.
        """
        if not self.told and not self.ended:
            self._code = NO_CODE if code is None else int(code)
            self._say_close(code, reason)
            self._end_within(CLOSING)

    def cut_off(self, code: int, reason: str) -> None:
        """Hand the kernel nothing more of what waits, only a close frame where one may follow.

        Otherwise, in the middle of a frame, it is aborted. Doing it again does nothing more.
        """
        if not self.told and self.outbox.withdraw():
            self.close(code, reason)
        elif not self.told or self.outbox.size:
            if not self.told:
                # It was to be said, and shows why the connection ended.
                self._code = int(code)
            self.abort()

    def abort(self) -> None:
        """End the connection without another word. Doing it again does nothing."""
        if not self.ended and self._waiting is not None:
            self._waiting.cancel()
        super().abort()

    def _tell_end(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.on_close(*self._closed)

    def _say_close(self, code: int | None, reason: str) -> None:
        data = b"" if code is None else int(code).to_bytes(2) + reason.encode()
        self.outbox.push(frame(CLOSE, data))
        self.outbox.flush()
        self.told = True

    def _readable(self) -> None:
        data = received(self.socket, _READ)
        if data is None:
            return
        if not data:
            self.abort()
            return
        self._received_at = time.monotonic()
        self._take(data)

    def _take(self, data: bytes) -> None:
        if self._frames is None:
            # What comes after a breach of the rules is dropped.
            return
        self._frames.feed(data)
        self._go_on()

    def _go_on(self) -> None:
        """Handle what has come whole, until the owner has something to wait for."""
        try:
            while self._frames is not None and not self.ended and self._waiting is None:
                got = self._frames.next()
                if got is None:
                    return
                self._handle(*got)
        except FrameError as error:
            self._refuse(error)

    def _handle(self, opcode: int, data: bytes) -> None:
        if opcode == CLOSE:
            self._client_closes(data)
        elif opcode == PING:
            self.answer(PONG, data)
        elif opcode == PONG:
            if self._owner is not None:
                self._owner.on_pong()
        elif not self.told and self._owner is not None:
            # Who was told to go has nothing more to say.
            message = text_of(data) if opcode == TEXT else data
            waiting = self._owner.on_message(message)
            if waiting is not None:
                self._wait_for(waiting)

    def _wait_for(self, waiting: Awaitable[None]) -> None:
        """Read nothing more until it is done: who sends faster than it goes is held back."""
        self._waiting = asyncio.ensure_future(waiting)
        self._waiting.add_done_callback(self._waited)
        asyncio.get_running_loop().remove_reader(self.socket.fileno())

    def _waited(self, done: "asyncio.Future[None]") -> None:
        self._waiting = None
        if not done.cancelled() and (error := done.exception()) is not None:
            _logger.error("a message was not handled", exc_info=error)
        if self.ended:
            return
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._readable)
        self._go_on()

    def _client_closes(self, data: bytes) -> None:
        self._closed = close_of(data)
        if not self.told:
            self._code = self._closed[0] or NO_CODE
            self._say_close(self._closed[0], "")
        self.abort()

    def _refuse(self, error: FrameError) -> None:
        """Close for a breach of the rules; nothing that still comes has a meaning."""
        self._frames = None
        if not self.told:
            self._code = error.code
            self._say_close(error.code, error.reason)
            if self._owner is not None:
                self._owner.on_breach(error.code, error.reason)
        self._end_within(LINGER)
