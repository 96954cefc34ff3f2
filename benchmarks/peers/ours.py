"""This project's server, of any checkout: the Python it is installed for says which."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.base import Endpoint, Start, running, wait_for

# Limits that would measure themselves are off; all else is as it comes.
UNLIMITED = {
    "SERVER_PORT": "0",
    "INTERNAL_PORT": "0",
    "SERVER_MAX_CONNECTIONS": "0",
    "SERVER_CONNECTS_PER_ADDRESS_PER_MINUTE": "0",
    "SERVER_DRAIN": "0",
    "LOG_MAX_AGE": "0",
    "LOG_MAX_EVENTS_PER_USER": "0",
    "LOG_MAX_SIZE": "0",
    "DELIVERY_DEVICES_PER_USER": "0",
    "DELIVERY_CONNECTS_PER_USER_PER_MINUTE": "0",
    "LOGGING_FORMAT": "json",
}


@dataclass(frozen=True)
class Ours:
    """The server that `python -m archibald_rt` starts."""

    label: str
    python: str
    kind: str = "ours"
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else it is given, as the environment names it: `LOG_ENGINE`."""

    def missing(self) -> str | None:
        """Return why it can't run; None if it can."""
        command = [self.python, "-c", "import archibald_rt"]
        try:
            # Elsewhere, or the working directory's package would be found first.
            subprocess.run(command, check=True, capture_output=True, cwd="/")
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{self.python}: {error}"
        return None

    @contextmanager
    def start(self, start: Start) -> Iterator[Endpoint]:
        """Run it until the block is left."""
        settings = UNLIMITED | {
            "INTERNAL_EMIT_TOKENS": start.secrets.emit,
            "AUTH_JWT_SECRET": start.secrets.jwt,
            "LOG_PATH": str(start.log or start.folder / "events.db"),
            **self.settings,
        }
        # The folder may be an earlier start's: what that one said is not this one's.
        (start.folder / "stderr.txt").unlink(missing_ok=True)
        with running(
            [self.python, "-m", "archibald_rt", "serve"],
            folder=start.folder,
            environment={f"ARCHIBALD_RT_{name}": text for name, text in settings.items()},
        ) as process:
            wait_for(_asked(start.folder), process, start.folder)
            public, internal = _listening(start.folder) or (0, 0)
            yield Endpoint(
                "archibald",
                public,
                internal,
                process.pid,
                start.secrets.jwt,
                start.secrets.emit,
                start.folder,
                self.python,
            )


def _asked(folder: Path) -> Iterator[bool]:
    while True:
        yield _listening(folder) is not None


def _listening(folder: Path) -> tuple[int, int] | None:
    """Return both ports, once the server has said them."""
    for line in (folder / "stderr.txt").read_text().splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            entry = json.loads(line)
            if entry["event"] == "listening":
                ports = (urlsplit(entry[name]).port for name in ("public", "internal"))
                public, internal = (port or 0 for port in ports)
                return public, internal
    return None
