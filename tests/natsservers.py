"""Real NATS servers for tests, as processes of their own."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20.0
"""How many seconds a server may take to start or to end."""

PROGRAM = str(Path(sys.executable).with_name("nats-server"))

_CONFIG = """
server_name: {name}
listen: "127.0.0.1:{port}"
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}", sync_interval: always }}
"""


class NatsServer:
    """A NATS server with JetStream that keeps its streams in `folder`."""

    def __init__(self, folder: Path, *, name: str = "n1") -> None:
        self._folder = folder
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        # The one it was given by the system, so that clients find it again.
        self._port = -1
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "server.conf"
        text = _CONFIG.format(name=self._name, port=self._port, folder=self._folder)
        config.write_text(text)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        ports = self._folder / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + PATIENCE
        while not (ports.exists() and ports.read_text().endswith("}")):
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, "no NATS server came up"
            time.sleep(0.01)
        (self.url,) = json.loads(ports.read_text())["nats"]
        self._port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Have it answer nobody for the length of a block, as a network that is cut does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        tasks = Path(f"/proc/{self._process.pid}/task")
        # Each thread stops when it gets to it.
        while any(_state(task) != "T" for task in tasks.iterdir()):
            assert time.monotonic() < deadline, "the NATS server runs on"
            time.sleep(0.001)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Lose all that it has stored; while it is not running."""
        shutil.rmtree(self._folder / "jetstream")


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """Run a server for the length of a block."""
    server = NatsServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
