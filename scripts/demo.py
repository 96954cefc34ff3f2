#!/usr/bin/env python3
"""Play a job, two users and a lost connection against a server of its own, and check it all.

The server is a process with a log in a temporary folder; everything else goes over the wire:
HTTP to emit, WebSocket to listen. Exits 0 when every promise was kept.
"""

import asyncio
import json
import os
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import jwt
from rich.console import Console
from rich.table import Table
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

PATIENCE = 20.0
"""For how many seconds anything is waited for."""

PACE = 0.25
"""How many seconds lie between two steps of the job."""

console = Console()


def name_of(event: dict[str, Any]) -> str:
    """Say how the table calls an event: its type, and what it says besides the job."""
    payload = event["payload"]
    return " ".join([event["type"], *(str(payload[name]) for name in payload if name != "jobId")])


@dataclass(frozen=True)
class Addresses:
    """Where a server listens."""

    public: str
    internal: str


@dataclass(frozen=True)
class Application:
    """An application's back end: it signs its users' tokens and emits."""

    jwt_secret: str
    emit_token: str

    def token(self, user: str) -> str:
        """Sign a token for a user, as any JWT library does."""
        claims = {"userId": user, "exp": int(time.time()) + 300}
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")

    async def emit(self, at: Addresses, user: str, event_type: str, **payload: Any) -> "Emitted":
        """Emit an event and wait for the answer."""
        emission = {"userId": user, "type": event_type, "payload": payload}
        response = await AsyncHTTPClient().fetch(
            f"{at.internal}/internal/emit",
            method="POST",
            headers={
                "Authorization": f"Bearer {self.emit_token}",
                "Content-Type": "application/json",
            },
            body=json.dumps(emission),
        )
        answer = json.loads(response.body)
        name = name_of(emission)
        kind = "durable" if answer["durable"] else "transient"
        console.print(f"  emit  {name} to {user}: {kind}, id {answer['id']}")
        return Emitted(user, name, answer["id"])


@dataclass(frozen=True)
class Emitted:
    """What was emitted, and the server's answer."""

    user: str
    name: str
    id: str | None


@dataclass
class Device:
    """A device of a user: it keeps what it got, and the cursor to resume by."""

    name: str
    user: str
    cursor: str | None = None
    got: list[tuple[str, str | None]] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    chained: bool = True
    gaps: int = 0
    _socket: WebSocketClientConnection | None = None
    _last: str | None = None
    _replaying: bool = False

    async def connect(self, at: Addresses, token: str, *, since: str | None = None) -> None:
        """Connect, resuming by ``since`` or the cursor that was kept."""
        cursor = since or self.cursor
        query = {} if cursor is None else {"lastEventId": cursor}
        request = HTTPRequest(
            f"{at.public.replace('http', 'ws', 1)}/ws/realtime?{urlencode(query)}",
            headers={"Authorization": f"Bearer {token}"},
        )
        self._socket = await websocket_connect(request, subprotocols=["archibald.v2"])
        self._replaying = True
        where = "live only" if cursor is None else f"resuming after {cursor}"
        console.print(f"  {self.name} connects, {where}")
        await self.read_until("rt.live")

    def drop(self) -> None:
        """Lose the connection, without a word to the server."""
        socket, protocol = self._socket, self._socket and self._socket.protocol
        if socket is not None and protocol is not None:
            if protocol.stream is not None:
                protocol.stream.close()
            socket.close()
        self._socket = None

    async def read_until(self, event_type: str) -> None:
        """Take messages up to one of a type."""
        while await self._read() != event_type:
            pass

    async def _read(self) -> str:
        assert self._socket is not None  # noqa: S101 - a device reads only while it is connected
        text = await asyncio.wait_for(self._socket.read_message(), PATIENCE)
        if text is None:
            raise SystemExit(f"{self.name} was closed: {self._socket.close_code}")
        message = json.loads(text)
        kind: str = message["type"]
        match kind:
            case "rt.welcome":
                self._last = message["payload"]["cursor"]
                self.cursor = self.cursor or self._last
            case "rt.live":
                self._replaying = False
            case "rt.gap":
                self.gaps += 1
            case _:
                self._take(message)
        return kind

    def _take(self, message: dict[str, Any]) -> None:
        cursor = message.get("id")
        if cursor is not None:
            # Each durable event names the one before it: nothing can be lost unseen.
            self.chained = self.chained and message["prev"] == self._last
            self.cursor = self._last = cursor
        name = name_of(message)
        self.got.append((name, cursor))
        self.how[name] = "replayed" if self._replaying else "live"

    def ids(self) -> list[str]:
        """Return the ids of the durable events it got, in order."""
        return [cursor for _, cursor in self.got if cursor is not None]


