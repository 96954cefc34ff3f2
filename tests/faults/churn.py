"""Devices that connect in every way and leave in every way, again and again."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from archibald_rt.errors import CloseCode
from faults.connections import Connection, abrupt, connect, request_for, request_for_events
from faults.devices import Place
from support import PATIENCE, token

AT_ONCE = 40
"""How many are at it at the same time."""

CLOSED = 1000
_RESERVED = 0x3


class Visit(Place):
    """A device's place, which can be waited at."""

    def __init__(self, user: str, cursor: str | None = None) -> None:
        super().__init__(user, cursor)
        self.told = asyncio.Event()
        """Set once the device was told anything."""
        self.turned_live = asyncio.Event()

    def take(self, text: bytes) -> None:
        """Take what the device is told."""
        super().take(text)
        self.told.set()
        if self.live:
            self.turned_live.set()


class Churn:
    """Visits to the server at `url`; ``backlog`` is a user who has one."""

    def __init__(self, url: str, backlog: str, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        """How many visits there were, by their ways."""
        self.wrong: list[str] = []
        """What did not end as it should have."""
        self._url = url
        self._chance = chance
        self._backlog = backlog
        self._token, self._backlog_token = token("visitor"), token(backlog)
        self._wrong_token = token("visitor", secret="another secret of thirty-two bytes or so")
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "closed": self._close,
            "v1, closed": self._close_v1,
            "dropped": self._drop,
            "reset": self._reset,
            "closed after a replay": self._close_after_replay,
            "reset in a replay": self._reset_in_replay,
            "events, dropped": self._drop_events,
            "events, reset in a replay": self._reset_events_in_replay,
            "events, wrong token": self._refused_events,
            "wrong token": self._bad_token,
            "no token": self._no_token,
            "part of a handshake, dropped": self._part_of_handshake,
            "part of a handshake, reset": self._part_of_handshake_reset,
            "broken frame": self._broken_frame,
        }

    async def visits(self, count: int) -> None:
        """Make so many visits, several at a time."""
        left = iter(range(count))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work(left))

    async def _work(self, left: Iterator[int]) -> None:
        ways = list(self._ways)
        for _ in left:
            way = self._chance.choice(ways)
            async with asyncio.timeout(PATIENCE.total_seconds()):
                await self._ways[way]()
            self.done[way] += 1

    async def _visit(self, visit: Visit, given: str, *, v2: bool = True) -> Connection:
        query = {"token": given} if given else {}
        if visit.cursor is not None:
            query["lastEventId"] = visit.cursor
        return await connect(self._url, query, visit.take, v2=v2)

    async def _live(self) -> Connection:
        visit = Visit("visitor")
        connection = await self._visit(visit, self._token)
        await visit.turned_live.wait()
        return connection

    def _expect(self, way: str, expected: int, code: int) -> None:
        if code != expected:
            self.wrong.append(f"{way}: {code}")

    async def _close(self) -> None:
        connection = await self._live()
        connection.close()
        self._expect("close", CLOSED, await connection.closed)

    async def _close_v1(self) -> None:
        told = asyncio.Event()
        query = {"token": self._token}
        connection = await connect(self._url, query, lambda _: told.set(), v2=False)
        connection.ping()
        await told.wait()
        connection.close()
        self._expect("close v1", CLOSED, await connection.closed)

    async def _drop(self) -> None:
        connection = await self._live()
        connection.drop()
        await connection.closed

    async def _reset(self) -> None:
        connection = await self._live()
        connection.reset()
        await connection.closed

    async def _close_after_replay(self) -> None:
        visit = Visit(self._backlog, "earliest")
        connection = await self._visit(visit, self._backlog_token)
        await visit.turned_live.wait()
        connection.close()
        self._expect("close after replay", CLOSED, await connection.closed)
        self.wrong += visit.faults

    async def _reset_in_replay(self) -> None:
        visit = Visit(self._backlog, "earliest")
        connection = await self._visit(visit, self._backlog_token)
        await visit.told.wait()
        connection.reset()
        await connection.closed

    async def _drop_events(self) -> None:
        visit = Visit("visitor")
        connection = await connect(self._url, {"token": self._token}, visit.take, sse=True)
        await visit.turned_live.wait()
        connection.drop()
        await connection.closed

    async def _reset_events_in_replay(self) -> None:
        visit = Visit(self._backlog, "earliest")
        query = {"token": self._backlog_token, "lastEventId": "earliest"}
        connection = await connect(self._url, query, visit.take, sse=True)
        await visit.told.wait()
        connection.reset()
        await connection.closed

    async def _refused_events(self) -> None:
        address = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(request_for_events({"token": self._wrong_token}))
        status = (await reader.readuntil(b"\r\n")).split()[1]
        self._expect("events, wrong token", HTTPStatus.UNAUTHORIZED, int(status))
        writer.close()

    async def _bad_token(self) -> None:
        connection = await self._visit(Visit("visitor"), self._wrong_token)
        self._expect("wrong token", CloseCode.POLICY_VIOLATION, await connection.closed)

    async def _no_token(self) -> None:
        connection = await self._visit(Visit("visitor"), "")
        self._expect("no token", CloseCode.POLICY_VIOLATION, await connection.closed)

    async def _part_of_handshake(self, *, reset: bool = False) -> None:
        loop = asyncio.get_running_loop()
        address = urlsplit(self._url)
        request = request_for({"token": self._token})
        with socket.socket() as plain:
            plain.setblocking(False)  # noqa: FBT003 - it has no keyword
            await loop.sock_connect(plain, (address.hostname, address.port))
            await loop.sock_sendall(plain, request[: self._chance.randrange(len(request))])
            if reset:
                abrupt(plain)

    async def _part_of_handshake_reset(self) -> None:
        await self._part_of_handshake(reset=True)

    async def _broken_frame(self) -> None:
        connection = await self._live()
        connection.send(_RESERVED, b"")
        self._expect("broken frame", CloseCode.PROTOCOL_ERROR, await connection.closed)
