"""Real NATS servers for tests, as processes of their own."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from processes import wait_until

if TYPE_CHECKING:
    import pytest

PATIENCE = 20.0
"""How many seconds a server may take to start or to end."""

PROGRAM = str(Path(sys.executable).with_name("nats-server"))

_CONFIG = """
server_name: {name}
listen: "127.0.0.1:{port}"
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}", sync_interval: always }}
{more}
"""


def patient(patch: "pytest.MonkeyPatch") -> None:
    """Have logs give JetStream as long to answer as tests give it: no machine is too slow."""
    engine = "archibald_rt.eventlog.nats"
    import_module(f"{engine}.opening")
    for name in [name for name in sys.modules if name.startswith(f"{engine}.")]:
        for bound in ("ANSWER_WITHIN", "CONNECT_WITHIN"):
            if hasattr(sys.modules[name], bound):
                patch.setattr(sys.modules[name], bound, PATIENCE)


class NatsServer:
    """A NATS server with JetStream that keeps its streams in `folder`.

    ``more`` is added to its configuration.
    """

    def __init__(self, folder: Path, *, name: str = "n1", more: str = "") -> None:
        self._folder = folder
        self._name = name
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        # The one it was given by the system, so that clients find it again.
        self._port = -1
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._write()
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
        ports = self._folder / f"nats-server_{self._process.pid}.ports"
        process = self._process

        def listens() -> bool:
            assert process.poll() is None, (self._folder / "server.log").read_text()
            return ports.exists() and ports.read_text().endswith("}")

        wait_until(listens, within=PATIENCE, otherwise="no NATS server came up")
        (self.url,) = json.loads(ports.read_text())["nats"]
        self._port = int(self.url.rpartition(":")[2])

    def configure(self, more: str) -> None:
        """Have it go on with something else added to its configuration."""
        assert self._process is not None
        self._more = more
        self._write()
        self._process.send_signal(signal.SIGHUP)

    def _write(self) -> Path:
        config = self._folder / "server.conf"
        text = _CONFIG.format(
            name=self._name, port=self._port, folder=self._folder, more=self._more
        )
        config.write_text(text)
        return config

    def kill(self) -> None:
        """End it as a crash would."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        """End it by a signal, unless it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Have it answer nobody for the length of a block, as a network that is cut does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        # Each thread stops when it gets to it.
        wait_until(
            lambda: all(_state(task) == "T" for task in tasks.iterdir()),
            within=PATIENCE,
            otherwise="the NATS server runs on",
        )
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
def nats_server(folder: Path, *, more: str = "") -> Iterator[NatsServer]:
    """Run a server for the length of a block."""
    server = NatsServer(folder, more=more)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Cable:
    """A way to a server that can be cut: whoever goes by it is alone then."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut = False
        self.url = ""
        self.accepted = 0
        """How many connections there were, those that were cut at once as well."""

    def cut(self) -> None:
        """End all connections, and let none come about."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._cut = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on until it ends."""
        self._writers.add(writer)
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self) -> None:
        """Wait until no connection is left of those that were cut."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = {writer}
        try:
            if self._cut:
                return
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            both.add(there_writer)
            self._writers |= both
            # It may have been cut meanwhile.
            if not self._cut:
                await asyncio.gather(_pass(reader, there_writer), _pass(there_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def cable(server: NatsServer) -> AsyncIterator[Cable]:
    """Have a way to a server for the length of a block."""
    made = Cable(server.url)
    listener = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.url = f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listener.close()
        made.cut()
        await made.over()
