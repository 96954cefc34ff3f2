"""What a job reports, on its way to the server: in order, and without holding up the job."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from http import HTTPStatus
from threading import RLock
from typing import Any, Protocol

from archibald_rt.emitter.messages import EmissionRefusedError, Emitted, NotEmittedError
from archibald_rt.errors import ArchibaldError

_log = logging.getLogger("archibald_rt.emitter")


class Emit(Protocol):
    """How an emitter emits."""

    def __call__(  # noqa: D102 - the class says it
        self,
        user: str,
        type: str,  # noqa: A002 - the name on the wire
        payload: Any,
        *,
        durable: bool | None,
        key: str | None = None,
        conflate: str | None = None,
    ) -> Coroutine[Any, Any, Emitted]: ...


class Reports:
    """The events of one job: the first, any number of progress, the last.

    All of it runs in the emitter's ``loop``, and is called there; `progress` may be called in any
    thread. Payloads are JSON. One progress event is under way at a time, and
    the next follows ``interval`` seconds after its answer: of those that come meanwhile the
    latest is kept. At the end it is emitted at once, and the last event after it, without waiting
    for any answer: a server that is away delays it only once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        emit: Emit,
        user: str,
        *,
        progress_type: str,
        conflate: str,
        interval: float,
    ) -> None:
        self._loop = loop
        self._emit = emit
        self._user = user
        self._progress_type = progress_type
        self._conflate = conflate
        self._interval = interval
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errors: list[ArchibaldError] = []
        # These three are looked at by several threads, and by signal handlers in the midst of it.
        self._lock = RLock()
        self._latest: bytes | None = None
        self._pumping = self._ended = False

    def begin(self, type_: str, payload: bytes, key: str) -> None:
        """Emit the first event; what becomes of it is known at the end."""
        self._spawn(self._tell(type_, payload, key))

    def progress(self, payload: bytes) -> None:
        """Emit a progress event, soon, unless a later one overtakes it. Never waits or raises.

        Safe to call in a signal handler.
        """
        with self._lock:
            if self._ended:
                return
            self._latest = payload
            if self._pumping:
                return
            self._pumping = True
        # A loop that is closed has no devices to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pump)

    def end(self, type_: str | None, payload: bytes, key: str, plain: bytes) -> None:
        """Emit the progress that is left and the last event, if there is to be one.

        Where its payload is refused, as too large for instance, it is emitted with the plain one:
        the user is told of the end in any case.
        """
        with self._lock:
            self._ended = True
            left, self._latest = self._latest, None
        if left is not None:
            self._spawn(self._tell_progress(left))
        if type_ is not None:
            self._spawn(self._tell_end(type_, payload, key, plain))

    async def settled(self) -> Sequence[ArchibaldError]:
        """Wait until all has its answer; return what went wrong with the first and the last.

        To be called after `end`. Cancelled, it only waits no longer.
        """
        if self._tasks:
            await asyncio.wait(self._tasks)
        return self._errors

    def _spawn(self, telling: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(telling, name="archibald_rt.emitter.job")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell_end(self, type_: str, payload: bytes, key: str, plain: bytes) -> None:
        error = await self._tell(type_, payload, key)
        if _is_of_payload(error) and payload != plain:
            await self._tell(type_, plain, key)

    async def _tell(self, type_: str, payload: bytes, key: str) -> ArchibaldError | None:
        """Emit a durable event; returns what went wrong, which is remembered as well."""
        try:
            await self._emit(self._user, type_, payload, durable=True, key=key)
        except ArchibaldError as error:
            self._errors.append(noted(error, type_, self._conflate))
        except (TypeError, ValueError) as error:
            # Such as a user's id that UTF-8 has not.
            refused = NotEmittedError(f"not emitted: {error}")
            self._errors.append(noted(refused, type_, self._conflate))
        else:
            return None
        return self._errors[-1]

    async def _tell_progress(self, payload: bytes) -> None:
        try:
            await self._emit(
                self._user, self._progress_type, payload, durable=False, conflate=self._conflate
            )
        except (ArchibaldError, TypeError, ValueError) as error:
            _log.debug("%s of the job %s: %s", self._progress_type, self._conflate, error)

    def _pump(self) -> None:
        with self._lock:
            payload, self._latest = self._latest, None
            self._pumping = payload is not None
        if payload is not None:
            # A timer and no task: closing an emitter waits for tasks, and the interval may be long.
            self._spawn(self._tell_progress(payload)).add_done_callback(
                lambda _: self._loop.call_later(self._interval, self._pump)
            )


def _is_of_payload(error: ArchibaldError | None) -> bool:
    """Say whether the same event with another payload may well be taken."""
    return isinstance(error, EmissionRefusedError) and (
        error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or error.field.startswith("payload")
    )


def noted(error: ArchibaldError, type_: str, job: str) -> ArchibaldError:
    """Add to an error which event of which job could not be told."""
    error.add_note(f"{type_} of the job {job}")
    return error