@asynccontextmanager
async def server(
    folder: Path, application: Application, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Addresses, Process]]:
    """Run a server with its log in `folder`; settings have keys such as ``SERVER_DRAIN``."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ARCHIBALD_RT_")
    }
    environment |= {
        "ARCHIBALD_RT_SERVER_PORT": "0",
        "ARCHIBALD_RT_SERVER_DRAIN": "1s",
        "ARCHIBALD_RT_INTERNAL_PORT": "0",
        "ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": application.emit_token,
        "ARCHIBALD_RT_AUTH_JWT_SECRET": application.jwt_secret,
        "ARCHIBALD_RT_LOGGING_FORMAT": "json",
    }
    environment |= {f"ARCHIBALD_RT_{name}": text for name, text in (settings or {}).items()}
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "archibald_rt", "serve"), cwd=folder, env=environment, stderr=PIPE
    )
    try:
        yield await asyncio.wait_for(_addresses(process), PATIENCE), process
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _addresses(process: Process) -> Addresses:
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    async for line in process.stderr:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"event": line.decode().strip()}
        if entry["event"] == "listening":
            return Addresses(entry["public"], entry["internal"])
        console.print(f"  server: {entry['event']}")
    raise SystemExit("the server did not start")


@dataclass
class Story:
    """What was emitted, who listened, and what was learned on the way."""

    emitted: list[Emitted]
    laptop: Device
    phone: Device
    stranger: Device
    tablet: Device
    missed: list[str]

    @property
    def devices(self) -> list[Device]:
        """All devices, in the order of the table."""
        return [self.laptop, self.phone, self.stranger, self.tablet]

    def owed(self, user: str) -> list[str]:
        """Return the ids of a user's durable events, in the order of their emission."""
        return [e.id for e in self.emitted if e.user == user and e.id is not None]


async def play(folder: Path) -> Story:
    """Play it."""
    application = Application(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    laptop, phone = Device("ada's laptop", "ada"), Device("ada's phone", "ada")
    stranger, tablet = Device("ben's laptop", "ben"), Device("ada's tablet", "ada")
    emitted: list[Emitted] = []

    async with server(folder, application) as (at, process):

        async def emit(user: str, event_type: str, **payload: Any) -> None:
            await asyncio.sleep(PACE)
            emitted.append(await application.emit(at, user, event_type, **payload))

        ada, ben = application.token("ada"), application.token("ben")
        console.print("[bold]Two users connect, one of them with two devices.")
        await laptop.connect(at, ada)
        await phone.connect(at, ada)
        await stranger.connect(at, ben)

        console.print("[bold]A job of ada's runs.")
        await emit("ada", "JOB_STARTED", jobId=7)
        await emit("ada", "JOB_PROGRESS", jobId=7, progress=25)
        await phone.read_until("JOB_PROGRESS")

        console.print("[bold]ada's phone loses its connection. The job goes on.")
        phone.drop()
        before = len(emitted)
        await emit("ada", "JOB_PROGRESS", jobId=7, progress=50)
        await emit("ada", "FILE_READY", jobId=7, file="a.pdf")
        await emit("ben", "JOB_STARTED", jobId=8)
        await emit("ada", "JOB_PROGRESS", jobId=7, progress=75)
        missed = [each.name for each in emitted[before:] if each.user == "ada"]

        console.print("[bold]The phone comes back, with the cursor it kept.")
        await phone.connect(at, ada)
        await emit("ada", "JOB_PROGRESS", jobId=7, progress=100)
        await emit("ada", "JOB_COMPLETED", jobId=7)
        await emit("ben", "JOB_COMPLETED", jobId=8)
        await laptop.read_until("JOB_COMPLETED")
        await phone.read_until("JOB_COMPLETED")
        await stranger.read_until("JOB_COMPLETED")

        console.print("[bold]The server is killed (kill -9) and another started on its log.")
        process.kill()
        await process.wait()
        for device in (laptop, phone, stranger):
            device.drop()
    async with server(folder, application) as (at, _):
        await tablet.connect(at, ada, since="earliest")
        tablet.drop()
    return Story(emitted, laptop, phone, stranger, tablet, missed)


def show(story: Story) -> None:
    """Print what each device got."""
    table = Table(title="What each device received, and how")
    table.add_column("event", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for device in story.devices:
        table.add_column(device.name)
    for each in story.emitted:
        kind = "transient" if each.id is None else "durable"
        table.add_row(
            f"{each.user}: {each.name}",
            kind,
            *(
                device.how.get(each.name, "–") if device.user == each.user else ""
                for device in story.devices
            ),
        )
    console.print(table)


def judge(story: Story) -> bool:
    """Say of every promise whether it was kept; returns whether all were."""
    ada, ben = story.owed("ada"), story.owed("ben")
    names = {user: {e.name for e in story.emitted if e.user == user} for user in ("ada", "ben")}
    live_order = [e.name for e in story.emitted if e.user == "ada"]
    transient = {e.name for e in story.emitted if e.id is None}
    replayed = [name for name, how in story.phone.how.items() if how == "replayed"]
    promises = {
        "no gap, no duplicate: every durable event once, by cursor": (
            story.laptop.ids() == story.phone.ids() == ada and story.stranger.ids() == ben
        ),
        "the phone proved it by itself: each `prev` was the `id` before": (
            all(device.chained and not device.gaps for device in story.devices)
        ),
        "one order: durable and transient arrived as they were emitted": (
            [name for name, _ in story.laptop.got] == live_order
        ),
        "transient events are never replayed, durable ones are": (
            replayed == [name for name in story.missed if name not in transient]
        ),
        "isolation: nobody got anything of the other user": (
            all({name for name, _ in d.got} <= names[d.user] for d in story.devices)
        ),
        "commit, then answer: kill -9 lost nothing that was answered": story.tablet.ids() == ada,
    }
    for promise, kept in promises.items():
        console.print(f"{'[green]kept  ' if kept else '[red]BROKEN'}[/] {promise}", highlight=False)
    return all(promises.values())


async def main() -> int:
    """Play, show, judge; returns the exit code."""
    with TemporaryDirectory(prefix="archibald-rt-demo-") as folder:
        story = await play(Path(folder))
    show(story)
    return 0 if judge(story) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
