"""Opening the log in a stream: the connection, and what is found behind it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from archibald_rt.errors import LogBrokenError, LogOpenError, LogUnavailableError
from archibald_rt.eventlog.base import Retention
from archibald_rt.eventlog.nats.connecting import connected
from archibald_rt.eventlog.nats.definition import open_stream
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


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
        try:
            await log.start()
        except (LogUnavailableError, LogBrokenError) as error:
            raise LogOpenError(f"[nats] stream {stream}: {error}") from None
        yield log
