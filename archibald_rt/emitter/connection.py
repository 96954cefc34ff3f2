"""One kept connection of an emitter: opened when it is needed, a request at a time, shut.

HTTP/1.1 is Tornado's, used as its own client does, which opens a connection for each request.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from archibald_rt.errors import ArchibaldError, AuthError


class NotSentError(ArchibaldError):
    """The server can't be reached: nothing was sent."""


class UntrustedError(ArchibaldError):
    """The server's certificate can't be trusted: nothing was sent, nor will be."""


class CutError(ArchibaldError):
    """The connection ended, or time ran out, before the answer was there."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the internal listener is: a host and a port, or the path of a socket."""

    host: str
    port: int
    unix_socket: str = ""
    secure: bool = False
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read ``http://host:port``, ``https://…`` or ``unix:/path``; raises ValueError."""
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if not path.startswith(("/", "@")):
                raise ValueError("the address of a socket is unix: and its whole path")
            # As systemd and ss write a name of the abstract kind.
            return cls("localhost", 0, "\0" + path[1:] if path[0] == "@" else path)
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the URL of an internal listener begins http://, https:// or unix:/")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("the URL of an internal listener holds no query and no credentials")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(parts.hostname, port, "", secure, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


class Response(NamedTuple):
    """The answer to a request."""

    status: int
    headers: HTTPHeaders
    body: bytes


class Connection:
    """Posts to one address with one token, over a connection that is kept between requests.

    Raises AuthError for a token that no header can carry.
    """

    def __init__(
        self,
        address: Address,
        token: str,
        *,
        connect_timeout: float,
        timeout: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        # Bytes beyond ASCII go as they are, which Tornado writes as Latin-1.
        self._token = token.encode().decode("latin-1")
        if not token or any(ord(each) <= 0x20 or ord(each) == 0x7F for each in token):  # noqa: PLR2004 - space and control characters
            raise AuthError("the token is empty or holds characters that no HTTP header can")
        self._address = address
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._ssl = (ssl_context or ssl.create_default_context()) if address.secure else None
        self._stream: IOStream | None = None

    async def post(self, path: str, body: bytes) -> Response:
        """Post a JSON body and return the answer. Not to be called again before it has returned.

        Raises `NotSentError` or `UntrustedError` where nothing was sent, `CutError` where it is
        not known what became of it.
        """
        stream = self._stream
        if stream is None or stream.closed():
            stream = self._stream = await self._open()
        headers = HTTPHeaders()
        headers["Host"] = self._address.authority
        headers["Authorization"] = f"Bearer {self._token}"
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        exchange = HTTP1Connection(stream, is_client=True, params=_PARAMETERS)
        reading = _Reading()
        try:
            async with asyncio.timeout(self._timeout):
                line = RequestStartLine("POST", self._address.prefix + path, "HTTP/1.1")
                exchange.write_headers(line, headers, body)
                exchange.finish()
                await exchange.read_response(reading)
        except TimeoutError:
            self.close()
            raise CutError(f"no answer within {self._timeout:g} s") from None
        except StreamClosedError as error:
            self.close()
            raise CutError(f"the connection was lost: {error.real_error or 'closed'}") from error
        except BaseException:
            # What is left of this answer must not be taken for the next one's.
            self.close()
            raise
        if not reading.complete:
            self.close()
            raise CutError("the answer ended early, or is none of HTTP")
        if reading.headers.get("Connection", "").lower() == "close":
            self.close()
        elif not stream.closed():
            # With a callback Tornado watches an idle connection, and hears that it ends.
            stream.set_close_callback(_nothing)
        return Response(reading.status, reading.headers, b"".join(reading.chunks))

    def close(self) -> None:
        """End the connection; the next request opens another. Doing it again does nothing."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _open(self) -> IOStream:
        address = self._address
        try:
            if address.unix_socket:
                return await self._open_path(address.unix_socket)
            stream = await TCPClient().connect(
                address.host, address.port, ssl_options=self._ssl, timeout=self._connect_timeout
            )
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(f"the server's certificate can't be trusted: {error}") from error
        except OSError as error:
            # A timeout is one too.
            reason = error.strerror or str(error) or f"no answer in {self._connect_timeout:g} s"
            raise NotSentError(f"the server can't be reached: {reason}") from error
        return stream

    async def _open_path(self, path: str) -> IOStream:
        connecting = socket.socket(socket.AF_UNIX)
        try:
            connecting.setblocking(False)  # noqa: FBT003 - it has no keyword
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().sock_connect(connecting, path)
        except BaseException:
            connecting.close()
            raise
        return IOStream(connecting)


_PARAMETERS = HTTP1ConnectionParameters()


def _nothing() -> None:
    """Do nothing."""


class _Reading(HTTPMessageDelegate):
    """Takes one answer as it comes."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.chunks: list[bytes] = []
        self.complete = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Take the status; one that only says to go on is followed by another."""
        if isinstance(start_line, ResponseStartLine):
            self.status, self.headers = start_line.code, headers

    def data_received(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self.chunks.append(chunk)

    def finish(self) -> None:
        """Take note that all of it is there."""
        self.complete = True

    def on_connection_close(self) -> None:
        """Do nothing: an answer that isn't complete says it."""
