"""Opening the log in a stream: the connection, and what is found behind it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats.errors
import structlog
from nats.aio.client import Client

from archibald_rt.errors import LogBrokenError, LogOpenError, LogUnavailableError
from archibald_rt.eventlog.base import Retention
from archibald_rt.eventlog.nats.definition import open_stream, require_version
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names

CONNECT_WITHIN = 5.0
"""For how many seconds a server is looked for at the start."""

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


class Link:
    """A connection that is kept up, and the log, if any, that is told how it fares."""

    def __init__(self) -> None:
        self.connection = Client()
        self.log: NatsLog | None = None
        self._error: Exception | None = None

    async def connect(
        self, servers: Sequence[str], *, credentials: Path | None, tls_ca: Path | None
    ) -> None:
        """Connect to one of the servers. Raises `LogOpenError`."""
        try:
            tls = None if tls_ca is None else ssl.create_default_context(cafile=tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise LogOpenError(f"[nats] tls_ca {tls_ca}: {error}") from None
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await self.connection.connect(
                    list(servers),
                    name="archibald_rt",
                    # What this server sends to the others is not to come back.
                    no_echo=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=5,
                    tls=tls,
                    user_credentials=None if credentials is None else str(credentials),
                    error_cb=self._failed,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    closed_cb=self._closed,
                )
        except TimeoutError:
            why = "" if self._error is None else f": {self._error}"
            raise LogOpenError(f"[nats] servers: none of them could be reached{why}") from None
        except (nats.errors.Error, OSError, ValueError) as error:
            raise LogOpenError(f"[nats] servers: {error}") from None

    async def _disconnected(self) -> None:
        if self.log is not None:
            _logger.warning("disconnected from NATS")
            self.log.disconnected()

    async def _reconnected(self) -> None:
        if self.log is not None:
            _logger.info("reconnected to NATS")
            self.log.reconnected()

    async def _closed(self) -> None:
        if self.log is not None:
            self.log.closed(str(self._error))

    async def _failed(self, error: Exception) -> None:
        self._error = error
        _logger.debug("NATS", error=repr(error))

    def leave(self) -> None:
        """Tell the log nothing more: it is being closed."""
        self.log = None


@asynccontextmanager
async def connected(
    servers: Sequence[str], *, credentials: Path | None = None, tls_ca: Path | None = None
) -> AsyncIterator[Link]:
    """Connect for the length of a block. Raises `LogOpenError` with one line."""
    link = Link()
    try:
        await link.connect(servers, credentials=credentials, tls_ca=tls_ca)
        version = link.connection.connected_server_version
        require_version(version.major, version.minor)
        yield link
    finally:
        await link.connection.close()


@asynccontextmanager
async def open_nats(
    servers: Sequence[str],
    stream: str,
    *,
    replicas: int = 1,
    retention: Retention = Retention(),  # noqa: B008 - frozen
    credentials: Path | None = None,
    tls_ca: Path | None = None,
    max_event: int = 64 * 1024,
    name: str = "",
) -> AsyncIterator[NatsLog]:
    """Open the log in a stream, making it where there is none; close it at the end.

    ``retention`` and ``replicas`` are for a stream that is made; where one that is there differs,
    that is logged and nothing is changed. ``name`` is what this server is called among those on the
    log. Raises `LogOpenError` with one line.
    """
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(
            connected(servers, credentials=credentials, tls_ca=tls_ca)
        )
        connection = link.connection
        if connection.max_payload < max_event:
            raise LogOpenError(
                f"[nats] servers: their max_payload is {connection.max_payload}; expected at"
                f" least max_event, {max_event}"
            )
        names = Names(stream)
        jet = Jet(connection)
        opened = await open_stream(jet, names, retention, replicas=replicas)
        for line in opened.differing:
            _logger.warning("the stream has other limits, nothing was changed", differs=line)
        log = link.log = NatsLog(jet, names, opened, name=name)
        stack.push_async_callback(log.close)
        stack.callback(link.leave)
        try:
            await log.start()
        except (LogUnavailableError, LogBrokenError) as error:
            raise LogOpenError(f"[nats] stream {stream}: {error}") from None
        yield log
