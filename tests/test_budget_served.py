"""The bound of all outboxes together, at a whole server: devices that never read beside others."""

import asyncio
import gc
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE, SUBPROTOCOL, Harness, eventually, harness, token
from turns import messages_in

KIB = 1024
MIB = 1024 * KIB

CONTROL = 400
"""How many bytes a device's welcome and its like take, which are put in in any case."""


class RawDevice:
    """A device that reads nothing until it is told to, with little room at its end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._got = bytearray()
        self._shaken = False
        self.events: list[dict[str, Any]] = []
        """The durable events it has read."""

    async def read_until(self, count: int) -> None:
        """Read on until so many durable events have come."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while len(self.events) < count:
                part = await asyncio.get_running_loop().sock_recv(self._sock, MIB)
                assert part, "closed"
                self._got += part
                self._take_apart()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def drop(self) -> None:
        """End the connection without a word."""
        self._sock.close()

    def _take_apart(self) -> None:
        if not self._shaken:
            head, found, self._got = self._got.partition(b"\r\n\r\n")
            self._shaken = bool(found)
            self._got = self._got if found else head
        while len(self._got) > 4:
            length, head_size = self._got[1], 2
            if length == 126:
                length, head_size = int.from_bytes(self._got[2:4]), 4
            whole = head_size + length
            if len(self._got) < whole:
                return
            (text,) = messages_in(bytes(self._got[:whole]))
            del self._got[:whole]
            message = json.loads(text)
            if "id" in message:
                self.events.append(message)


