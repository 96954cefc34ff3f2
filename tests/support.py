"""What tests need of a running server: one in this process, its devices and its emitters."""

import asyncio
import inspect
import json
import logging
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import urlencode

import jwt
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClientConnection, websocket_connect

from archibald_rt.reception import ClientMessageHook
from archibald_rt.server import running
from archibald_rt.settings import Settings, load

if TYPE_CHECKING:
    import ssl

SECRET = "a-secret-for-tests-of-thirty-two-bytes-at-least"
EMIT_TOKEN = "an-emit-token-for-tests-of-thirty-two-bytes"
READ_TOKEN = "a-read-token-for-tests-of-thirty-two-bytes"
PATIENCE = timedelta(seconds=20)
"""How long a test waits for what must come; reaching it is a failure, not a slow machine."""

SUBPROTOCOL = "archibald.v2"


def token(user: object, *, secret: str = SECRET, **claims: object) -> str:
    """Sign a token of a user."""
    return jwt.encode({"userId": user, **claims}, secret, algorithm="HS256")


def log_in(folder: Path) -> Mapping[str, str]:
    """Return the settings of a log of its own; the fixture `engine` has it elsewhere in turn."""
    return {"log.path": str(folder / "events.db")}


def settings_for(folder: Path, overrides: Mapping[str, str] | None = None) -> Settings:
    """Return settings for a server of its own: free ports, a log in `folder` (see `log_in`).

    `overrides` has keys such as ``delivery.heartbeat``, values as one would write them.
    """
    texts = {
        "server.port": "0",
        "internal.port": "0",
        "internal.emit_tokens": EMIT_TOKEN,
        "internal.read_tokens": READ_TOKEN,
        "auth.jwt_secret": SECRET,
        **log_in(folder),
        **(overrides or {}),
    }
    pairs = {tuple(key.split(".", 1)): text for key, text in texts.items()}
    return load(None, required=False, environ={}, overrides=pairs)  # type: ignore[arg-type]  # pairs of two


_T = TypeVar("_T")


async def _within(what: Awaitable[_T]) -> _T:
    return await asyncio.wait_for(_plain(what), PATIENCE.total_seconds())


async def _plain(what: Awaitable[_T]) -> _T:
    return await what


