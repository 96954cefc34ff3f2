"""Devices cut off and tokens refused, at every moment that there is: ``revoking``."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from archibald_rt import websocket
from archibald_rt.addresses import TrustedProxies
from archibald_rt.app import public_app
from archibald_rt.auth import TokenVerifier
from archibald_rt.auth.keys import secret_key
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, DrainingError
from archibald_rt.eventlog import Page
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.events import Emission, make_tail
from archibald_rt.http1.listener import Listener
from archibald_rt.hub import Hub
from archibald_rt.listen import Endpoint, url_of
from archibald_rt.order import OrderQueue
from archibald_rt.origins import OriginPolicy
from archibald_rt.outbox import Outbox
from archibald_rt.protocol import CLOSE, V2, frame
from archibald_rt.reception import Reception, Tuning
from archibald_rt.requestlog import RequestLog
from archibald_rt.revocations import Revocations
from archibald_rt.revoking import Revoker
from archibald_rt.socketdevice import SocketDevice
from archibald_rt.sweep import Sweep
from archibald_rt.timestamps import Stamper
from archibald_rt.websocket import Connection
from support import PATIENCE, SECRET, eventually, token

MIB = 1024 * 1024
STAMP = "2026-01-01T00:00:00Z"
NOW = int(time.time())
NEVER = 2**62

CUT_OFF = frame(CLOSE, (4002).to_bytes(2) + b"Disconnected")
REFUSED = frame(CLOSE, (1008).to_bytes(2) + b"Authentication failed")

_T = TypeVar("_T")


def emission(size: int = 1, user: str = "u") -> Emission:
    tail = make_tail(b'"A"', b'"%b"' % (b"x" * size), STAMP)
    return Emission(user, tail, STAMP, 0, durable=True)


class Parts:
    """A server's parts, put together as the server does it."""

    def __init__(self, log: SQLiteLog, *, max_turned_away: int) -> None:
        self.log = log
        self.hub = Hub(log.head, recent=1000)
        self.broken: list[BaseException] = []
        self.reception = Reception(
            TokenVerifier([secret_key(SECRET)]),
            Revocations(),
            OriginPolicy([]),
            self.hub,
            log,
            Sweep(heartbeat=0, stall_timeout=0),
            tuning=Tuning(max_turned_away=max_turned_away),
            broken=self.broken.append,
        )
        self.order = OrderQueue(log, self.hub, max_bytes=0, on_broken=self.broken.append)
        self.revoker = Revoker(log, self.order.between, self.reception)
        self.v2 = V2(log.epoch, Stamper())
        stamp = Stamper()
        self._listener = Listener(
            public_app(
                self.reception,
                self.hub,
                self.order,
                log,
                stamp,
                proxies=TrustedProxies(()),
                requests=RequestLog(),
            )
        )
        sockets = Endpoint("127.0.0.1", 0).bind()
        self._listener.add_sockets(sockets)
        self.port = int(url_of(sockets).rpartition(":")[2])

    async def emit(self, *emissions: Emission) -> None:
        await within(self.order.submit(emissions))

    async def connect(self, query: str = "", *, text: str | None = None) -> "Raw":
        """Connect a device that reads only when it is told to, with little room at its end."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        request = (
            f"GET /ws/realtime?token={text or token('u')}{query} HTTP/1.1\r\nHost: x\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Protocol: archibald.v2\r\n\r\n"
        )
        await loop.sock_sendall(sock, request.encode())
        return Raw(sock)

    async def outbox(self) -> Outbox:
        """Return the outbox of the one device that is connected."""
        await eventually(lambda: self.hub.connections == 1)
        (session,) = self.hub.sessions()
        assert isinstance(session.outbox, Outbox)
        return session.outbox

    async def close(self) -> None:
        await self.order.close()
        self._listener.stop()
        await self._listener.over(0)
        await eventually(lambda: self.reception.budget.used == 0)
        assert not self.broken


class Raw:
    """A device's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def rest(self) -> bytes:
        """Return all that comes until the server has ended the connection."""
        loop, got = asyncio.get_running_loop(), bytearray()
        while part := await within(loop.sock_recv(self._sock, MIB)):
            got += part
            if got.endswith((CUT_OFF, REFUSED)):
                self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()
        return bytes(got)

    def close(self) -> None:
        self._sock.close()

    async def some(self, ending: bytes) -> bytes:
        """Return what comes up to and with these bytes."""
        loop, got = asyncio.get_running_loop(), bytearray()
        while ending not in got:
            part = await within(loop.sock_recv(self._sock, 1))
            assert part, bytes(got)
            got += part
        return bytes(got)


async def within(what: Awaitable[_T]) -> _T:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return await what


@asynccontextmanager
async def parts(folder: Path, *, max_turned_away: int = 1000) -> AsyncIterator[Parts]:
    async with open_sqlite(folder / "events.db") as log:
        made = Parts(log, max_turned_away=max_turned_away)
        yield made
        await made.close()