async def connect_raw(server: Harness, user: str, query: str = "") -> RawDevice:
    """Connect a device that reads nothing, not even the answer to its handshake."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    sock.settimeout(0)
    port = int(server.server.public_url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    request = (
        f"GET /ws/realtime?token={token(user)}{query} HTTP/1.1\r\nHost: x\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
        "\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(sock, request.encode())
    return RawDevice(sock)


@asynccontextmanager
async def raw(
    server: Harness, count: int, user: str, query: str = ""
) -> AsyncIterator[Sequence[RawDevice]]:
    """Connect so many devices that read nothing, for the length of a block."""
    total = (await server.stats())["connections"]["total"]
    devices = [await connect_raw(server, user, query) for _ in range(count)]
    try:
        await eventually(connections(server, total=total + count))
        yield devices
    finally:
        for device in devices:
            device.drop()


@asynccontextmanager
async def unlimited(
    folder: Path, overrides: dict[str, str] | None = None
) -> AsyncIterator[Harness]:
    """Run a server on which one user may have many devices, and these may send what they like."""
    off = dict.fromkeys(("devices_per_user", "client_messages_per_second"), "0")
    limits = {f"delivery.{name}": text for name, text in off.items()}
    async with harness(folder, {**limits, **(overrides or {})}) as server:
        yield server


def connections(server: Harness, **expected: int) -> Any:
    """Return a condition: that these figures of the connections are so."""

    async def so() -> bool:
        figures = (await server.stats())["connections"]
        return all(figures[name] == value for name, value in expected.items())

    return so


def used(server: Harness, *, at_most: int) -> Any:
    """Return a condition: that all outboxes together keep no more than so many bytes."""

    async def so() -> bool:
        return int((await server.stats())["outboxTotal"]["bytes"]) <= at_most

    return so


async def total_of(server: Harness) -> int:
    """Return what all outboxes together keep, after checking it against the bound."""
    stats = await server.stats()
    total = stats["outboxTotal"]
    limit = server.settings.delivery.max_outbox_total
    assert total["limit"] == limit
    assert stats["outboxBytes"] <= total["bytes"]
    assert total["bytes"] <= limit + CONTROL * stats["connections"]["total"]
    return int(total["bytes"])


def event(number: int, size: int) -> dict[str, Any]:
    return {"type": "A", "payload": {"n": number, "body": "x" * size}}


def numbers(messages: Sequence[dict[str, Any]]) -> list[int]:
    return [message["payload"]["n"] for message in messages]


async def fill(server: Harness, user: str, count: int, size: int) -> None:
    """Emit a backlog of durable events."""
    await server.emit([{"userId": user, **event(number, size)} for number in range(count)])


@pytest.mark.gen_test
async def test_devices_that_never_read_stay_within_the_total_and_disturb_nobody(
    tmp_path: Path,
) -> None:
    overrides = {"delivery.max_outbox_total": "1MiB", "delivery.max_outbox": "512KiB"}
    async with unlimited(tmp_path, overrides) as server, raw(server, 20, "slow") as slow:
        async with await server.connect("slow") as beside, await server.connect("other") as other:
            await beside.until("rt.live")
            await other.until("rt.live")
            most = 0
            for number in range(150):
                emission = {"userIds": ["slow", "other"], **event(number, 16 * KIB)}
                answer = await server.emit(emission)
                # Whoever reads is live all the time, and has each event at once.
                assert answer["results"][0]["delivered"] >= 1
                assert answer["results"][1]["delivered"] == 1
                assert numbers([await beside.next(), await other.next()]) == [number, number]
                most = max(most, await total_of(server))
            assert most > MIB // 2
            await eventually(connections(server, behind=20))
            # One that comes now finds memory for its backlog.
            async with await server.connect("slow", lastEventId="earliest") as late:
                await late.until("rt.live")
                assert numbers(late.seen[1:-1]) == list(range(150))
            await total_of(server)
        await asyncio.gather(*[device.read_until(150) for device in slow])
        for device in slow:
            assert numbers(device.events) == list(range(150))
        await eventually(connections(server, live=20))
        await eventually(used(server, at_most=0))


@pytest.mark.gen_test
async def test_transient_events_held_for_those_behind_are_within_the_total(tmp_path: Path) -> None:
    overrides = {"delivery.max_outbox_total": "1MiB", "delivery.max_outbox": "64KiB"}
    async with unlimited(tmp_path, overrides) as server:
        async with raw(server, 30, "slow"), await server.connect("other") as other:
            await other.until("rt.live")
            for number in range(200):
                # Enough durable ones that they fall behind, then 100 that are held for them.
                size = 16 * KIB if number < 100 else 4 * KIB
                emission = {"userIds": ["slow", "other"], **event(number, size)}
                await server.emit({**emission, "durable": number < 100})
                assert numbers([await other.next()]) == [number]
                await total_of(server)
            assert (await server.stats())["connections"]["behind"] == 30
            assert await total_of(server) > 512 * KIB
        await eventually(connections(server, total=0))
        dropped = (await server.stats())["events"]["dropped"]
        # By their own bound each would have kept 15 of them.
        assert 30 * 85 < dropped < 30 * 100
        assert await total_of(server) == 0


@pytest.mark.gen_test
async def test_devices_that_are_ended_as_stalled_give_back_what_they_kept(tmp_path: Path) -> None:
    overrides = {"delivery.max_outbox_total": "1MiB", "delivery.stall_timeout": "500ms"}
    async with unlimited(tmp_path, overrides) as server:
        await fill(server, "slow", 100, 16 * KIB)
        async with raw(server, 4, "slow", "&lastEventId=earliest"):
            await eventually(connections(server, total=0))
            assert await total_of(server) > 0
            # They don't answer the close, so it takes Tornado's five seconds more.
            await eventually(used(server, at_most=0))


EXHAUSTED = {"delivery.max_outbox_total": "256KiB", "delivery.max_outbox": "256KiB"}
"""As little as may be: two pages that are never read, and there is none for a third."""


@asynccontextmanager
async def exhausted(server: Harness) -> AsyncIterator[Sequence[RawDevice]]:
    """Let devices that never read keep all the memory there is for pages."""
    await fill(server, "u", 60, 16 * KIB)
    async with raw(server, 6, "u", "&lastEventId=earliest") as stalled:
        before = -1
        # Until nothing moves any more.
        while (now := await total_of(server)) != before or now < 100 * KIB:
            before = now
            await asyncio.sleep(0.1)
        yield stalled


@pytest.mark.gen_test
async def test_a_device_that_waits_for_memory_is_not_ended_and_gets_everything_in_the_end(
    tmp_path: Path,
) -> None:
    overrides = {**EXHAUSTED, "delivery.stall_timeout": "1s", "delivery.heartbeat": "0"}
    async with unlimited(tmp_path, overrides) as server, exhausted(server) as stalled:
        async with await server.connect("u", lastEventId="earliest") as waiting:
            reading = asyncio.ensure_future(waiting.until("rt.live"))
            began = time.monotonic()
            await eventually(lambda: time.monotonic() - began > 2.5)
            # Those that keep the memory were ended. It is not free yet, since they may answer.
            assert not await connections(server, total=7)()
            assert [message["type"] for message in waiting.seen] == ["rt.welcome"]
            for device in stalled:
                device.drop()
            await reading
            assert numbers(waiting.seen[1:-1]) == list(range(60))
        await eventually(used(server, at_most=0))


@pytest.mark.gen_test
async def test_devices_that_go_while_they_wait_for_memory_leave_their_turn_to_the_next(
    tmp_path: Path,
) -> None:
    async with unlimited(tmp_path, EXHAUSTED) as server, exhausted(server) as stalled:
        waiting = [await server.connect("u", lastEventId="earliest") for _ in range(12)]
        for device in waiting:
            assert (await device.next())["type"] == "rt.welcome"
        await eventually(connections(server, total=18, behind=18))
        for device in waiting[:6] + waiting[7:9]:
            device.drop()
        await eventually(connections(server, total=10, behind=10))
        for other in stalled:
            other.drop()
        for device in (waiting[6], *waiting[9:]):
            await device.until("rt.live")
            assert numbers(device.seen[1:-1]) == list(range(60))
            await device.close()
        await eventually(used(server, at_most=0))


@pytest.mark.gen_test
async def test_however_devices_come_and_go_nothing_stays_counted(tmp_path: Path) -> None:
    overrides = {"delivery.max_outbox_total": "512KiB", "delivery.max_outbox": "128KiB"}
    async with unlimited(tmp_path, overrides) as server:
        await fill(server, "u", 40, 16 * KIB)
        for turn in range(6):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(raw(server, 4, "u", "&lastEventId=earliest"))
                await stack.enter_async_context(raw(server, 4, "u"))
                reading = await server.connect("u", lastEventId="earliest")
                other = await server.connect("u", v2=False, lastEventTs="2020-01-01T00:00:00Z")
                for number in range(10):
                    await server.emit({"userId": "u", **event(number, 16 * KIB)})
                    await server.emit({"userId": "u", "durable": False, **event(number, 8 * KIB)})
                await total_of(server)
                if turn % 2:
                    await reading.until("rt.live")
                    await reading.close()
                else:
                    reading.drop()
                other.drop()
        await eventually(connections(server, total=0))
        await eventually(used(server, at_most=0))


@pytest.mark.gen_test
async def test_one_who_renews_its_token_again_and_again_without_reading_takes_little_memory(
    tmp_path: Path,
) -> None:
    async with unlimited(tmp_path) as server, raw(server, 1, "u") as (device,):
        text = json.dumps({"type": "rt.auth", "payload": {"token": token("u")}}).encode()
        # A client's frame is masked; this mask is zero.
        renewal = bytes((0x81, 0xFE)) + len(text).to_bytes(2) + bytes(4) + text
        count = 5000
        await device.send(renewal * count)

        async def all_came() -> bool:
            return bool((await server.stats())["clientMessages"]["received"] == count)

        await eventually(all_came)
        assert 0 < (await server.stats())["outboxBytes"] < 70 * KIB


@pytest.mark.gen_test
async def test_what_is_counted_is_what_is_in_memory(tmp_path: Path) -> None:
    overrides = {"delivery.max_outbox_total": "16MiB", "delivery.stall_timeout": "1h"}
    async with unlimited(tmp_path, overrides) as server:
        await fill(server, "u", 200, 16 * KIB)
        async with await server.connect("u", lastEventId="earliest") as device:
            await device.until("rt.live")
            gc.collect()
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                async with raw(server, 60, "u", "&lastEventId=earliest"):
                    last = -1
                    while (now := await total_of(server)) != last or now < MIB:
                        last = now
                        await asyncio.sleep(0.1)
                    gc.collect()
                    taken = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
        # A connection takes some 25 KiB by itself, and so does what tells the test of it.
        assert taken < now + 60 * 40 * KIB
