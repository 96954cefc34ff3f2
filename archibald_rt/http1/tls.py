"""The handshake of TLS on an accepted connection, without blocking."""

import asyncio
import math
import socket
import ssl
from collections.abc import Callable

import structlog

_logger = structlog.stdlib.get_logger("archibald_rt.http")


class Handshake:
    """A handshake under way: ``done`` gets the socket that came of it.

    ``gone`` is called once, when it is over, for better (before ``done``) or worse.
    ``deadline`` is when `time_out` is to be called, by the loop's clock.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        seconds: float,
        done: Callable[[ssl.SSLSocket], None],
        gone: Callable[["Handshake"], None],
    ) -> None:
        self.idle = True
        """Nothing was asked yet."""
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + seconds if seconds else math.inf
        self._socket = context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self._done = done
        self._gone = gone
        self._writing = False
        self._over = False

    def start(self) -> None:
        """Begin."""
        self._loop.add_reader(self._socket.fileno(), self._go_on)

    def time_out(self) -> None:
        """End it, for its client took too long."""
        self.abort()

    def abort(self) -> None:
        """End it. Doing it again does nothing."""
        if not self._over:
            self._end()
            self._socket.close()

    def _go_on(self) -> None:
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._await_writing(wanted=False)
        except ssl.SSLWantWriteError:
            self._await_writing(wanted=True)
        except OSError as error:
            # No certificate that the client likes, plain HTTP, or nobody any more.
            _logger.debug("handshake failed", reason=getattr(error, "reason", None) or str(error))
            self.abort()
        else:
            self._end()
            self._done(self._socket)

    def _await_writing(self, *, wanted: bool) -> None:
        if wanted and not self._writing:
            self._loop.add_writer(self._socket.fileno(), self._go_on)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._socket.fileno())
        self._writing = wanted

    def _end(self) -> None:
        self._over = True
        self._await_writing(wanted=False)
        self._loop.remove_reader(self._socket.fileno())
        self._gone(self)
