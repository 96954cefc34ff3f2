"""Concurrent callers of the Python emitter, each with one event at a time."""

import asyncio
import os
from pathlib import Path

from benchmarks.peers.base import Endpoint
from benchmarks.works.base import Figures, settled, spending
from benchmarks.works.emit import Emit

PROGRAM = Path(__file__).parent.parent / "load" / "callers.py"


class CallersError(Exception):
    """The callers ended, with these last words."""


class Callers:
    """So many `callers` emit `events` through one emitter; a peer without gets plain requests.

    The emitter is the one of the version that is measured, in a process of its own.
    """

    def __init__(self, at: Endpoint, *, callers: int, events: int) -> None:
        self._at, self._callers, self._events = at, callers, events
        self._plain: Emit | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Start the callers, and warm up."""
        if self._at.dialect != "archibald":
            self._plain = Emit(self._at, requests=self._events, emitters=self._callers)
        else:
            url = f"http://127.0.0.1:{self._at.internal}"
            self._process = await asyncio.create_subprocess_exec(
                # -P, or its folder's modules would come before those of the same name.
                *(self._at.python, "-P", str(PROGRAM), url, str(self._callers), str(self._events)),
                env=os.environ | {"BENCH_EMIT_TOKEN": self._at.emit_token},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd="/",
            )
            await self._line(self._process)
        await self.round()

    async def round(self) -> Figures:
        """Emit all."""
        if self._plain is not None:
            return await self._plain.round()
        process = self._process
        assert process is not None, "prepare() comes first"
        assert process.stdin is not None
        await settled(self._at.pid)
        with spending(self._at.pid) as spent:
            process.stdin.write(b"\n")
            line = await self._line(process)
        return {
            "CPU µs/event": spent.cpu / self._events * 1e6,
            "events/s": self._events / float(line),
        }

    async def _line(self, process: asyncio.subprocess.Process) -> bytes:
        """Return what the callers say next, or raise their last words."""
        assert process.stdout is not None
        assert process.stderr is not None
        if line := await process.stdout.readline():
            return line
        words = (await process.stderr.read()).decode().splitlines()
        raise CallersError(words[-1] if words else "they ended")

    async def close(self) -> None:
        """End the callers."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
