"""``/healthz``, ``/readyz`` and ``/api/websocket/health``."""

import time
from http import HTTPStatus

import structlog

from archibald_rt.answers import Alive, Health, HealthFigures, HealthStatus, Ready
from archibald_rt.errors import AuthError
from archibald_rt.handlers.base import BaseHandler
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.reception import Reception

_logger = structlog.stdlib.get_logger("archibald_rt.health")


class HealthzHandler(BaseHandler):
    """Whether the process answers."""

    def get(self) -> None:
        """Answer."""
        self.answer(Alive(alive=True))

    head = get


class ReadyzHandler(BaseHandler):
    """Whether the server can do its work."""

    def initialize(self, order: OrderQueue, reception: Reception) -> None:
        """Take what can be unready."""
        self._order = order
        self._reception = reception

    def get(self) -> None:
        """Answer 200, or 503 and why."""
        if self._reception.draining:
            self.problem(HTTPStatus.SERVICE_UNAVAILABLE, "the server is going away")
        elif (reason := self._order.unready) is not None:
            self.problem(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        else:
            self.answer(Ready(ready=True))

    head = get


class WebSocketHealthHandler(BaseHandler):
    """The connections in figures, for those whose token has the admin role."""

    def initialize(self, hub: Hub, order: OrderQueue, reception: Reception) -> None:
        """Take what is counted."""
        self._hub = hub
        self._order = order
        self._reception = reception

    async def get(self) -> None:
        """Answer with the status and the figures."""
        try:
            identity = await self._reception.identify_in_time(self.user_token())
        except AuthError as error:
            self._reception.counters.refuse(error)
            _logger.info(
                "health refused",
                reason=error.reason,
                detail=str(error),
                address=self.request.remote_ip,
                request_id=self.request_id,
            )
            self.set_header("WWW-Authenticate", "Bearer")
            self.problem(HTTPStatus.UNAUTHORIZED, "Authentication failed")
            return
        if not identity.admin:
            self.problem(HTTPStatus.FORBIDDEN, "expected a token with the admin role")
            return
        hub, counters = self._hub, self._reception.counters
        users = hub.users()
        if self._reception.draining:
            status: HealthStatus = "offline"
        else:
            status = "healthy" if hub.connections else "idle"
        figures = HealthFigures(
            total_connections=hub.connections,
            active_users=len(users),
            uptime=round((time.monotonic() - counters.started) * 1000),
            reconnection_count=counters.resumed,
            messages_sent=hub.sent,
            messages_received=counters.received,
            average_latency=round(self._order.average_latency * 1000, 3),
            connections_per_user=users,
        )
        self.answer(Health(success=True, status=status, stats=figures))
