"""Sending and receiving on a socket that doesn't block, plain or with TLS."""

import contextlib
import socket
import ssl
from collections.abc import Callable

FULL = (BlockingIOError, ssl.SSLWantWriteError)
"""What a socket raises that takes nothing more for now; the second with TLS."""

_EMPTY = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# How many bytes a record of TLS has at most (RFC 8446, section 5.1).
_RECORD = 16 * 1024

Send = Callable[[bytes | memoryview], int]
"""As `socket.send`: returns how many bytes were taken; raises one of `FULL`, or `OSError`."""


def received(sock: socket.socket, size: int) -> bytes | None:
    """Return what has come, None if nothing has; empty at the end, however that came about.

    Some ``size`` bytes; of what TLS has read already, of which the loop knows nothing, all.
    """
    try:
        data = sock.recv(size)
        while isinstance(sock, ssl.SSLSocket) and sock.pending():
            data += sock.recv(size)
    except _EMPTY:
        return None
    except OSError:
        return b""
    return data


def sender_of(sock: socket.socket) -> Send:
    """Return what sends on a socket."""
    return _by_records(sock) if isinstance(sock, ssl.SSLSocket) else sock.send


def end_sending(sock: socket.socket) -> None:
    """Tell the other side, if it is still there, that it has all; what it sends can be read."""
    with contextlib.suppress(OSError):
        if isinstance(sock, ssl.SSLSocket):
            # Says that nothing was cut off (RFC 8446, section 6.1), and waits for no answer.
            with contextlib.suppress(ssl.SSLError):
                sock.unwrap()
        sock.shutdown(socket.SHUT_WR)


def _by_records(sock: ssl.SSLSocket) -> Send:
    """Return what sends record by record: else nothing would count as taken before the last byte.

    What was refused is to be sent again as it was, or longer (SSL_write(3)); so it is, as a
    piece is a whole record wherever there is more behind it.
    """

    def send(data: bytes | memoryview) -> int:
        sent = 0
        view = memoryview(data)
        while sent < len(view):
            try:
                sent += sock.send(view[sent : sent + _RECORD])
            except FULL:
                if not sent:
                    raise
                break
        return sent

    return send
