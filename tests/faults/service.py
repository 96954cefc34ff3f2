"""A server as its operator runs it: one process after the other, on the same ports and log."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from faults.backends import Answer, BackEnd
from processes import PATIENCE, environment
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SETTINGS = {
    "log.max_age": "0s",
    "log.max_events_per_user": "0",
    "log.max_size": "0",
    # Small, so that devices fall behind.
    "delivery.max_outbox": "16KiB",
    "delivery.devices_per_user": "0",
    "delivery.connects_per_user_per_minute": "0",
    "server.drain": "500ms",
}
"""What every service here is run with: it keeps all events, and bounds no device's connects."""

GIVEN_UP = "the event log can't be relied on, exiting; a restart reads what is on disk"
"""What a server says last that has met something after which it can't trust its log."""


def free_port(chance: random.Random) -> int:
    """Return a port to listen on, below those the system gives to outgoing connections.

    A client that tries to reach a server that is down could be given the very port, and
    hold it (or connect to itself) when the server comes back.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = chance.randrange(10_000, lowest)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Service:
    """A server that can be started again; whatever runs at the end of its block is killed.

    ``log`` is the path of its log and may be changed between two starts, as may ``settings``
    (by names such as ``delivery.heartbeat``), ``prefix`` (a command that runs the server's
    command) and ``program`` (what the Python of the tests is called with).
    """

    def __init__(self, folder: Path, log: Path | None = None) -> None:
        self.folder = folder
        self.log = log or folder / "events.db"
        self.settings: dict[str, str] = dict(SETTINGS)
        self.environment: Mapping[str, str] = {}
        self.prefix: Sequence[str] = ()
        self.program: Sequence[str] = ("-W", "error", "-m", "archibald_rt", "serve")
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        # No secret is made of it, and ports below are taken by whoever comes first.
        chance = random.Random()  # noqa: S311 - as above
        self._ports = {"server": free_port(chance), "internal": free_port(chance)}
        self._stderr = folder / "stderr"

    @property
    def public_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['server']}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['internal']}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def output(self) -> str:
        """Return all that the present process has written on stderr, or the last one wrote."""
        return self._stderr.read_text()

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Return the present process's log lines of this event."""
        lines = [json.loads(line) for line in self.output().splitlines() if line[:1] == "{"]
        return [line for line in lines if line["event"] == event]

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for a log line; return the first of its kind that the present process wrote."""
        await eventually(lambda: self.entries(event))
        return self.entries(event)[0]

    async def start(self) -> None:
        """Start a process and wait until it listens."""
        await self._spawn(self._new_stderr())
        await eventually(lambda: self.entries("listening") or self.ended)
        assert self.entries("listening"), self.output()

    async def start_mute(self, stderr: Path) -> None:
        """Start a process whose stderr can't be read, and wait until it is ready."""
        await self._spawn(stderr)

        async def is_ready() -> bool:
            assert not self.ended
            try:
                return (await self.ready()).status == 200
            except OSError:
                return False

        await eventually(is_ready)

    async def refusal_if_any(self) -> str | None:
        """Do as `refusal`; None if the process serves, having needed nothing that isn't there."""
        await self._spawn(self._new_stderr())
        await eventually(lambda: self.entries("listening") or self.ended, within=PATIENCE)
        return self._refusal() if self.ended else None

    async def refusal(self) -> str:
        """Start a process that can't use its log, and return the one line that says why."""
        await self._spawn(self._new_stderr())
        await self.wait()
        return self._refusal()

    def _refusal(self) -> str:
        assert self.process is not None
        code, said = self.process.returncode, self.output()
        assert code == 1, said
        assert said.count("\n") == 1, said
        head = f"archibald-rt: log {self.log}: "
        assert said.startswith(head), said
        return said.removeprefix(head).rstrip()

    async def breakdown(self) -> str:
        """Wait for the process to give its log up; return the reason that it gave."""
        code = await self.wait()
        assert code == 1, self.output()
        (entry,) = self.entries(GIVEN_UP)
        assert entry["level"] == "critical"
        return str(entry["reason"])

    async def ready(self) -> Answer:
        """Return what the server says of its readiness."""
        back_end = BackEnd(self.public_url)
        try:
            return await back_end.request("GET", "/readyz")
        finally:
            back_end.close()

    async def until_ready(self) -> float:
        """Wait until the server says that it is ready; return how many seconds that took."""
        began = time.monotonic()

        async def is_ready() -> bool:
            return (await self.ready()).status == 200

        await eventually(is_ready)
        return time.monotonic() - began

    @property
    def ended(self) -> bool:
        """Whether the process there was has ended."""
        return self.process is None or self.process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code."""
        await eventually(lambda: self.ended, within=PATIENCE)
        assert self.process is not None
        code = self.process.returncode
        assert isinstance(code, int)
        return code

    async def kill(self) -> None:
        """End the process as ``kill -9`` does."""
        self.signal(signal.SIGKILL)
        assert await self.wait() == -signal.SIGKILL

    async def stop(self) -> None:
        """End the process as an operator does."""
        self.signal(signal.SIGTERM)
        assert await self.wait() == 0, self.output()

    async def freeze(self) -> None:
        """Stop the process where it stands, and wait until all of its threads do."""
        self.signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")

        def stopped() -> bool:
            stats = [(task / "stat").read_text() for task in tasks.iterdir()]
            return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)

        await eventually(stopped)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if not self.ended:
            assert self.process is not None
            self.process.kill()
            await self.wait()

    def _new_stderr(self) -> Path:
        self._stderr = self.folder / f"stderr-{self.starts}"
        return self._stderr

    async def _spawn(self, stderr: Path) -> None:
        assert self.ended, "it runs already"
        settings = {
            f"ARCHIBALD_RT_{name.upper().replace('.', '_')}": text
            for name, text in self.settings.items()
        }
        ports = {f"ARCHIBALD_RT_{name.upper()}_PORT": str(n) for name, n in self._ports.items()}
        extra = {**settings, **ports, "ARCHIBALD_RT_LOG_PATH": str(self.log), **self.environment}
        self.starts += 1
        with stderr.open("wb") as written:
            # Waiting for a process would hold the loop up, and with it all devices.
            self.process = await asyncio.to_thread(
                subprocess.Popen,
                [*self.prefix, sys.executable, *self.program],
                cwd=self.folder,
                env=environment(self.folder, extra),
                stdout=subprocess.DEVNULL,
                stderr=written,
            )
