"""What the peers have in common: where a started one is reached, and its process."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

START_WITHIN = 60.0
"""How long a server may take until it listens, in seconds."""

STOP_WITHIN = 20.0
"""How long it may take to end, before it is killed."""


class NotStartedError(Exception):
    """A server ended, or said nothing, before it listened."""


@dataclass(frozen=True)
class Secrets:
    """The secrets of a run: made for it, and known to every peer."""

    jwt: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    emit: str = field(default_factory=lambda: secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Endpoint:
    """A started server, as the load needs to know it."""

    dialect: str
    """How it is spoken to: a name in `benchmarks.load.dialects`."""

    public: int
    internal: int
    pid: int
    jwt_secret: str
    emit_token: str
    folder: Path
    """Where its files are: on the disk that a log is on."""

    python: str = sys.executable
    """The Python of the version that is measured, for clients that come with it."""


@dataclass(frozen=True)
class Start:
    """What a work wants of a server that is started for it."""

    folder: Path
    """For its files. Started again in the same folder it finds what it left there."""

    secrets: Secrets
    kept: int = 200
    """How many events of a user one that keeps them in memory holds."""

    log: Path | None = None
    """A log to be served, for a server that has one."""


class Peer(Protocol):
    """A kind of server. `label` names it in tables, `kind` in options and works."""

    @property
    def label(self) -> str:
        """Its name in tables; no two of a run share it."""

    @property
    def kind(self) -> str:
        """Its name in options and works."""

    def missing(self) -> str | None:
        """Get ready; returns why it can't run here, None if it can."""

    def start(self, start: Start) -> AbstractContextManager[Endpoint]:
        """Run it until the block is left; raises `NotStartedError`."""


@contextmanager
def running(
    command: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block is left; what it says on stderr is kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr.txt").open("ab") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=errors,
            # Ctrl-C is for the benchmark, which ends its servers itself.
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


def printed_ports(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, int]:
    """Wait for the line in which a server prints its public and its internal port."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise NotStartedError(last_words(folder))
    ports = json.loads(line)
    return ports["public"], ports["internal"]


def wait_for(condition: Iterator[bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask `condition` until it is true; raises `NotStartedError` when that can't be any more."""
    deadline = time.monotonic() + START_WITHIN
    for met in condition:
        if met:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotStartedError(last_words(folder))
        time.sleep(0.02)


def last_words(folder: Path) -> str:
    """Return the last line a server has said."""
    lines = (folder / "stderr.txt").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