LOOKS = 10
"""How many looks in a row find what is stuck unchanged."""


async def stuck(outbox: Outbox) -> int:
    """Wait until the kernel takes nothing more of what waits; returns how much it has taken."""
    last, looks = outbox.taken, 0

    def unchanged() -> bool:
        nonlocal last, looks
        # What was put in a moment ago is handed over at the end of this turn of the loop, and
        # time alone also passes where the machine gave the whole process none.
        looks = looks + 1 if outbox.size and outbox.taken == last else 0
        last = outbox.taken
        return looks > LOOKS

    await eventually(unchanged)
    return outbox.taken


# What is on its way to a device


@pytest.mark.parametrize("revoke", [False, True])
@pytest.mark.gen_test
async def test_of_a_backlog_half_sent_the_kernel_is_handed_nothing_more(
    tmp_path: Path, *, revoke: bool
) -> None:
    async with parts(tmp_path) as made:
        await made.emit(*(emission(60_000) for _ in range(300)))
        device = await made.connect("&lastEventId=earliest")
        outbox = await made.outbox()
        had = await stuck(outbox)
        before = NOW * 10**9 if revoke else None
        assert await made.revoker.disconnect("u", revoke_before=before) == 1
        assert made.hub.connections == 0
        assert outbox.taken == had
        # The kernel was in the middle of a frame, which no close frame can follow.
        assert len(await device.rest()) == outbox.taken == had


