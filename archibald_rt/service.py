"""The server as a process of its own: signals, its service manager, the exit code."""

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from archibald_rt.errors import ConfigError
from archibald_rt.listen import raise_descriptor_limit
from archibald_rt.server import Server, node_of, running
from archibald_rt.settings import Settings
from archibald_rt.systemd import NOTHING_INHERITED, Inherited, Notifier

LONGEST_CLOSE = 30.0
"""How many seconds the end may take besides the drain: a last commit, the log's closing."""

_logger = structlog.stdlib.get_logger("archibald_rt.server")


async def serve(
    settings: Settings,
    inherited: Inherited,
    manager: Notifier,
    *,
    reread: Callable[[], Settings],
    on_listening: Callable[[Server], None] | None = None,
) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit code.

    The first signal drains, a second one ends the process at once with 1. At SIGHUP the
    configuration is read again by ``reread``. The service manager is told, and ``on_listening``
    called, once connections are taken.
    """
    loop = asyncio.get_running_loop()
    limit = raise_descriptor_limit()
    if settings.log.engine == "nats":
        # Lines of several servers come together somewhere.
        structlog.contextvars.bind_contextvars(node=node_of(settings))
    async with manager.signs_of_life(), running(settings, inherited) as server:
        stopping = False

        def on_signal() -> None:
            nonlocal stopping
            if stopping:
                sys.stderr.flush()
                os._exit(1)
            stopping = True
            _logger.info("draining", seconds=settings.server.drain)
            server.shutdown.ask()

        hung_up = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hung_up.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        _warn_of_weakness(settings)
        if inherited != NOTHING_INHERITED:
            public, internal = len(inherited.public), len(inherited.internal)
            _logger.info("sockets inherited", public=public, internal=internal)
        _logger.info(
            "listening",
            public=server.public_url,
            internal=server.internal_url,
            log=str(settings.log.path),
            file_descriptors=limit,
            connections=server.max_connections,
        )
        if on_listening is not None:
            on_listening(server)
        status = f"listening on {server.public_url} and {server.internal_url}"
        await manager.ready(status)
        async with _reloads(server, hung_up, reread, manager, status):
            await server.shutdown.wanted()
        drain = settings.server.drain
        status = f"draining within {drain:g} s" if server.shutdown.fault is None else "failed"
        await manager.stopping(status, within=drain + LONGEST_CLOSE)
    _logger.info("stopped")
    return 0 if server.shutdown.fault is None else 1


@asynccontextmanager
async def _reloads(
    server: Server,
    asked: asyncio.Event,
    reread: Callable[[], Settings],
    manager: Notifier,
    status: str,
) -> AsyncIterator[None]:
    """Reload whenever that is asked for, one at a time, for the length of a block."""

    async def reload_when_asked() -> None:
        while True:
            await asked.wait()
            asked.clear()
            await manager.reloading()
            await _reload(server, reread)
            await manager.ready(status)

    task = asyncio.get_running_loop().create_task(reload_when_asked())
    task.add_done_callback(server.shutdown.ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _reload(server: Server, reread: Callable[[], Settings]) -> None:
    try:
        settings = await _aside(reread)
        found = server.reload(settings)
    except ConfigError as error:
        _logger.error("reload failed, nothing was changed", reason=str(error))  # noqa: TRY400 - whose fault it is stands in the line
        return
    except Exception:
        # What is in force works: a fault on the way to the next is no reason to end.
        _logger.exception("reload failed, nothing was changed")
        return
    _logger.info("reloaded", changed=", ".join(found.changed) or "nothing")
    _warn_of_weakness(settings)
    if found.need_restart:
        _logger.warning("needs a restart", keys=", ".join(found.need_restart))


async def _aside(reread: Callable[[], Settings]) -> Settings:
    """Read the configuration in a thread that nobody waits for at the end.

    A file may be on a disk that is slow to answer, or never does; `asyncio.to_thread` would have
    the process wait for it when it is to end.
    """
    done: concurrent.futures.Future[Settings] = concurrent.futures.Future()
    # Who gives up waiting takes nothing away from the thread, which ends when it ends.
    done.set_running_or_notify_cancel()

    def read() -> None:
        try:
            done.set_result(reread())
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=read, name="reload", daemon=True).start()
    return await asyncio.wrap_future(done)


def _warn_of_weakness(settings: Settings) -> None:
    """Say what works and should not stay so."""
    if settings.auth.jwks_url is not None and settings.auth.audience is None:
        # RFC 8725, section 3.9: an issuer's keys sign for all its customers.
        _logger.warning("[auth] jwks_url without audience: tokens made for others are good here")
    # RFC 7518, section 3.2: a key is to be as long as the hash.
    sizes = {"HS256": 32, "HS384": 48, "HS512": 64}
    lengths = [len(secret.encode()) for secret in settings.auth.jwt_secret]
    shortest = min(lengths, default=max(sizes.values()))
    for name in settings.auth.algorithms:
        if shortest < sizes.get(name, 0):
            _logger.warning(
                "[auth] jwt_secret is shorter than it should be", algorithm=name, bytes=sizes[name]
            )
