"""One connection of a client: opened, read, watched for silence, shut."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlencode, urlsplit, urlunsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

from archibald_rt.client.messages import ClientError
from archibald_rt.errors import ArchibaldError, AuthError

_PATH = "/ws/realtime"
_SUBPROTOCOL = "archibald.v2"
_SCHEMES: Mapping[str, str] = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}

# RFC 6455, 7.1.5: no close frame came, the connection was just gone.
_ABNORMAL = 1006

# 4xx of proxies that say "later" and not "never": request timeout, too many requests.
_TEMPORARY = (408, 429)

# A silence this many heartbeats long is one: two pings missed, and some delay on the way.
_SILENT_HEARTBEATS = 2.5

# Seconds that a close waits for the server's answer before the socket is shut all the same.
_CLOSE_WAIT = 1.0


class ConnectionEndedError(ArchibaldError):
    """The connection is over, or never was; the close code says whether to return."""

    def __init__(self, reason: str, code: int = _ABNORMAL) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def websocket_url(address: str) -> str:
    """Give the socket's URL for a server's public address, with or without the path.

    Raises ValueError, in one line, for an address that can't be one.
    """
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("the URL of a server begins http://, https://, ws:// or wss://")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("the URL of a server holds no query and no credentials")
    path = parts.path.rstrip("/").removesuffix(_PATH) + _PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


async def open_socket(
    url: str,
    token: str,
    *,
    cursor: str | None,
    connect_timeout: float,
    max_message: int,
    ssl_context: ssl.SSLContext | None,
) -> "ClientSocket":
    """Connect to ``url``, resuming by ``cursor`` if there is one.

    Raises ConnectionEndedError where a later try may do better, AuthError for a token that
    no header can carry, else ClientError. When it is cancelled, what comes of the attempt, at
    most ``connect_timeout`` seconds later, is closed.
    """
    if not (token and token.isascii() and token.isprintable()):
        # Said without its text: an error message ends in logs.
        raise AuthError("the token is empty or holds characters that no HTTP header can")
    query = "" if cursor is None else "?" + urlencode({"lastEventId": cursor})
    request = HTTPRequest(
        url + query,
        headers={"Authorization": f"Bearer {token}"},
        connect_timeout=connect_timeout,
        request_timeout=connect_timeout,
        ssl_options=ssl_context,
    )
    attempt = asyncio.ensure_future(
        websocket_connect(request, subprotocols=[_SUBPROTOCOL], max_message_size=max_message)
    )
    try:
        connection = await asyncio.shield(attempt)
    except asyncio.CancelledError:
        # Tornado gives no handle to stop an attempt with.
        attempt.add_done_callback(_close_unwanted)
        raise
    except HTTPClientError as error:
        reason = f"{url} answered HTTP {error.code} {error.message}"
        if error.code >= 500 or error.code in _TEMPORARY:  # noqa: PLR2004 - the 5xx class
            raise ConnectionEndedError(reason) from error
        raise ClientError(reason) from error
    except ssl.SSLCertVerificationError as error:
        raise ClientError(f"the certificate of {url} can't be trusted: {error}") from error
    except OSError as error:
        raise ConnectionEndedError(f"{url} can't be reached: {error}") from error
    except (WebSocketError, AssertionError, LookupError, ValueError) as error:
        raise ClientError(f"{url} doesn't answer as a WebSocket server") from error
    socket = ClientSocket(connection)
    if connection.selected_subprotocol != _SUBPROTOCOL:
        await socket.close()
        raise ClientError(f"{url} doesn't speak {_SUBPROTOCOL}")
    return socket


class ClientSocket:
    """An open connection. ``close()`` must be called, however it ended; twice is fine.

    Tornado holds one message and reads nothing more from the network until it is taken, so a
    caller that doesn't read is felt by the server and costs no memory here.
    """

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._stream = connection.protocol.stream if connection.protocol else None
        self._reading: asyncio.Future[str | bytes | None] | None = None
        self._heartbeat = 0.0
        self._ended: ConnectionEndedError | None = None

    def watch(self, heartbeat: float) -> None:
        """Expect to hear from the server every ``heartbeat`` seconds; 0 expects nothing."""
        self._heartbeat = heartbeat

    async def read(self) -> str:
        """Give the next message; raises ConnectionEndedError when there is none any more.

        Cancelling it loses no message.
        """
        while True:
            message = await self._next()
            if isinstance(message, str) and message != "pong":
                return message

    def renew(self, token: str) -> None:
        """Give the server another token for this connection; it closes if it doesn't take it."""
        self._send(json.dumps({"type": "rt.auth", "payload": {"token": token}}))

    async def close(self) -> None:
        """Close by handshake if the server answers soon, else at once."""
        # Also after the end: until then Tornado counts the connection as left open.
        self._connection.close(1000)
        self._heartbeat = 0.0
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_WAIT):
                    await self._drain()
        finally:
            if self._stream is not None:
                self._stream.close()
        await self._drain()

    async def _drain(self) -> None:
        with suppress(ConnectionEndedError):
            while True:
                await self._next()

    async def _next(self) -> str | bytes:
        if self._ended is not None:
            raise self._ended
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._connection.read_message())
        # Server pings are answered out of sight, so what counts as heard is a message; where
        # only pings go, this asks once per silence and is answered.
        if not await self._arrives(self._reading, self._heartbeat * _SILENT_HEARTBEATS):
            self._ping()
            if not await self._arrives(self._reading, self._heartbeat):
                raise ConnectionEndedError("the server fell silent")
        message = self._reading.result()
        self._reading = None
        if message is None:
            code = self._connection.close_code
            if code is None:
                self._ended = ConnectionEndedError("the connection was lost")
            else:
                # One line, for it ends in messages and logs.
                reason = " ".join((self._connection.close_reason or "").split())
                self._ended = ConnectionEndedError(reason, code)
            raise self._ended
        return message

    @staticmethod
    async def _arrives(reading: asyncio.Future[str | bytes | None], within: float) -> bool:
        # wait() leaves the read under way when it gives up, so that no message falls between.
        await asyncio.wait({reading}, timeout=within or None)
        return reading.done()

    def _ping(self) -> None:
        self._send("ping")

    def _send(self, message: str) -> None:
        with suppress(WebSocketClosedError):
            written = asyncio.ensure_future(self._connection.write_message(message))
            written.add_done_callback(_ignore_failure)


def _ignore_failure(written: asyncio.Future[None]) -> None:
    # What can't be written ends the connection, and the read says so.
    if not written.cancelled():
        written.exception()


def _close_unwanted(attempt: asyncio.Future[WebSocketClientConnection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
