"""What all handlers share: answers, problem documents, tokens."""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, RequestHandler, stream_request_body

from archibald_rt.answers import Problem
from archibald_rt.auth import BearerTokens, bearer_token
from archibald_rt.requestids import HEADER

RETRY_AFTER = 1
"""What a caller that is refused for a passing reason is told to wait, in seconds."""

_logger = structlog.stdlib.get_logger("archibald_rt.handlers")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class BaseHandler(RequestHandler):
    """Answers in JSON; every error is a problem document (RFC 9457).

    Every answer has the request's id in a header.
    """

    request_id = ""
    """What the request is called."""

    def compute_etag(self) -> str | None:
        """No answer here is worth asking for twice."""
        return None

    def clear(self) -> None:
        """Begin the answer anew.

        It is not to be cached and doesn't name the software's version; the connection adds the
        date. Tornado's own headers would only be taken out again: a tenth of an emission.
        """
        self._headers = HTTPHeaders()
        self._headers["Cache-Control"] = "no-store"
        # Tornado's constructor begins with this, before anything can go wrong.
        self.request_id = self.request_id or self.settings["request_ids"].of(self.request.headers)
        self._headers[HEADER] = self.request_id
        self._write_buffer = []
        self._status_code = int(HTTPStatus.OK)
        self._reason = HTTPStatus.OK.phrase

    def query(self, name: str) -> str:
        """Return the first value of a query parameter, empty without one."""
        # Tornado's own reading strips white space and refuses what is not UTF-8.
        values = self.request.query_arguments.get(name, [b""])
        return values[0].decode("utf-8", "replace")

    def user_token(self) -> str:
        """Return the token of the query, else of the header; empty without one."""
        return self.query("token") or bearer_token(self.request.headers.get("Authorization", ""))

    def answer(self, value: msgspec.Struct) -> None:
        """Finish with a value as JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(value))

    def problem(
        self, status: int, detail: str, *, title: str | None = None, **members: Any
    ) -> None:
        """Finish with a problem document; ``members`` are those of `Problem` besides."""
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        document = {
            "type": "about:blank",
            "title": title or HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "request_id": self.request_id,
            **members,
        }
        self.finish(msgspec.json.encode(Problem(**document)))

    def refuse_for_now(self, detail: str) -> None:
        """Answer 503 for a reason that passes."""
        self.set_header("Retry-After", str(RETRY_AFTER))
        self.problem(HTTPStatus.SERVICE_UNAVAILABLE, detail)

    def refuse_unknown(self, detail: str, **members: Any) -> None:
        """Answer 504: what was asked for may have been done; ``members`` as of `problem`."""
        self.problem(
            HTTPStatus.GATEWAY_TIMEOUT,
            f"outcome-unknown: {detail}",
            title="Outcome Unknown",
            type="outcome-unknown",
            **members,
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Turn what Tornado or a fault of ours raised into a problem document."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = [name for name in self.SUPPORTED_METHODS if _implements(self, name)]
            self.set_header("Allow", ", ".join(allowed))
            detail = f"{self.request.method} is not possible here, only {', '.join(allowed)}"
        elif isinstance(error, HTTPError) and error.log_message:
            detail = error.log_message
        elif status_code == HTTPStatus.NOT_FOUND:
            detail = "there is nothing at this path"
        else:
            detail = HTTPStatus(status_code).description or HTTPStatus(status_code).phrase
        self.problem(status_code, detail)

    def log_exception(
        self,
        typ: Any,  # noqa: ARG002 - the signature is Tornado's
        value: BaseException | None,
        tb: Any,  # noqa: ARG002 - as above
    ) -> None:
        """Log our own faults; what a caller did wrong is in its answer."""
        if not isinstance(value, HTTPError):
            # Not as Tornado does it, which writes out the request with its query.
            _logger.error(
                "fault in a handler",
                request=self._request_summary(),
                request_id=self.request_id,
                exc_info=value,
            )

    def _request_summary(self) -> str:
        # The query may hold a token.
        return f"{self.request.method} {self.request.path} ({self.request.remote_ip})"


class NotFoundHandler(BaseHandler):
    """Everything that has no route."""

    def prepare(self) -> None:
        """Answer 404 whatever the method."""
        raise HTTPError(HTTPStatus.NOT_FOUND)


@stream_request_body
class InternalHandler(BaseHandler):
    """A handler of the internal listener, which asks for an emit or a read token.

    Bodies come in pieces, so that nobody can have one kept that is of no use; here they are
    dropped.
    """

    def initialize(self, emit_tokens: BearerTokens, read_tokens: BearerTokens) -> None:
        """Take the tokens that are accepted."""
        self._emit_tokens = emit_tokens
        self._read_tokens = read_tokens

    @property
    def may_emit(self) -> bool:
        """Whether the request has an emit token."""
        return self._emit_tokens.accept(self._token())

    @property
    def authorized(self) -> bool:
        """Whether the request has an emit token, or for reading a read token."""
        return self.may_emit or (
            self.request.method in _READING and self._read_tokens.accept(self._token())
        )

    def _token(self) -> bytes:
        header = self.request.headers.get("Authorization", "")
        # Tornado reads headers as Latin-1, so this gives back the bytes that came.
        return bearer_token(header).encode("latin-1")

    def prepare(self) -> None:
        """Refuse whoever has no token, before anything else is said."""
        if not self.authorized:
            self.refuse()

    def data_received(self, chunk: bytes) -> None:
        """Drop a piece of the body."""

    def refuse(self) -> None:
        """Answer 401."""
        self.set_header("WWW-Authenticate", "Bearer")
        kind = "an emit or read token" if self.request.method in _READING else "an emit token"
        self.problem(HTTPStatus.UNAUTHORIZED, f"expected Authorization: Bearer with {kind}")


class InternalNotFoundHandler(InternalHandler):
    """Everything on the internal listener that has no route."""

    def prepare(self) -> None:
        """Answer 404 to those who have a token."""
        super().prepare()
        if not self._finished:
            raise HTTPError(HTTPStatus.NOT_FOUND)


def _implements(handler: RequestHandler, method: str) -> bool:
    own = getattr(type(handler), method.lower(), None)
    return own is not getattr(RequestHandler, method.lower(), None)
