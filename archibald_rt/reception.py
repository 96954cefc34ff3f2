"""What every device of a server is received with, whatever it connects by."""

import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from archibald_rt.auth import Identity, TokenVerifier
from archibald_rt.budget import Budget
from archibald_rt.errors import AuthError, CloseCode, Refusal, UnknownKeyError
from archibald_rt.eventlog import EventLog
from archibald_rt.hub import Hub
from archibald_rt.limits import Limits
from archibald_rt.origins import OriginPolicy, is_origin
from archibald_rt.outbox import Link, Outbox, Tick
from archibald_rt.protocol import FRAMING, Dialect
from archibald_rt.revocations import Revocations
from archibald_rt.session import Session
from archibald_rt.shutdown import Underway
from archibald_rt.sweep import Sweep, Swept
from archibald_rt.tap import LOST

_PAGE_EVENTS, _PAGE_BYTES = 500, 512 * 1024
"""How large a page may be where no bound is set."""

_LARGEST_EVENT = 64 * 1024
"""How large an event is taken to be where that has no bound."""

_ORIGINS_LOGGED = 1000
"""How many foreign origins are remembered as logged."""

_LONGEST_ORIGIN = 300

_CODES = frozenset({*map(int, CloseCode), *range(1000, 1015)})
"""The close codes that are counted by themselves: ours, and those of RFC 6455."""

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
    opened: Counter[str] = field(default_factory=Counter)
    """How many devices were let in, by dialect."""
    closed: Counter[str] = field(default_factory=Counter)
    """How many connections ended, by close code; those that were not let in are among them."""
    resumed: int = 0
    received: int = 0
    ignored: int = 0
    refused: int = 0
    refused_for: Counter[Refusal] = field(default_factory=Counter)
    posted: int = 0
    post_failures: int = 0
    messages_dropped: int = 0
    """What became of client messages that were to be posted."""

    def close(self, code: int) -> None:
        """Count a connection that ended. Codes that clients make up count as ``other``."""
        self.closed[str(code) if code in _CODES else "other"] += 1

    def refuse(self, error: AuthError) -> None:
        """Count a token that was refused, and why."""
        self.refused += 1
        if error.reason is not None:
            self.refused_for[error.reason] += 1


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
    max_turned_away: int = 1000
    leeway: float = 30.0
    devices_per_user: int = 20
    connects_per_user_per_minute: int = 120
    connects_per_address_per_minute: int = 0
    client_messages_per_second: int = 50


