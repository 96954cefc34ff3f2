"""One server in figures, and who is connected to it."""

import time
from collections.abc import Callable, Mapping, Sequence
from heapq import nlargest
from operator import attrgetter
from typing import Any

from msgspec import UNSET

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
from archibald_rt.eventlog import EventLog
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.questions import AboutConnections
from archibald_rt.reception import Reception
from archibald_rt.session import Session
from archibald_rt.upkeep import Upkeep


class Figures:
    """Counts what a server keeps count of."""

    def __init__(
        self, hub: Hub, order: OrderQueue, reception: Reception, log: EventLog, upkeep: Upkeep
    ) -> None:
        self._hub = hub
        self._order = order
        self._reception = reception
        self._log = log
        self._upkeep = upkeep
        self._keys: Mapping[str, Callable[[Session], Any]] = {
            "slow": self._owed,
            "newest": attrgetter("began"),
            "oldest": lambda session: -session.began,
        }

    def stats(self, *, log_bytes: int) -> Stats:
        """Return the figures of now; how much the log takes is known by whoever asked it."""
        counters, limits = self._reception.counters, self._reception.limits
        sessions = list(self._hub.sessions())
        budget = self._reception.budget
        behind = sum(not session.live for session in sessions)
        return Stats(
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
                epoch=self._log.epoch,
                head=self._log.head,
                dispatched=self._hub.dispatched,
                bytes=log_bytes,
                limit=self._upkeep.retention.max_size or None,
                pruned=self._upkeep.pruned,
                erased=self._upkeep.erased,
                fault=None if self._order.fault is None else str(self._order.fault),
            ),
        )

    def connections(self, about: AboutConnections) -> Connections:
        """Return those who are connected and were asked for, as many as fit."""
        sessions = self._asked_for(about.user, about.text)
        total = len(sessions)
        if about.order is not None:
            sessions = nlargest(about.limit, sessions, key=self._keys[about.order])
        return Connections([self._state(each) for each in sessions[: about.limit]], total)

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
            node=UNSET if self._log.peers is None else self._log.peers.name,
        )
