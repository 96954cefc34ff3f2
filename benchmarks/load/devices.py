"""Devices: WebSocket clients that count the events they get."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import jwt
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.load.dialects import DIALECTS, Dialect
from benchmarks.peers.base import Endpoint

AT_ONCE = 64
"""How many devices of a group connect at once, if a work doesn't say."""

PATIENCE = 300.0
"""How long anything is waited for, in seconds, before the round is lost."""


class LostError(Exception):
    """A device got too little, too much, or was sent away."""


class Device(WSListener):
    """One device."""

    def __init__(self, group: "Group", dialect: Dialect, first: bytes) -> None:
        super().__init__()
        self.count = 0
        self.closing = False
        self.first_ready = b""
        self._group = group
        self._control = dialect.control
        self._ready = dialect.ready
        self._first = first
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say hello where one does."""
        self.transport = transport
        if self._first:
            transport.send(WSMsgType.TEXT, self._first)
        if not self._ready:
            self._group.turned_live()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count an event."""
        if frame.msg_type is not WSMsgType.TEXT:
            return
        text = frame.get_payload_as_bytes()
        if self._control and self._speaks_of_itself(transport, text):
            return
        self.count += 1
        self._group.arrived(text)

    def _speaks_of_itself(self, transport: WSTransport, text: bytes) -> bool:
        if text.startswith(self._ready):
            self.first_ready = text
            self._group.turned_live()
            return True
        if text == b"2":  # Engine.IO's ping
            transport.send(WSMsgType.TEXT, b"3")
            return True
        return text.startswith(self._control)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Tell the group, unless this was its own doing."""
        if not self.closing:
            self._group.left()


class Group:
    """Devices of one server, and how much they have got together."""

    def __init__(self, at: Endpoint) -> None:
        self.at = at
        self.devices: list[Device] = []
        self.live = 0
        self.total = 0
        self.on_event: Callable[[bytes], None] | None = None
        self._wanted: tuple[Callable[[], bool], asyncio.Future[None]] | None = None
        self._gone = 0

    def turned_live(self) -> None:
        """Count one more device that is live."""
        self.live += 1
        self._look()

    def arrived(self, text: bytes) -> None:
        """Count one more event."""
        self.total += 1
        if self.on_event is not None:
            self.on_event(text)
        self._look()

    def left(self) -> None:
        """Count a device that is gone though nobody closed it: what is waited for can't come."""
        self._gone += 1
        self._look()

    def _look(self) -> None:
        if self._wanted is None or self._wanted[1].done():
            return
        if self._gone:
            self._wanted[1].set_exception(LostError(f"{self._gone} devices were disconnected"))
        elif self._wanted[0]():
            self._wanted[1].set_result(None)

    async def _wait(self, condition: Callable[[], bool], what: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._wanted = condition, future
        self._look()
        try:
            await asyncio.wait_for(future, PATIENCE)
        except TimeoutError:
            raise LostError(f"{what}: {self.live} live, {self.total} events") from None
        finally:
            self._wanted = None

    async def connect(
        self,
        users_and_tokens: Sequence[tuple[str, str]],
        *,
        resumes: Iterable[str] | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        """Connect a device for each; returns when all are open, which is not yet live."""
        dialect = DIALECTS[self.at.dialect]
        resuming = [""] * len(users_and_tokens) if resumes is None else list(resumes)
        waiting = iter(zip(users_and_tokens, resuming, strict=True))

        async def work() -> None:
            for (user, token), resume in waiting:
                greeting = dialect.greeting(self.at, user, token, resume)
                device = Device(self, dialect, greeting.first)
                self.devices.append(device)
                await ws_connect(
                    lambda device=device: device,
                    greeting.url,
                    extra_headers=greeting.headers,
                    websocket_handshake_timeout=PATIENCE,
                    read_buffer_init_size=4096,
                )

        await asyncio.gather(*(work() for _ in range(at_once)))

    async def all_live(self) -> None:
        """Wait until every device is live."""
        wanted = len(self.devices)
        await self._wait(lambda: self.live >= wanted, f"{wanted} live devices expected")

    async def all_have(self, each: int) -> None:
        """Wait until every device got so many events since it connected, and none got more."""
        await self.has(each * len(self.devices))
        wrong = [device.count for device in self.devices if device.count != each]
        if wrong:
            raise LostError(f"a device got {wrong[0]} events, expected {each}")

    async def has(self, total: int) -> None:
        """Wait until the devices have got so many events together."""
        await self._wait(lambda: self.total >= total, f"{total} events expected")

    async def close(self) -> None:
        """Disconnect all; safe to call twice."""
        devices, self.devices = self.devices, []
        self.live = self.total = 0
        for device in devices:
            device.closing = True
            if device.transport is not None:
                device.transport.disconnect(graceful=False)
        await asyncio.sleep(0)


def tokens(at: Endpoint, users: Iterable[str]) -> list[tuple[str, str]]:
    """Make a token for each, no two alike."""
    now = int(time.time())
    return [
        (
            user,
            jwt.encode(
                {"sub": user, "exp": now + 86400, "jti": f"{number:x}-{now:x}"},
                at.jwt_secret,
                algorithm="HS256",
            ),
        )
        for number, user in enumerate(users)
    ]
