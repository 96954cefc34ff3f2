"""Devices' connections on plain sockets: cheap to have by the thousand, and told when to read."""

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

from support import SUBPROTOCOL

ABNORMAL = 1006
"""The close code of a connection that ended without one (RFC 6455, section 7.4.1)."""

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


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


def request_for_events(query: dict[str, str]) -> bytes:
    """Return the request of a device that says where it stands as a browser does."""
    rest = {name: value for name, value in query.items() if name != "lastEventId"}
    lines = [f"GET /events?{urlencode(rest)} HTTP/1.1", "Host: localhost"]
    if "lastEventId" in query:
        lines.append(f"Last-Event-ID: {query['lastEventId']}")
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

    ACCEPTED = 101

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
            assert data.startswith(b"HTTP/1.1 %d " % self.ACCEPTED), data[:200]
            self.upgraded = True
            at = end + 4
        self._buffer = data[self._read(data, at) :]

    def _read(self, data: bytes, at: int) -> int:
        """Read all that is whole from a place on; returns where the first partial frame begins."""
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


class Stream(Connection):
    """A stream of Server-Sent Events that hands over the data of each as it comes."""

    ACCEPTED = 200

    def _read(self, data: bytes, at: int) -> int:
        while (end := data.find(b"\n\n", at)) >= 0:
            fields = dict(line.partition(b": ")[::2] for line in data[at:end].split(b"\n"))
            at = end + 2
            if fields.get(b"event") == b"rt.close":
                self._code = json.loads(fields[b"data"])["payload"]["code"]
            elif b"data" in fields:
                self._on_text(fields[b"data"])
        return at

    def close(self) -> None:
        """End the connection: there is nothing to ask for."""
        self.drop()


async def connect(
    url: str,
    query: dict[str, str],
    on_text: Callable[[bytes], None],
    *,
    v2: bool = True,
    sse: bool = False,
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
        made = (
            Stream(request_for_events(query), on_text)
            if sse
            else Connection(request_for(query, v2=v2), on_text)
        )
        _, connection = await loop.create_connection(lambda: made, sock=plain)
    except BaseException:
        plain.close()
        raise
    return connection
