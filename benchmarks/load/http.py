"""Keep-alive connections of emitters: ready-made requests out, whole answers back."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.base import Endpoint


class RefusedError(Exception):
    """The server did not answer with 2xx, or ended the connection."""


class Connection(asyncio.Protocol):
    """One connection; requests may be sent before earlier ones are answered."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = transport

    def request(self, data: bytes) -> asyncio.Future[bytes]:
        """Send a request; returns its answer's body, or raises `RefusedError`."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._transport.write(data)
        return answer

    def data_received(self, data: bytes) -> None:
        """Take what came of answers."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            # Nothing here answers in chunks; a message without a length has no body.
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._data) < whole:
                return
            body, self._data = self._data[end + 4 : whole], self._data[whole:]
            answer = self._waiting.popleft()
            if head[9:10] != b"2":
                answer.set_exception(RefusedError((head[:40] + b" " + body[:200]).decode()))
            else:
                answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is not answered."""
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(RefusedError(f"the connection ended: {exc}"))

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


@asynccontextmanager
async def emitters(at: Endpoint, count: int) -> AsyncIterator[list[Connection]]:
    """Connect to the internal listener so many times."""
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(Connection, "127.0.0.1", at.internal)
            opened.append(connection)
        yield opened
    finally:
        for connection in opened:
            connection.close()
