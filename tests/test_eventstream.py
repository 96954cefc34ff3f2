"""The stream of events on the bare socket: ``eventstream``, asked by hand."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.netutil import bind_unix_socket
from tornado.testing import bind_unused_port
from tornado.web import Application

from archibald_rt import eventstream
from archibald_rt.budget import Budget
from archibald_rt.certificates import server_context
from archibald_rt.eventstream import UNASKED, EventStream, StreamHandler
from archibald_rt.http1.connection import RequestConnection
from archibald_rt.http1.listener import Listener
from archibald_rt.outbox import Tick
from issuer import certificate_files
from support import PATIENCE, eventually

MIB = 1024 * 1024


class Owner:
    """Owns a stream, and counts how often it ended."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        self.ends = 0

    def on_end(self) -> None:
        self.ends += 1


class Handler(StreamHandler):
    def initialize(self, made: list[Owner], tick: Tick, budget: Budget) -> None:
        self._made = made
        self._tick = tick
        self._budget = budget

    def head(self) -> None:
        self.set_stream_headers()
        self.flush()

    def get(self) -> None:
        self.set_header("X-Own", "1")
        stream = self.begin_stream(self._tick, self._budget, limit=0)
        if stream is not None:
            owner = Owner(stream)
            stream.outbox.push(b":first\n\n")
            stream.start(owner)
            self._made.append(owner)


