"""Devices that read Server-Sent Events as the HTML standard (section 9.2.6) has it."""

import asyncio
import json
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from tornado.httputil import HTTPHeaders

from support import PATIENCE, Harness, token


@dataclass(frozen=True)
class Read:
    """An event as a browser would hand it on."""

    kind: str
    data: str
    last_id: str


class EventReader:
    """Interprets a stream's bytes; ``events`` has what was dispatched, to be taken out."""

    def __init__(self) -> None:
        self.events: deque[Read] = deque()
        self.comments: list[str] = []
        self.retry: int | None = None
        self.last_id = ""
        """What would be sent as `Last-Event-ID` when the connection is lost now."""
        self._rest = b""
        self._kind = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> None:
        """Read what has come. A line feed has to end each line, as this server has it."""
        assert b"\r" not in data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments.append(value)
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry":
            if value.isascii() and value.isdigit():
                self.retry = int(value)
        else:
            raise AssertionError(f"a field that readers ignore: {line}")

    def _dispatch(self) -> None:
        self.last_id = self._id
        if self._data:
            self.events.append(Read(self._kind or "message", "\n".join(self._data), self.last_id))
        self._kind, self._data = "", []


class Listening:
    """A device that listens to ``/events``, as a test sees it; made by `listen`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen: list[dict[str, Any]] = []
        self.head = HTTPHeaders()
        self.status = 0
        self.events = EventReader()
        self.raw = ""
        """The data of the last event."""
        self.bye: dict[str, Any] | None = None
        """The payload of `rt.close`."""
        self._reader = reader
        self._writer = writer
        self._position = ""

    async def shake_hands(self, request: bytes) -> None:
        """Send the request, and read the head of its answer."""
        self._writer.write(request)
        async with asyncio.timeout(PATIENCE.total_seconds()):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, headers = head.partition("\r\n")
        self.status = int(line.split(" ")[1])
        self.head = HTTPHeaders.parse(headers)

    async def body(self) -> bytes:
        """Return what is left, to the end."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return await self._reader.read()

    async def event(self) -> dict[str, Any] | None:
        """Return the next event's data; None when the stream has ended."""
        while not self.events.events:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                try:
                    data = await self._reader.read(2**16)
                except ConnectionResetError:
                    data = b""
            if not data:
                return None
            self.events.feed(data)
        return self._checked(self.events.events.popleft())

    def _checked(self, read: Read) -> dict[str, Any]:
        """Return an event's data, whose fields have to say what it says."""
        assert self.bye is None, "something came behind rt.close"
        self.raw = read.data
        message: dict[str, Any] = json.loads(read.data)
        own = message["type"].startswith("rt.")
        assert read.kind == (message["type"] if own else "message")
        if message["type"] in {"rt.welcome", "rt.live"}:
            self._position = message["payload"]["cursor"]
        elif "id" in message:
            assert message["prev"] == self._position
            self._position = message["id"]
        elif message["type"] == "rt.close":
            self.bye = message["payload"]
        assert read.last_id == self._position
        self.seen.append(message)
        return message

    async def text(self) -> str | None:
        """Return the next event's data as it came; None when the stream has ended."""
        return None if await self.event() is None else self.raw

    async def next(self) -> dict[str, Any]:
        """Return the next event's data; fails if the stream has ended instead."""
        message = await self.event()
        assert message is not None, f"ended: {self.bye}"
        return message

    async def until(self, message_type: str) -> dict[str, Any]:
        """Return the next event of a type, letting others pass into `seen`."""
        while (message := await self.next())["type"] != message_type:
            pass
        return message

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Return the next events."""
        return [await self.next() for _ in range(count)]

    async def closed(self) -> tuple[int, str] | None:
        """Wait until the server has ended it; return what it said, if it did."""
        while await self.event() is not None:
            pass
        return None if self.bye is None else (self.bye["code"], self.bye["reason"])

    async def commented(self) -> None:
        """Wait for a comment more than there were."""
        before = len(self.events.comments)
        while len(self.events.comments) == before:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                data = await self._reader.read(2**16)
            assert data, "ended"
            self.events.feed(data)

    def pause(self) -> None:
        """Read nothing more: what the kernel takes for this device is bounded."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a transport that reads, too

    def go_on(self) -> None:
        """Read again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above

    def drop(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection. Doing it again does nothing."""
        self._writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()


async def ask(
    server: Harness,
    query: Mapping[str, str],
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    version: str = "1.1",
    receive_buffer: int = 0,
) -> Listening:
    """Ask for ``/events`` with just this query and these headers."""
    at = urlsplit(server.server.public_url)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, (at.hostname, at.port))
    trusting: dict[str, Any] = {}
    if at.scheme == "https":
        trusting = {"ssl": server.tls, "server_hostname": at.hostname}
    reader, writer = await asyncio.open_connection(sock=sock, **trusting)
    lines = [f"{method} /events?{urlencode(query)} HTTP/{version}", f"Host: {at.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    device = Listening(reader, writer)
    try:
        await device.shake_hands("\r\n".join([*lines, "", ""]).encode("latin-1"))
    except BaseException:
        writer.close()
        raise
    return device


async def listen(server: Harness, user: object, **query: str) -> Listening:
    """Connect a device of a user; the rest is the query, such as ``lastEventId``."""
    device = await ask(server, {"token": token(user), **query})
    assert device.status == 200
    return device
