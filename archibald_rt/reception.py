"""What every device of a server is received with, whatever it connects by."""

import secrets
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from archibald_rt.auth import Identity, TokenVerifier
from archibald_rt.budget import Budget
from archibald_rt.eventlog import EventLog
from archibald_rt.hub import Hub
from archibald_rt.origins import OriginPolicy, is_origin
from archibald_rt.outbox import Outbox, Tick
from archibald_rt.protocol import FRAMING, Dialect
from archibald_rt.session import Session
from archibald_rt.shutdown import Underway
from archibald_rt.sweep import Sweep, Swept

_PAGE_EVENTS, _PAGE_BYTES = 500, 512 * 1024
"""How large a page may be where no bound is set."""

_LARGEST_EVENT = 64 * 1024
"""How large an event is taken to be where that has no bound."""

_ORIGINS_LOGGED = 1000
"""How many foreign origins are remembered as logged."""

_LONGEST_ORIGIN = 300

_logger = structlog.stdlib.get_logger("archibald_rt.reception")


class ClientMessage(msgspec.Struct, frozen=True):
    """A message a device sent: ``message`` is the JSON object's text."""

    user: str
    connection: str
    message: str


ClientMessageHook = Callable[[ClientMessage], Awaitable[None] | None]
"""Called with each message; what it raises is logged and does the connection no harm."""


@dataclass(slots=True)
class Counters:
    """What has happened since the server started."""

    started: float = field(default_factory=time.monotonic)
    resumed: int = 0
    received: int = 0
    ignored: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Tuning:
    """The bounds of each device; times in seconds, sizes in bytes, 0 is off."""

    heartbeat: float = 30.0
    stall_timeout: float = 30.0
    max_outbox: int = 1024 * 1024
    max_outbox_total: int = 256 * 1024 * 1024
    max_event: int = 64 * 1024
    replay_page: int = 500
    max_client_message: int = 64 * 1024
    max_connections: int = 20000
    leeway: float = 30.0


class Device(Swept, Hashable, Protocol):
    """A connection as the reception sees it."""

    def end(self, code: int, reason: str) -> None:
        """Take the device out and close its connection."""

    def tell_to_reconnect(self, after_ms: int) -> None:
        """Tell the device when to come back after the close that will follow."""


class Reception:
    """Receives devices: makes their sessions, and knows all that they share.

    ``broken`` is to be called when the log can't be relied on any more, ``on_message`` with
    what devices send. Once it is ``draining`` nobody is
    received any more.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        origins: OriginPolicy,
        hub: Hub,
        log: EventLog,
        sweep: Sweep,
        *,
        tuning: Tuning,
        broken: Callable[[BaseException], None],
        on_message: ClientMessageHook | None = None,
    ) -> None:
        self.broken = broken
        self.verifier = verifier
        self.tuning = tuning
        self.tick = Tick()
        largest = (tuning.max_event or _LARGEST_EVENT) + FRAMING
        self.budget = Budget(limit=tuning.max_outbox_total, largest=largest)
        self.counters = Counters()
        self.draining = False
        self._origins = origins
        self._hub = hub
        self._log = log
        self._sweep = sweep
        self._on_message = on_message
        self._devices: dict[Device, None] = {}
        self.connections = Underway()
        """Every connection from its handshake to its end, refused ones included."""
        self._origins_logged: dict[str, None] = {}

    @property
    def full(self) -> bool:
        """Whether there are as many devices as may be."""
        limit = self.tuning.max_connections
        return bool(limit) and len(self._devices) >= limit

    @property
    def devices(self) -> list[Device]:
        """The devices that are connected."""
        return list(self._devices)

    def admits(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may connect; the first refusal of each is logged."""
        if self._origins.allows(origin, host):
            return True
        # What no configuration could allow is not worth a line, and may be of any length.
        if origin not in self._origins_logged and len(origin) <= _LONGEST_ORIGIN:
            if not is_origin(origin):
                return False
            if len(self._origins_logged) >= _ORIGINS_LOGGED:
                del self._origins_logged[next(iter(self._origins_logged))]
            self._origins_logged[origin] = None
            _logger.warning(
                "origin refused", origin=origin, allow_by=f"[server] allowed_origins = {origin}"
            )
        return False

    def receive(
        self,
        device: Device,
        identity: Identity,
        dialect: Dialect,
        outbox: Outbox,
        *,
        end: Callable[[BaseException], None],
    ) -> Session:
        """Make a device's session and register it; start it before anything is awaited."""
        tuning = self.tuning
        session = Session(
            identity.user,
            dialect,
            outbox,
            self._hub,
            self._log,
            connection=secrets.token_hex(8),
            heartbeat=tuning.heartbeat,
            page_events=tuning.replay_page or _PAGE_EVENTS,
            page_bytes=tuning.max_outbox // 2 or _PAGE_BYTES,
            end=end,
        )
        self._hub.register(session)
        self._devices[device] = None
        self._sweep.add(device)
        self.expect_expiry(device, identity)
        return session

    def expect_expiry(self, device: Device, identity: Identity) -> None:
        """Have a device's connection ended when its token expires."""
        expires = identity.expires
        self._sweep.expire_at(device, None if expires is None else expires + self.tuning.leeway)

    def dismiss(self, device: Device, session: Session) -> None:
        """Take a device out: it gets nothing more. Doing it again does nothing."""
        self._hub.unregister(session)
        self._sweep.remove(device)
        self._devices.pop(device, None)

    async def hand_on(self, message: ClientMessage) -> None:
        """Hand a device's message to the hook, if there is one."""
        if self._on_message is None:
            return
        try:
            result = self._on_message(message)
            if result is not None:
                await result
        except Exception:
            # The hook is not ours: whatever it raises must not end the connection.
            _logger.exception("client message hook failed", connection=message.connection)
