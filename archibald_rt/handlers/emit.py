"""``POST /internal/emit`` and ``/internal/broadcast``."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.httputil import (
    HTTPMessageDelegate,
    ResponseStartLine,
)

from archibald_rt.auth import BearerTokens
from archibald_rt.bodies import ResultBody, ResultsBody
from archibald_rt.emissions import EmissionReader
from archibald_rt.errors import (
    ArchibaldError,
    DrainingError,
    EmissionError,
    LogBrokenError,
    LogError,
    LogUncertainError,
    QueueFullError,
)
from archibald_rt.events import Cursor, Emission, Outcome
from archibald_rt.handlers.body import JSON, BodyHandler
from archibald_rt.order import OrderQueue

_OK = ResponseStartLine("HTTP/1.1", HTTPStatus.OK, HTTPStatus.OK.phrase)
_NDJSON = "application/x-ndjson"


class EmittingHandler(BodyHandler):
    """Reads a body and hands it to the order queue."""

    too_large = "; send it in several requests"

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
        super().initialize(emit_tokens, read_tokens, max_body=max_body)
        self.reader = reader
        self._order = order
        self._epoch = epoch
        self._many = False
        # Tornado sets it in the machinery that `Posting` stands for.
        self._transforms = []

    def post(self) -> None:
        """Queue what the body holds; it is answered when the events are committed and dispatched.

        Nothing is awaited since the last byte came: requests are queued in the order in which
        they were read.
        """
        try:
            body = self.take_body()
            emissions, self._many = self.read(body)
            outcomes = self._order.submit(emissions, self.request_id)
        except (EmissionError, QueueFullError, DrainingError) as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours is logged and answered
            self._fail(error)
        else:
            outcomes.add_done_callback(self._answer)

    def _answer(self, done: asyncio.Future[list[Outcome]]) -> None:
        try:
            results = [self._result(outcome) for outcome in done.result()]
            self.answer(ResultsBody(results) if self._many else results[0])
        except (EmissionError, LogError) as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Do for a fault of ours what Tornado does."""
        self.log_exception(type(error), error, error.__traceback__)
        if not self._finished:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def answer(self, value: msgspec.Struct) -> None:
        """Finish with a value as JSON, in one write and past what no emitter needs of Tornado."""
        body = msgspec.json.encode(value)
        headers = self._headers
        headers["Content-Type"] = JSON
        headers["Content-Length"] = str(len(body))
        connection: Any = self.request.connection  # an HTTP/1 connection
        connection.write_headers(_OK, headers, body)
        connection.finish()
        self._finished = True
        self._log()
        self._break_cycles()

    def on_connection_close(self) -> None:
        """Do nothing about an emission: it is emitted, whether or not somebody hears of it."""
        if self.request.method != "POST":
            # Tornado waits for the rest of the body, and has to be told that none will come.
            super().on_connection_close()

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read the body: the emissions, and whether a list of results is the answer."""
        raise NotImplementedError

    def _result(self, outcome: Outcome) -> ResultBody:
        return ResultBody(
            None if outcome.seq is None else str(Cursor(self._epoch, outcome.seq)),
            outcome.timestamp,
            outcome.durable,
            outcome.duplicate,
            outcome.delivered,
        )

    def _refuse(self, error: ArchibaldError) -> None:
        match error:
            case EmissionError():
                self.refuse_body(error)
            case LogUncertainError(keys=[keys]):
                named = {"keys": keys} if self._many else {"key": keys[0]}
                detail = f"{error}; it may have been stored: retry with the key that is named here"
                self.refuse_unknown(detail, **named)
            case LogBrokenError() | LogUncertainError():
                self.refuse_unknown(f"{error}; it may have been stored: retry with the same key")
            case _:
                if isinstance(error, DrainingError):
                    self.set_header("Connection", "close")
                self.refuse_for_now(f"{error}; nothing was stored")


class EmitHandler(EmittingHandler):
    """Emissions to users: one, an array, or a line each."""

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read JSON or NDJSON."""
        if self.media_type(JSON, _NDJSON) == _NDJSON:
            return self.reader.read_lines(body), True
        return self.reader.read(body)


class BroadcastHandler(EmittingHandler):
    """An emission to everybody."""

    def read(self, body: bytes) -> tuple[Sequence[Emission], bool]:
        """Read JSON."""
        self.media_type(JSON)
        return [self.reader.read_broadcast(body)], False


class Posting(HTTPMessageDelegate):
    """Has a POST read and answered by an `EmittingHandler`, as its bytes come.

    Tornado runs a handler that takes its body in pieces in a task of its own, which waits for
    three futures.
    """

    def __init__(self, handler: EmittingHandler) -> None:
        self._handler = handler

    def headers_received(self, *_: Any) -> None:
        """Refuse whoever has no token."""
        self._handler.prepare()

    def data_received(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._handler.data_received(chunk)

    def finish(self) -> None:
        """Let what was read be emitted."""
        self._handler.post()
