"""``GET /ws/realtime``: devices by WebSocket, in the dialects v1 and v2."""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from tornado.iostream import StreamClosedError

from archibald_rt import timestamps
from archibald_rt.emissions import RESERVED_PREFIX
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, CloseCode, LogBrokenError, LogError
from archibald_rt.handlers.base import BaseHandler
from archibald_rt.outbox import GRACE, Progress
from archibald_rt.protocol import PING, TEXT, V1, V2, Dialect, frame, token_of, type_of
from archibald_rt.reception import ClientMessage, Reception
from archibald_rt.session import Session
from archibald_rt.websocket import SocketHandler

if TYPE_CHECKING:
    from archibald_rt.auth import Identity

SUBPROTOCOL = "archibald.v2"
"""What a device offers to speak v2."""

_BEARER = "bearer."
_logger = structlog.stdlib.get_logger("archibald_rt.realtime")


class RealtimeHandler(BaseHandler, SocketHandler):
    """One device's WebSocket connection."""

    def initialize(self, reception: Reception, v1: V1, v2: V2) -> None:
        """Take what all devices share."""
        self._reception = reception
        self._v1, self._v2 = v1, v2
        self._identity: Identity | None = None
        self._session: Session | None = None
        self._dialect: Dialect = v1
        self._pinged_at: float | None = None
        self._progress: Progress | None = None

    @property
    def max_message_size(self) -> int:
        """The largest message a client may send, in bytes."""
        return self._reception.tuning.max_client_message or 2**62

    def prepare(self) -> None:
        """Read the subprotocols and the token, before the upgrade is accepted.

        A bad token is refused only after it, by a close code: a browser can read that, but
        not an HTTP status.
        """
        offered = self._offered()
        if SUBPROTOCOL in offered:
            self._dialect = self._v2
        refusal = self._refusal(offered)
        if refusal is not None:
            status, detail, field = refusal
            self.problem(status, f"{field}: {detail}", field=field)
            return
        if self.request.method != "GET":
            return
        try:
            self._identity = self._reception.verifier.verify(self._token(offered))
        except AuthError as error:
            self._reception.counters.refused += 1
            _logger.info("device refused", reason=str(error), address=self.request.remote_ip)

    def _refusal(self, offered: list[str]) -> tuple[int, str, str] | None:
        """Return why there can be no upgrade, as status, detail and header; None if there can."""
        headers = self.request.headers
        if self.request.method != "GET":
            return None
        if headers.get("Upgrade", "").lower() != "websocket":
            return HTTPStatus.BAD_REQUEST, "expected websocket", "Upgrade"
        if (origin := headers.get("Origin")) is not None and not self.check_origin(origin):
            return HTTPStatus.FORBIDDEN, "pages of this origin may not connect", "Origin"
        if offered and SUBPROTOCOL not in offered:
            detail = f"expected {SUBPROTOCOL} among them, or none at all"
            return HTTPStatus.BAD_REQUEST, detail, "Sec-WebSocket-Protocol"
        return None

    def check_origin(self, origin: str) -> bool:
        """Whether a page of this origin may connect."""
        return self._reception.admits(origin, self.request.headers.get("Host", ""))

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Echo v2 where it was offered, and never the entry that holds a token."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Register the device, or close at once."""
        reception = self._reception
        limit = reception.tuning.max_outbox
        try:
            outbox = self.connection.attach(reception.tick, reception.budget, limit=limit)
        except StreamClosedError:
            return
        self._reception.connections.enter(self)
        if self._identity is None:
            self.close(CloseCode.POLICY_VIOLATION, "Authentication failed")
            return
        if self._reception.draining:
            self.close(CloseCode.GOING_AWAY, "Server going away")
            return
        if self._reception.full:
            self.close(CloseCode.TRY_AGAIN_LATER, "Server full")
            return
        resume = self._resume()
        if resume:
            self._reception.counters.resumed += 1
        self._session = self._reception.receive(
            self, self._identity, self._dialect, outbox, end=self._pump_failed
        )
        self._session.start(resume)

    def on_message(self, message: str | bytes) -> Any:
        """Take a message of the client: a ping, a new token, or one for the hook."""
        counters = self._reception.counters
        counters.received += 1
        if message == "ping":
            self.connection.answer(TEXT, b"pong")
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

    def on_pong(self, data: bytes) -> None:  # noqa: ARG002 - any pong will do
        """Note that the client is there."""
        self._pinged_at = None

    def on_close(self) -> None:
        """Take the device out; runs once, however the connection ended."""
        self._reception.connections.leave(self)
        if self._session is not None:
            self._reception.dismiss(self, self._session)

    def end(self, code: int, reason: str) -> None:
        """Take the device out and close behind what is already in its outbox."""
        if self._session is not None:
            self._reception.dismiss(self, self._session)
        self.close(code, reason)

    def beat(self) -> None:
        """Send a ping, or end the connection if the one before was missed."""
        session = self._session
        if session is None:
            return
        now = asyncio.get_running_loop().time()
        if self._pinged_at is not None:
            if session.owed:
                return
            if self.connection.received_ago() > now - self._pinged_at:
                _logger.info("device is gone", connection=session.connection)
                self._reception.dismiss(self, session)
                self.connection.abort()
                return
        self._pinged_at = now
        session.outbox.push(frame(PING, b""))

    def expire(self) -> None:
        """End the connection, whose token has expired."""
        self.end(CloseCode.TOKEN_EXPIRED, "Token expired")

    def check_progress(self, now: float) -> None:
        """End the connection if it is owed something and has stalled."""
        connection = self.connection
        if not connection.outbox.size or connection.stream.closed():
            self._progress = None
        elif self._progress is None:
            self._progress = Progress(connection.outbox, connection.stream.socket, now=now)
        elif self._progress.stalled_for(now) >= self._reception.tuning.stall_timeout * GRACE:
            self.end(CloseCode.STALLED, "Stalled")

    def tell_to_reconnect(self, after_ms: int) -> None:
        """Tell the device when to come back after the close that will follow."""
        if self._session is not None and (message := self._dialect.reconnect(after_ms)):
            self._session.outbox.push(message)

    def _renew(self, session: Session, message: str) -> None:
        """Replace the token in place; it has to be the same user's."""
        try:
            identity = self._reception.verifier.verify(token_of(message), user=session.user)
        except AuthError as error:
            self._reception.counters.refused += 1
            _logger.info("new token refused", reason=str(error), connection=session.connection)
            self.end(CloseCode.POLICY_VIOLATION, "Authentication failed")
            return
        self._identity = identity
        self._reception.expect_expiry(self, identity)
        self.connection.put_answer(self._dialect.auth(identity.expires))

    def _pump_failed(self, error: BaseException) -> None:
        if isinstance(error, LogBrokenError):
            self._reception.broken(error)
        if isinstance(error, LogError):
            _logger.warning("replay failed", reason=str(error))
            self.end(CloseCode.TRY_AGAIN_LATER, "Log unavailable")
            return
        _logger.error("replay failed", exc_info=error)
        self.end(CloseCode.INTERNAL_ERROR, "Internal error")

    def _offered(self) -> list[str]:
        header = self.request.headers.get("Sec-WebSocket-Protocol", "")
        return [name.strip() for name in header.split(",") if name.strip()]

    def _token(self, offered: list[str]) -> str:
        """Return the token: of the query, the header or a subprotocol entry, in this order."""
        in_entry = ""
        if SUBPROTOCOL in offered:
            entries = (name for name in offered if name.startswith(_BEARER))
            in_entry = next(entries, "").removeprefix(_BEARER)
        return self.user_token() or in_entry

    def _resume(self) -> Resume:
        if self._dialect.chained:
            return Resume(event_id=self.query("lastEventId") or None)
        text = self.query("lastEventTs")
        return Resume(later_than=timestamps.parse_lenient(text) if text else None)
