"""System calls that fail on demand, by libfiu (fiu-run and fiu-ctrl)."""

import asyncio
import errno
import subprocess
from pathlib import Path

FSYNC = "posix/io/sync/fdatasync"
"""How SQLite asks for its files to be on disk."""

WRITE = "posix/io/rw/pwrite"
"""How SQLite writes; sockets and log lines are written otherwise."""


class FailingCalls:
    """What makes calls of a process fail that was started by ``prefix``."""

    def __init__(self, folder: Path) -> None:
        self._channel = str(folder / "fiu")
        self.prefix = ("fiu-run", "-x", "-f", self._channel)

    async def begin(self, pid: int, call: str, code: int, *, share: float = 1) -> None:
        """Have a call fail with an error code of `errno`; all of its calls, or this share."""
        assert code in errno.errorcode
        how = f"name={call},failinfo={code}"
        if share < 1:
            await self._control(pid, f"enable_random {how},probability={share}")
        else:
            await self._control(pid, f"enable {how}")

    async def end(self, pid: int, call: str) -> None:
        """Have a call work again."""
        await self._control(pid, f"disable name={call}")

    async def _control(self, pid: int, command: str) -> None:
        arguments = ["fiu-ctrl", "-f", self._channel, "-c", command, str(pid)]
        await asyncio.to_thread(
            subprocess.run, arguments, check=True, capture_output=True, timeout=30
        )
