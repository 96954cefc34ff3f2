"""JetStream for a command, which does one thing after another and may wait for a pipe meanwhile.

The connection has a thread of its own, so that it answers while the command reads or writes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import msgspec

from archibald_rt.errors import LogCopyError, LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.nats.connecting import connected
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names

_T = TypeVar("_T")

Run = Callable[[Coroutine[Any, Any, _T]], _T]


class Where(msgspec.Struct, frozen=True):
    """Where a log is."""

    servers: Sequence[str]
    stream: str
    credentials: Path | None = None
    tls_ca: Path | None = None


class Remote:
    """JetStream, and the names of a log in it; made by `reached`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, jet: Jet, names: Names) -> None:
        self._loop = loop
        self.jet = jet
        self.names = names

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for what `jet` is asked. Whatever interrupts the wait ends the work.

        Raises `LogCopyError` in place of what a server would get over.
        """
        return _run(self._loop, work)


@contextmanager
def reached(where: Where) -> Iterator[Remote]:
    """Connect for the length of a block. Raises `LogOpenError`."""
    with _loop() as loop:
        connecting = connected(where.servers, credentials=where.credentials, tls_ca=where.tls_ca)
        link = _run(loop, _entered(connecting))
        try:
            yield Remote(loop, Jet(link.connection), Names(where.stream))
        finally:
            _run(loop, _left(connecting))


async def _entered(manager: Any) -> Any:
    return await manager.__aenter__()


async def _left(manager: Any) -> None:
    await manager.__aexit__(None, None, None)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    # What hangs must not keep the process from ending.
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except (LogUnavailableError, LogUncertainError) as error:
        raise LogCopyError(str(error)) from None
    finally:
        future.cancel()
