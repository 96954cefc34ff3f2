"""``/internal/stats`` and ``/internal/connections``."""

import re
from http import HTTPStatus
from typing import get_args

from archibald_rt.answers import MAX_CONNECTIONS, ConnectionOrder
from archibald_rt.auth import BearerTokens
from archibald_rt.cluster import Cluster
from archibald_rt.events import user_id_fault
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.questions import AboutConnections

_LIMIT = re.compile("[1-9][0-9]{0,5}", re.ASCII)
_LONGEST_TEXT = 200


class StatsHandler(InternalHandler):
    """The servers in figures."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, cluster: Cluster
    ) -> None:
        """Take the tokens and who counts."""
        super().initialize(emit_tokens, read_tokens)
        self._cluster = cluster

    async def get(self) -> None:
        """Answer with the figures."""
        self.answer(await self._cluster.stats())


class ConnectionsHandler(InternalHandler):
    """Who is connected, and how they get on."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, cluster: Cluster
    ) -> None:
        """Take the tokens and who knows that."""
        super().initialize(emit_tokens, read_tokens)
        self._cluster = cluster

    async def get(self) -> None:
        """Answer with a list."""
        given = self.request.query_arguments
        limit = self.query("limit") if "limit" in given else str(MAX_CONNECTIONS)
        if not _LIMIT.fullmatch(limit) or int(limit) > MAX_CONNECTIONS:
            self._refuse_field("limit", f"expected a number from 1 to {MAX_CONNECTIONS}")
            return
        sort = self.query("sort")
        order = next((each for each in get_args(ConnectionOrder) if each == sort), None)
        if sort and order is None:
            self._refuse_field("sort", f"expected one of {', '.join(get_args(ConnectionOrder))}")
            return
        user, text = self.query("user"), self.query("search")
        if user and (fault := user_id_fault(user)) is not None:
            self._refuse_field("user", fault)
            return
        if len(text) > _LONGEST_TEXT:
            self._refuse_field("search", f"expected at most {_LONGEST_TEXT} characters")
            return
        about = AboutConnections(int(limit), user, text.casefold(), order)
        self.answer(await self._cluster.connections(about))

    def _refuse_field(self, field: str, expected: str) -> None:
        self.problem(HTTPStatus.BAD_REQUEST, f"{field}: {expected}", field=field)
