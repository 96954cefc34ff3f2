"""The process that plays the load, and the benchmark's end of the pipe to it."""

import asyncio
import multiprocessing
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvloop

from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, Moving, Work
from benchmarks.works.registry import WORKS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class WorkError(Exception):
    """A work failed in its process; says how."""


class Load:
    """A work in a process of its own."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe

    def prepare(self) -> None:
        """Have it prepare; raises `WorkError`."""
        self._ask("prepare")

    def move(self, at: Endpoint) -> None:
        """Tell it where the server is after a restart."""
        self._ask(at)

    def round(self) -> Figures:
        """Have it do a round; raises `WorkError`."""
        figures: Figures = self._ask("round")
        return figures

    def _ask(self, what: str | Endpoint) -> Any:
        try:
            self._pipe.send(what)
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise WorkError("its process ended") from None
        if isinstance(answer, WorkError):
            raise answer
        return answer


@contextmanager
def loading(work: str, at: Endpoint, parameters: Mapping[str, Any]) -> Iterator[Load]:
    """Run a work's process until the block is left."""
    # Spawned, not forked: it begins with nothing of the benchmark's own memory.
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_main, args=(its, work, at, parameters), daemon=True)
    process.start()
    its.close()
    try:
        yield Load(ours)
    finally:
        ours.close()
        process.join(30)
        if process.is_alive():
            process.kill()
            process.join()


def _main(pipe: "Connection[Any, Any]", name: str, at: Endpoint, given: Mapping[str, Any]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, WORKS[name](at, **given)))


async def _serve(pipe: "Connection[Any, Any]", work: Work) -> None:
    try:
        while True:
            # In a thread: devices answer pings also while it is the others' turn.
            pipe.send(await _done(work, await asyncio.to_thread(pipe.recv)))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        await work.close()


async def _done(work: Work, what: str | Endpoint) -> Figures | WorkError | None:
    try:
        if isinstance(what, Endpoint):
            assert isinstance(work, Moving), "only such a work has its server restarted"
            work.move(what)
            return None
        return await (work.prepare() if what == "prepare" else work.round())
    except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark is to say it
        return WorkError(f"{type(error).__name__}: {error}")
