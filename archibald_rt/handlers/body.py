"""Bodies of the internal listener: kept while they come, within a bound; their media type."""

from http import HTTPStatus
from typing import Any

from archibald_rt.auth import BearerTokens
from archibald_rt.errors import EmissionError
from archibald_rt.handlers.base import InternalHandler

JSON = "application/json"


class BodyHandler(InternalHandler):
    """Keeps a body of up to ``max_body`` bytes (0: no bound).

    What is beyond that is read on and dropped, up to as much again, so that a caller that
    sends all before it reads gets its answer.
    """

    too_large = ""
    """What a caller can do whose body is too large."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, *, max_body: int
    ) -> None:
        """Take the tokens and the bound."""
        super().initialize(emit_tokens, read_tokens)
        self._max_body = max_body
        # One buffer: in pieces of a few bytes a list would take many times as much.
        self._body = bytearray()
        self._received = 0

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or drop it where it is of no use."""
        self._received += len(chunk)
        if not self._max_body or self._received <= self._max_body:
            self._body += chunk
            return
        self._body = bytearray()
        if self._received > 2 * self._max_body and not self._finished:
            self.refuse_body(self._body_too_large())
            self.request.connection.close()  # type: ignore[union-attr]  # an HTTP/1 connection

    def take_body(self) -> bytes:
        """Return what has come. Raises `EmissionError` (413) if it was too much."""
        if self._max_body and self._received > self._max_body:
            raise self._body_too_large()
        body, self._body = bytes(self._body), bytearray()
        return body

    def media_type(self, *expected: str) -> str:
        """Return the body's type; raises `EmissionError` (415) if it is none of these."""
        header = self.request.headers.get("Content-Type", JSON)
        name, *parameters = (part.strip().lower() for part in header.split(";"))
        charset = next((p[8:].strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
        encoding = self.request.headers.get("Content-Encoding", "identity").lower()
        if name not in expected or charset not in {"utf-8", "utf8", "us-ascii"}:
            detail = f"Content-Type: expected {' or '.join(expected)} in UTF-8, got {header[:100]}"
        elif encoding != "identity":
            detail = f"Content-Encoding: expected none, got {encoding[:100]}"
        else:
            return name
        field = detail.partition(":")[0]
        raise EmissionError(detail, field=field, status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)

    def refuse_body(self, error: EmissionError) -> None:
        """Answer that something is wrong with the body, or with a part of it."""
        members: dict[str, Any] = {"field": error.field} if error.field else {}
        if error.indexes:
            members["indexes"] = error.indexes
        self.problem(error.status, error.detail, **members)

    def _body_too_large(self) -> EmissionError:
        detail = f"the body is larger than {self._max_body} bytes{self.too_large}"
        return EmissionError(detail, field="body", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
