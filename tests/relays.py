"""A relay between browsers and a server that knows WebSockets: it loses, doubles and refuses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

Mangle = Callable[[str], list[str]]
"""What becomes of a message of the server's."""

_TEXT, _CLOSE = 0x81, 0x88
_SHORT, _MEDIUM = 125, 126


def untouched(text: str) -> list[str]:
    """Let a message pass."""
    return [text]


def frame(kind: int, content: bytes) -> bytes:
    """Return a whole frame as a server sends it."""
    if len(content) <= _SHORT:
        return bytes([kind, len(content)]) + content
    if len(content) < 1 << 16:
        return bytes([kind, _MEDIUM]) + len(content).to_bytes(2) + content
    return bytes([kind, _MEDIUM + 1]) + len(content).to_bytes(8) + content


class Relay:
    """Passes HTTP on as it is, and a server's WebSocket messages as `mangle` has them."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self.target = address.hostname, address.port
        self.mangle: Mangle = untouched
        self.blocked = False
        """Whether handshakes of WebSockets get nowhere."""
        self.asked: list[str] = []
        """The queries of all handshakes, refused ones included."""
        self.streams = 0
        """How many requests there were for ``/events``."""
        self.url = ""
        self._sockets: set[asyncio.StreamWriter] = set()
        self._others: set[asyncio.StreamWriter] = set()

    def end(self, code: int, reason: str = "") -> None:
        """Close the WebSockets that there are, with a code and a reason."""
        for writer in self._sockets:
            writer.write(frame(_CLOSE, code.to_bytes(2) + reason.encode()))
            writer.close()

    def cut(self) -> None:
        """End all connections without a word."""
        for writer in self._sockets | self._others:
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until it ends."""
        with contextlib.suppress(OSError, EOFError):
            try:
                await self._carry(reader, writer)
            finally:
                self._sockets.discard(writer)
                self._others.discard(writer)
                writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._others.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        path = urlsplit(head.split(b" ", 2)[1].decode())
        is_socket = b"upgrade: websocket" in head.lower()
        if is_socket:
            self.asked.append(path.query)
            if self.blocked:
                return
        from_server, server = await asyncio.open_connection(*self.target)
        try:
            self._pass_up(head, server)
            if is_socket:
                self._sockets.add(writer)
                writer.write(await from_server.readuntil(b"\r\n\r\n"))
            down = self._messages if is_socket else self._bytes
            await asyncio.gather(self._requests(reader, server), down(from_server, writer))
        finally:
            server.close()

    def _pass_up(self, data: bytes, server: asyncio.StreamWriter) -> None:
        # A browser's request comes in one piece, and one connection has many of them.
        self.streams += data.startswith(b"GET /events")
        server.write(data)

    async def _requests(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self._pass_up(data, server)
        server.close()

    @staticmethod
    async def _bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        # What ends on one side ends on the other.
        writer.close()

    async def _messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                kind, size = await reader.readexactly(2)
                if size >= _MEDIUM:
                    size = int.from_bytes(await reader.readexactly(2 if size == _MEDIUM else 8))
                content = await reader.readexactly(size)
                if kind != _TEXT:
                    writer.write(frame(kind, content))
                    continue
                for text in self.mangle(content.decode()):
                    writer.write(frame(_TEXT, text.encode()))
        writer.close()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    """Run a relay to the server at `url` for the length of a block."""
    relay = Relay(url)
    server = await asyncio.start_server(relay.carry, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        relay.cut()
