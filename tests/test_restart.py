"""A restart with sockets that a supervisor holds: no connection is refused, none is cut."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Self

import pytest

from processes import PATIENCE, serving, wait_until
from support import EMIT_TOKEN, handshake, token

RESTARTS = 3

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def emission(key: str) -> bytes:
    body = json.dumps({"userId": "u", "type": "A", "key": key}).encode()
    return (
        b"POST /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (EMIT_TOKEN.encode(), len(body), body)
    )


class Connection:
    """A client's connection, kept alive until the server ends it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """Return the answer's status, and whether the connection may be used once more."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        await self._reader.readexactly(int(headers.get("Content-Length", 0)))
        status = int(head.split()[1])
        assert status != 503 or "Retry-After" in headers
        return status, headers.get("Connection") != "close"


class Clients:
    """Clients in a thread of their own that ask without a pause, until they are stopped."""

    def __init__(self, public: socket.socket, internal: socket.socket) -> None:
        self._public = public
        self._internal = internal
        self._clients = (
            self._health_fresh,
            self._health_kept,
            self._health_late,
            self._handshake,
            self._emit_fresh,
            self._emit_kept,
        )
        self.answers = Counter({client.__name__: 0 for client in self._clients})
        self.emitted: list[str] = []
        self.faults: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def stop(self) -> None:
        """Let all have their last answers. Doing it again does nothing."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    async def _run(self) -> None:
        await asyncio.gather(*(self._guarded(each) for each in self._clients))

    async def _guarded(self, client: Callable[[str], Awaitable[None]]) -> None:
        name = client.__name__
        try:
            async with asyncio.timeout(4 * PATIENCE):
                await client(name)
        except (OSError, EOFError, AssertionError) as error:
            self.faults.append(f"{name}: {error!r}")

    async def _health_fresh(self, name: str) -> None:
        while not self._stopped.is_set():
            async with self._connected(self._public) as connection:
                assert (await connection.ask(HEALTH))[0] == 200
            self.answers[name] += 1

    async def _health_kept(self, name: str) -> None:
        while not self._stopped.is_set():
            async with self._connected(self._public) as connection:
                alive = True
                while alive and not self._stopped.is_set():
                    status, alive = await connection.ask(HEALTH)
                    assert status == 200
                    self.answers[name] += 1

    async def _health_late(self, name: str) -> None:
        for pause in count():
            if self._stopped.is_set():
                return
            async with self._connected(self._public) as connection:
                # So that some are accepted and not yet asked anything when the drain begins.
                await asyncio.sleep(pause % 10 / 100)
                assert (await connection.ask(HEALTH))[0] == 200
            self.answers[name] += 1

    async def _handshake(self, name: str) -> None:
        while not self._stopped.is_set():
            async with self._connected(self._public) as connection:
                assert (await connection.ask(handshake(token("u"))))[0] == 101
            self.answers[name] += 1

    async def _emit_fresh(self, name: str) -> None:
        for number in count():
            if self._stopped.is_set():
                return
            async with self._connected(self._internal) as connection:
                await self._emit(name, connection, f"fresh-{number}")

    async def _emit_kept(self, name: str) -> None:
        numbers = count()
        while not self._stopped.is_set():
            async with self._connected(self._internal) as connection:
                while await self._emit(name, connection, f"kept-{next(numbers)}"):
                    if self._stopped.is_set():
                        return

    async def _emit(self, name: str, connection: Connection, key: str) -> bool:
        status, alive = await connection.ask(emission(key))
        # What a drain refuses it has not stored.
        assert status in {200, 503}
        if status == 200:
            self.emitted.append(key)
            self.answers[name] += 1
        return alive

    @asynccontextmanager
    async def _connected(self, to: socket.socket) -> AsyncIterator[Connection]:
        address = to.getsockname()
        if to.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(address)
        else:
            reader, writer = await asyncio.open_connection(*address)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def wait_until_all_get_answers(self) -> None:
        """Wait until each client has had ten more answers."""
        before = Counter(self.answers)
        wait_until(
            lambda: self.faults or all(self.answers[name] >= before[name] + 10 for name in before)
        )


@pytest.mark.parametrize("names", [None, "internal:public"])
def test_a_restart_refuses_no_connection_and_cuts_none(tmp_path: Path, names: str | None) -> None:
    path = tmp_path / "internal.sock"
    # As many are emitted as the machine has time for: none is to go by the limit of 1000.
    extra = {"ARCHIBALD_RT_LOG_MAX_EVENTS_PER_USER": "0"}
    if names is not None:
        extra["LISTEN_FDNAMES"] = names
    with (
        socket.create_server(("127.0.0.1", 0), backlog=100) as public,
        socket.socket(socket.AF_UNIX) as internal,
    ):
        internal.bind(str(path))
        internal.listen(100)
        made = path.stat()
        sockets = [public, internal] if names is None else [internal, public]
        with Clients(public, internal) as clients:
            for _ in range(RESTARTS):
                with serving(tmp_path, extra, sockets=sockets) as server:
                    assert server.internal_url == f"unix:{path}"
                    clients.wait_until_all_get_answers()
                    server.signal(signal.SIGTERM)
                    assert server.wait() == 0
                    assert "Traceback" not in server.rest()
            with serving(tmp_path, extra, sockets=sockets):
                clients.wait_until_all_get_answers()
                clients.stop()
        assert clients.faults == []
        assert (path.stat().st_ino, path.stat().st_mode) == (made.st_ino, made.st_mode)
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as log:
        stored = [key.decode() for (key,) in log.execute("SELECT key FROM events ORDER BY seq")]
    assert sorted(stored) == sorted(clients.emitted)