class Device(Swept, Hashable, Protocol):
    """A connection as the reception sees it; ``address`` is its client's, if that is known."""

    address: str | None

    def link(self) -> Link | None:
        """Return what the kernel knows of the connection; None where it doesn't say."""

    @property
    def heartbeat(self) -> float:
        """How many seconds lie between two beats; 0 is for none."""

    def end(self, code: int, reason: str) -> None:
        """Take the device out and close its connection behind all that it is owed."""

    def cut_off(self, code: int, reason: str) -> None:
        """Take the device out and close its connection at once.

        From when this returns no part of any event is handed to its socket.
        """

    def drop(self) -> None:
        """End the connection without another word."""

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
        revocations: Revocations,
        origins: OriginPolicy,
        hub: Hub,
        log: EventLog,
        sweep: Sweep,
        *,
        tuning: Tuning,
        broken: Callable[[BaseException], None],
        on_message: ClientMessageHook | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.broken = broken
        self.revocations = revocations
        self.tuning = tuning
        self.tick = Tick()
        largest = (tuning.max_event or _LARGEST_EVENT) + FRAMING
        self.budget = Budget(limit=tuning.max_outbox_total, largest=largest)
        self.counters = counters or Counters()
        self.limits = Limits(
            connects_per_address=tuning.connects_per_address_per_minute,
            connects_per_user=tuning.connects_per_user_per_minute,
            devices_per_user=tuning.devices_per_user,
            messages_per_device=tuning.client_messages_per_second,
        )
        self.draining = False
        self._verifier = verifier
        self._origins = origins
        self._hub = hub
        self._log = log
        self._sweep = sweep
        self._on_message = on_message
        # Each with what the token says that it holds now.
        self._devices: dict[Device, Identity] = {}
        # Those that were taken out and have something on its way to them.
        self._leaving: dict[Device, Identity] = {}
        self._device_of: dict[Session, Device] = {}
        # Those that never were let in, and have not answered their close frame yet.
        self._turned_away: dict[Device, None] = {}
        self.connections = Underway()
        """Every connection from its handshake to its end, refused ones included."""
        self._origins_logged: dict[str, None] = {}

    @property
    def full(self) -> bool:
        """Whether there are as many devices as may be."""
        limit = self.tuning.max_connections
        return bool(limit) and len(self._devices) >= limit

    @property
    def current(self) -> bool:
        """Whether anybody may be served by what is known of revocations; see `Peers.current`."""
        return self._log.peers is None or self._log.peers.current

    @property
    def devices(self) -> list[Device]:
        """The devices that are connected."""
        return list(self._devices)

    @property
    def turned_away(self) -> int:
        """How many were told why they are not let in, and have not gone yet."""
        return len(self._turned_away)

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

    def cors_headers(self, origin: str | None, host: str) -> dict[str, str]:
        """Return what an answer says to the browser of a page, see `OriginPolicy`."""
        return self._origins.cors_headers(origin, host)

    def identify(self, token: str, *, user: str | None = None) -> Identity:
        """Check a token and read who it is for; with ``user`` it has to be that one's.

        Raises `AuthError`, without the token in its message; an `UnknownKeyError` where it is
        worth waiting for `identify_anew`.
        """
        identity = self._verifier.verify(token, user=user)
        self._check_revoked(identity)
        return identity

    async def identify_anew(self, token: str, *, user: str | None = None) -> Identity:
        """Do as `identify` once the issuer's keys were fetched anew, or could not be in seconds."""
        identity = await self._verifier.verify_anew(token, user=user)
        self._check_revoked(identity)
        return identity

    async def identify_in_time(self, token: str) -> Identity:
        """Do as `identify`, and as `identify_anew` where that is worth waiting for."""
        try:
            return self.identify(token)
        except UnknownKeyError:
            return await self.identify_anew(token)

    def receive(
        self,
        device: Device,
        identity: Identity,
        dialect: Dialect,
        outbox: Outbox,
        *,
        end: Callable[[BaseException], None],
    ) -> Session:
        """Make a device's session and register it; start it before anything is awaited.

        Where the user has as many devices as may be, the oldest is ended for it.
        Raises `AuthError` if the token was revoked since it was checked.
        """
        self._check_revoked(identity)
        tuning = self.tuning
        self._make_room(identity.user)
        session = Session(
            identity.user,
            dialect,
            outbox,
            self._hub,
            self._log,
            connection=secrets.token_hex(8),
            heartbeat=device.heartbeat,
            page_events=tuning.replay_page or _PAGE_EVENTS,
            page_bytes=tuning.max_outbox // 2 or _PAGE_BYTES,
            end=end,
        )
        self._hub.register(session, device.address)
        self.counters.opened[dialect.name] += 1
        self._device_of[session] = device
        self._sweep.add(device, every=device.heartbeat)
        self._hold(device, identity)
        return session

    def renew(self, device: Device, identity: Identity) -> None:
        """Have a device hold another token from now on. Raises `AuthError` if it was revoked."""
        self._check_revoked(identity)
        if device in self._devices:
            self._hold(device, identity)

    def _make_room(self, user: str) -> None:
        """End the oldest devices of a user who is about to have one too many.

        By when they came: of a device that lost its connection the old one goes before the new
        one of any other.
        """
        sessions = self._hub.sessions_of(user)
        for session in sessions[: self.limits.in_excess(len(sessions))]:
            self.limits.made_room(user, session.connection)
            self._device_of[session].end(CloseCode.TOO_MANY_DEVICES, "Too many devices")

    def device_of(self, session: Session) -> Device | None:
        """Return whose session it is, as long as it is registered."""
        return self._device_of.get(session)

    def dismiss(self, device: Device, session: Session, code: int = LOST, reason: str = "") -> None:
        """Take a device out, for this reason: it gets nothing more. Doing it again does nothing."""
        self._hub.unregister(session, code, reason)
        self._sweep.remove(device)
        self._device_of.pop(session, None)
        identity = self._devices.pop(device, None)
        if identity is not None:
            self._leaving[device] = identity

    def turn_away(self, device: Device) -> None:
        """Take note of one that is told why it is not let in.

        Of too many the oldest is dropped: who ignores what it is told must not keep its
        descriptor for as long as it takes to believe that.
        """
        if len(self._turned_away) >= self.tuning.max_turned_away:
            oldest = next(iter(self._turned_away))
            del self._turned_away[oldest]
            oldest.drop()
        self._turned_away[device] = None

    def leave(self, device: Device) -> None:
        """Let a device go that was dismissed and whose connection has ended."""
        self._leaving.pop(device, None)
        self._turned_away.pop(device, None)
        self.connections.leave(device)

    def cut_off(self, those: Callable[[Identity], bool]) -> int:
        """Cut off the devices that hold one of those tokens; returns how many were connected.

        From when this returns no part of any event is handed to their sockets.
        """
        # 20,000 devices are looked through in a millisecond or two: no index pays for that.
        leaving = [device for device, held in self._leaving.items() if those(held)]
        devices = [device for device, held in self._devices.items() if those(held)]
        for device in (*leaving, *devices):
            device.cut_off(CloseCode.DISCONNECTED, "Disconnected")
        return len(devices)

    def _hold(self, device: Device, identity: Identity) -> None:
        self._devices[device] = identity
        expires = identity.expires
        self._sweep.expire_at(device, None if expires is None else expires + self.tuning.leeway)

    def _check_revoked(self, identity: Identity) -> None:
        if self.revocations.revoked(identity):
            raise AuthError("token refused: it was revoked", Refusal.REVOKED)

    async def hand_on(self, message: ClientMessage) -> None:
        """Hand a device's message to the hook, if there is one."""
        if self._on_message is None:
            return
        if not self.current:
            self.counters.ignored += 1
            return
        try:
            result = self._on_message(message)
            if result is not None:
                await result
        except Exception:
            # The hook is not ours: whatever it raises must not end the connection.
            _logger.exception("client message hook failed", connection=message.connection)
