"""One device that is connected by WebSocket: what comes from it, and what falls due on it."""

import asyncio
from collections.abc import Awaitable

import structlog

from archibald_rt.auth import Identity
from archibald_rt.device import ConnectedDevice, refused
from archibald_rt.emissions import RESERVED_PREFIX
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, CloseCode, UnknownKeyError
from archibald_rt.protocol import PING, TEXT, Dialect, frame, token_of, type_of
from archibald_rt.reception import ClientMessage, Reception
from archibald_rt.session import Session
from archibald_rt.tap import LOST
from archibald_rt.websocket import Connection

_logger = structlog.stdlib.get_logger("archibald_rt.realtime")
_PING = frame(PING, b"")
_PONG = b"pong"

LONGEST_HELD = 60.0
"""For how many seconds a message may hold a device back, and what it sent meanwhile is no flood."""


class SocketDevice(ConnectedDevice):
    """Owns a WebSocket from its handshake on."""

    __slots__ = ("_credit", "_pinged_at", "_verifying")

    _connection: Connection

    def __init__(
        self,
        connection: Connection,
        reception: Reception,
        dialect: Dialect,
        address: str | None = None,
    ) -> None:
        super().__init__(connection, reception, dialect, address)
        self._pinged_at: float | None = None
        # How many messages may have gathered while nothing was read.
        self._credit = 0.0
        # The token is verified, while that waits for the issuer's keys.
        self._verifying: asyncio.Task[None] | None = None

    @property
    def heartbeat(self) -> float:
        """How many seconds lie between two pings."""
        return self._reception.tuning.heartbeat

    @property
    def code(self) -> int:
        """The code of the close frame that was first; 1006 without one."""
        return self._connection.code

    def begin_when_verified(
        self, token: str, resume: Resume, address: str | None, request_id: str
    ) -> None:
        """Do as `begin` when the issuer's keys have been fetched anew; until then send nothing."""
        self._verifying = asyncio.get_running_loop().create_task(
            self._verify_and_begin(token, resume, address, request_id)
        )

    async def _verify_and_begin(
        self, token: str, resume: Resume, address: str | None, request_id: str
    ) -> None:
        reception, identity = self._reception, None
        try:
            identity = await reception.identify_anew(token)
        except AuthError as error:
            refused(reception, error, address, request_id)
        self._verifying = None
        if self._connection.told or self._connection.ended:
            return
        if identity is None and reception.draining:
            # It was not waited for to the end: the next server may know the key.
            self.turn_away(CloseCode.GOING_AWAY, "Server going away")
            return
        try:
            self.begin(identity, resume, request_id=request_id)
        except BaseException:
            self._connection.abort()
            raise

    async def _when_verified(self, message: str | bytes, verifying: "asyncio.Task[None]") -> None:
        await asyncio.wait([verifying])
        if self._connection.told:
            # Who was told to go has nothing more to say.
            return
        if (handling := self._take(message)) is not None:
            await handling

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Take a message of the client: a ping, a new token, or one for the hook."""
        handling = self._take(message)
        return None if handling is None else self._hold_back(handling)

    def _take(self, message: str | bytes) -> Awaitable[None] | None:
        if self._verifying is not None:
            # Nothing more is read meanwhile.
            return self._when_verified(message, self._verifying)
        counters = self._reception.counters
        counters.received += 1
        session = self._session
        if session is not None and not self._may_send(session):
            self.end(CloseCode.TOO_MANY_MESSAGES, "Too many client messages")
            return None
        if message == "ping":
            self._connection.answer(TEXT, _PONG)
            return None
        message_type = None if isinstance(message, bytes) else type_of(message)
        if session is None or message_type is None or isinstance(message, bytes):
            counters.ignored += 1
        elif message_type == "rt.auth" and self._dialect.chained:
            return self._renew(session, token_of(message))
        elif message_type.startswith(RESERVED_PREFIX):
            counters.ignored += 1
        else:
            # Awaited before the next message is read, so a slow hook slows its own device.
            return self._reception.hand_on(ClientMessage(session.user, session.connection, message))
        return None

    def on_pong(self) -> None:
        """Note that the client is there."""
        self._pinged_at = None

    def on_breach(self, code: int, reason: str) -> None:
        """Take the device out: what it is owed can't be written any more."""
        self._dismiss(code, reason)

    def on_close(self, code: int | None, reason: str | None) -> None:
        """Take the device out."""
        if self._verifying is not None:
            self._verifying.cancel()
        self._gone(code or LOST, reason or "")

    def _close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)

    def _cut_off(self, code: int, reason: str) -> None:
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
                self._reception.dismiss(self, session, LOST, "No answer to pings")
                self._connection.abort()
                return
        self._pinged_at = now
        session.outbox.push(_PING)

    def _may_send(self, session: Session) -> bool:
        """Whether the device keeps to its messages a second; those that gathered are free."""
        if self._credit >= 1:
            self._credit -= 1
            return True
        return self._reception.limits.admits_message(session.user, session.connection)

    async def _hold_back(self, handling: Awaitable[None]) -> None:
        """Wait for what a message leads to, and count what the device may send meanwhile.

        That is read all at once afterwards, and would look like a flood.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        await handling
        rate = self._reception.limits.messages_per_device
        held = (loop.time() - began) * rate
        self._credit = min(self._credit + held, LONGEST_HELD * rate)

    def _renew(self, session: Session, token: str) -> Awaitable[None] | None:
        """Replace the token in place; it has to be the same user's."""
        try:
            self._renewed(self._reception.identify(token, user=session.user))
        except UnknownKeyError:
            return self._renew_when_verified(session, token)
        except AuthError as error:
            self._not_renewed(session, error)
        return None

    async def _renew_when_verified(self, session: Session, token: str) -> None:
        try:
            identity = await self._reception.identify_anew(token, user=session.user)
            # Its old token may have expired meanwhile.
            if not self._connection.told:
                self._renewed(identity)
        except AuthError as error:
            self._not_renewed(session, error)

    def _not_renewed(self, session: Session, error: AuthError) -> None:
        self._reception.counters.refuse(error)
        _logger.info(
            "new token refused",
            reason=error.reason,
            detail=str(error),
            connection=session.connection,
        )
        self.end(CloseCode.POLICY_VIOLATION, "Authentication failed")

    def _renewed(self, identity: Identity) -> None:
        self._reception.renew(self, identity)
        self._connection.put_answer(self._dialect.auth(identity.expires))
