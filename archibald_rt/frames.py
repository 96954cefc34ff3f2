"""Reading a client's WebSocket frames: bytes in, messages out, no I/O (RFC 6455, section 5)."""

from archibald_rt.errors import ArchibaldError, CloseCode
from archibald_rt.protocol import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

_FINAL, _RESERVED, _OPCODE = 0x80, 0x70, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_CONTROL = 0x8
_MASK = 4
_LONGEST_CONTROL = 125
_IN_TWO_BYTES, _IN_EIGHT_BYTES = 126, 127
_NO_BOUND = 2**62


class FrameError(ArchibaldError):
    """A client broke the rules of the protocol: the connection is to be closed with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameReader:
    """Puts a client's messages together from the bytes that come.

    A message may have ``limit`` bytes; 0 is no bound. Nothing is kept while nothing is begun.
    """

    __slots__ = ("_buffer", "_limit", "_message", "_opcode")

    def __init__(self, limit: int) -> None:
        self._limit = limit or _NO_BOUND
        self._buffer: bytearray | None = None
        # The message of which fragments have come.
        self._opcode = 0
        self._message: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        if self._buffer is None:
            self._buffer = bytearray(data)
        else:
            self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """Return the next message or control frame: opcode and data; None until more comes.

        The opcode is never that of a continuation. Raises `FrameError`, after which nothing
        more is to be read.
        """
        while (frame := self._frame()) is not None:
            opcode, final, data = frame
            if opcode & _CONTROL or (final and self._message is None):
                return opcode, data
            if self._message is None:
                self._opcode, self._message = opcode, bytearray(data)
            else:
                self._message += data
            if final:
                message, self._message = bytes(self._message), None
                return self._opcode, message
        return None

    def _frame(self) -> tuple[int, bool, bytes] | None:
        """Take the next frame out of the buffer; None if it isn't there whole."""
        buffer = self._buffer
        if buffer is None or len(buffer) < 2:  # noqa: PLR2004 - what every frame begins with
            return None
        opcode, final = buffer[0] & _OPCODE, bool(buffer[0] & _FINAL)
        self._check(buffer[0], buffer[1])
        start, length = 2, buffer[1] & _LENGTH
        if length == _IN_TWO_BYTES:
            start = 4
        elif length == _IN_EIGHT_BYTES:
            start = 10
        if len(buffer) < start:
            return None
        if start > 2:  # noqa: PLR2004 - as above
            length = int.from_bytes(buffer[2:start])
        if not opcode & _CONTROL and length + len(self._message or b"") > self._limit:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        end = start + _MASK + length
        if len(buffer) < end:
            return None
        data = _unmasked(buffer[start : start + _MASK], buffer[start + _MASK : end])
        if len(buffer) == end:
            self._buffer = None
        else:
            del buffer[:end]
        return opcode, final, data

    def _check(self, first: int, second: int) -> None:
        """Raise `FrameError` for a frame that may not begin like this."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            fault = "reserved bits are set"
        elif not second & _MASKED:
            fault = "the frame is not masked"
        elif opcode in {CLOSE, PING, PONG}:
            if first & _FINAL and second & _LENGTH <= _LONGEST_CONTROL:
                return
            fault = "a control frame is in fragments or too long"
        elif opcode not in {CONTINUATION, TEXT, BINARY}:
            fault = "the opcode is unknown"
        elif (opcode == CONTINUATION) != (self._message is not None):
            fault = "a fragment is out of place"
        else:
            return
        raise FrameError(CloseCode.PROTOCOL_ERROR, fault)


def close_of(data: bytes) -> tuple[int | None, str | None]:
    """Return the code and the reason of a close frame, None and None where it has no body.

    Raises `FrameError` for one that breaks the rules of RFC 6455, sections 5.5.1 and 7.4.2: a
    code that may be sent, and UTF-8.
    """
    if not data:
        return None, None
    code = int.from_bytes(data[:2])
    if len(data) < 2 or not (  # noqa: PLR2004 - a code has two bytes
        1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999  # noqa: PLR2004 - the RFC's ranges
    ):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "")
    return code, text_of(data[2:])


def text_of(data: bytes) -> str:
    """Return a text; raises `FrameError` if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_PAYLOAD, "") from None


def _unmasked(mask: bytearray, data: bytearray) -> bytes:
    """Take the mask off (RFC 6455, section 5.3), as one long number."""
    length = len(data)
    masks = bytes(mask * (length // _MASK + 1))[:length]
    return (int.from_bytes(data) ^ int.from_bytes(masks)).to_bytes(length)
