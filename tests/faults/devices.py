"""Devices on plain sockets: cheap to run by the thousand, and told when to read.

A `Connection` is one WebSocket connection; a `Follower` is a device, which comes back by its
cursor for as long as it is wanted and checks what it is told of its place.
"""

import asyncio
import base64
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import msgspec

from support import SUBPROTOCOL, token

ABNORMAL = 1006
"""The close code of a connection that ended without one (RFC 6455, section 7.4.1)."""

PAUSE = 0.05
"""For how many seconds a device that was refused or cut off waits before it comes back."""

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


class Message(msgspec.Struct, gc=False):
    """What a device is told; the payload as it was written."""

    type: str
    payload: msgspec.Raw
    timestamp: str
    id: str | None = None
    prev: str | None = None


read_message = msgspec.json.Decoder(Message).decode


def seq_of(cursor: str) -> int:
    """Return the place of a cursor in its log."""
    return int(cursor.rpartition(":")[2])


def request_for(query: dict[str, str], *, v2: bool = True) -> bytes:
    """Return a device's handshake."""
    lines = [
        f"GET /ws/realtime?{urlencode(query)} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if v2:
        lines.append(f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
    return "\r\n".join([*lines, "", ""]).encode()


def masked(opcode: int, data: bytes) -> bytes:
    """Return a short frame as clients send them; a mask of zeros is one too."""
    return bytes((0x80 | opcode, 0x80 | len(data))) + bytes(4) + data


def abrupt(sock: socket.socket) -> None:
    """Let a socket that is closed send a RST, and throw away what is unsent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Connection(asyncio.Protocol):
    """A WebSocket connection that hands over each text as it comes.

    Pings are answered, a close frame too. ``closed`` resolves to the close code when the
    connection has ended, however it did.
    """

    def __init__(self, request: bytes, on_text: Callable[[bytes], None]) -> None:
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.upgraded = False
        """Whether the server has accepted the handshake."""
        self.heard = 0.0
        """When something came, as the loop counts."""
        self._request = request
        self._on_text = on_text
        self._buffer = b""
        self._code = ABNORMAL
        self._transport: asyncio.Transport | None = None

    @property
    def partial(self) -> bool:
        """Whether the last that came was a piece of a frame, or of the handshake's answer."""
        return bool(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        data = self._buffer + data if self._buffer else data
        at = 0
        if not self.upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            assert data.startswith(b"HTTP/1.1 101 "), data[:200]
            self.upgraded = True
            at = end + 4
        self._buffer = data[self._read_frames(data, at) :]

    def _read_frames(self, data: bytes, at: int) -> int:
        """Read all whole frames from a place on; returns where the first partial one begins."""
        on_text, available = self._on_text, len(data)
        while available - at >= 2:
            length, begin = data[at + 1], at + 2
            if length == 126:
                begin = at + 4
                length = int.from_bytes(data[at + 2 : begin])
            elif length == 127:
                begin = at + 10
                length = int.from_bytes(data[at + 2 : begin])
            end = begin + length
            if begin > available or end > available:
                break
            opcode, at = data[at] & 0xF, end
            if opcode == _TEXT:
                on_text(data[begin:end])
            else:
                self._control(opcode, data[begin:end])
        return at

    def _control(self, opcode: int, data: bytes) -> None:
        if opcode == _PING:
            self.send(_PONG, data)
        elif opcode == _CLOSE:
            self._code = int.from_bytes(data[:2])
            self.send(_CLOSE, data[:2])
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        if not self.closed.done():
            self.closed.set_result(self._code)

    def send(self, opcode: int, data: bytes) -> None:
        """Send a short frame."""
        assert self._transport is not None
        self._transport.write(masked(opcode, data))

    def ping(self) -> None:
        """Send the text ``ping``, which the server answers with a text."""
        self.send(_TEXT, b"ping")

    def pause(self) -> None:
        """Read nothing until `resume`."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def close(self) -> None:
        """Ask the server to close; it answers."""
        self.send(_CLOSE, (1000).to_bytes(2))

    def drop(self) -> None:
        """End the connection without a word."""
        assert self._transport is not None
        self._transport.close()

    def reset(self) -> None:
        """End the connection by a RST."""
        assert self._transport is not None
        abrupt(self._transport.get_extra_info("socket"))
        self._transport.abort()


async def connect(
    url: str,
    query: dict[str, str],
    on_text: Callable[[bytes], None],
    *,
    v2: bool = True,
    buffer: int | None = None,
) -> Connection:
    """Connect a device; raises `OSError`. With a receive ``buffer`` of so many bytes.

    Returns when the socket is connected, before the handshake is answered.
    """
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    try:
        plain.setblocking(False)  # noqa: FBT003 - it has no keyword
        if buffer is not None:
            # Before the connection is there: the window is agreed on at its beginning.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await loop.sock_connect(plain, (address.hostname, address.port))
        request = request_for(query, v2=v2)
        _, connection = await loop.create_connection(
            lambda: Connection(request, on_text), sock=plain
        )
    except BaseException:
        plain.close()
        raise
    return connection


class Place:
    """Where a device stands in its user's stream, and what is wrong with what it was told.

    ``cursor`` is where it begins; None begins with what is live.
    """

    def __init__(self, user: str, cursor: str | None = "earliest") -> None:
        self.user = user
        self.cursor = cursor
        self.seqs: list[int] = []
        """The durable events it got, by their places in the log."""
        self.transient: list[bytes] = []
        """The payloads of the transient events it got."""
        self.faults: list[str] = []
        """What contradicts the promises."""
        self.gaps: list[tuple[str, str | None, str]] = []
        """The losses it was told: what it had, what is missing, and why."""
        self.replays: list[int] = []
        """How many events it was told were replayed, at each connection that turned live."""
        self.welcomes = 0
        self._last = 0

    @property
    def live(self) -> bool:
        """Whether the connection it has is live, as it was told."""
        return len(self.replays) == self.welcomes > 0

    def take(self, text: bytes) -> None:
        """Take what the device is told."""
        if text == b"pong":
            return
        message = read_message(text)
        if message.id is not None:
            self._take_durable(message.id, message.prev)
        elif message.type.startswith("rt."):
            self._take_control(message.type, msgspec.json.decode(message.payload))
        else:
            self.transient.append(bytes(message.payload))

    def _take_durable(self, cursor: str, prev: str | None) -> None:
        seq = seq_of(cursor)
        if prev != self.cursor:
            self.faults.append(f"{cursor} follows {prev}, the device had {self.cursor}")
        if seq <= self._last:
            self.faults.append(f"{cursor} came after {self._last}")
        self.cursor = cursor
        self._last = seq
        self.seqs.append(seq)

    def _take_control(self, kind: str, payload: dict[str, str]) -> None:
        if kind == "rt.welcome":
            if self.cursor not in {None, "earliest", payload["cursor"]}:
                self.faults.append(f"welcomed at {payload['cursor']}, asked for {self.cursor}")
            self.cursor = payload["cursor"]
            self.welcomes += 1
        elif kind == "rt.live":
            if payload["cursor"] != self.cursor:
                self.faults.append(f"live at {payload['cursor']}, the device has {self.cursor}")
            self.replays.append(int(payload["replayed"]))
        elif kind == "rt.gap":
            self.gaps.append((payload["requested"], payload["missingThrough"], payload["reason"]))
        elif kind != "rt.reconnect":
            self.faults.append(f"told {kind}")


class Follower:
    """A device that comes back by its cursor whenever its connection ends, until `leave`.

    It connects to ``url()``, which may change. With ``silence`` (seconds) it gives up a
    connection on which nothing came for so long.
    """

    def __init__(
        self,
        url: Callable[[], str],
        user: str,
        *,
        cursor: str | None = "earliest",
        buffer: int | None = None,
        silence: float | None = None,
    ) -> None:
        self.place = Place(user, cursor)
        self.codes: Counter[int] = Counter()
        """How its connections ended."""
        self.partial = 0
        """How many of them ended within a frame."""
        self.unanswered = 0
        """How many ended, or could not be made, before the handshake was answered."""
        self.connection: Connection | None = None
        self._url = url
        self._token = token(user)
        self._buffer = buffer
        self._silence = silence
        self._leaving = False
        self.free = asyncio.Event()
        """Whether it may connect; set at first."""
        self.free.set()

    async def follow(self) -> None:
        """Connect, and connect again, until told to leave."""
        while not self._leaving:
            await self.free.wait()
            try:
                await self._once()
            except OSError:
                self.unanswered += 1
            if not self._leaving:
                await asyncio.sleep(PAUSE)

    async def _once(self) -> None:
        query = {"token": self._token}
        if self.place.cursor is not None:
            query["lastEventId"] = self.place.cursor
        connection = self.connection = await connect(
            self._url(), query, self._take, buffer=self._buffer
        )
        try:
            if self._leaving:
                return
            code = await self._ended(connection)
            self.codes[code] += 1
            self.unanswered += not connection.upgraded
            self.partial += connection.partial and connection.upgraded
        finally:
            self.connection = None
            connection.drop()
            await connection.closed

    async def _ended(self, connection: Connection) -> int:
        loop = asyncio.get_running_loop()
        connection.heard = loop.time()
        while True:
            left = None
            if self._silence is not None:
                left = connection.heard + self._silence - loop.time()
                if left <= 0:
                    return ABNORMAL
            done, _ = await asyncio.wait([connection.closed], timeout=left)
            if done:
                return connection.closed.result()

    def _take(self, text: bytes) -> None:
        self.place.take(text)

    def leave(self) -> None:
        """Come back no more, and end the connection there is."""
        self._leaving = True
        if self.connection is not None:
            self.connection.drop()
