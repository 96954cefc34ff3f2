"""The two applications: their routes, as data."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from archibald_rt.addresses import NO_ADDRESS, TrustedProxies
from archibald_rt.auth import BearerTokens
from archibald_rt.cluster import Cluster
from archibald_rt.emissions import EmissionReader
from archibald_rt.eventlog import EventLog
from archibald_rt.handlers.admin import ConnectionsHandler, StatsHandler
from archibald_rt.handlers.assets import Asset, AssetHandler
from archibald_rt.handlers.base import InternalNotFoundHandler, NotFoundHandler
from archibald_rt.handlers.console import ConsoleHandler, console_files
from archibald_rt.handlers.documents import DocumentHandler
from archibald_rt.handlers.emit import (
    BroadcastHandler,
    EmitHandler,
    EmittingHandler,
    Posting,
)
from archibald_rt.handlers.health import HealthzHandler, ReadyzHandler, WebSocketHealthHandler
from archibald_rt.handlers.metrics import MetricsHandler
from archibald_rt.handlers.realtime import RealtimeHandler
from archibald_rt.handlers.revoke import DisconnectHandler, RevokeTokenHandler
from archibald_rt.handlers.sse import EventsHandler
from archibald_rt.handlers.stream import TrafficHandler
from archibald_rt.handlers.users import UserEventsHandler
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from archibald_rt.protocol import V1, V2
from archibald_rt.reception import Reception
from archibald_rt.requestlog import RequestLog
from archibald_rt.revoking import Revoker
from archibald_rt.scrape import Scraper
from archibald_rt.specs.asyncapi import asyncapi
from archibald_rt.specs.openapi import openapi
from archibald_rt.sse import Sse
from archibald_rt.timestamps import Stamper
from archibald_rt.upkeep import Upkeep


def public_app(
    reception: Reception,
    hub: Hub,
    order: OrderQueue,
    log: EventLog,
    stamp: Stamper,
    *,
    proxies: TrustedProxies,
    requests: RequestLog,
) -> Application:
    """Return what devices talk to. Nothing of the internal application is routed here."""
    dialects = {"v1": V1(), "v2": V2(log.epoch, stamp)}
    counted = {"hub": hub, "order": order, "reception": reception}
    client = Asset.of_package("client.js", "text/javascript; charset=utf-8")
    types = Asset.of_package("client.d.ts", "text/plain; charset=utf-8")
    return PublicApplication(
        proxies,
        [
            (r"/ws/realtime", RealtimeHandler, {"reception": reception, **dialects}),
            (r"/events", EventsHandler, {"reception": reception, "dialect": Sse(log.epoch, stamp)}),
            (r"/healthz", HealthzHandler),
            (r"/readyz", ReadyzHandler, {"order": order, "reception": reception}),
            (r"/api/websocket/health", WebSocketHealthHandler, counted),
            (r"/client\.js", AssetHandler, {"asset": client}),
            (r"/client\.d\.ts", AssetHandler, {"asset": types}),
        ],
        requests=requests,
        default_handler_class=NotFoundHandler,
    )


class RoutedApplication(Application):
    """Finds the handler of most paths by the path itself: a tenth of what an emission costs."""

    def __init__(
        self, routes: Sequence[tuple[Any, ...]], *, requests: RequestLog, **settings: Any
    ) -> None:
        super().__init__(list(routes), log_function=requests, request_ids=requests.ids, **settings)
        # A path that is no pattern stands for itself alone.
        plain = [route for route in routes if re.escape(route[0]) == route[0]]
        self._by_path = {path: (handler, *given) for path, handler, *given in plain}
        others = [route for route in routes if route not in plain]
        names = {handler: _name_of(path) for path, handler, *_ in others}
        requests.know({path: handler for path, (handler, *_) in self._by_path.items()}, names)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return what reads a request."""
        found = self._by_path.get(request.path)
        if found is None:
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, *found)


def _name_of(pattern: str) -> str:
    """Return a route's pattern as people read it."""
    return pattern.replace("[^/]*", "{id}").replace("\\", "")


class PublicApplication(RoutedApplication):
    """What devices talk to; `public_app` makes one.

    A request's ``remote_ip`` is the client's, as far as the ``proxies`` in between are trusted.
    """

    def __init__(self, proxies: TrustedProxies, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._proxies = proxies

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return what answers a request."""
        forwarded = request.headers.get("X-Forwarded-For", "")
        request.remote_ip = self._proxies.client(request.remote_ip or NO_ADDRESS, forwarded)
        return super().find_handler(request, **kwargs)


class InternalApplication(RoutedApplication):
    """What back ends and operators talk to; `internal_app` makes one."""

    def get_handler_delegate(
        self,
        request: HTTPServerRequest,
        target_class: type[RequestHandler],
        target_kwargs: dict[str, Any] | None = None,
        *path: Any,
        **path_kwargs: Any,
    ) -> Any:
        """Return what reads a request, and for an emission what reads it with less ado."""
        if request.method == "POST" and issubclass(target_class, EmittingHandler):
            return Posting(target_class(self, request, **(target_kwargs or {})))
        return super().get_handler_delegate(
            request, target_class, target_kwargs, *path, **path_kwargs
        )


def internal_app(  # noqa: PLR0913 - each handler is given what it needs, and they are many
    reception: Reception,
    hub: Hub,
    order: OrderQueue,
    log: EventLog,
    reader: EmissionReader,
    upkeep: Upkeep,
    revoker: Revoker,
    scraper: Scraper,
    *,
    cluster: Cluster,
    emit_tokens: BearerTokens,
    read_tokens: BearerTokens,
    max_body: int,
    requests: RequestLog,
) -> Application:
    """Return what back ends and operators talk to."""
    tokens = {"emit_tokens": emit_tokens, "read_tokens": read_tokens}
    files = console_files()
    emitting = {
        **tokens,
        "reader": reader,
        "order": order,
        "epoch": log.epoch,
        "max_body": max_body,
    }
    summing = {**tokens, "cluster": cluster}
    reading = {**tokens, "hub": hub, "log": log, "upkeep": upkeep, "broken": reception.broken}
    revoking = {**tokens, "revoker": revoker, "max_body": max_body}
    return InternalApplication(
        [
            (r"/console", ConsoleHandler, {"files": files}),
            (r"/console/[^/]*", ConsoleHandler, {"files": files}),
            (r"/internal/emit", EmitHandler, emitting),
            (r"/internal/broadcast", BroadcastHandler, emitting),
            (r"/metrics", MetricsHandler, {**tokens, "scraper": scraper}),
            (r"/internal/stats", StatsHandler, summing),
            (r"/internal/connections", ConnectionsHandler, summing),
            (r"/internal/stream", TrafficHandler, {**tokens, "tap": hub.tap}),
            (r"/internal/users/[^/]*/events", UserEventsHandler, reading),
            (r"/internal/users/[^/]*/disconnect", DisconnectHandler, revoking),
            (r"/internal/tokens/revoke", RevokeTokenHandler, revoking),
            (
                r"/internal/openapi\.json",
                DocumentHandler,
                {**tokens, "document": msgspec.json.encode(openapi())},
            ),
            (
                r"/internal/asyncapi\.json",
                DocumentHandler,
                {**tokens, "document": msgspec.json.encode(asyncapi())},
            ),
        ],
        default_handler_class=InternalNotFoundHandler,
        default_handler_args=tokens,
        requests=requests,
    )
