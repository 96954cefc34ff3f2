"""The peers that are programs beside this module: two on Node, two on Python."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.base import Endpoint, Start, printed_ports, running

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Program:
    """A server that prints its ports as its first line."""

    label: str
    kind: str
    dialect: str
    file: str

    def missing(self) -> str | None:
        """Install what it needs, beside it; returns why it can't run, None if it can."""
        return _install_node_packages() if self._on_node else None

    @property
    def _on_node(self) -> bool:
        return self.file.endswith(".mjs")

    @contextmanager
    def start(self, start: Start) -> Iterator[Endpoint]:
        """Run it until the block is left."""
        interpreter = "node" if self._on_node else sys.executable
        environment = {
            "BENCH_JWT_SECRET": start.secrets.jwt,
            "BENCH_EMIT_TOKEN": start.secrets.emit,
            "BENCH_BUFFER": str(start.kept),
        }
        with running(
            [interpreter, str(SERVERS / self.file)],
            folder=start.folder,
            environment=environment,
            stdout=subprocess.PIPE,
        ) as process:
            public, internal = printed_ports(process, start.folder)
            yield Endpoint(
                self.dialect,
                public,
                internal,
                process.pid,
                start.secrets.jwt,
                start.secrets.emit,
                start.folder,
            )


WS = Program("ws", "ws", "ws", "ws.mjs")
SOCKETIO = Program("Socket.IO", "socketio", "socketio", "socketio.mjs")
TORNADO = Program("write_message", "tornado", "ws", "tornado_server.py")
RAW = Program("raw send", "raw", "ws", "raw_server.py")


def _install_node_packages() -> str | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "needs node and npm"
    wanted = json.loads((SERVERS / "package.json").read_text())["dependencies"]
    if all(_installed(name) == version for name, version in wanted.items()):
        return None
    # Exact versions stand in package.json; a lock file would name the registry it was made with.
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
    command += ["--ignore-scripts", "--loglevel=error"]
    try:
        subprocess.run(command, cwd=SERVERS, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        return f"npm install: {error.stderr.strip() or error}"
    return None


def _installed(name: str) -> str | None:
    path = SERVERS / "node_modules" / name / "package.json"
    if not path.exists():
        return None
    version: str = json.loads(path.read_text())["version"]
    return version
