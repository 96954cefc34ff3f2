"""One request and its answer: how far each of them is."""

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, ResponseStartLine

from archibald_rt.http1.answers import head_of
from archibald_rt.http1.requests import Head

_OLD = "HTTP/1.0"
_BODILESS = frozenset({204, 304})


class Exchange:
    """A request whose head was read, ``delegate`` takes the rest."""

    __slots__ = (
        "_chunked",
        "answered",
        "awaits_leave",
        "begun",
        "complete",
        "delegate",
        "dropped",
        "head",
        "heard",
        "last",
    )

    def __init__(self, head: Head, delegate: HTTPMessageDelegate) -> None:
        self.head = head
        self.delegate = delegate
        self.awaits_leave = head.expects_leave
        """Whether the client waits to be told that it may send the body."""
        self.heard = False
        """Whether the delegate took the head, and is to hear of the end."""
        self.complete = False
        """Whether the request was read to its end."""
        self.begun = False
        """Whether anything of the answer was written."""
        self.answered = False
        """Whether all of it was."""
        self.last = False
        """Whether the connection ends with it."""
        self.dropped = 0
        """How many bytes of the request were of no use to anybody."""
        self._chunked = False

    def answer(
        self,
        start_line: ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes,
        *,
        date: str,
        last: bool,
    ) -> bytes:
        """Return the bytes that an answer begins with (RFC 9112, sections 6 and 9).

        With a ``date``, unless that is empty, among the headers.
        Raises ValueError for a line break within a header.
        """
        version, method = self.head.start_line.version, self.head.start_line.method
        bodiless = method == "HEAD" or start_line.code in _BODILESS
        unbounded = not bodiless and "Content-Length" not in headers
        self._chunked = unbounded and version != _OLD
        if self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        if (
            last
            or not self.head.keep_alive
            or (unbounded and version == _OLD)
            or headers.get("Connection") == "close"
        ):
            self.last = True
            headers["Connection"] = "close"
        elif version == _OLD:
            headers["Connection"] = "keep-alive"
        data = head_of(start_line, headers, date)
        self.begun = True
        return data + self.piece(chunk)

    def piece(self, chunk: bytes) -> bytes:
        """Return the bytes for a piece of the answer's body."""
        if self._chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk

    def end(self) -> bytes:
        """Return the bytes that an answer ends with."""
        self.answered = True
        return b"0\r\n\r\n" if self._chunked else b""
