"""A server that is killed again and again under load, with devices and emitters that go on."""

import asyncio
import json
import random
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClientConnection, websocket_connect

from processes import ServerProcess, serving
from support import EMIT_TOKEN, SUBPROTOCOL, Device, eventually, token

USERS = [f"user-{number}" for number in range(20)]
DEVICES_EACH = 3
EMITTERS = 8
KILLS = 5
PAUSE = 0.02
"""For how many seconds a client that was refused or cut off waits before it tries again."""

SLOWNESS = 0.05
"""How many seconds a slow device takes over each message while emitters are at work."""

END = "END"
"""The type of the last event: who has it has all."""

# What a request or a connection to a server that is killed may end with.
CUT = (OSError, HTTPClientError, StreamClosedError, TimeoutError)


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


def open_connections(ports: set[int]) -> list[str]:
    """Return the connections to or from these ports that are still there (Linux)."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        # A side that closed first waits a while in TIME_WAIT (06), with nobody holding it.
        if {int(end.split(":")[1], 16) for end in (local, remote)} & ports and state != "06":
            found.append(line)
    return found


class Host:
    """Where the server runs: one process after the other, on the same ports and log."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._ports = {"SERVER": free_port(chance), "INTERNAL": free_port(chance)}
        self._stack = ExitStack()
        self.up = asyncio.Event()
        self.starts = 0
        self.calm = False
        """Whether the emitters have stopped."""
        self.process: ServerProcess | None = None

    @property
    def ports(self) -> set[int]:
        return set(self._ports.values())

    @property
    def public_url(self) -> str:
        return f"127.0.0.1:{self._ports['SERVER']}"

    @property
    def internal_url(self) -> str:
        return f"127.0.0.1:{self._ports['INTERNAL']}"

    async def start(self) -> None:
        extra = {f"ARCHIBALD_RT_{name}_PORT": str(port) for name, port in self._ports.items()}
        extra["ARCHIBALD_RT_DELIVERY_MAX_OUTBOX"] = "16KiB"
        extra["ARCHIBALD_RT_DELIVERY_CONNECTS_PER_USER_PER_MINUTE"] = "0"
        extra["ARCHIBALD_RT_SERVER_DRAIN"] = "500ms"
        # Waiting for a process would hold the loop up, and with it all devices.
        self.process = await asyncio.to_thread(
            self._stack.enter_context, serving(self._folder, extra)
        )
        self.starts += 1
        self.up.set()

    async def behind(self) -> int:
        """Return how many devices are behind."""
        url = f"http://{self.internal_url}/internal/connections"
        response = await AsyncHTTPClient().fetch(
            url, headers={"Authorization": f"Bearer {EMIT_TOKEN}"}
        )
        connections = json.loads(response.body)["connections"]
        return sum(connection["state"] == "behind" for connection in connections)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal that ends the process; return its exit code."""
        assert self.process is not None
        self.up.clear()
        self.process.signal(number)
        return await asyncio.to_thread(self.process.wait)

    async def close(self) -> None:
        await asyncio.to_thread(self._stack.close)


class Follower:
    """A device that reads its user's stream, and resumes by its cursor whenever it is cut off."""

    def __init__(self, host: Host, user: str, kind: str, chance: random.Random) -> None:
        self.user = user
        self.kind = kind
        self.ids: list[str] = []
        self.transient = 0
        self.connects = 0
        self.codes: Counter[int | None] = Counter()
        self.ended = False
        self._host = host
        self._chance = chance
        self._cursor: str | None = None

    async def follow(self) -> None:
        """Read until the last event has come and the server has closed the connection."""
        while not (self.ended and self.codes[1001]):
            await self._host.up.wait()
            query = {"token": token(self.user), "lastEventId": self._cursor or "earliest"}
            url = f"ws://{self._host.public_url}/ws/realtime?{urlencode(query)}"
            try:
                connection = await websocket_connect(url, subprotocols=[SUBPROTOCOL])
            except CUT:
                await asyncio.sleep(PAUSE)
                continue
            self.connects += 1
            await self._read(connection)

    async def _read(self, connection: WebSocketClientConnection) -> None:
        until_drop = self._chance.randrange(5, 80) if self.kind == "dropping" else -1
        last: dict[int, int] = {}
        try:
            async for message in messages(connection):
                self._take(message, last)
                if self.kind == "slow" and not self._host.calm:
                    await asyncio.sleep(SLOWNESS)
                until_drop -= 1
                if until_drop == 0 and not self.ended:
                    return
            self.codes[connection.close_code] += 1
        finally:
            Device(connection).drop()

    def _take(self, message: dict[str, Any], last: dict[int, int]) -> None:
        payload = message["payload"]
        if message["type"] == "rt.welcome":
            assert self._cursor in {None, payload["cursor"]}
            assert payload["replay"] is True
            self._cursor = payload["cursor"]
        elif message["type"].startswith("rt."):
            # Whatever was delivered had been committed, so no cursor is ever unknown.
            assert message["type"] in {"rt.live", "rt.reconnect"}, message
        else:
            self._take_event(message, last)

    def _take_event(self, message: dict[str, Any], last: dict[int, int]) -> None:
        if "id" in message:
            assert message["prev"] == self._cursor
            self._cursor = message["id"]
            self.ids.append(message["id"])
        else:
            self.transient += 1
        if message["type"] == END:
            self.ended = True
            return
        payload = message["payload"]
        assert self.user in payload["for"], "an event of another user"
        if "again" in payload:
            # Sent again after a kill, it may follow what was stored of its batch before.
            return
        assert payload["n"] > last.get(payload["emitter"], -1), "overtaken, or twice"
        last[payload["emitter"]] = payload["n"]


