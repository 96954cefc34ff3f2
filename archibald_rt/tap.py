"""Who watches everything that is dispatched: bounded in number and memory, and lossy.

Whoever watches has a queue of its own. One that isn't taken from is full after a while, and
then what comes is given up and counted: no device and no emitter ever waits for a watcher.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from archibald_rt.errors import CloseCode
from archibald_rt.events import Cursor, Emission
from archibald_rt.messages import ClientEnvelope, DialectName
from archibald_rt.sse import event as sse
from archibald_rt.timestamps import from_epoch
from archibald_rt.traffic import (
    Access,
    Connected,
    ConnectedMessage,
    Disconnected,
    DisconnectedMessage,
    Happening,
    Turned,
    TurnedMessage,
    Watching,
    WatchingMessage,
)
from archibald_rt.watcher import Watcher

WATCHERS = 20
"""How many may watch at once."""

QUEUE = 1024 * 1024
"""How many bytes wait for each of them at most, and one message more."""

LOST = 1006
"""The close code of a connection that ended without one (RFC 6455, section 7.4.1)."""

_SENT = 256 * 1024

_encode = msgspec.json.encode
_happening = msgspec.json.Decoder(Happening).decode
_type = msgspec.json.Decoder(ClientEnvelope)


class Tap:
    """Where everything passes that is dispatched on the log of this ``epoch``.

    ``watchers`` is empty for as long as nobody watches: look at it before anything is told here.
    ``node`` is what this server is called where several have the log. ``changed`` is called when
    somebody begins or ends to watch.
    """

    def __init__(
        self,
        epoch: str,
        *,
        node: str | UnsetType = UNSET,
        most: int = WATCHERS,
        limit: int = QUEUE,
    ) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.changed: Callable[[], None] = _nothing
        # One who watches for those who watch at other servers.
        self._sender: Watcher | None = None
        self._epoch = epoch
        self._node = node
        self._most = most
        self._limit = limit
        self._over = False

    def watch(
        self,
        user: str | None,
        patterns: Sequence[str],
        *,
        access: Access,
        admitted: Callable[[], bool],
    ) -> Watcher | None:
        """Let one more watch; None if as many do as may, or it is all over.

        The first that it takes says what its token is good for.
        """
        if self._over or self.watched >= self._most:
            return None
        watcher = Watcher(user, patterns, limit=self._limit, admitted=admitted, over=self._forget)
        watcher.put(sse(_encode(WatchingMessage(Watching(access), _now())), kind="rt.watching"))
        self.watchers[watcher] = None
        self.changed()
        return watcher

    @property
    def watched(self) -> int:
        """How many watch here."""
        return len(self.watchers) - (self._sender is not None)

    def send(self) -> Watcher | None:
        """Let one take what becomes of devices, for other servers; None if it is all over.

        Close it before the next.
        """
        if self._over:
            return None
        self._sender = Watcher(
            None, ["rt.*"], limit=_SENT, admitted=lambda: True, over=self._forget
        )
        self.watchers[self._sender] = None
        return self._sender

    def received(self, data: bytes) -> None:
        """Pass on what becomes of devices at another server, as its sender took it."""
        for message in data.split(b"\n\n")[:-1]:
            try:
                happening = _happening(message.partition(b"data: ")[2])
            except msgspec.DecodeError:
                # What was given up there, or is of another version.
                continue
            self._pass_on(happening, message + b"\n\n", others=False)

    def dispatched(self, emission: Emission, seq: int | None, delivered: int) -> None:
        """Pass on an event that was handed to so many live devices."""
        event_type = message = None
        for watcher in self.watchers:
            if not watcher.wants(emission.user):
                continue
            if watcher.by_type:
                if event_type is None:
                    event_type = _type.decode(b"{" + emission.tail).type
                if not watcher.matches(event_type):
                    continue
            if watcher.full:
                watcher.drop()
                continue
            if message is None:
                message = self._traffic(emission, seq, delivered)
            watcher.put(message)

    def connected(
        self, user: str, connection: str, protocol: DialectName, address: str | None
    ) -> None:
        """Say that a device has come."""
        payload = Connected(user, connection, protocol, address, self._node)
        self._say(ConnectedMessage(payload, _now()))

    def disconnected(self, user: str, connection: str, code: int, reason: str) -> None:
        """Say that a device has gone."""
        payload = Disconnected(user, connection, code, reason, self._node)
        self._say(DisconnectedMessage(payload, _now()))

    def turned(
        self, user: str, connection: str, state: Literal["live", "behind"], position: int
    ) -> None:
        """Say that a device has fallen behind or is live."""
        payload = Turned(user, connection, state, str(Cursor(self._epoch, position)), self._node)
        self._say(TurnedMessage(payload, _now()))

    def look_again(self) -> None:
        """End those whose token is good no more."""
        for watcher in list(self.watchers):
            if not watcher.admitted():
                watcher.end(CloseCode.POLICY_VIOLATION, "Authentication failed")

    def close(self) -> None:
        """End all, and let nobody watch any more. Safe to call twice."""
        self._over = True
        for watcher in list(self.watchers):
            watcher.end(CloseCode.GOING_AWAY, "Server going away")

    def _forget(self, watcher: Watcher) -> None:
        self.watchers.pop(watcher, None)
        if watcher is self._sender:
            self._sender = None
        self.changed()

    def _say(self, happening: Happening) -> None:
        name = happening.__struct_config__.tag
        self._pass_on(happening, sse(_encode(happening), kind=str(name)), others=True)

    def _pass_on(self, happening: Happening, message: bytes, *, others: bool) -> None:
        name, user = str(happening.__struct_config__.tag), happening.payload.user_id
        for watcher in self.watchers:
            if watcher is self._sender and not others:
                continue
            if watcher.wants(user) and watcher.matches(name):
                if watcher.full:
                    watcher.drop()
                else:
                    watcher.put(message)

    def _traffic(self, emission: Emission, seq: int | None, delivered: int) -> bytes:
        place = None if seq is None else str(Cursor(self._epoch, seq))
        head = b'{"userId":%b,"id":%b,"durable":%b,"delivered":%d,' % (
            _encode(emission.user),
            _encode(place),
            b"false" if seq is None else b"true",
            delivered,
        )
        # The tail has no line breaks: `emissions` makes spaces of those between tokens.
        return b"data: %b%b\n\n" % (head, emission.tail)


def _nothing() -> None:
    """Do nothing."""


def _now() -> str:
    return from_epoch(time.time())
