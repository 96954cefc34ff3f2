"""A WebSocket's handshake, by Tornado; everything after it is on the bare socket.

What Tornado keeps for a connection (the request, its stream, the tasks that wait on it) is let
go with the handshake: 20 KiB a connection were that, and most of what a frame costs.
"""

import asyncio
import socket
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from tornado.websocket import (
    WebSocketHandler,
    WebSocketProtocol,
    WebSocketProtocol13,
    _WebSocketParams,
)

from archibald_rt.websocket import Connection, Owner

if TYPE_CHECKING:
    from archibald_rt.http1.terms import Taken


class SocketHandler(WebSocketHandler):
    """A `WebSocketHandler` that is done with the handshake; a `Connection` goes on from there."""

    def _execute(  # type: ignore[override]  # Tornado takes whatever can be awaited
        self, *args: Any, **kwargs: Any
    ) -> "asyncio.Future[None]":
        """Run at once, for there is nothing to wait for.

        Tornado would make it a task, and have the loop watch the socket for the client's end
        until that has its turn: a seventh of what a connect cost (427 and 368 us in two runs).
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            super()._execute(*args, **kwargs).send(None)
        except StopIteration:
            done.set_result(None)
            return done
        raise RuntimeError("a handshake has nothing to wait for")

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Return what answers the handshake in place of Tornado's protocol."""
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            return None
        return _Upgrade(self, mask_outgoing=False, params=_WebSocketParams())

    def answer_headers(self) -> Iterable[tuple[str, str]]:
        """Return what the 101 says besides what belongs to the handshake."""
        return ()

    def connection_on(self, sock: socket.socket) -> Connection:
        """Return a connection on a socket whose handshake was just accepted."""
        raise NotImplementedError

    def accepted(self, connection: Connection) -> Owner:
        """Put into the outbox what comes first, and return who owns the connection."""
        raise NotImplementedError


class _Upgrade(WebSocketProtocol13):
    """The answer to a handshake. Nothing of Tornado's is left behind it."""

    async def accept_connection(self, handler: WebSocketHandler) -> None:
        """Answer 101 and hand the socket on (RFC 6455, section 4.2.2)."""
        if not isinstance(handler, SocketHandler):
            raise TypeError
        try:
            self._handle_websocket_headers(handler)
        except ValueError:
            handler.send_error(HTTPStatus.BAD_REQUEST)
            return
        handler.set_status(HTTPStatus.SWITCHING_PROTOCOLS)
        answer = self._answer(handler)
        # A stream, where the connection is one of Tornado's.
        taken = cast("Taken | None", handler.detach())
        handler.application.log_request(handler)
        if taken is None:
            return
        connection = handler.connection_on(taken.socket)
        connection.outbox.push(answer)
        try:
            owner = handler.accepted(connection)
        except BaseException:
            connection.abort()
            raise
        connection.start(owner, taken.early)

    def _answer(self, handler: SocketHandler) -> bytes:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self._challenge_response(handler)}",
            *(f"{name}: {value}" for name, value in handler.answer_headers()),
        ]
        offered = handler.request.headers.get("Sec-WebSocket-Protocol", "")
        names = [name.strip() for name in offered.split(",")] if offered else []
        if (chosen := handler.select_subprotocol(names)) is not None:
            lines.append(f"Sec-WebSocket-Protocol: {chosen}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")