@pytest.mark.gen_test
async def test_a_page_that_is_read_meanwhile_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go = asyncio.Event(), asyncio.Event()
    plain = SQLiteLog.page

    async def gated(log: SQLiteLog, *args: object, **kwargs: object) -> Page:
        page = await plain(log, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        assert page.events
        read.set()
        await go.wait()
        return page

    monkeypatch.setattr(SQLiteLog, "page", gated)
    async with parts(tmp_path) as made:
        await made.emit(emission(), emission())
        made.hub.forget()
        device = await made.connect("&lastEventId=earliest")
        await within(read.wait())
        # The page is there, and the pump is to go on in the next turn of the loop.
        go.set()
        assert await made.revoker.disconnect("u") == 1
        got = await device.rest()
        assert got.endswith(CUT_OFF)
        assert b'"rt.welcome"' in got
        assert b'"A"' not in got


@pytest.mark.gen_test
async def test_what_was_put_in_within_the_same_turn_is_taken_back(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        device = await made.connect()
        await device.some(b'"rt.live"')
        one = emission()
        assert await made.hub.dispatch(one, None) == 1
        assert await made.revoker.disconnect("u") == 1
        assert await made.hub.dispatch(one, None) == 0
        got = await device.rest()
        assert got.endswith(CUT_OFF)
        assert b'"A"' not in got


@pytest.mark.gen_test
async def test_a_device_that_is_on_its_way_out_gets_no_more_of_what_it_was_owed(
    tmp_path: Path,
) -> None:
    async with parts(tmp_path) as made:
        await made.emit(*(emission(60_000) for _ in range(300)))
        device = await made.connect("&lastEventId=earliest")
        outbox = await made.outbox()
        had = await stuck(outbox)
        (one,) = made.reception.devices
        one.end(4001, "Token expired")
        assert made.reception.devices == []
        assert outbox.size > 0
        assert await made.revoker.disconnect("u") == 0
        assert len(await device.rest()) == outbox.taken == had


@pytest.mark.gen_test
async def test_a_device_that_was_told_to_go_is_not_told_twice(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        device = await made.connect()
        await device.some(b'"rt.live"')
        assert await made.revoker.disconnect("u") == 1
        assert await made.revoker.disconnect("u") == 0
        got = await device.rest()
        assert got.count(CUT_OFF) == 1
        assert got.endswith(CUT_OFF)


# Between the check and the registration


@asynccontextmanager
async def shaken(made: Parts) -> AsyncIterator[tuple[Raw, Connection, SocketDevice]]:
    """Yield a device's end, and the server's of a connection that has no device yet."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.settimeout(0)
    reception = made.reception
    connection = Connection(ours, reception.tick, reception.budget, limit=0, max_message=1000)
    connection.outbox.push(b"101")
    yield Raw(theirs), connection, SocketDevice(connection, reception, made.v2)
    connection.abort()
    theirs.close()


@pytest.mark.parametrize("resume", [Resume(), Resume(event_id="earliest")])
@pytest.mark.gen_test
async def test_a_token_that_was_checked_before_it_was_revoked_is_refused_after(
    tmp_path: Path, resume: Resume
) -> None:
    async with parts(tmp_path) as made, shaken(made) as (raw, connection, device):
        await made.emit(emission())
        identity = made.reception.identify(token("u", jti="t"))
        assert await made.revoker.revoke_token("t", expires=NEVER) == 0
        device.begin(identity, resume)
        connection.start(device)
        assert made.hub.connections == 0
        assert made.reception.counters.refused == 1
        assert made.reception.counters.resumed == 0
        assert await raw.rest() == b"101" + REFUSED


@pytest.mark.gen_test
async def test_a_new_token_that_was_checked_before_it_was_revoked_is_refused_after(
    tmp_path: Path,
) -> None:
    async with parts(tmp_path) as made, shaken(made) as (raw, connection, device):
        reception = made.reception
        device.begin(reception.identify(token("u", jti="old")), Resume())
        connection.start(device)
        new = reception.identify(token("u", jti="new"))
        assert await made.revoker.revoke_token("new", expires=NEVER) == 0
        with pytest.raises(AuthError, match="revoked"):
            reception.renew(device, new)
        assert await made.revoker.disconnect("u") == 1
        # Whoever is out stays out.
        reception.renew(device, reception.identify(token("u")))
        assert reception.devices == []
        assert (await raw.rest()).endswith(CUT_OFF)


@pytest.mark.gen_test
async def test_in_no_turn_of_the_loop_can_a_device_slip_in(tmp_path: Path) -> None:
    async with parts(tmp_path) as made, AsyncExitStack() as stack:
        # Checked before, as by one that has waited since for its turn.
        identity = made.reception.identify(token("u", jti="t"))
        asked = asyncio.ensure_future(
            made.revoker.revoke_token("t", expires=NEVER),
        )
        tries = after = 0
        while after < 3:
            after += asked.done()
            if not made.reception.devices:
                _, connection, device = await stack.enter_async_context(shaken(made))
                device.begin(identity, Resume())
                connection.start(device)
                tries += 1
            await asyncio.sleep(0)
        assert await asked == 1
        assert tries > 1
        assert made.reception.devices == []


@pytest.mark.gen_test
async def test_a_caller_that_gives_up_while_it_is_committed_leaves_what_is_in_force(
    tmp_path: Path,
) -> None:
    begun = asyncio.Event()
    async with parts(tmp_path) as made, shaken(made) as (raw, connection, device):
        device.begin(made.reception.identify(token("u")), Resume())
        connection.start(device)

        async def turn(step: Step) -> int:
            async def noted() -> int:
                begun.set()
                return await step()

            return await made.order.between(noted)

        revoker = Revoker(made.log, turn, made.reception)
        gone = asyncio.ensure_future(revoker.disconnect("u", revoke_before=NOW * 10**9))
        await within(begun.wait())
        gone.cancel()
        await asyncio.wait([gone])
        assert (await raw.rest()).endswith(CUT_OFF)
        assert made.reception.revocations.users == len(await made.log.revocations()) == 1


@pytest.mark.gen_test
async def test_a_device_that_came_in_this_very_turn_is_told_and_sent_nothing_else(
    tmp_path: Path,
) -> None:
    async with parts(tmp_path) as made, shaken(made) as (raw, connection, device):
        device.begin(made.reception.identify(token("u")), Resume())
        connection.start(device)
        assert await made.revoker.disconnect("u") == 1
        # A close frame without the answer to the handshake would be none.
        assert await raw.rest() == b"101" + CUT_OFF


@pytest.mark.gen_test
async def test_a_token_that_is_remembered_is_refused_all_the_same(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        text = token("u", iat=NOW)
        first = made.reception.identify(text)
        assert made.reception.identify(text) is first, "it was not remembered"
        await made.revoker.disconnect("u", revoke_before=(NOW + 1) * 10**9)
        with pytest.raises(AuthError, match="revoked"):
            made.reception.identify(text)


@pytest.mark.gen_test
async def test_a_caller_that_gives_up_before_its_turn_has_revoked_nothing(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        gone = asyncio.ensure_future(made.revoker.disconnect("u", revoke_before=NOW * 10**9))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert await made.revoker.disconnect("v", revoke_before=1) == 0
        assert len(await made.log.revocations()) == made.reception.revocations.users == 1


@pytest.mark.gen_test
async def test_a_server_that_drains_cuts_nobody_off(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        made.reception.draining = True
        for asked in (
            made.revoker.disconnect("u"),
            made.revoker.disconnect("u", revoke_before=1),
            made.revoker.revoke_token("t", expires=0),
        ):
            with pytest.raises(DrainingError):
                await asked
        assert await made.log.revocations() == []


# Those who are not let in


@pytest.mark.gen_test
async def test_of_many_who_ignore_that_they_are_not_let_in_the_oldest_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of them is ended for having had its time.
    monkeypatch.setattr(websocket, "CLOSING", 10 * PATIENCE.total_seconds())
    async with parts(tmp_path, max_turned_away=2) as made:
        refused = [await made.connect(text="wrong") for _ in range(2)]
        for raw in refused:
            await raw.some(REFUSED)
        good = await made.connect()
        await made.outbox()
        third = await made.connect(text="wrong")
        # It was told, and has not answered.
        assert await refused[0].rest() == b""
        await third.some(REFUSED)
        for raw in (refused[1], third):
            raw.close()
        await eventually(lambda: made.reception.turned_away == 0)
        good.close()
