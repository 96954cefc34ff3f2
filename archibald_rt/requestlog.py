"""The requests of both listeners: what each is called, a log line, how many were answered how."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog
from tornado.web import RequestHandler

from archibald_rt.requestids import RequestIds, trace_of

OTHER = "other"
"""The route of requests that have none."""

_SERVER_ERROR = 500
_ACCESS = "archibald_rt.access"
_access = structlog.stdlib.get_logger(_ACCESS)
_level = logging.getLogger(_ACCESS)


class RequestLog:
    """Tornado's ``log_function`` of both applications, which `know` their routes."""

    def __init__(self) -> None:
        self.ids = RequestIds()
        """What requests are called."""
        self.answered: Counter[tuple[str, int]] = Counter()
        """How many requests were answered, by route and status; the routes are those known."""
        self._paths: dict[str, type] = {}
        self._patterns: dict[type, str] = {}

    def know(self, paths: Mapping[str, type], patterns: Mapping[type, str]) -> None:
        """Take note of whose the paths are that are routes, and of other handlers' routes."""
        self._paths.update(paths)
        self._patterns.update(patterns)

    def __call__(self, handler: RequestHandler) -> None:
        """Count a request that was answered, and log it without its query."""
        status = int(handler.get_status())
        route, kind = handler.request.path, type(handler)
        # A path of the one listener may be none of the other's.
        if self._paths.get(route) is not kind:
            route = self._patterns.get(kind, OTHER)
        self.answered[route, status] += 1
        failed = status >= _SERVER_ERROR
        # Asked first: structlog makes a logger before it finds out that nobody reads it.
        if failed or _level.isEnabledFor(logging.DEBUG):
            self._write(handler, status, failed=failed)

    def _write(self, handler: RequestHandler, status: int, *, failed: bool) -> None:
        request = handler.request
        details: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "status": status,
            "ms": round(request.request_time() * 1000, 1),
            "address": request.remote_ip,
            "request_id": getattr(handler, "request_id", None),
        }
        if (trace := trace_of(request.headers)) is not None:
            details["trace_id"] = trace
        (_access.error if failed else _access.debug)("request", **details)