class Device:
    """A device connected by WebSocket, as a test sees it."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self._over = False

    async def text(self) -> str | None:
        """Return the next message as it came; None when the connection has been closed."""
        message = None if self._over else await _within(self.socket.read_message())
        assert message is None or isinstance(message, str)
        self._over = message is None
        return message

    async def next(self) -> dict[str, Any]:
        """Return the next message; fails if the connection is closed instead."""
        text = await self.text()
        assert text is not None, f"closed: {self.socket.close_code} {self.socket.close_reason}"
        message: dict[str, Any] = json.loads(text)
        self.seen.append(message)
        return message

    async def until(self, message_type: str) -> dict[str, Any]:
        """Return the next message of a type, letting others pass into `seen`."""
        while (message := await self.next())["type"] != message_type:
            pass
        return message

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Return the next messages."""
        return [await self.next() for _ in range(count)]

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait until the server has closed the connection; return its code and reason."""
        while await self.text() is not None:
            pass
        return self.socket.close_code, self.socket.close_reason

    async def send(self, message: str | bytes) -> None:
        """Send a text, or bytes."""
        await self.socket.write_message(message, binary=isinstance(message, bytes))

    def drop(self) -> None:
        """End the connection without a word."""
        assert self.socket.protocol is not None
        assert self.socket.protocol.stream is not None
        self.socket.protocol.stream.close()
        self.socket.close()

    async def close(self) -> None:
        """Close the connection and wait until it is. Doing it again does nothing."""
        self.socket.close()
        await self.closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()


class Addresses(Protocol):
    """Where a server listens, in this process or in another."""

    public_url: str
    internal_url: str


class Harness:
    """A server on real sockets and a real file, as devices and emitters see it."""

    def __init__(self, server: Addresses, settings: Settings) -> None:
        self.server = server
        self.settings = settings
        self.tls: ssl.SSLContext | None = None
        """By what clients of the public listener trust it, where that speaks TLS."""

    async def connect(self, user: object, *, v2: bool = True, **query: str) -> Device:
        """Connect a device of a user; the rest is the query, such as ``lastEventId``."""
        return await self.open({"token": token(user), **query}, v2=v2)

    async def open(
        self,
        query: Mapping[str, str],
        *,
        v2: bool = True,
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
    ) -> Device:
        """Connect with just this query and these headers. Raises as Tornado's client does."""
        url = self.server.public_url.replace("http", "ws", 1) + "/ws/realtime"
        request = HTTPRequest(
            f"{url}?{urlencode(query)}", headers=dict(headers or {}), ssl_options=self.tls
        )
        offered = subprotocols if subprotocols is not None else [SUBPROTOCOL] if v2 else None
        return Device(await _within(websocket_connect(request, subprotocols=offered)))

    async def emit(self, emission: object, path: str = "emit") -> dict[str, Any]:
        """Emit something that is to be accepted, and return the answer."""
        response = await self.post(f"/internal/{path}", json.dumps(emission).encode())
        assert response.code == 200, response.body
        answer: dict[str, Any] = json.loads(response.body)
        return answer

    async def post(
        self, path: str, body: bytes, *, bearer: str | None = EMIT_TOKEN, **headers: str
    ) -> HTTPResponse:
        """Post a body to the internal listener; header names have _ for -."""
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        return await AsyncHTTPClient().fetch(
            self.server.internal_url + path,
            method="POST",
            body=body,
            headers=sent,
            raise_error=False,
            request_timeout=PATIENCE.total_seconds(),
        )

    async def get(
        self, path: str, *, bearer: str | None = EMIT_TOKEN, public: bool = False
    ) -> HTTPResponse:
        """Get a path of the internal listener, or of the public one."""
        base = self.server.public_url if public else self.server.internal_url
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        trusting = {"ssl_options": self.tls} if public else {}
        return await AsyncHTTPClient().fetch(
            base + path, headers=headers, raise_error=False, **trusting
        )

    async def delete(self, path: str, *, bearer: str | None = EMIT_TOKEN) -> HTTPResponse:
        """Delete a path of the internal listener."""
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        url = self.server.internal_url + path
        return await AsyncHTTPClient().fetch(
            url, method="DELETE", headers=headers, raise_error=False
        )

    async def stats(self) -> dict[str, Any]:
        """Return the figures of the internal listener."""
        stats: dict[str, Any] = json.loads((await self.get("/internal/stats")).body)
        return stats


def handshake(text: str) -> bytes:
    """Return the request of a v1 device with a token, as bytes."""
    return (
        f"GET /ws/realtime?token={text} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def problem_of(response: HTTPResponse) -> dict[str, Any]:
    """Return the problem document of an answer, which has to be a whole one."""
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.body)
    assert problem["status"] == response.code
    assert problem["title"]
    assert problem["detail"]
    return problem


@asynccontextmanager
async def harness(
    folder: Path,
    overrides: Mapping[str, str] | None = None,
    *,
    on_message: ClientMessageHook | None = None,
) -> AsyncIterator[Harness]:
    """Run a server in this process for the length of a block."""
    settings = settings_for(folder, {"server.drain": "200ms", **(overrides or {})})
    async with running(settings, on_message=on_message) as server:
        yield Harness(server, settings)


async def eventually(
    condition: Callable[[], object], *, within: float = PATIENCE.total_seconds()
) -> None:
    """Wait until a condition, plain or async, holds."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


@contextmanager
def fresh_loop() -> Iterator[IOLoop]:
    """Make a loop the current one for the length of a block; no task outlives it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    io_loop = IOLoop(asyncio_loop=loop, make_current=False)
    yield io_loop
    left_over = asyncio.all_tasks(loop)
    for task in left_over:
        task.cancel()
    # What a left-over raises while it is cancelled is nobody's failure any more.
    loop.run_until_complete(_settled(left_over))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close()
    asyncio.set_event_loop(None)


async def _settled(tasks: set[asyncio.Task[object]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """Let the process open descriptors below a number and no further."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """Keep what is logged on purpose out of the report."""
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