async def messages(connection: WebSocketClientConnection) -> AsyncIterator[dict[str, Any]]:
    while (text := await connection.read_message()) is not None:
        message: dict[str, Any] = json.loads(text)
        yield message


class Emitter:
    """A back end that emits one thing after the other, each once its turn is answered.

    What has a key is sent again until it is answered, what has none is given up for lost
    where no answer came.
    """

    def __init__(self, host: Host, number: int, chance: random.Random) -> None:
        self.acknowledged: dict[str, dict[str, Any]] = {}
        """Each answered durable emission by its cursor."""
        self.keyed: list[tuple[dict[str, Any], str]] = []
        """Each answered emission with a key, to one user, and its cursor."""
        self.unanswered = 0
        self.resent = 0
        self.duplicates = 0
        self._host = host
        self._number = number
        self._chance = chance
        self._n = 0

    async def run(self) -> None:
        while not self._host.calm:
            await self._next()

    async def send(self, path: str, body: Any) -> dict[str, Any] | None:
        """Post a body; None where no answer came, or none that says what became of it."""
        await self._host.up.wait()
        request = HTTPRequest(
            f"http://{self._host.internal_url}/internal/{path}",
            method="POST",
            body=json.dumps(body),
            headers={"Authorization": f"Bearer {EMIT_TOKEN}", "Content-Type": "application/json"},
        )
        try:
            response = await AsyncHTTPClient().fetch(request, raise_error=False)
        except CUT:
            return None
        if response.code in {503, 504, 599}:
            return None
        assert response.code == 200, response.body
        answer: dict[str, Any] = json.loads(response.body)
        return answer

    async def _next(self) -> None:
        chosen = self._chance.random()
        user = self._chance.choice(USERS)
        if chosen < 0.02:
            emission = self._emission(USERS, durable=True, keyed=True)
            await self._send_until_answered("broadcast", emission, [emission])
        elif chosen < 0.1:
            emission = self._emission([user], durable=True, keyed=False)
            await self._send_once("emit", {"userId": user, **emission}, [emission])
        elif chosen < 0.25:
            progress = self._emission([user], durable=False, keyed=False)
            await self._send_once("emit", {"userId": user, **progress}, [progress])
        elif chosen < 0.35:
            several = self._chance.sample(USERS, 3)
            emission = self._emission(several, durable=True, keyed=True)
            await self._send_until_answered(
                "emit", {"userIds": several, **emission}, [emission] * 3
            )
        else:
            batch = [
                self._emission([user], durable=durable, keyed=durable)
                for durable in (True, False, False, True, True)
            ]
            await self._send_until_answered(
                "emit", [{"userId": user, **each} for each in batch], batch
            )

    def _emission(self, users: list[str], *, durable: bool, keyed: bool) -> dict[str, Any]:
        self._n += 1
        payload = {"emitter": self._number, "n": self._n, "for": users}
        payload["pad"] = "x" * self._chance.choice([0, 50, 2000, 15_000])
        emission = {"type": "E", "durable": durable, "payload": payload}
        return {**emission, "key": f"{self._number}-{self._n}"} if keyed else emission

    async def _send_once(self, path: str, body: Any, emissions: list[dict[str, Any]]) -> None:
        answer = await self.send(path, body)
        if answer is None:
            self.unanswered += 1
        else:
            self._note(answer, emissions)

    async def _send_until_answered(
        self, path: str, body: Any, emissions: list[dict[str, Any]]
    ) -> None:
        while (answer := await self.send(path, body)) is None:
            self.resent += 1
            # A back end that is cut off waits a little, or it would try thousands of times.
            await asyncio.sleep(PAUSE)
            for emission in emissions:
                if not emission["durable"]:
                    emission["payload"]["again"] = True
        results = self._note(answer, emissions)
        if path == "emit" and isinstance(body, list):
            self.keyed += [
                (item, result["id"])
                for item, result in zip(body, results, strict=True)
                if "key" in item
            ]

    def _note(
        self, answer: dict[str, Any], emissions: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = answer.get("results", [answer])
        for emission, result in zip(emissions, results, strict=True):
            assert result["durable"] is emission["durable"]
            if result["durable"]:
                self.acknowledged[result["id"]] = emission
                self.duplicates += result["duplicate"]
        return results


@asynccontextmanager
async def together(*work: Any) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Run tasks for the length of a block; what one of them raises ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield tasks


@pytest.mark.gen_test
async def test_what_was_answered_survives_kills_and_reaches_every_device_once_and_in_order(
    tmp_path: Path,
) -> None:
    chance = random.Random(20260131)  # noqa: S311 - chaos that can be repeated, no secret
    host = Host(tmp_path, chance)
    kinds = ["steady", "slow", "dropping"]
    followers = [
        Follower(host, user, kinds[number % len(kinds)], chance)
        for number, user in enumerate(USERS * DEVICES_EACH)
    ]
    emitters = [Emitter(host, number, chance) for number in range(EMITTERS)]

    def acknowledged() -> int:
        return sum(len(emitter.acknowledged) for emitter in emitters)

    behind = 0
    try:
        await host.start()
        async with together(*(follower.follow() for follower in followers)):
            await eventually(lambda: all(follower.connects for follower in followers))
            async with together(*(emitter.run() for emitter in emitters)):
                for _ in range(KILLS):
                    enough = acknowledged() + chance.randrange(100, 500)
                    await eventually(lambda enough=enough: acknowledged() >= enough)  # type: ignore[misc]  # its default binds this figure
                    before = [emitter.keyed[-1] for emitter in emitters if emitter.keyed]
                    behind += await host.behind()
                    assert await host.end(signal.SIGKILL) == -signal.SIGKILL
                    await host.start()
                    # What was answered before the kill is known to be there after it.
                    for item, first in before:
                        answer = await emitters[0].send("emit", item)
                        assert answer is not None
                        assert (answer["id"], answer["duplicate"]) == (first, True)
                enough = acknowledged() + 200
                await eventually(lambda: acknowledged() >= enough)
                host.calm = True
            assert await emitters[0].send("broadcast", {"type": END, "durable": True})
            await eventually(lambda: all(follower.ended for follower in followers))
            assert await host.end(signal.SIGTERM) == 0
        await eventually(lambda: not open_connections(host.ports))
    finally:
        await host.close()

    rows = read_log(tmp_path / "events.db")
    streams = {user: [row["id"] for row in rows if row["user"] in {"", user}] for user in USERS}
    for follower in followers:
        assert follower.ids == streams[follower.user], (follower.user, follower.kind)
        assert follower.codes[1001] == 1
    by_id = {row["id"]: row for row in rows}
    for emitter in emitters:
        for cursor, emission in emitter.acknowledged.items():
            assert by_id[cursor]["payload"] == emission["payload"]
    keys = Counter((row["user"], row["key"]) for row in rows if row["key"] is not None)
    assert set(keys.values()) == {1}, "a key was stored twice"
    # The chaos was one: requests were cut off, devices of every kind came back.
    assert host.starts == KILLS + 1
    assert behind > 0, "no device ever fell behind"
    assert sum(emitter.resent for emitter in emitters) > 0
    assert all(follower.connects > 1 for follower in followers)
    assert sum(follower.transient for follower in followers) > 0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the log's events by seq, as an independent reader finds them."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    found = connection.execute("SELECT seq, user, key, tail FROM events ORDER BY seq").fetchall()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return [
        {"id": f"{epoch}:{seq}", "user": user.decode(), "key": key, **json.loads(b"{" + tail)}
        for seq, user, key, tail in found
    ]
