"""One device that is connected by WebSocket: what comes from it, and what falls due on it."""

import asyncio
from collections.abc import Awaitable

import structlog

from archibald_rt.auth import Identity
from archibald_rt.emissions import RESERVED_PREFIX
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, CloseCode, LogBrokenError, LogError
from archibald_rt.outbox import GRACE, Progress
from archibald_rt.protocol import PING, TEXT, Dialect, frame, token_of, type_of
from archibald_rt.reception import ClientMessage, Reception
from archibald_rt.session import Session
from archibald_rt.websocket import Connection

_logger = structlog.stdlib.get_logger("archibald_rt.realtime")
_PING = frame(PING, b"")
_PONG = b"pong"


class SocketDevice:
    """Owns a connection from its handshake on; `begin` lets the device in, or closes at once."""

    __slots__ = ("_connection", "_dialect", "_pinged_at", "_progress", "_reception", "_session")

    def __init__(self, connection: Connection, reception: Reception, dialect: Dialect) -> None:
        self._connection = connection
        self._reception = reception
        self._dialect = dialect
        self._session: Session | None = None
        self._pinged_at: float | None = None
        self._progress: Progress | None = None
        reception.connections.enter(self)

    def begin(self, identity: Identity | None, resume: Resume) -> None:
        """Register the device, or close at once; an identity of None is a token refused."""
        reception = self._reception
        if identity is None:
            self._connection.close(CloseCode.POLICY_VIOLATION, "Authentication failed")
        elif reception.draining:
            self._connection.close(CloseCode.GOING_AWAY, "Server going away")
        elif reception.full:
            self._connection.close(CloseCode.TRY_AGAIN_LATER, "Server full")
        else:
            try:
                session = reception.receive(
                    self, identity, self._dialect, self._connection.outbox, end=self._pump_failed
                )
            except AuthError as error:
                reception.counters.refused += 1
                _logger.info("device refused", reason=str(error))
                self._connection.close(CloseCode.POLICY_VIOLATION, "Authentication failed")
                return
            if resume:
                reception.counters.resumed += 1
            self._session = session
            session.start(resume)

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Take a message of the client: a ping, a new token, or one for the hook."""
        counters = self._reception.counters
        counters.received += 1
        if message == "ping":
            self._connection.answer(TEXT, _PONG)
            return None
        session = self._session
        message_type = None if isinstance(message, bytes) else type_of(message)
        if session is None or message_type is None or isinstance(message, bytes):
            counters.ignored += 1
        elif message_type == "rt.auth" and self._dialect.chained:
            self._renew(session, message)
        elif message_type.startswith(RESERVED_PREFIX):
            counters.ignored += 1
        else:
            # Awaited before the next message is read, so a slow hook slows its own device.
            return self._reception.hand_on(ClientMessage(session.user, session.connection, message))
        return None

    def on_pong(self) -> None:
        """Note that the client is there."""
        self._pinged_at = None

    def on_close(self, code: int | None, reason: str | None) -> None:  # noqa: ARG002 - however it ended
        """Take the device out."""
        if self._session is not None:
            self._reception.dismiss(self, self._session)
        self._reception.leave(self)

    def end(self, code: int, reason: str) -> None:
        """Take the device out and close behind what is already in its outbox."""
        if self._session is not None:
            self._reception.dismiss(self, self._session)
        self._connection.close(code, reason)

    def cut_off(self, code: int, reason: str) -> None:
        """Take the device out and close before what is still in its outbox."""
        if self._session is not None:
            self._reception.dismiss(self, self._session)
        self._connection.cut_off(code, reason)

    def beat(self) -> None:
        """Send a ping, or end the connection if the one before was missed."""
        session = self._session
        if session is None:
            return
        now = asyncio.get_running_loop().time()
        if self._pinged_at is not None:
            if session.owed:
                return
            if self._connection.received_ago() > now - self._pinged_at:
                _logger.info("device is gone", connection=session.connection)
                self._reception.dismiss(self, session)
                self._connection.abort()
                return
        self._pinged_at = now
        session.outbox.push(_PING)

    def expire(self) -> None:
        """End the connection, whose token has expired."""
        self.end(CloseCode.TOKEN_EXPIRED, "Token expired")

    def check_progress(self, now: float) -> None:
        """End the connection if it is owed something and has stalled."""
        connection = self._connection
        if not connection.outbox.size or connection.ended:
            self._progress = None
        elif self._progress is None:
            self._progress = Progress(connection.outbox, connection.socket, now=now)
        elif self._progress.stalled_for(now) >= self._reception.tuning.stall_timeout * GRACE:
            self.end(CloseCode.STALLED, "Stalled")

    def tell_to_reconnect(self, after_ms: int) -> None:
        """Tell the device when to come back after the close that will follow."""
        if self._session is not None and (message := self._dialect.reconnect(after_ms)):
            self._session.outbox.push(message)

    def _renew(self, session: Session, message: str) -> None:
        """Replace the token in place; it has to be the same user's."""
        try:
            identity = self._reception.identify(token_of(message), user=session.user)
            self._reception.renew(self, identity)
        except AuthError as error:
            self._reception.counters.refused += 1
            _logger.info("new token refused", reason=str(error), connection=session.connection)
            self.end(CloseCode.POLICY_VIOLATION, "Authentication failed")
            return
        self._connection.put_answer(self._dialect.auth(identity.expires))

    def _pump_failed(self, error: BaseException) -> None:
        if isinstance(error, LogBrokenError):
            self._reception.broken(error)
        if isinstance(error, LogError):
            _logger.warning("replay failed", reason=str(error))
            self.end(CloseCode.TRY_AGAIN_LATER, "Log unavailable")
            return
        _logger.error("replay failed", exc_info=error)
        self.end(CloseCode.INTERNAL_ERROR, "Internal error")
