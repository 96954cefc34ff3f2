"""The server's life: open the log, listen, serve, drain, close."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from archibald_rt.app import internal_app, public_app
from archibald_rt.auth import BearerTokens, TokenVerifier
from archibald_rt.drain import drain
from archibald_rt.emissions import EmissionReader
from archibald_rt.errors import ConfigError
from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import TransientTypes
from archibald_rt.hub import Hub
from archibald_rt.listen import (
    Endpoint,
    Listener,
    descriptors_for_devices,
    raise_descriptor_limit,
    url_of,
)
from archibald_rt.order import OrderQueue
from archibald_rt.origins import OriginPolicy
from archibald_rt.reception import ClientMessageHook, Reception, Tuning
from archibald_rt.settings import (
    InternalSettings,
    ServerSettings,
    Settings,
    require_secrets,
    set_without_effect,
)
from archibald_rt.shutdown import Shutdown
from archibald_rt.sweep import Sweep
from archibald_rt.timestamps import Stamper
from archibald_rt.upkeep import Upkeep

RECENT = 1024 * 1024
"""How many bytes of what was dispatched last are kept for devices that turn live."""

_PUBLIC_BODY = 64 * 1024
_INTERNAL_IDLE = 3600.0

_logger = structlog.stdlib.get_logger("archibald_rt.server")


class Server:
    """A server that listens; made by `running`."""

    def __init__(
        self, reception: Reception, order: OrderQueue, shutdown: Shutdown, *, drain: float
    ) -> None:
        self.shutdown = shutdown
        self.public_url = ""
        self.internal_url = ""
        self.max_connections = reception.tuning.max_connections
        self._reception = reception
        self._order = order
        self._drain = drain
        self._http: list[Listener] = []

    def listen(self, public: Listener, internal: Listener, settings: Settings) -> None:
        """Listen on both endpoints. Raises `ListenError`."""
        self.public_url = self._listen(public, settings.server)
        self.internal_url = self._listen(internal, settings.internal)

    def _listen(self, http: Listener, at: ServerSettings | InternalSettings) -> str:
        sockets = Endpoint(at.host, at.port, at.unix_socket, at.unix_socket_mode).bind()
        http.add_sockets(sockets)
        self._http.append(http)
        return url_of(sockets)

    async def drain(self) -> None:
        """Take nothing new, finish what was accepted, and part from the devices in order."""
        await drain(
            self._reception,
            self._order,
            self._http,
            seconds=self._drain,
            # After a fault nobody is to rely on this process any longer than need be.
            spread=self.shutdown.fault is None,
        )


def check(settings: Settings) -> None:
    """Raise `ConfigError` for settings that are right by themselves but start no server."""
    require_secrets(settings)
    if settings.log.engine != "sqlite":
        raise ConfigError(f"[log] engine: {settings.log.engine} is not there yet, only sqlite")
    if not any(name.startswith("HS") for name in settings.auth.algorithms):
        raise ConfigError(
            "[auth] algorithms: none of them verifies a token by a shared secret, such as HS256"
        )


@asynccontextmanager
async def running(
    settings: Settings, *, on_message: ClientMessageHook | None = None
) -> AsyncIterator[Server]:
    """Run a server until the end of the block, then drain and close it.

    Raises `ConfigError`, `LogOpenError` or `ListenError`, each with a message of one line.
    """
    check(settings)
    auth, delivery, internal = settings.auth, settings.delivery, settings.internal
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_sqlite(settings.log.path))
        stamp = Stamper(not_before_ms=log.last_commit_ms)
        shutdown = Shutdown()
        hub = Hub(log.head, recent=RECENT)
        sweep = Sweep(heartbeat=delivery.heartbeat, stall_timeout=delivery.stall_timeout)
        verifier = TokenVerifier(
            auth.jwt_secret,
            algorithms=auth.algorithms,
            issuer=auth.issuer,
            audience=auth.audience,
            user_claims=auth.user_claims,
            role_claim=auth.role_claim,
            admin_role=auth.admin_role,
            require_exp=auth.require_exp,
            leeway=auth.leeway,
        )
        possible = descriptors_for_devices()
        allowed = min(settings.server.max_connections or possible, possible)
        reception = Reception(
            verifier,
            OriginPolicy(settings.server.allowed_origins),
            hub,
            log,
            sweep,
            tuning=Tuning(
                heartbeat=delivery.heartbeat,
                stall_timeout=delivery.stall_timeout,
                max_outbox=delivery.max_outbox,
                replay_page=delivery.replay_page,
                max_client_message=delivery.max_client_message,
                max_connections=allowed,
                leeway=auth.leeway,
            ),
            broken=shutdown.broken,
            on_message=on_message,
        )
        order = OrderQueue(log, hub, max_bytes=internal.max_queue, on_broken=shutdown.broken)
        upkeep = Upkeep(
            log,
            order.between,
            retention=Retention(
                max_age_ms=int(settings.log.max_age * 1000),
                max_events_per_user=settings.log.max_events_per_user,
                max_size=settings.log.max_size,
            ),
            every=settings.log.prune_every,
            forget=hub.forget,
            broken=shutdown.broken,
        )
        server = Server(reception, order, shutdown, drain=settings.server.drain)
        reader = EmissionReader(
            stamp,
            TransientTypes(settings.events.transient),
            max_event=settings.events.max_event,
        )
        public = Listener(
            public_app(reception, hub, order, log, stamp),
            idle_connection_timeout=settings.server.handshake_timeout or _INTERNAL_IDLE,
            body_timeout=settings.server.handshake_timeout or None,
            max_body_size=_PUBLIC_BODY,
        )
        inner = Listener(
            internal_app(
                reception,
                hub,
                order,
                log,
                reader,
                upkeep,
                emit_tokens=BearerTokens(internal.emit_tokens),
                read_tokens=BearerTokens(internal.read_tokens),
                max_body=internal.max_body,
            ),
            idle_connection_timeout=_INTERNAL_IDLE,
        )
        for work in (sweep.run(), upkeep.run()):
            task = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(shutdown.ended)
            stack.push_async_callback(_cancelled, task)
        stack.push_async_callback(server.drain)
        server.listen(public, inner, settings)
        yield server


async def serve(settings: Settings, *, on_listening: Callable[[Server], None] | None = None) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit code.

    The first signal drains, a second one ends the process at once with 1. ``on_listening`` is
    called once connections are taken.
    """
    loop = asyncio.get_running_loop()
    limit = raise_descriptor_limit()
    async with running(settings) as server:
        stopping = False

        def on_signal() -> None:
            nonlocal stopping
            if stopping:
                sys.stderr.flush()
                os._exit(1)
            stopping = True
            _logger.info("draining", seconds=settings.server.drain)
            server.shutdown.ask()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        _warn_of_short_secrets(settings)
        if unused := set_without_effect(settings):
            _logger.warning("set, but without effect in this release", keys=", ".join(unused))
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
        await server.shutdown.wanted()
    _logger.info("stopped")
    return 0 if server.shutdown.fault is None else 1


def _warn_of_short_secrets(settings: Settings) -> None:
    # RFC 7518, section 3.2: a key is to be as long as the hash.
    sizes = {"HS256": 32, "HS384": 48, "HS512": 64}
    shortest = min(len(secret.encode()) for secret in settings.auth.jwt_secret)
    for name in settings.auth.algorithms:
        if shortest < sizes.get(name, 0):
            _logger.warning(
                "[auth] jwt_secret is shorter than it should be", algorithm=name, bytes=sizes[name]
            )


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
