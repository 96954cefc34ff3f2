"""A job that its user can follow: started, some progress, completed or failed.

::

    async with emitter.job("ada", "submit-order") as job:
        job.progress(40, "checking stock")
"""

import asyncio
import logging
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from archibald_rt.emitter.messages import payload_json
from archibald_rt.emitter.reports import Emit, Reports
from archibald_rt.errors import ArchibaldError

# Keys are the job's id with a type before it, and may have 200 characters.
_LONGEST_ID = 120

_log = logging.getLogger("archibald_rt.emitter")


class _State(msgspec.Struct, frozen=True):
    """The payload of a job's events, as ``scripts/run_job.py`` has it, too."""

    jobId: str  # noqa: N815 - the name on the wire
    operation: str
    progress: int
    message: str
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


OnError: TypeAlias = Callable[[ArchibaldError], object]
"""Hears what could not be told of a job; what it raises is raised where the block is left."""


class Job:
    """What `AsyncJob` and `SyncJob` share: what the job's code says about itself.

    Everything may be called in any thread, and nothing here waits. In a process that was forked
    inside the block nothing has an effect: the job is the other process's.
    """

    def __init__(
        self,
        user: str,
        operation: str,
        *,
        job_id: str | None,
        prefix: str,
        interval: float,
        on_error: OnError | None,
    ) -> None:
        self._id = uuid4().hex if job_id is None else job_id
        if not self._id or len(self._id) + len(prefix) > _LONGEST_ID:
            raise ValueError(f"a job's id and its prefix have 1 to {_LONGEST_ID} characters")
        self._user = user
        self._prefix = prefix
        self._interval = interval
        self._on_error = on_error or _logged
        self._state = _State(self._id, operation, 0, f"{operation} started")
        self._first = payload_json(self._state)
        self._completed: str | None = None
        self._result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        self._failed: str | None = None
        self._postponed = False
        self._reports: Reports | None = None
        self._entered = False
        self._untold: list[ArchibaldError] = []
        self._pid = os.getpid()

    @property
    def id(self) -> str:
        """The job's id, as devices see it."""
        return self._id

    def progress(self, percent: float, message: str = "") -> None:
        """Say how far the job is, from 0 to 100, and what it does; shown to the user.

        Not every call is an event: of several within the interval the last one is sent. What
        becomes of it is not heard of. Outside the job's block it does nothing. Raises TypeError
        for a message that is no text, as whatever takes one does.
        """
        message = _sendable(message)
        # The order of the comparisons makes 0 of what is no number.
        whole = round(min(100, max(0, percent)))
        self._state = state = replace(self._state, progress=whole, message=message)
        if self._reports is not None and self._is_here():
            self._reports.progress(bytes(payload_json(state)))

    def complete(self, result: Any = None, message: str | None = None) -> None:
        """Say what the user is told when the block is left without an exception.

        ``result`` is a value that msgspec can encode, or JSON as bytes, and goes into the
        payload as it is now; the message is "… completed" where none is given. Raises TypeError
        or ValueError for what JSON has not. A call of `fail` before it is void.
        """
        if message is not None:
            message = _sendable(message)
        self._result = msgspec.UNSET if result is None else payload_json(result)
        self._failed, self._postponed = None, False
        if message is not None:
            self._completed = message

    def fail(self, message: str) -> None:
        """Have the job end as failed, and say why in words that are meant for the user.

        It holds whether the block is left by an exception or not. Does not leave the block.
        """
        self._failed, self._postponed = _sendable(message), False

    def postpone(self, message: str = "") -> None:
        """Have the block end without the job being told completed or failed.

        For a job that is taken up again under its id, such as a task that will be retried:
        however the block is left, the user is shown one more progress with this message.
        """
        self.progress(self._state.progress, message)
        self._failed, self._postponed = None, True

    def _enter(self) -> None:
        if self._entered:
            raise RuntimeError("a job can be entered only once")
        self._entered = True
        self._pid = os.getpid()

    def _is_here(self) -> bool:
        return self._pid == os.getpid()

    def _report(self, loop: asyncio.AbstractEventLoop, emit: Emit) -> Reports:
        """Return what reports this job from now on; to be begun in that loop."""
        self._reports = Reports(
            loop,
            emit,
            self._user,
            progress_type=f"{self._prefix}_PROGRESS",
            conflate=self._id,
            interval=self._interval,
        )
        return self._reports

    def _started(self) -> tuple[str, bytes, str]:
        """Return the first event's type, payload and key."""
        return f"{self._prefix}_STARTED", bytes(self._first), self._key("STARTED")

    def _ended(self, error: BaseException | None) -> tuple[str | None, bytes, str, bytes]:
        """Return the last event's type, payload and key for a block that is left by an error.

        And a payload that is told instead where this one is refused: without the result and in
        words of our own.
        """
        if self._postponed:
            return None, b"", "", b""
        if error is None and self._failed is None:
            outcome = how = "completed"
            plain = replace(self._state, progress=100, message=self._told(how))
            state = replace(plain, message=self._completed or plain.message, result=self._result)
        else:
            # An exception's text may hold anything; it was not written for the user.
            how = "failed" if error is None or isinstance(error, Exception) else "was cancelled"
            outcome, plain = "failed", replace(self._state, message=self._told(how))
            state = replace(plain, message=self._failed or plain.message)
        payloads = bytes(payload_json(state)), bytes(payload_json(plain))
        outcome = outcome.upper()
        return f"{self._prefix}_{outcome}", payloads[0], self._key(outcome), payloads[1]

    def _told(self, how: str) -> str:
        return f"{self._state.operation} {how}"

    def _key(self, outcome: str) -> str:
        return f"{self._prefix}_{outcome}:{self._id}"

    def _hear(self) -> None:
        """Hand over what could not be told."""
        for error in self._untold:
            self._on_error(error)


class AsyncJob(Job):
    """A job of an `Emitter`, to be entered once by ``async with``."""

    def __init__(self, emit: Emit, user: str, operation: str, **options: Any) -> None:
        super().__init__(user, operation, **options)
        self._emit = emit

    async def __aenter__(self) -> Self:
        self._enter()
        reports = self._report(asyncio.get_running_loop(), self._emit)
        reports.begin(*self._started())
        try:
            # Its task has its first turn now, so that what is emitted next comes after it.
            await asyncio.sleep(0)
        except BaseException as error:
            # A block that isn't entered isn't left either.
            reports.end(*self._ended(error))
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reports is not None and self._is_here():
            self._reports.end(*self._ended(error))
            self._untold += await self._reports.settled()
            self._hear()


def _sendable(message: str) -> str:
    """Return a message as UTF-8 has it: a file's name, or another program's words, may be none.

    Looked at when it is said. At the job's end it would take the place of the job's own exception,
    and nobody would be told of an end.
    """
    if not isinstance(message, str):
        raise TypeError(f"a message is text, not {type(message).__name__}")
    return message.encode(errors="replace").decode()


def _logged(error: ArchibaldError) -> None:
    _log.warning("%s was not told: %s", "; ".join(error.__notes__), error)