class Client:
    """A client by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return await self.reader.read()


REQUEST = b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def connected(
    request: bytes = REQUEST,
    *,
    receive_buffer: int = 0,
    path: str = "",
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> AsyncIterator[tuple[Client, Owner]]:
    made: list[Owner] = []
    listener = bind_unix_socket(path) if path else bind_unused_port()[0]
    budget = Budget(limit=0, largest=0)
    arguments: dict[str, Any] = {"made": made, "tick": Tick(), "budget": budget}
    server = Listener(Application([("/s", Handler, arguments)]), tls=tls[0] if tls else None)
    server.add_sockets([listener])
    sock = socket.socket(listener.family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(listener.getsockname())
    trusting: dict[str, Any] = {"ssl": tls[1], "server_hostname": "localhost"} if tls else {}
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**22, **trusting)
    client = Client(reader, writer)
    writer.write(request)
    client.head = await client.until(b"\r\n\r\n")
    try:
        await eventually(lambda: made)
        # Nothing of HTTP is left.
        assert server.connections == 0
        yield client, made[0]
    finally:
        writer.close()
        server.stop()
        await server.over(0)
    # However it ended.
    await eventually(lambda: budget.used == 0 and made[0].ends == 1)
    assert made[0].stream.socket.fileno() == -1
    assert len(made) == 1


@pytest.mark.gen_test
async def test_the_head_says_what_keeps_caches_and_proxies_from_holding_it_back() -> None:
    async with connected() as (client, _):
        line, *lines = client.head.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        assert line == "HTTP/1.1 200 OK"
        assert headers.pop("Date").endswith(" GMT")
        assert headers.pop("X-Own") == "1"
        assert headers.items() >= eventstream.HEADERS.items()
        assert not {"Content-Length", "Transfer-Encoding"} & headers.keys()
        assert await client.until(b"\n\n") == b":first\n\n"


@pytest.mark.parametrize(
    "request_", [b"GET /s HTTP/1.0\r\n\r\n", b"GET /s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"]
)
@pytest.mark.gen_test
async def test_a_client_of_http_1_0_reads_the_bare_events_up_to_the_end(request_: bytes) -> None:
    async with connected(request_) as (client, owner):
        assert b"\r\nConnection: close\r\n" in client.head
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":first\n\n:last\n\n"


@pytest.mark.gen_test
async def test_it_ends_behind_what_waits_and_nothing_follows() -> None:
    async with connected() as (client, owner):
        owner.stream.outbox.push(b":second\n\n")
        owner.stream.finish(b":last\n\n")
        owner.stream.finish(b":never\n\n")
        owner.stream.cut_off(b":never\n\n")
        assert owner.stream.told
        assert not owner.stream.ended
        assert await client.rest() == b":first\n\n:second\n\n:last\n\n"


@pytest.mark.gen_test
async def test_it_ends_behind_what_waits_for_a_slow_reader() -> None:
    async with connected(receive_buffer=4096) as (client, owner):
        data = b":" + bytes(4 * MIB) + b"\n\n"
        owner.stream.outbox.push(data)
        owner.stream.outbox.flush()
        assert owner.stream.outbox.size > 0
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":first\n\n" + data + b":last\n\n"


@pytest.mark.gen_test
async def test_what_came_unread_does_not_take_the_last_event_along() -> None:
    async with connected() as (client, owner):
        # While the server doesn't look: all of it is unread when the stream ends.
        client.writer.write(bytes(UNASKED // 2))
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":first\n\n:last\n\n"


@pytest.mark.gen_test
async def test_a_client_that_does_not_close_its_side_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventstream, "CLOSING", 0.05)
    async with connected(receive_buffer=4096) as (_, owner):
        owner.stream.outbox.push(bytes(4 * MIB))
        owner.stream.finish(b":last\n\n")
        await eventually(lambda: owner.ends)
        assert owner.stream.ended


@pytest.mark.gen_test
async def test_cut_off_gives_up_what_the_kernel_does_not_have_and_says_why() -> None:
    async with connected() as (client, owner):
        await client.until(b":first\n\n")
        owner.stream.outbox.push(b":never\n\n")
        owner.stream.cut_off(b":last\n\n")
        owner.stream.cut_off(b":never\n\n")
        assert await client.rest() == b":last\n\n"


@pytest.mark.gen_test
async def test_cut_off_in_the_middle_of_an_event_leaves_no_whole_one() -> None:
    async with connected(receive_buffer=4096) as (client, owner):
        await client.until(b":first\n\n")
        owner.stream.outbox.push(b"data: " + b"x" * (4 * MIB) + b"\n\n")
        owner.stream.outbox.flush()
        assert owner.stream.outbox.size > 0
        owner.stream.cut_off(b":last\n\n")
        assert owner.stream.ended
        try:
            rest = await client.rest()
        except ConnectionResetError:
            rest = b""
        assert b"\n" not in rest


@pytest.mark.gen_test
async def test_cut_off_while_it_ends_ends_at_once_if_something_waits() -> None:
    async with connected(receive_buffer=4096) as (_, owner):
        owner.stream.outbox.push(bytes(4 * MIB))
        owner.stream.finish(b":last\n\n")
        owner.stream.cut_off(b":never\n\n")
        assert owner.stream.ended


@pytest.mark.gen_test
async def test_a_client_that_goes_is_noticed() -> None:
    async with connected() as (client, owner):
        client.writer.close()
        await eventually(lambda: owner.ends)


@pytest.mark.gen_test
async def test_a_stream_that_was_aborted_before_its_start_tells_its_owner_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        stream = EventStream(ours, Tick(), Budget(limit=0, largest=0), limit=0)
        stream.abort()
        stream.abort()
        owner = Owner(stream)
        stream.start(owner)
        assert owner.ends == 0
        await eventually(lambda: owner.ends)


@pytest.mark.gen_test
async def test_a_request_behind_it_is_dropped_and_the_stream_goes_on() -> None:
    async with connected(REQUEST + REQUEST) as (client, owner):
        client.writer.write(REQUEST)
        await client.until(b":first\n\n")
        await eventually(lambda: owner.stream.unasked == len(REQUEST))
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":last\n\n"


@pytest.mark.gen_test
async def test_a_client_that_sends_and_sends_is_ended() -> None:
    async with connected() as (client, owner):
        client.writer.write(bytes(UNASKED))
        await eventually(lambda: owner.stream.unasked == UNASKED)
        assert not owner.ends
        client.writer.write(b"x")
        await eventually(lambda: owner.ends)


@pytest.mark.gen_test
async def test_it_works_over_a_unix_socket(tmp_path: Path) -> None:
    async with connected(path=str(tmp_path / "s")) as (client, owner):
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":first\n\n:last\n\n"


@pytest.mark.gen_test
async def test_over_tls_the_end_is_said_and_nothing_is_cut_off(tmp_path: Path) -> None:
    certificate, key = certificate_files(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    tls = server_context(certificate, key), trusting
    async with connected(tls=tls) as (client, owner):
        data = b":" + bytes(4 * MIB) + b"\n\n"
        owner.stream.outbox.push(data)
        owner.stream.finish(b":last\n\n")
        assert await client.rest() == b":first\n\n" + data + b":last\n\n"


@pytest.mark.gen_test
async def test_what_a_request_was_is_kept_by_nothing() -> None:
    async with connected() as (_, owner):
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, RequestConnection | Handler)]
        assert kept == []
        assert owner.ends == 0
