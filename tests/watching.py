"""One who watches all traffic by ``/internal/stream``, and a device that is slow on purpose."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from support import EMIT_TOKEN, PATIENCE, Harness, eventually, handshake, token


class Watch:
    """A stream that is read message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._text = ""
        self.seen: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Return the next message; fails at the end of the stream."""
        message = await self.message()
        assert message is not None, self.seen[-1:]
        return message

    async def message(self) -> dict[str, Any] | None:
        """Return the next message, None at the end of the stream."""
        while True:
            part, found, rest = self._text.partition("\n\n")
            if not found:
                chunk = await asyncio.wait_for(self._chunk(), PATIENCE.total_seconds())
                if not chunk:
                    return None
                self._text += chunk.decode()
                continue
            self._text = rest
            if part.startswith(":"):
                continue
            *event, data = part.split("\n")
            message: dict[str, Any] = json.loads(data.removeprefix("data: "))
            # The server's own have their type as a name, events none.
            own = message["type"].startswith("rt.")
            assert event == ([f"event: {message['type']}"] if own else [])
            self.seen.append(message)
            return message

    async def until(self, message_type: str) -> dict[str, Any]:
        """Return the next message of a type, letting others pass into `seen`."""
        while (message := await self.next())["type"] != message_type:
            pass
        return message

    async def rest(self) -> list[dict[str, Any]]:
        """Return what comes until the stream ends."""
        messages = []
        while (message := await self.message()) is not None:
            messages.append(message)
        return messages

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def unread(at: Harness, user: str) -> AsyncIterator[asyncio.StreamReader]:
    """Connect a v1 device that reads nothing until it is asked to, for the length of a block.

    Its kernel takes little, so that it stays behind once it is.
    """
    url = urlsplit(at.server.public_url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.setblocking(False)  # noqa: FBT003 - it has no keyword
    await asyncio.get_running_loop().sock_connect(sock, (url.hostname, url.port))
    # With so small a limit nothing is read from the socket by itself.
    reader, writer = await asyncio.open_connection(sock=sock, limit=1)
    try:
        writer.write(handshake(token(user)))
        yield reader
    finally:
        await _close(writer)


async def overtax(at: Harness, user: str) -> None:
    """Emit to a user whose device reads nothing until it is behind, and its outbox holds some."""
    big = {"userId": user, "type": "BIG", "payload": "x" * 60_000}
    await at.emit([big] * 40)

    async def behind() -> bool:
        listed = json.loads((await at.get("/internal/connections?sort=slow&limit=1")).body)
        (slow,) = listed["connections"]
        return bool(slow["state"] == "behind" and slow["outboxBytes"])

    await eventually(behind)


async def request(at: Harness, path: str, bearer: str) -> tuple[Any, Any]:
    """Ask for a path and return the connection, of which nothing was read yet."""
    url = urlsplit(at.server.internal_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n"
    writer.write(head.encode())
    return reader, writer


@asynccontextmanager
async def watching(
    at: Harness, query: str = "", *, bearer: str = EMIT_TOKEN
) -> AsyncIterator[Watch]:
    """Watch for the length of a block; the stream has begun when it does."""
    reader, writer = await request(at, f"/internal/stream{query}", bearer)
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE.total_seconds())
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"\r\nContent-Type: text/event-stream\r\n" in head
        watch = Watch(reader, writer)
        assert (await watch.next())["type"] == "rt.watching"
        yield watch
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
