"""One connected device, whatever it is connected by: how it is let in, and what falls due on it."""

import logging
import socket
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import structlog

from archibald_rt.auth import Identity
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, CloseCode, LogBrokenError, LogError
from archibald_rt.outbox import GRACE, Link, Outbox, Progress, link_of
from archibald_rt.protocol import Dialect
from archibald_rt.reception import Reception
from archibald_rt.tap import LOST

if TYPE_CHECKING:
    from archibald_rt.session import Session

_NAME = "archibald_rt.realtime"
_logger = structlog.stdlib.get_logger(_NAME)
_level = logging.getLogger(_NAME)


class Connection(Protocol):
    """What a device needs of its connection."""

    socket: socket.socket
    outbox: Outbox
    told: bool
    """Whether it was said why it ends: nothing may follow that."""
    ended: bool

    def abort(self) -> None:
        """End it without another word. Doing it again does nothing."""


class ConnectedDevice(ABC):
    """Owns a connection from its handshake on; `begin` lets the device in, or turns it away."""

    __slots__ = ("_connection", "_dialect", "_progress", "_reception", "_session", "address")

    def __init__(
        self,
        connection: Connection,
        reception: Reception,
        dialect: Dialect,
        address: str | None = None,
    ) -> None:
        self.address = address
        self._connection = connection
        self._reception = reception
        self._dialect = dialect
        self._session: Session | None = None
        self._progress: Progress | None = None
        reception.connections.enter(self)

    @property
    @abstractmethod
    def heartbeat(self) -> float:
        """How many seconds lie between two beats; 0 is for none."""

    @property
    @abstractmethod
    def code(self) -> int:
        """The close code of what ended it; 1006 where nothing was said."""

    @abstractmethod
    def beat(self) -> None:
        """Show that the server is there, or end the connection of a device that is not."""

    @abstractmethod
    def _close(self, code: int, reason: str) -> None:
        """Say why it ends behind all that is waiting, and end. Doing it again does nothing."""

    @abstractmethod
    def _cut_off(self, code: int, reason: str) -> None:
        """End at once; say why if something may follow what the kernel has."""

    def begin(
        self,
        identity: Identity | None,
        resume: Resume,
        *,
        crowded: bool = False,
        request_id: str = "",
    ) -> None:
        """Register the device, or turn it away; an identity of None is a token refused.

        ``crowded`` says that its address has connected too often, whatever the token. The
        ``request_id`` is its handshake's.
        """
        reception = self._reception
        if crowded:
            self.turn_away(CloseCode.TRY_AGAIN_LATER, "Too many connects")
        elif identity is None:
            self.turn_away(CloseCode.POLICY_VIOLATION, "Authentication failed")
        elif reception.draining:
            self.turn_away(CloseCode.GOING_AWAY, "Server going away")
        elif not reception.current:
            self.turn_away(CloseCode.TRY_AGAIN_LATER, "Log unavailable")
        elif reception.full:
            self.turn_away(CloseCode.TRY_AGAIN_LATER, "Server full")
        elif not reception.limits.admits_user(identity.user):
            self.turn_away(CloseCode.TRY_AGAIN_LATER, "Too many connects")
        else:
            try:
                session = reception.receive(
                    self, identity, self._dialect, self._connection.outbox, end=self._pump_failed
                )
            except AuthError as error:
                refused(reception, error, None, request_id)
                self.turn_away(CloseCode.POLICY_VIOLATION, "Authentication failed")
                return
            if resume:
                reception.counters.resumed += 1
            self._session = session
            if _level.isEnabledFor(logging.DEBUG):
                _logger.debug(
                    "device connected",
                    connection=session.connection,
                    user=session.user,
                    request_id=request_id,
                )
            session.start(resume)

    def turn_away(self, code: int, reason: str) -> None:
        """Say why the device is not let in, and end."""
        self._reception.turn_away(self)
        self._close(code, reason)

    def link(self) -> Link | None:
        """Return what the kernel knows of the connection; None where it doesn't say."""
        return None if self._connection.ended else link_of(self._connection.socket)

    def drop(self) -> None:
        """End the connection without another word."""
        self._connection.abort()

    def end(self, code: int, reason: str) -> None:
        """Take the device out and close behind what is already in its outbox."""
        self._dismiss(code, reason)
        self._close(code, reason)

    def cut_off(self, code: int, reason: str) -> None:
        """Take the device out and close before what is still in its outbox."""
        self._dismiss(code, reason)
        self._cut_off(code, reason)

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

    def _dismiss(self, code: int, reason: str) -> None:
        if self._session is not None:
            self._reception.dismiss(self, self._session, code, reason)

    def _gone(self, code: int = LOST, reason: str = "") -> None:
        """Take the device out, whose connection has ended."""
        self._dismiss(code, reason)
        self._reception.counters.close(self.code)
        self._reception.leave(self)

    def _pump_failed(self, error: BaseException) -> None:
        if isinstance(error, LogBrokenError):
            self._reception.broken(error)
        if isinstance(error, LogError):
            _logger.warning("replay failed", reason=str(error))
            self.end(CloseCode.TRY_AGAIN_LATER, "Log unavailable")
            return
        _logger.error("replay failed", exc_info=error)
        self.end(CloseCode.INTERNAL_ERROR, "Internal error")


def refused(reception: Reception, error: AuthError, address: str | None, request_id: str) -> None:
    """Count a device that is not let in, and log it."""
    reception.counters.refuse(error)
    reception.limits.note_refusal(
        reason=error.reason, detail=str(error), address=address, request_id=request_id
    )
