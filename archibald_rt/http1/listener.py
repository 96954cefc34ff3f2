"""Takes connections, and knows those there are until they end or speak another protocol."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable

import structlog
from tornado.httputil import HTTPServerConnectionDelegate

from archibald_rt.addresses import NO_ADDRESS
from archibald_rt.http1.answers import DateHeader
from archibald_rt.http1.connection import RequestConnection
from archibald_rt.http1.terms import Connection, Context, Limits
from archibald_rt.http1.tls import Handshake
from archibald_rt.requestids import RequestIds

ACCEPTS = 64
"""How many connections are taken in one turn of the loop.

All their handshakes come right after it: with thousands, everybody else would wait for seconds.
"""

ACCEPT_PAUSE = 1.0
"""For how many seconds no connection is taken when there is no descriptor for it."""

LOOK_EVERY = 0.5
"""How many seconds lie between two looks for clients that took too long."""

_logger = structlog.stdlib.get_logger("archibald_rt.http")


class Listener:
    """Serves an application on listening sockets.

    While the process has no descriptor left it pauses. With ``tls`` connections begin with its
    handshake, which has to be done within the time for a request's head. Of ``most`` connections
    (0 for any number) the one that has asked nothing for longest makes room for a new one, so
    that strangers who only hold theirs open can't take all descriptors.
    """

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        limits: Limits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        most: int = 0,
        request_ids: RequestIds | None = None,
    ) -> None:
        self.stopping = False
        """Whether every connection ends with its next answer."""
        self.date = DateHeader()
        """This moment's `Date` header."""
        self.request_ids = request_ids or RequestIds()
        """What calls requests something that could not be read."""
        self._application = application
        self._limits = limits or Limits()
        self._tls = tls
        self._most = most
        self._connections: dict[Connection, None] = {}
        self._listening: list[Callable[[], None]] = []
        self._none_left = asyncio.Event()
        self._look: asyncio.TimerHandle | None = None

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Take the connections that come to these sockets."""
        self._listening += [self._accept_from(listener) for listener in sockets]
        self._look_later()

    @property
    def secure(self) -> bool:
        """Whether connections begin with the handshake of TLS."""
        return self._tls is not None

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Have connections that are accepted from now on speak TLS by this context."""
        self._tls = context

    @property
    def connections(self) -> int:
        """How many there are, but for those that speak another protocol by now."""
        return len(self._connections)

    def stop(self) -> None:
        """Take no more connections; those there are end with their next answer.

        The listening sockets are closed; one that another process holds too goes on to gather
        connections for it. Doing it again does nothing.
        """
        self.stopping = True
        while self._listening:
            self._listening.pop()()

    async def over(self, within: float) -> None:
        """Wait until all connections have ended, for so many seconds; then end those left.

        To be called when it has been stopped.
        """
        if self._connections:
            self._none_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), within)
        # All at once: what is given up for one client is not begun for the next.
        for connection in list(self._connections):
            connection.abort()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def asked(self, connection: Connection) -> None:
        """Take note that a request was answered: others have asked nothing for longer."""
        if connection in self._connections:
            self._connections[connection] = self._connections.pop(connection)

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended, or that speaks another protocol from now on."""
        self._connections.pop(connection, None)
        if not self._connections:
            self._none_left.set()

    def _look_later(self) -> None:
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look_at_all)

    def _look_at_all(self) -> None:
        """Time out whoever is due. One look at all costs less than a timer for each request."""
        now = asyncio.get_running_loop().time()
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.time_out()
        self._look = None
        self._look_later()

    def _accept_from(self, listener: socket.socket) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        pause: asyncio.TimerHandle | None = None

        def accept() -> None:
            nonlocal pause
            for _ in range(ACCEPTS):
                try:
                    connection, address = listener.accept()
                except (BlockingIOError, InterruptedError):
                    return
                except ConnectionAbortedError:
                    continue
                except OSError as error:
                    _logger.warning(
                        "can't accept, pausing", reason=error.strerror, seconds=ACCEPT_PAUSE
                    )
                    loop.remove_reader(listener)
                    pause = loop.call_later(ACCEPT_PAUSE, loop.add_reader, listener, accept)
                    return
                try:
                    self._accepted(connection, address)
                except OSError as error:
                    # The client has gone by now.
                    _logger.debug("can't begin", reason=str(error))
                    connection.close()

        def stop() -> None:
            if pause is not None:
                pause.cancel()
            loop.remove_reader(listener)
            listener.close()

        loop.add_reader(listener, accept)
        return stop

    def _make_room(self) -> None:
        """Part from the one that has asked nothing for longest."""
        oldest = next((each for each in self._connections if each.idle), None)
        if oldest is not None:
            oldest.abort()

    def _accepted(self, sock: socket.socket, address: object) -> None:
        if self._most and len(self._connections) >= self._most:
            self._make_room()
        sock.setblocking(False)  # noqa: FBT003 - it has no keyword
        remote_ip = NO_ADDRESS
        if isinstance(address, tuple):
            # Answers are written in one piece; nothing is gained by waiting for more.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            remote_ip = address[0]
        if self._tls is None:
            self._begin(sock, Context(remote_ip, "http"))
            return

        def begin(secured: ssl.SSLSocket) -> None:
            self._begin(secured, Context(remote_ip, "https"))

        handshake = Handshake(sock, self._tls, self._limits.head, begin, self.gone)
        self._connections[handshake] = None
        handshake.start()

    def _begin(self, sock: socket.socket, context: Context) -> None:
        connection = RequestConnection(sock, context, self._application, self._limits, self)
        self._connections[connection] = None
        connection.start()
