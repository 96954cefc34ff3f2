"""``/internal/stats`` and ``/internal/connections``."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from heapq import nlargest
from http import HTTPStatus
from operator import attrgetter
from typing import Any, get_args

from archibald_rt.answers import (
    MAX_CONNECTIONS,
    ConnectionFigures,
    ConnectionOrder,
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
from archibald_rt.events import user_id_fault
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.reception import Reception
from archibald_rt.session import Session
from archibald_rt.upkeep import Upkeep

_LIMIT = re.compile("[1-9][0-9]{0,5}", re.ASCII)
_LONGEST_TEXT = 200


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
                limit=self._upkeep.retention.max_size or None,
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
        reception: Reception,
    ) -> None:
        """Take the tokens and who is connected."""
        super().initialize(emit_tokens, read_tokens)
        self._hub = hub
        self._reception = reception
        self._keys: Mapping[str, Callable[[Session], Any]] = {
            "slow": self._owed,
            "newest": attrgetter("began"),
            "oldest": lambda session: -session.began,
        }

    def get(self) -> None:
        """Answer with a list."""
        given = self.request.query_arguments
        limit = self.query("limit") if "limit" in given else str(MAX_CONNECTIONS)
        if not _LIMIT.fullmatch(limit) or int(limit) > MAX_CONNECTIONS:
            self._refuse_field("limit", f"expected a number from 1 to {MAX_CONNECTIONS}")
            return
        order = self.query("sort")
        if order and order not in get_args(ConnectionOrder):
            self._refuse_field("sort", f"expected one of {', '.join(get_args(ConnectionOrder))}")
            return
        user, text = self.query("user"), self.query("search")
        if user and (fault := user_id_fault(user)) is not None:
            self._refuse_field("user", fault)
            return
        if len(text) > _LONGEST_TEXT:
            self._refuse_field("search", f"expected at most {_LONGEST_TEXT} characters")
            return
        sessions = self._asked_for(user, text.casefold())
        total = len(sessions)
        if order:
            sessions = nlargest(int(limit), sessions, key=self._keys[order])
        self.answer(Connections([self._state(each) for each in sessions[: int(limit)]], total))

    def _refuse_field(self, field: str, expected: str) -> None:
        self.problem(HTTPStatus.BAD_REQUEST, f"{field}: {expected}", field=field)

    def _asked_for(self, user: str, text: str) -> Sequence[Session]:
        """Return the sessions of a user, or all; of these those in which a text is found."""
        sessions = self._hub.sessions_of(user) if user else list(self._hub.sessions())
        if not text:
            return sessions
        return [
            session
            for session in sessions
            if text in session.user.casefold()
            or text in session.connection
            or text in (self._address(session) or "")
        ]

    def _owed(self, session: Session) -> tuple[bool, int, int]:
        """Return what says how slow a session is: the one that is owed more is slower."""
        return not session.live, self._behind_by(session), session.outbox.size

    def _behind_by(self, session: Session) -> int:
        return 0 if session.live else max(0, self._hub.dispatched - session.read)

    def _address(self, session: Session) -> str | None:
        device = self._reception.device_of(session)
        return None if device is None else device.address

    def _state(self, session: Session) -> ConnectionState:
        device = self._reception.device_of(session)
        link = None if device is None else device.link()
        return ConnectionState(
            connection=session.connection,
            user_id=session.user,
            transport=session.dialect.transport,
            protocol=session.dialect.name,
            address=self._address(session),
            since=session.since,
            state="live" if session.live else "behind",
            position=session.position,
            behind_by=self._behind_by(session),
            outbox_bytes=session.outbox.size,
            sent=session.sent,
            dropped=session.dropped,
            silent_ms=None if link is None else round(link.silent * 1000),
            round_trip_ms=None if link is None else round(link.round_trip * 1000, 3),
        )
