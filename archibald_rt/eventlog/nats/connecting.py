"""The connection to NATS: kept up, never in the clear where it is not to be, and closed in time."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog.nats.credentials import Credentials
from archibald_rt.eventlog.nats.definition import require_version

CONNECT_WITHIN = 5.0
"""For how many seconds a server is looked for at the start."""

PING_EVERY = 2
"""Every how many seconds it is looked whether the server answers."""

CLOSE_WITHIN = 2.0
"""For how many seconds what was sent last may take to go out at the end."""

_REFUSALS = ("Authorization Violation", "offers no TLS", "[nats] credentials")
"""What errors say that another try doesn't mend."""

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


class Listener(Protocol):
    """What is told how a connection fares."""

    def disconnected(self) -> None:
        """Take note that the connection was lost."""

    def reconnected(self) -> None:
        """Go on after the connection was lost."""

    def overrun(self, subject: str) -> None:
        """Take note that a message came faster than messages are taken, and was dropped."""

    def closed(self, reason: str) -> None:
        """Take note that the connection will not come back."""


class _Client(Client):
    """The client, which by itself goes on in the clear where a server says so."""

    tls_required = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - the client's signature
        # Before it says anything of itself.
        if initial_connection and self.tls_required and not info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS; tls:// and tls_ca ask for it")
        await super()._process_info(info, initial_connection=initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        # The one of a try that failed would be left to the garbage collector.
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]  # it has no types
        await super()._connect_to_server(s)

    def abort(self) -> None:
        """Have no socket any more, whatever was on its way; `close` leaves one in a bad moment."""
        for name in ("_io_writer", "_bare_io_writer"):
            if (writer := getattr(self._transport, name, None)) is not None:
                writer.transport.abort()


class Link:
    """A connection that is kept up, and the log, if any, that is told how it fares."""

    def __init__(self) -> None:
        self.connection = _Client()
        self.log: Listener | None = None
        self._error: Exception | None = None
        # While it is connected for the first time: how many servers are to refuse it, and until
        # when it is tried.
        self._trying: asyncio.Timeout | None = None
        self._willing = 0

    async def connect(
        self, servers: Sequence[str], *, credentials: Path | None, tls_ca: Path | None
    ) -> None:
        """Connect to one of the servers. Raises `LogOpenError`."""
        try:
            tls = None if tls_ca is None else ssl.create_default_context(cafile=tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise LogOpenError(f"[nats] tls_ca {tls_ca}: {error}") from None
        self.connection.tls_required = tls_ca is not None or any(
            urlsplit(server).scheme == "tls" for server in servers
        )
        login: dict[str, Any] = {**_login(servers)}
        if credentials is not None:
            login |= Credentials(credentials).callbacks()
        try:
            async with asyncio.timeout(CONNECT_WITHIN) as self._trying:
                self._willing = len(servers)
                await self.connection.connect(
                    list(servers),
                    name="archibald_rt",
                    # What this server sends to the others is not to come back.
                    no_echo=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    # A server that has fallen silent is left after two missed ones.
                    ping_interval=PING_EVERY,
                    max_outstanding_pings=2,
                    # Else a publish would wait, for ever, behind two megabytes that don't go out,
                    # and one without a connection be kept for the next.
                    pending_size=0,
                    tls=tls,
                    error_cb=self._failed,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    closed_cb=self._closed,
                    **login,
                )
        except TimeoutError:
            why = "" if self._error is None else f": {self._error}"
            raise LogOpenError(f"[nats] servers: none of them could be reached{why}") from None
        except (nats.errors.Error, OSError, ValueError) as error:
            raise LogOpenError(f"[nats] servers: {error}") from None
        finally:
            self._trying = None

    async def close(self) -> None:
        """End the connection, also one that takes nothing more. Doing it again does nothing."""
        self.log = None
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                # It can't close what was never begun.
                if self.connection.servers:
                    await self.connection.close()
        except (TimeoutError, OSError) as error:
            _logger.debug("the connection to NATS was broken off", reason=repr(error))
        finally:
            self.connection.abort()

    async def _disconnected(self) -> None:
        if self.log is not None:
            _logger.warning("disconnected from NATS", reason=str(self._error or "it was closed"))
            self.log.disconnected()

    async def _reconnected(self) -> None:
        self._error = None
        if self.log is not None:
            _logger.info("reconnected to NATS")
            self.log.reconnected()

    async def _closed(self) -> None:
        if self.log is not None:
            self.log.closed(str(self.connection.last_error or self._error))

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            if self.log is not None:
                self.log.overrun(error.subject)
            return
        # A command says it in its one line.
        if self.log is not None and str(error) != str(self._error):
            _logger.warning("NATS", error=repr(error))
        self._error = error
        refused = isinstance(error, ssl.SSLError) or any(map(str(error).__contains__, _REFUSALS))
        if self._trying is not None and refused:
            self._willing -= 1
            if self._willing <= 0:
                self._trying.reschedule(0)


def _login(servers: Sequence[str]) -> dict[str, str]:
    """Return who to be at all servers, those that are found later as well.

    Where some have another user than others each keeps what is in its address.
    """
    found = {
        (each.username, each.password)
        for each in map(urlsplit, servers)
        if each.username is not None
    }
    if len(found) != 1:
        return {}
    ((user, password),) = found
    if password is None:
        return {"token": unquote(user)}
    return {"user": unquote(user), "password": unquote(password)}


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
        await link.close()
