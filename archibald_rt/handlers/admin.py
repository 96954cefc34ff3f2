"""``/internal/stats`` and ``/internal/connections``."""

import time
from typing import Any

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
        counters = self._reception.counters
        sessions = list(self._hub.sessions())
        budget = self._reception.budget
        behind = sum(not session.live for session in sessions)
        self.answer(
            {
                "uptimeMs": round((time.monotonic() - counters.started) * 1000),
                "draining": self._reception.draining,
                "connections": {
                    "total": len(sessions),
                    "live": len(sessions) - behind,
                    "behind": behind,
                    "users": len(self._hub.users()),
                    "resumed": counters.resumed,
                    "refused": counters.refused,
                    "refusedFor": dict(counters.refused_for),
                },
                "events": {
                    "durable": self._order.durable,
                    "transient": self._order.transient,
                    "sent": self._hub.sent,
                    "dropped": self._hub.dropped,
                    "averageLatencyMs": round(self._order.average_latency * 1000, 3),
                },
                "revoked": {
                    "users": self._reception.revocations.users,
                    "tokens": self._reception.revocations.tokens,
                },
                "clientMessages": {"received": counters.received, "ignored": counters.ignored},
                "outboxBytes": sum(session.outbox.size for session in sessions),
                "outboxTotal": {"bytes": budget.used, "limit": budget.limit or None},
                "queueBytes": self._order.size,
                "log": {
                    "epoch": self._event_log.epoch,
                    "head": self._event_log.head,
                    "dispatched": self._hub.dispatched,
                    "bytes": log_bytes,
                    "pruned": self._upkeep.pruned,
                    "erased": self._upkeep.erased,
                    "fault": None if self._order.fault is None else str(self._order.fault),
                },
            }
        )


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
        connections: list[dict[str, Any]] = [
            {
                "connection": session.connection,
                "userId": session.user,
                "protocol": session.dialect.name,
                "since": session.since,
                "state": "live" if session.live else "behind",
                "position": session.position,
                "outboxBytes": session.outbox.size,
                "sent": session.sent,
                "dropped": session.dropped,
            }
            for session in self._hub.sessions()
        ]
        self.answer({"connections": connections})
