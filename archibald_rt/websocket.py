"""The socket base: Tornado's WebSocket protocol, writing through an outbox.

Three things differ from Tornado's own. Every frame, control frames included, goes through the
device's outbox, since a stream that two write to mixes their bytes. Close codes are checked
(RFC 6455, section 7.4). And a message that is too big ends with a close frame that arrives:
closing a socket with unread bytes resets it, and takes the frame along.
"""

import asyncio
import time

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from archibald_rt.budget import Budget
from archibald_rt.errors import CloseCode
from archibald_rt.outbox import Outbox, Tick, seconds_since_received, tune
from archibald_rt.protocol import CLOSE, PONG, frame

LINGER = 2.0
"""For how many seconds the rest of a message that is too big is read and dropped."""

ANSWERS_LIMIT = 64 * 1024
"""How many bytes of answers may wait for a client that asks without reading."""

ANSWERS_SURE = 1024
"""So many of them are put in even if the memory of all outboxes is short."""

_CONTROL = 0x8


class SocketHandler(WebSocketHandler):
    """A `WebSocketHandler` whose connection is a `SocketProtocol`."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Return the protocol of this module in place of Tornado's."""
        made = super().get_websocket_protocol()
        if not isinstance(made, WebSocketProtocol13):
            return None
        return SocketProtocol(self, mask_outgoing=False, params=made.params)

    @property
    def connection(self) -> "SocketProtocol":
        """The connection; there is one from `open` to `on_close`."""
        if not isinstance(self.ws_connection, SocketProtocol):
            raise StreamClosedError
        return self.ws_connection


class SocketProtocol(WebSocketProtocol13):
    """RFC 6455 on one connection; `attach` it in the handler's `open`."""

    outbox: Outbox
    _received_at: float
    _answers: int = 0
    _lingers: bool = False
    _lingering: asyncio.Task[None] | None = None

    async def accept_connection(self, handler: WebSocketHandler) -> None:
        """Answer the handshake, after which the connection lives on.

        Any other answer of a server that drains is its connection's last.
        """
        handler.request.connection._disconnect_on_finish = False  # type: ignore[union-attr]  # noqa: SLF001 - Tornado would close it, and send so in place of the upgrade
        await super().accept_connection(handler)

    def attach(self, tick: Tick, budget: Budget, *, limit: int) -> Outbox:
        """Set the socket up and give it the outbox that all is written through from now on.

        Raises `StreamClosedError` if the client has gone during the handshake.
        """
        if self.stream.closed():
            raise StreamClosedError
        tune(self.stream.socket)
        self.outbox = Outbox(self.stream, tick, budget, limit=limit)
        self._received_at = time.monotonic()
        return self.outbox

    def received_ago(self) -> float:
        """Return for how many seconds nothing has come from the client."""
        ago = None if self.stream.closed() else seconds_since_received(self.stream.socket)
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
        if self._answers > ANSWERS_LIMIT or self.server_terminated:
            return
        self._answers += len(answer)
        if self._answers <= ANSWERS_SURE:
            self.outbox.push(answer)
        else:
            self.outbox.offer(answer)

    def abort(self) -> None:
        """End the connection without another word. Doing it again does nothing."""
        self._lingers = False
        self._abort()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Send a close frame behind all that is waiting, and give the client 5 s to answer."""
        if code == CloseCode.MESSAGE_TOO_BIG:
            self._lingers = True
        super().close(code, reason)

    def _write_frame(
        self,
        fin: bool,  # noqa: FBT001 - the signature is Tornado's
        opcode: int,
        data: bytes,
        flags: int = 0,
    ) -> "asyncio.Future[None]":
        if not fin or flags:
            raise ValueError("fragments and extensions are not written here")
        if self.stream.closed():
            raise StreamClosedError
        self.outbox.push(frame(opcode, data))
        if opcode & _CONTROL:
            # Tornado closes the stream right after it has answered a close frame.
            self.outbox.flush()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _send_pong(self, data: bytes) -> None:
        self.answer(PONG, data)

    def _handle_message(self, opcode: int, data: bytes) -> "asyncio.Future[None] | None":
        self._received_at = time.monotonic()
        if opcode == CLOSE and not self.client_terminated and (fault := _close_fault(data)):
            self.client_terminated = True
            self.close(fault)
            return None
        if self.server_terminated and not opcode & _CONTROL:
            # Who was told to go has nothing more to say.
            return None
        return super()._handle_message(opcode, data)

    def _abort(self) -> None:
        if self._lingers and not self.stream.closed():
            if self._lingering is None:
                self.client_terminated = True
                self._lingering = asyncio.get_running_loop().create_task(self._linger())
            return
        super()._abort()
        # Only now: what is put in before a close frame has to go out before it.
        if hasattr(self, "outbox"):
            self.outbox.close()

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER):
                while True:
                    await self.stream.read_bytes(64 * 1024, partial=True)
                    # What is there already comes without a turn of the loop.
                    await asyncio.sleep(0)
        except (TimeoutError, StreamClosedError):
            self.abort()


def _close_fault(data: bytes) -> int | None:
    """Return the code to answer a close frame with that breaks the rules; None if it keeps them.

    RFC 6455, sections 5.5.1 and 7.4.2: no body or a code that may be sent and UTF-8.
    """
    if not data:
        return None
    code = int.from_bytes(data[:2])
    if len(data) < 2 or not (  # noqa: PLR2004 - a code has two bytes
        1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999  # noqa: PLR2004 - the RFC's ranges
    ):
        return CloseCode.PROTOCOL_ERROR
    try:
        data[2:].decode()
    except UnicodeDecodeError:
        return CloseCode.INVALID_PAYLOAD
    return None
