"""``POST /internal/emit`` and ``/internal/broadcast``."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from archibald_rt.auth import BearerTokens
from archibald_rt.bodies import ResultBody, ResultsBody
from archibald_rt.emissions import EmissionReader
from archibald_rt.errors import (
    DrainingError,
    EmissionError,
    LogBrokenError,
    LogUnavailableError,
    QueueFullError,
)
from archibald_rt.events import Cursor, Emission, Outcome
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.order import OrderQueue

_JSON, _NDJSON = "application/json", "application/x-ndjson"


class EmittingHandler(InternalHandler):
    """Reads a body up to ``max_body`` bytes and hands it to the order queue.

    A body beyond that is read on and dropped, up to as much again, so that a caller that
    sends all before it reads gets its answer.
    """

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        reader: EmissionReader,
        order: OrderQueue,
        *,
        epoch: str,
        max_body: int,
    ) -> None:
        """Take the tokens, what reads emissions, and where they go."""
        super().initialize(emit_tokens, read_tokens)
        self.reader = reader
        self._order = order
        self._epoch = epoch
        self._max_body = max_body

    def prepare(self) -> None:
        """Begin to count, for those with a token."""
        self._chunks: list[bytes] = []
        self._received = 0
        super().prepare()

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or drop it where it is of no use."""
        self._received += len(chunk)
        if not self._max_body or self._received <= self._max_body:
            self._chunks.append(chunk)
            return
        self._chunks.clear()
        if self._received > 2 * self._max_body and not self._finished:
            self._refuse_body()
            self.request.connection.close()  # type: ignore[union-attr]  # an HTTP/1 connection

    async def post(self) -> None:
        """Answer when the events are committed and dispatched."""
        if self._finished:
            return
        if self._max_body and self._received > self._max_body:
            self._refuse_body()
            return
        body = b"".join(self._chunks)
        self._chunks.clear()
        try:
            emissions, many = self.read(body)
            # Nothing was awaited since the last byte came: requests are queued in the order
            # in which they were read.
            outcomes = await self._order.submit(emissions)
        except EmissionError as error:
            self._refuse_emission(error)
        except (QueueFullError, DrainingError, LogUnavailableError) as error:
            if isinstance(error, DrainingError):
                self.set_header("Connection", "close")
            self.refuse_for_now(f"{error}; nothing was stored")
        except LogBrokenError as error:
            self.refuse_unknown(f"{error}; it may have been stored: retry with the same key")
        else:
            results = [self._result(outcome) for outcome in outcomes]
            self.answer(ResultsBody(results) if many else results[0])

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read the body: the emissions, and whether a list of results is the answer."""
        raise NotImplementedError

    def media_type(self, *expected: str) -> str:
        """Return the body's type; raises `EmissionError` (415) if it is none of these."""
        header = self.request.headers.get("Content-Type", _JSON)
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

    def _result(self, outcome: Outcome) -> ResultBody:
        return ResultBody(
            None if outcome.seq is None else str(Cursor(self._epoch, outcome.seq)),
            outcome.timestamp,
            outcome.durable,
            outcome.duplicate,
            outcome.delivered,
        )

    def _refuse_emission(self, error: EmissionError) -> None:
        members: dict[str, Any] = {"field": error.field} if error.field else {}
        if error.indexes:
            members["indexes"] = error.indexes
        self.problem(error.status, error.detail, **members)

    def _refuse_body(self) -> None:
        self.problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {self._max_body} bytes; send it in several requests",
            field="body",
        )


class EmitHandler(EmittingHandler):
    """Emissions to users: one, an array, or a line each."""

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read JSON or NDJSON."""
        if self.media_type(_JSON, _NDJSON) == _NDJSON:
            return self.reader.read_lines(body), True
        return self.reader.read(body)


class BroadcastHandler(EmittingHandler):
    """An emission to everybody."""

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read JSON."""
        self.media_type(_JSON)
        return [self.reader.read_broadcast(body)], False
