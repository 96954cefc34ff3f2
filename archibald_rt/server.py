"""A server in whatever process: its parts put together, listening, drained, closed."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

from msgspec import UNSET

from archibald_rt.addresses import TrustedProxies
from archibald_rt.app import internal_app, public_app
from archibald_rt.auth import BearerTokens, ClaimNames, Jwks, TokenVerifier
from archibald_rt.cluster import Cluster
from archibald_rt.drain import drain
from archibald_rt.emissions import EmissionReader
from archibald_rt.errors import ConfigError, LogError
from archibald_rt.eventlog import EventLog, Lasts, Retention
from archibald_rt.eventlog.peers import PeerHooks
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import TransientTypes
from archibald_rt.fetch import fetching
from archibald_rt.figures import Figures
from archibald_rt.http1.listener import Listener
from archibald_rt.http1.terms import Limits
from archibald_rt.hub import Hub
from archibald_rt.listen import Endpoint, descriptors_for_devices, url_of
from archibald_rt.looplag import LoopLag
from archibald_rt.metrics import Sources
from archibald_rt.order import OrderQueue
from archibald_rt.origins import OriginPolicy
from archibald_rt.recent import USERS
from archibald_rt.reception import ClientMessageHook, Counters, Reception, Tuning
from archibald_rt.relay import Relay
from archibald_rt.reload import Access, Reloaded, keys_of, tls_of
from archibald_rt.requestlog import RequestLog
from archibald_rt.revocations import Revocations
from archibald_rt.revoking import Revoker
from archibald_rt.scrape import Scraper
from archibald_rt.settings import (
    InternalSettings,
    LogSettings,
    ServerSettings,
    Settings,
    require_secrets,
)
from archibald_rt.shutdown import Shutdown
from archibald_rt.sweep import Sweep
from archibald_rt.systemd import NOTHING_INHERITED, Inherited
from archibald_rt.tap import Tap
from archibald_rt.timestamps import Stamper
from archibald_rt.upkeep import Upkeep
from archibald_rt.webhook import Webhook, also

RECENT = 1024 * 1024
"""How many bytes of what was dispatched last are kept for devices that turn live."""

_TURNED_AWAY = 1000
_PUBLIC_BODY = 64 * 1024
_INTERNAL_IDLE, _INTERNAL_BODY = 3600.0, 600.0


class Server:
    """A server that listens; made by `running`."""

    def __init__(
        self,
        reception: Reception,
        order: OrderQueue,
        tap: Tap,
        shutdown: Shutdown,
        access: Access,
        *,
        drain: float,
    ) -> None:
        self.shutdown = shutdown
        self.public_url = ""
        self.internal_url = ""
        self.max_connections = reception.tuning.max_connections
        self._reception = reception
        self._order = order
        self._tap = tap
        self._access = access
        self._drain = drain
        self._http: list[Listener] = []

    def listen(
        self, public: Listener, internal: Listener, settings: Settings, inherited: Inherited
    ) -> None:
        """Listen on both endpoints, where sockets were inherited on those. Raises `ListenError`."""
        self.public_url = self._listen(public, settings.server, inherited.public)
        self.internal_url = self._listen(internal, settings.internal, inherited.internal)

    def _listen(
        self,
        http: Listener,
        at: ServerSettings | InternalSettings,
        inherited: Sequence[socket.socket],
    ) -> str:
        sockets = (
            inherited or Endpoint(at.host, at.port, at.unix_socket, at.unix_socket_mode).bind()
        )
        http.add_sockets(sockets)
        self._http.append(http)
        return url_of(sockets, secure=http.secure)

    def reload(self, settings: Settings) -> Reloaded:
        """Use what these settings say of secrets, keys, tokens and the certificate from now on.

        Raises `ConfigError`, in one line, for settings that would not start a server, or a file
        that can't be used; then nothing has changed.
        """
        check(settings)
        return self._access.reload(settings)

    async def drain(self) -> None:
        """Take nothing new, finish what was accepted, and part from the devices in order."""
        self._access.jwks.close()
        await drain(
            self._reception,
            self._order,
            self._tap,
            self._http,
            seconds=self._drain,
            # After a fault nobody is to rely on this process any longer than need be.
            spread=self.shutdown.fault is None,
        )


def check(settings: Settings) -> None:
    """Raise `ConfigError` for settings that are right by themselves but start no server."""
    require_secrets(settings)
    if settings.log.engine == "nats" and find_spec("nats") is None:
        raise ConfigError(
            "[log] engine: nats needs a package more; pip install 'archibald_rt[nats]'"
        )
    keys_of(settings.auth)
    tls_of(settings.server)


def retention_of(log: LogSettings) -> Retention:
    """Return how much a log with these settings keeps."""
    return Retention(
        max_age_ms=int(log.max_age * 1000),
        max_events_per_user=log.max_events_per_user,
        max_size=log.max_size,
    )


def node_of(settings: Settings) -> str:
    """Return what a server is called among those on its log: where it is, unless it is said."""
    if settings.nats.node is not None:
        return settings.nats.node
    at = settings.server
    # A port that is found free, or a socket's path, may be another's as well on the same host.
    mark = os.getpid() if at.unix_socket is not None or not at.port else at.port
    return f"{socket.gethostname()}:{mark}"


def _opening(
    settings: Settings, stamped: Callable[[], int]
) -> AbstractAsyncContextManager[EventLog]:
    """Return what opens the log that is configured."""
    if settings.log.engine == "sqlite":
        return open_sqlite(settings.log.path, stamped=stamped)
    from archibald_rt.eventlog.nats.opening import (  # noqa: PLC0415 - who has SQLite needs no NATS
        open_nats,
    )

    return open_nats(
        settings.nats.servers,
        settings.nats.stream,
        replicas=settings.nats.replicas,
        retention=retention_of(settings.log),
        credentials=settings.nats.credentials,
        tls_ca=settings.nats.tls_ca,
        max_event=settings.events.max_event,
        name=node_of(settings),
    )


@asynccontextmanager
async def running(
    settings: Settings,
    inherited: Inherited = NOTHING_INHERITED,
    *,
    on_message: ClientMessageHook | None = None,
) -> AsyncIterator[Server]:
    """Run a server until the end of the block, then drain and close it.

    Sockets that are ``inherited`` are listened on in place of the configured addresses.
    Raises `ConfigError`, `LogOpenError` or `ListenError`, each with a message of one line.
    """
    check(settings)
    auth, delivery, internal = settings.auth, settings.delivery, settings.internal
    async with AsyncExitStack() as stack:
        stamp = Stamper()
        log = await stack.enter_async_context(_opening(settings, stamp.milliseconds))
        stamp.not_before(log.last_stamp_ms)
        shutdown = Shutdown()
        tap = Tap(log.epoch, node=UNSET if log.peers is None else log.peers.name)
        hub = Hub(log.head, recent=RECENT, lasts=await _lasts(log), tap=tap)
        sweep = Sweep(heartbeat=delivery.heartbeat, stall_timeout=delivery.stall_timeout)
        jwks = Jwks(await stack.enter_async_context(fetching()), auth.jwks_url)
        verifier = TokenVerifier(
            keys_of(auth),
            jwks,
            algorithms=auth.algorithms,
            issuer=auth.issuer,
            audience=auth.audience,
            claim_names=ClaimNames(auth.user_claims, auth.role_claim, auth.admin_role),
            require_exp=auth.require_exp,
            leeway=auth.leeway,
        )
        revocations = Revocations(await log.revocations(), leeway=auth.leeway)
        counters = Counters()
        if (url := settings.client_messages.webhook_url) is not None:
            webhook = Webhook(
                url,
                settings.client_messages.webhook_secret or "",
                timeout=settings.client_messages.timeout,
                counters=counters,
            )
            stack.push_async_callback(webhook.close)
            on_message = also(webhook.post, on_message)
        possible = descriptors_for_devices()
        allowed = min(settings.server.max_connections or possible, possible)
        reception = Reception(
            verifier,
            revocations,
            OriginPolicy(settings.server.allowed_origins),
            hub,
            log,
            sweep,
            tuning=Tuning(
                heartbeat=delivery.heartbeat,
                stall_timeout=delivery.stall_timeout,
                max_outbox=delivery.max_outbox,
                max_outbox_total=delivery.max_outbox_total,
                max_event=settings.events.max_event,
                replay_page=delivery.replay_page,
                max_client_message=delivery.max_client_message,
                max_connections=allowed,
                max_turned_away=min(_TURNED_AWAY, max(possible // 4, 1)),
                leeway=auth.leeway,
                devices_per_user=delivery.devices_per_user,
                connects_per_user_per_minute=delivery.connects_per_user_per_minute,
                connects_per_address_per_minute=settings.server.connects_per_address_per_minute,
                client_messages_per_second=delivery.client_messages_per_second,
            ),
            broken=shutdown.broken,
            on_message=on_message,
            counters=counters,
        )
        stack.callback(reception.limits.close)
        order = OrderQueue(log, hub, max_bytes=internal.max_queue, on_broken=shutdown.broken)
        upkeep = Upkeep(
            log,
            order.between,
            revocations=revocations,
            retention=retention_of(settings.log),
            every=settings.log.prune_every,
            forget=hub.forget,
            broken=shutdown.broken,
        )
        reader = EmissionReader(
            stamp,
            TransientTypes(settings.events.transient),
            max_event=settings.events.max_event,
        )
        requests, lag = RequestLog(), LoopLag()
        scraper = Scraper(
            Sources(
                hub,
                order,
                reception,
                upkeep,
                requests,
                lag,
                retention_of(settings.log),
                internal.max_queue,
            ),
            log,
            broken=shutdown.broken,
        )
        timeout = settings.server.handshake_timeout
        public = Listener(
            public_app(
                reception,
                hub,
                order,
                log,
                stamp,
                proxies=TrustedProxies(settings.server.trusted_proxies),
                requests=requests,
            ),
            Limits(head=timeout, idle=timeout, body=timeout, max_body=_PUBLIC_BODY),
            tls=tls_of(settings.server),
            most=max(possible // 2, 1),
            request_ids=requests.ids,
        )
        revoker = Revoker(log, order.between, reception)
        cluster = Cluster(log, Figures(hub, order, reception, log, upkeep), revoker)
        if log.peers is not None:
            relay = Relay(tap, log.peers)
            stack.push_async_callback(relay.close)
            log.peers.attach(
                PeerHooks(
                    arrived=order.dispatch_arrived,
                    doubted=order.doubt,
                    erased=hub.forget,
                    revoked=revoker.heard,
                    asked=cluster.answer,
                    watched=relay.watched,
                    shared=tap.received,
                    broken=shutdown.broken,
                )
            )
            # What another server revoked since it was asked the first time.
            for revocation in await log.revocations():
                revoker.heard(revocation)
        emit_tokens = BearerTokens(internal.emit_tokens)
        read_tokens = BearerTokens(internal.read_tokens)
        inner = Listener(
            internal_app(
                reception,
                hub,
                order,
                log,
                reader,
                upkeep,
                revoker,
                scraper,
                cluster=cluster,
                emit_tokens=emit_tokens,
                read_tokens=read_tokens,
                max_body=internal.max_body,
                requests=requests,
            ),
            Limits(head=_INTERNAL_IDLE, idle=_INTERNAL_IDLE, body=_INTERNAL_BODY),
            request_ids=requests.ids,
        )
        access = Access(settings, verifier, jwks, public, emit_tokens, read_tokens, tap)
        server = Server(reception, order, tap, shutdown, access, drain=settings.server.drain)
        for work in (sweep.run(), upkeep.run(), jwks.run(), lag.run()):
            task = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(shutdown.ended)
            stack.push_async_callback(_cancelled, task)
        stack.push_async_callback(server.drain)
        server.listen(public, inner, settings, inherited)
        yield server


async def _lasts(log: EventLog) -> Lasts | None:
    """Return what spares devices that come back a look into the log, if that can be read."""
    try:
        return await log.lasts(USERS)
    except LogError:
        # It is said, and ends the process, when it is read for a device or to be pruned.
        return None


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
