"""The requests of both listeners: what each is called, a log line, how many were answered how."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
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
        self._paths: set[str] = set()
        self._patterns: dict[type, str] = {}

    def know(self, paths: Iterable[str], patterns: Mapping[type, str]) -> None:
        """Take note of paths that are routes, and of what the routes of other handlers are."""
        self._paths.update(paths)
        self._patterns.update(patterns)

    def __call__(self, handler: RequestHandler) -> None:
        """Count a request that was answered, and log it without its query."""
        status = int(handler.get_status())
        path = handler.request.path
        if path not in self._paths:
            path = self._patterns.get(type(handler), OTHER)
        self.answered[path, status] += 1
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
