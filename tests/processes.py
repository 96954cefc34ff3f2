"""Servers and commands as processes of their own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from support import EMIT_TOKEN, SECRET

PATIENCE = 30.0
"""How many seconds a process may take for what it has to do at once."""

# Puts the descriptors named first where an activated service finds them, and becomes it.
ACTIVATED = """
import fcntl, os, sys
given = [int(number) for number in sys.argv[1].split(",")]
apart = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in given]
for number in given:
    os.close(number)
for place, number in enumerate(apart):
    os.dup2(number, 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given))}
os.execv(sys.argv[2], sys.argv[2:])
"""
_OF_SERVICES = ("ARCHIBALD_RT_", "LISTEN_", "NOTIFY_", "WATCHDOG_")


def wait_until(
    condition: Callable[[], object],
    *,
    within: float = PATIENCE,
    otherwise: str = "it did not come about",
) -> None:
    """Wait for something outside this process, as `support.eventually` does in a loop."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.001)


def environment(folder: Path, extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the environment of a server with free ports and its log in `folder`.

    What is None in ``extra`` is left out.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_OF_SERVICES)}
    made: dict[str, str | None] = {
        **clean,
        "ARCHIBALD_RT_SERVER_PORT": "0",
        "ARCHIBALD_RT_INTERNAL_PORT": "0",
        "ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": EMIT_TOKEN,
        "ARCHIBALD_RT_AUTH_JWT_SECRET": SECRET,
        "ARCHIBALD_RT_LOG_PATH": str(folder / "events.db"),
        "ARCHIBALD_RT_LOGGING_FORMAT": "json",
        **(extra or {}),
    }
    return {name: text for name, text in made.items() if text is not None}


def command(
    folder: Path,
    *arguments: str,
    extra: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``archibald-rt`` with these arguments in `folder` until it ends."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "archibald_rt", *arguments],
        cwd=folder,
        env=environment(folder, extra),
        input=None if stdin is None else stdin.decode(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def _running(
    folder: Path,
    *arguments: str,
    extra: Mapping[str, str | None] | None,
    stdout: int,
    stderr: int,
    sockets: Sequence[socket.socket] = (),
) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-W", "error", "-m", "archibald_rt", *arguments]
    given = [each.fileno() for each in sockets]
    if sockets:
        words = [sys.executable, "-c", ACTIVATED, ",".join(map(str, given)), *words]
    process = subprocess.Popen(
        words,
        pass_fds=given,
        cwd=folder,
        env=environment(folder, extra),
        stdout=stdout,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def started(
    folder: Path, *arguments: str, extra: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run ``archibald-rt`` for the length of a block, to read its output; killed at the end."""
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with _running(folder, *arguments, extra=extra, stdout=pipe, stderr=nowhere) as process:
        yield process


class ServerProcess:
    """A server that runs as a process; made by `serving`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        self._followed: list[str] = []
        self._follower: Thread | None = None
        self.listening = self.line("listening")
        self.public_url = str(self.listening["public"])
        self.internal_url = str(self.listening["internal"])

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def resident(self) -> int:
        """How many bytes of memory it has (VmRSS)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (kibibytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kibibytes) * 1024

    def line(self, *events: str) -> dict[str, Any]:
        """Return the next log line of one of these events."""
        assert self._process.stderr is not None
        for text in self._process.stderr:
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if line["event"] in events:
                return line
        raise AssertionError(f"ended without {events}: {self.lines}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until the process has ended; return its exit code."""
        return self._process.wait(PATIENCE)

    def rest(self) -> str:
        """Return what else it wrote, to its end."""
        assert self._process.stderr is not None
        if self._follower is not None:
            self._follower.join()
        return "".join(self._followed) + self._process.stderr.read()

    def follow(self) -> None:
        """Read what it writes as it comes, for `rest`: one that writes much must not wait."""
        assert self._process.stderr is not None
        self._follower = Thread(target=self._followed.extend, args=[self._process.stderr])
        self._follower.start()

    def check_log(
        self, *, expected: Callable[[dict[str, Any]], bool] = lambda _line: False
    ) -> None:
        """Read to the end what it wrote; fails if a fault was among it that was not expected."""
        for text in self.rest().splitlines():
            line = json.loads(text)
            assert line["level"] in {"debug", "info", "warning"} or expected(line), text
            assert "Traceback" not in text, text


@contextmanager
def serving(
    folder: Path,
    extra: Mapping[str, str | None] | None = None,
    *,
    sockets: Sequence[socket.socket] = (),
) -> Iterator[ServerProcess]:
    """Run ``archibald-rt serve`` for the length of a block; it is killed if it still runs then.

    It is given the listening sockets as systemd would; ``extra`` may have ``LISTEN_FDNAMES``.
    """
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with _running(
        folder, "serve", extra=extra, stdout=nowhere, stderr=pipe, sockets=sockets
    ) as process:
        yield ServerProcess(process)
