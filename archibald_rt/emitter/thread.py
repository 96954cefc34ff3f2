"""A loop in a thread, with an emitter in it, for callers who have none."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import RLock, Thread, current_thread
from typing import Any, TypeVar

from archibald_rt.emitter.emitter import Emitter
from archibald_rt.emitter.messages import EmitterClosedError, NotEmittedError

_T = TypeVar("_T")


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in its own thread, which has nothing else to do while it connects.

    When the main thread has ended Python gives no other thread for it, and threads of the
    program may still want to emit.
    """

    async def getaddrinfo(  # type: ignore[override]  # only how asyncio and Tornado call it
        self,
        host: str,
        port: int,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name in asyncio
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        return socket.getaddrinfo(host, port, family, type, proto, flags)


class LoopThread:
    """An emitter in a loop of its own, in a daemon thread of this process, until `stop`.

    The emitter is entered and closed here. Calls may come from any other thread, and are taken in
    the order in which they come. Raises NotEmittedError where there is no thread or no
    descriptor to be had.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self._pid = os.getpid()
        # Held where something is put into the loop: whatever was, before it stops, is answered.
        self._lock = RLock()
        self._stopped = False
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._ready: Future[None] = Future()
        self._thread = Thread(target=self._run, name="archibald_rt.emitter", daemon=True)
        try:
            self.loop = _Loop()
        except OSError as error:
            raise NotEmittedError(f"not emitted: {error.strerror}") from error
        try:
            self._thread.start()
        except RuntimeError as error:
            # Since 3.12 Python starts none once the main thread has ended.
            self.loop.close()
            raise NotEmittedError(f"not emitted: {error}") from error

    @property
    def lost(self) -> bool:
        """Whether its thread is gone without having been stopped, as in a forked process."""
        return not self._stopped and not self._thread.is_alive()

    def call(self, make: Callable[[Emitter], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine of the emitter there and return what it returns or raises.

        Interrupted by an exception of a signal handler, such as Ctrl-C, it cancels it and
        raises that. Raises EmitterClosedError once it was stopped, and RuntimeError in the
        loop's own thread, which would wait for itself.
        """
        if current_thread() is self._thread:
            raise RuntimeError("the emitter's own thread can't wait for itself")
        self._ready.result()
        with self._lock:
            self._look_open()
            future = asyncio.run_coroutine_threadsafe(make(self.emitter), self.loop)
        try:
            return future.result()
        except BaseException:
            # Of an emission that was not sent yet nothing is left; of any other nothing changes.
            future.cancel()
            raise

    def soon(self, callback: Callable[[], object]) -> None:
        """Call something there, without waiting; raises EmitterClosedError once it was stopped."""
        self._ready.result()
        with self._lock:
            self._look_open()
            self.loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        """Take nothing more, wait until all is answered, and end the thread; twice is fine.

        Interrupted by an exception it cuts off what is pending, and raises that. In a forked
        process it does nothing: the thread is the other's.
        """
        if self._pid != os.getpid():
            return
        self._ready.result()
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self.loop.call_soon_threadsafe(self._stopping.set)
        # What is forgotten and not closed may be collected in any thread.
        if current_thread() is self._thread:
            return
        try:
            self._thread.join()
        except BaseException:
            # The loop may have closed meanwhile.
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._cut_off)
            raise

    def _look_open(self) -> None:
        if self._stopped:
            raise EmitterClosedError("the emitter is closed")

    def _cut_off(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    def _run(self) -> None:
        made = asyncio.Runner(loop_factory=lambda: self.loop)
        with made as runner, suppress(asyncio.CancelledError):
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._serving = asyncio.current_task()
        async with self.emitter:
            self._ready.set_result(None)
            try:
                await self._stopping.wait()
                # Everything in this loop is an emission, or a job that still has some.
                while others := _others():
                    await asyncio.wait(others)
            except asyncio.CancelledError:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await self.emitter.close()
                # Those who were answered by that have their turns to hear it.
                if others := _others():
                    await asyncio.wait(others, timeout=1)
                raise


def _others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
