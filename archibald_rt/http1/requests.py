"""Requests, read: bytes in, parts out, no I/O. The parser is Node's (llhttp, by httptools).

It is strict where RFC 9112 warns of request smuggling: line endings, `Content-Length` beside
`Transfer-Encoding`, white space around names, folded lines, data behind the last request.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import NoReturn

import httptools
import msgspec
from tornado.httputil import HTTPHeaders, RequestStartLine

MAX_HEAD = 64 * 1024
"""How many bytes a request's line and headers may have, and whatever else frames a body."""

MAX_HEADERS = 256
"""How many headers a request may have."""

_VERSIONS = frozenset({"1.0", "1.1"})


# A frozen dataclass takes half a microsecond to make, several times as much.
class Head(msgspec.Struct, frozen=True):
    """A request's line and headers; ``keep_alive`` says whether another may follow it."""

    start_line: RequestStartLine
    headers: HTTPHeaders
    keep_alive: bool

    @property
    def expects_leave(self) -> bool:
        """Whether the client waits to be told that it may send its body."""
        if self.start_line.version == "HTTP/1.0" or "Expect" not in self.headers:
            return False
        return self.headers["Expect"].lower() == "100-continue"


class End(Enum):
    """The end of a request."""

    END = "end"


END = End.END


@dataclass(frozen=True, slots=True)
class Breach:
    """What came is no request, or none that is taken: nothing that follows has a meaning."""

    status: HTTPStatus
    detail: str


Part = Head | bytes | End | Breach


class RequestReader:
    """Reads requests one after the other.

    `feed` adds to ``parts``: a `Head`, pieces of the body, `END`, then the next one's. A
    `Breach` is the last of all. A body may have ``max_body`` bytes, 0 for any number.
    """

    __slots__ = (
        "_behind",
        "_body",
        "_headers",
        "_max_body",
        "_parser",
        "_quiet",
        "_refusal",
        "_since",
        "_target",
        "parts",
        "rest",
    )

    def __init__(self, *, max_body: int) -> None:
        self.parts: deque[Part] = deque()
        self.rest = b""
        """What came behind a request that asked for another protocol, unread."""
        self._max_body = max_body
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._target = b""
        # None once a head is complete: what comes after are a body's trailers.
        self._headers: list[tuple[bytes, bytes]] | None = []
        self._body = 0
        # How the body is framed that the parser leaves unread behind an `Upgrade`.
        self._behind = b""
        self._quiet = False
        self._refusal: Breach | None = None
        # How many bytes have come without a head, a piece of a body or an end.
        self._since = 0

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._parser is not None and self._since > 0

    def feed(self, data: bytes) -> None:
        """Read what has come."""
        if self.rest:
            # Another protocol was asked for, and whether it will be spoken is not decided.
            self.rest += data
            return
        if self._parser is None:
            return
        self._since += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_behind(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            if self._refusal is None:
                raise
            self._breach(self._refusal)
        except httptools.HttpParserInvalidURLError:
            detail = "path: expected ASCII, with everything else percent-encoded"
            self._breach(Breach(HTTPStatus.BAD_REQUEST, detail))
        except httptools.HttpParserError as error:
            self._breach(Breach(HTTPStatus.BAD_REQUEST, f"malformed HTTP: {error}"))
        else:
            if self._since > MAX_HEAD:
                self._breach(_too_large(f"{MAX_HEAD} bytes"))

    def _go_on_behind(self, rest: bytes) -> None:
        """Go on behind the head of a request that asks for another protocol.

        The parser takes all that follows for that protocol, a body as well. So another one is
        begun in the middle, by a head of our own with the framing of that body.
        """
        self._parser = httptools.HttpRequestParser(self)
        framing, self._behind = self._behind, b""
        if not framing:
            self.rest = rest
            return
        self._quiet = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        self._quiet = False
        if rest:
            self.feed(rest)

    def no_upgrade(self) -> None:
        """Go on with what came behind a request whose other protocol is not to be spoken."""
        rest, self.rest = self.rest, b""
        if rest:
            self.feed(rest)

    def close(self) -> None:
        """Read nothing more. Calling it again does nothing."""
        # The parser keeps methods of this object.
        self._parser = None

    def _breach(self, breach: Breach) -> None:
        self.close()
        self.parts.append(breach)

    def _refuse(self, breach: Breach) -> NoReturn:
        """Have the parser stop: what it calls can only raise."""
        self._refusal = breach
        raise _StopParsingError

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin with a request."""
        if self._quiet:
            return
        self._target = b""
        self._headers = []
        self._body = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are dropped, since nothing here reads any."""
        if self._headers is None:
            return
        if len(self._headers) >= MAX_HEADERS:
            self._refuse(_too_large(f"{MAX_HEADERS} of them"))
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Take a head that is complete."""
        if self._quiet:
            return
        parser, pairs = self._parser, self._headers
        if parser is None or pairs is None:
            raise RuntimeError("a head in the middle of a request")
        version = parser.get_http_version()
        if version not in _VERSIONS:
            detail = "version: expected HTTP/1.1 or HTTP/1.0"
            self._refuse(Breach(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, detail))
        headers = HTTPHeaders()
        for raw_name, raw_value in pairs:
            # RFC 9112, section 5: white space around a value is no part of it.
            name, value = raw_name.decode("latin-1"), raw_value.rstrip(b" \t").decode("latin-1")
            if name in headers:
                headers.add(name, value)
            else:
                # `add` would look at every character, which the parser has done.
                headers[name] = value
        self._check_coding(headers.get("Transfer-Encoding"), version)
        if parser.should_upgrade():
            self._behind = _framing(headers)
            if self._behind and headers.get("Upgrade", "").lower() == "websocket":
                self._refuse(Breach(HTTPStatus.BAD_REQUEST, "body: expected none"))
        method = parser.get_method().decode("latin-1")
        line = RequestStartLine(method, self._target.decode("latin-1"), f"HTTP/{version}")
        self._headers, self._since = None, 0
        self.parts.append(Head(line, headers, parser.should_keep_alive()))

    def _check_coding(self, coding: str | None, version: str) -> None:
        if coding is not None and version == "1.0":
            # RFC 9112, section 6.1: such framing is faulty.
            detail = "Transfer-Encoding: expected none in HTTP/1.0"
            self._refuse(Breach(HTTPStatus.BAD_REQUEST, detail))
        if coding is not None and coding.lower() != "chunked":
            detail = "Transfer-Encoding: expected chunked"
            self._refuse(Breach(HTTPStatus.NOT_IMPLEMENTED, detail))

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._since = 0
        self._body += len(body)
        if self._max_body and self._body > self._max_body:
            detail = f"body: expected at most {self._max_body} bytes"
            self._refuse(Breach(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail))
        self.parts.append(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._since = 0
        if not self._behind:
            self.parts.append(END)


class _StopParsingError(Exception):
    """Raised through the parser, which has no other way to be stopped."""


def _framing(headers: HTTPHeaders) -> bytes:
    """Return the header that frames a body, empty if there is none.

    Whether or not another protocol is spoken then, the body comes first (RFC 9110, section 7.8).
    """
    if "Transfer-Encoding" in headers:
        return b"Transfer-Encoding: chunked"
    length = headers.get("Content-Length", "0")
    return b"Content-Length: " + length.encode("latin-1") if length.strip("0") else b""


def _too_large(bound: str) -> Breach:
    detail = f"headers: expected at most {bound}"
    return Breach(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
