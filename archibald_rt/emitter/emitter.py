"""An emitter: events from a back end, many of them in one request.

::

    async with Emitter("http://127.0.0.1:8081", token) as emitter:
        await emitter.emit("ada", "JOB_STARTED", {"jobId": 7})

One request is under way at a time. Whatever is emitted meanwhile is the next one: no timer,
and the more callers there are, the less each emission costs.
"""

import asyncio
import secrets
import ssl
from itertools import count
from types import TracebackType
from typing import Any, Self

from msgspec import UNSET

from archibald_rt.emitter.connection import Address, Connection
from archibald_rt.emitter.jobs import AsyncJob, OnError
from archibald_rt.emitter.line import Line, Pending
from archibald_rt.emitter.messages import (
    Emitted,
    EmitterClosedError,
    Item,
    OutcomeUnknownError,
    emission_json,
    payload_json,
)
from archibald_rt.emitter.sender import Sender, fail


class Emitter:
    """Emits to the internal listener at ``url``: ``http://``, ``https://`` or ``unix:/path``.

    To be entered once; `close` at the end has all that is pending answered. Emissions go out in
    the order of the calls. Any number of tasks may emit at once: what they emit while a request
    is under way goes into the next, of at most ``max_batch`` emissions and ``max_body`` bytes (a
    larger emission goes by itself). More of either makes an emission hardly cheaper, and no server
    takes more than 10,000 or its own ``max_body``. What waits takes ``max_waiting`` bytes,
    roughly; whoever comes then waits before its payload is encoded.

    A request that the server can't take (503), or that finds no server, is sent again for
    ``retry_for`` seconds from the call on. So is one whose outcome is unknown (no answer within
    ``timeout`` seconds, a lost connection, 504), as far as it is safe: durable emissions have a
    key, the emitter's own where the caller gave none, so they are stored once. Transient ones
    are not sent again after that.

    Raises ValueError for an address that can't be one, AuthError for a token that can't.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        max_batch: int = 1000,
        max_body: int = 1024 * 1024,
        max_waiting: int = 32 * 1024 * 1024,
        retry_for: float = 30.0,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connection = Connection(
            Address.parse(url),
            token,
            connect_timeout=connect_timeout,
            timeout=timeout,
            ssl_context=ssl_context,
        )
        self._send = Sender(self._connection)
        self._max_batch = max_batch
        self._max_body = max_body
        self._retry_for = retry_for
        self._line = Line(max_bytes=max_waiting)
        self._sender: asyncio.Task[None] | None = None
        self._batch: list[Pending] = []
        self._entered = self._closed = False
        self._key_prefix = ""
        self._key_numbers = count()

    async def __aenter__(self) -> Self:
        if self._entered or self._closed:
            raise RuntimeError("an emitter can be entered only once")
        self._entered = True
        # A key of its own for each emission: a random part, and a number. Not made before it is
        # entered: processes forked from one that made the emitter would all have the same.
        self._key_prefix = secrets.token_hex(12)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def emit(
        self,
        user: str,
        type: str,  # noqa: A002 - the name on the wire
        payload: Any = None,
        *,
        durable: bool | None = None,
        key: str | None = None,
        timestamp: str | None = None,
        conflate: str | None = None,
    ) -> Emitted:
        """Emit an event to a user's devices, and return what became of it.

        A ``payload`` of bytes is JSON already and reaches devices as it is; anything else is a
        value that msgspec can encode. ``durable`` None leaves it to the server's classes. The
        rest is as in docs/protocol.md.

        Raises `EmissionRefusedError`, `NotEmittedError`, `OutcomeUnknownError`,
        `EmitterClosedError` or AuthError; TypeError or ValueError for what JSON has not. A
        caller that is cancelled takes its emission back only if it was not sent yet.
        """
        return await self._emit(user, type, payload, durable, key, timestamp, conflate)

    async def broadcast(
        self,
        type: str,  # noqa: A002 - the name on the wire
        payload: Any = None,
        *,
        durable: bool = False,
        key: str | None = None,
        timestamp: str | None = None,
        conflate: str | None = None,
    ) -> Emitted:
        """Emit an event to everybody, as `emit`; it goes by itself, in its place in the order."""
        return await self._emit(None, type, payload, durable, key, timestamp, conflate)

    def job(
        self,
        user: str,
        operation: str,
        *,
        job_id: str | None = None,
        prefix: str = "JOB",
        interval: float = 0.2,
        on_error: OnError | None = None,
    ) -> AsyncJob:
        """Return a job to be entered by ``async with``, that tells the user how it goes.

        ``JOB_STARTED`` at the begin of the block; ``JOB_PROGRESS`` by its `progress`, one each
        ``interval`` seconds; ``JOB_COMPLETED`` at the end, or ``JOB_FAILED`` if it is left by an
        exception, a cancellation too, which goes on. ``prefix`` replaces ``JOB``. ``job_id`` is a
        random one where none is given; under one id none of the durable events is stored twice.

        Only the end waits: for the answers, as long as `emit` does. What could not be told is
        given to ``on_error`` then, or logged as a warning; it is no failure of the job.

        Raises ValueError for an id that is too long.
        """
        self._look_entered()
        options = {"job_id": job_id, "prefix": prefix, "interval": interval, "on_error": on_error}
        return AsyncJob(self.emit, user, operation, **options)

    async def close(self) -> None:
        """Take nothing more and return when all that is pending is answered; twice is fine.

        That takes as long as their retries. Cancelled, it cuts them off: what is still pending
        fails, and the connection is shut.
        """
        self._closed = True
        try:
            while self._line or self._sender is not None:
                # Those who wait for room come in turn after turn.
                await (asyncio.wait([self._sender]) if self._sender else asyncio.sleep(0))
        except asyncio.CancelledError:
            self._cut_off()
            raise
        finally:
            self._connection.close()

    def _look_entered(self) -> None:
        if not self._entered:
            raise RuntimeError("an emitter is used inside its `async with`")

    async def _emit(
        self,
        user: str | None,
        type_: str,
        payload: Any,
        durable: bool | None,  # noqa: FBT001 - passed on
        key: str | None,
        timestamp: str | None,
        conflate: str | None,
    ) -> Emitted:
        self._look_entered()
        if self._closed:
            raise EmitterClosedError("the emitter is closed")
        loop = asyncio.get_running_loop()
        until = loop.time() + self._retry_for
        await self._line.room()
        try:
            item = Item(
                type_,
                payload_json(payload),
                UNSET if user is None else user,
                UNSET if timestamp is None else timestamp,
                UNSET if durable is None else durable,
                UNSET if conflate is None else conflate,
            )
            own_key = key is None and durable is not False and conflate is None
            if own_key:
                key = f"{self._key_prefix}-{next(self._key_numbers):x}"
            head, key_part = emission_json(item, key or "")
            pending = Pending(
                head,
                key_part,
                type_,
                loop.create_future(),
                until=until,
                own_key=own_key,
                by_class=durable is None,
                broadcast=user is None,
            )
            self._line.add(pending)
        finally:
            self._line.let_in()
        if self._sender is None:
            self._sender = loop.create_task(self._send_all(), name="archibald_rt.emitter")
        return await pending.answer

    async def _send_all(self) -> None:
        try:
            while self._line:
                self._batch = batch = self._line.take(
                    max_count=self._max_batch, max_bytes=self._max_body
                )
                if batch:
                    await self._send.settle(batch)
                for pending in batch:
                    self._line.done(pending)
                self._batch = []
                # Those who were answered emit their next before the next batch is taken.
                await asyncio.sleep(0)
        except BaseException as error:
            self._cut_off(error)
            raise
        finally:
            self._sender = None

    def _cut_off(self, error: BaseException | None = None) -> None:
        """Answer all that is pending: nothing is sent any more."""
        cause = "it was cut off" if error is None else f"{type(error).__name__}: {error}"
        if self._sender is not None and error is None:
            self._sender.cancel()
        for pending in self._batch:
            fail(pending, OutcomeUnknownError(f"outcome unknown: {cause}"))
        self._line.give_up(EmitterClosedError(f"the emitter is closed: {cause}"))
