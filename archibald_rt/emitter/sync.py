"""The emitter for code without asyncio: tasks, views, scripts.

::

    with SyncEmitter("http://127.0.0.1:8081", token) as emitter:
        emitter.emit("ada", "JOB_STARTED", {"jobId": 7})
"""

import os
import ssl
import weakref
from collections.abc import Callable
from functools import partial
from threading import RLock
from types import TracebackType
from typing import Any, Self

from archibald_rt.emitter.emitter import Emitter
from archibald_rt.emitter.jobs import Job, OnError
from archibald_rt.emitter.messages import Emitted, EmitterClosedError, EmitterError
from archibald_rt.emitter.reports import noted
from archibald_rt.emitter.thread import LoopThread


class SyncEmitter:
    """An `Emitter` whose calls return when they are answered: same arguments, same errors.

    It is used by ``with``, or without and closed by `close`; what is not closed is when the
    interpreter exits. It may be shared by all threads: what they emit at the same time goes in
    one request. It may be made before a fork and used after it, in both processes: a thread, a
    connection and keys are made by the first emission in each process.

    ``emit`` and ``broadcast`` wait for at most ``retry_for`` seconds, a last try of at most
    ``connect_timeout`` and ``timeout``, and as long again for a request that was under way
    before. Whatever a signal handler raises in a waiting caller, such as KeyboardInterrupt, takes
    its emission back if it was not sent yet. In the thread of a running loop they block it.

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
        self._make = partial(
            Emitter,
            url,
            token,
            max_batch=max_batch,
            max_body=max_body,
            max_waiting=max_waiting,
            retry_for=retry_for,
            timeout=timeout,
            connect_timeout=connect_timeout,
            ssl_context=ssl_context,
        )
        # For what it raises.
        self._make()
        self._closed = False
        # By process: a fork takes neither the thread along nor whoever holds a lock.
        self._processes: dict[int, _Process] = {}

    def __enter__(self) -> Self:
        if self._closed:
            raise RuntimeError("the emitter is closed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def emit(
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
        """Emit an event to a user's devices, and return what became of it, as `Emitter.emit`."""
        return self._running().call(
            lambda emitter: emitter.emit(
                user,
                type,
                payload,
                durable=durable,
                key=key,
                timestamp=timestamp,
                conflate=conflate,
            )
        )

    def broadcast(
        self,
        type: str,  # noqa: A002 - the name on the wire
        payload: Any = None,
        *,
        durable: bool = False,
        key: str | None = None,
        timestamp: str | None = None,
        conflate: str | None = None,
    ) -> Emitted:
        """Emit an event to everybody, as `Emitter.broadcast`."""
        return self._running().call(
            lambda emitter: emitter.broadcast(
                type, payload, durable=durable, key=key, timestamp=timestamp, conflate=conflate
            )
        )

    def job(
        self,
        user: str,
        operation: str,
        *,
        job_id: str | None = None,
        prefix: str = "JOB",
        interval: float = 0.2,
        on_error: OnError | None = None,
    ) -> "SyncJob":
        """Return a job to be entered by ``with``, that tells the user how it goes.

        As `Emitter.job`: ``JOB_STARTED``, ``JOB_PROGRESS``, ``JOB_COMPLETED`` or
        ``JOB_FAILED``, the latter for any exception, which goes on; only the end waits.
        """
        options = {"job_id": job_id, "prefix": prefix, "interval": interval, "on_error": on_error}
        return SyncJob(self._running, user, operation, **options)

    def close(self) -> None:
        """Take nothing more and return when all that is pending is answered; twice is fine.

        That takes as long as their retries. Interrupted (Ctrl-C), it cuts them off. It holds in
        this process and in those forked from it later.
        """
        self._closed = True
        process = self._processes.get(os.getpid())
        if process is not None and process.thread is not None:
            process.thread.stop()

    def _running(self) -> LoopThread:
        # A dict's own methods are one step to other threads.
        process = self._processes.setdefault(os.getpid(), _Process())
        with process.lock:
            if self._closed:
                raise EmitterClosedError("the emitter is closed")
            # Lost: this process has the number of one that it was forked from.
            if process.thread is None or process.thread.lost:
                process.thread = LoopThread(self._make())
                # When the interpreter exits, or when nobody has the emitter any more.
                weakref.finalize(self, process.thread.stop)
            return process.thread


class _Process:
    """What an emitter has in one process."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.thread: LoopThread | None = None


class SyncJob(Job):
    """A job of a `SyncEmitter`, to be entered once by ``with``."""

    def __init__(
        self, running: Callable[[], LoopThread], user: str, operation: str, **options: Any
    ) -> None:
        super().__init__(user, operation, **options)
        self._running = running
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        self._enter()
        first = self._started()
        try:
            self._thread = thread = self._running()
            reports = self._report(thread.loop, thread.emitter.emit)
            thread.soon(partial(reports.begin, *first))
        except EmitterError as error:
            # Heard at the end, as all that goes wrong with what is told of the job.
            self._thread = None
            self._untold.append(noted(error, first[0], self.id))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_here():
            return
        thread, reports = self._thread, self._reports
        if thread is not None and reports is not None:
            last = self._ended(error)
            try:
                thread.soon(partial(reports.end, *last))
                self._untold += thread.call(lambda _: reports.settled())
            except EmitterClosedError as closed:
                self._untold.append(noted(closed, str(last[0]), self.id))
        self._hear()
