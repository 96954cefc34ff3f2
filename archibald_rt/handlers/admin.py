"""``/internal/stats`` and ``/internal/connections``."""

import time

from archibald_rt.answers import (
    ConnectionFigures,
    Connections,
    ConnectionState,
    EventFigures,
    LimitFigures,
    LogFigures,
    MessageFigures,
    OutboxFigures,
    RevocationFigures,
    Stats,
    WebhookFigures,
)
from archibald_rt.auth import BearerTokens
from archibald_rt.eventlog import EventLog
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.reception import Reception
from archibald_rt.upkeep import Upkeep


class StatsHandler(InternalHandler):
    """The server in figures."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        hub: Hub,
        order: OrderQueue,
        reception: Reception,
        log: EventLog,
        upkeep: Upkeep,
    ) -> None:
        """Take the tokens and what is counted."""
        super().initialize(emit_tokens, read_tokens)
        self._hub = hub
        self._order = order
        self._reception = reception
        self._event_log = log
        self._upkeep = upkeep

    async def get(self) -> None:
        """Answer with the figures."""
        log_bytes = await self._event_log.size()
        counters, limits = self._reception.counters, self._reception.limits
        sessions = list(self._hub.sessions())
        budget = self._reception.budget
        behind = sum(not session.live for session in sessions)
        stats = Stats(
            uptime_ms=round((time.monotonic() - counters.started) * 1000),
            draining=self._reception.draining,
            connections=ConnectionFigures(
                total=len(sessions),
                live=len(sessions) - behind,
                behind=behind,
                users=len(self._hub.users()),
                resumed=counters.resumed,
                refused=counters.refused,
                refused_for={why.value: count for why, count in counters.refused_for.items()},
            ),
            events=EventFigures(
                durable=self._order.durable,
                transient=self._order.transient,
                sent=self._hub.sent,
                dropped=self._hub.dropped,
                average_latency_ms=round(self._order.average_latency * 1000, 3),
            ),
            revoked=RevocationFigures(
                self._reception.revocations.users, self._reception.revocations.tokens
            ),
            limits=LimitFigures(limits.connects, limits.devices, limits.messages),
            client_messages=MessageFigures(counters.received, counters.ignored),
            webhook=WebhookFigures(
                counters.posted, counters.post_failures, counters.messages_dropped
            ),
            outbox_bytes=sum(session.outbox.size for session in sessions),
            outbox_total=OutboxFigures(budget.used, budget.limit or None),
            queue_bytes=self._order.size,
            log=LogFigures(
                epoch=self._event_log.epoch,
                head=self._event_log.head,
                dispatched=self._hub.dispatched,
                bytes=log_bytes,
                pruned=self._upkeep.pruned,
                erased=self._upkeep.erased,
                fault=None if self._order.fault is None else str(self._order.fault),
            ),
        )
        self.answer(stats)


class ConnectionsHandler(InternalHandler):
    """Who is connected, and how they get on."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        hub: Hub,
    ) -> None:
        """Take the tokens and who is connected."""
        super().initialize(emit_tokens, read_tokens)
        self._hub = hub

    def get(self) -> None:
        """Answer with a list."""
        connections = [
            ConnectionState(
                connection=session.connection,
                user_id=session.user,
                transport=session.dialect.transport,
                protocol=session.dialect.name,
                since=session.since,
                state="live" if session.live else "behind",
                position=session.position,
                outbox_bytes=session.outbox.size,
                sent=session.sent,
                dropped=session.dropped,
            )
            for session in self._hub.sessions()
        ]
        self.answer(Connections(connections))
