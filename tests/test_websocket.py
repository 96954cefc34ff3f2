"""The socket base: ``websocket``, asked by a client that writes what no library would."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_unix_socket
from tornado.testing import bind_unused_port
from tornado.web import Application

from archibald_rt import websocket
from archibald_rt.budget import Budget
from archibald_rt.http1.connection import RequestConnection
from archibald_rt.http1.listener import Listener
from archibald_rt.http1.requests import RequestReader
from archibald_rt.outbox import Tick
from archibald_rt.protocol import TEXT, frame
from archibald_rt.upgrade import SocketHandler
from archibald_rt.websocket import ANSWERS_LIMIT, ANSWERS_SURE, Connection
from support import PATIENCE, eventually, silenced

LARGEST = 1024
CONTINUATION, BINARY, CLOSE, PING, PONG = 0x0, 0x2, 0x8, 0x9, 0xA


class Echo:
    """Owns a connection: echoes texts, and does what some of them ask for."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.closed: list[tuple[int | None, str | None]] = []
        self.got: list[str | bytes] = []
        self.pongs = 0
        self.breaches = 0
        self.hold = asyncio.Event()

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        self.got.append(message)
        if message == "ping":
            self.connection.answer(TEXT, b"pong")
        elif message == "leave":
            self.connection.outbox.push(frame(TEXT, b"before"))
            self.connection.close(4001, "Token expired")
        elif message == "abort":
            self.connection.outbox.push(frame(TEXT, b"never"))
            self.connection.abort()
            self.connection.abort()
        elif message == "wait":
            return self.wait()
        elif message == "fail":
            return self.fail()
        elif isinstance(message, str) and message.startswith("echo"):
            self.connection.outbox.push(frame(TEXT, message.encode()))
        return None

    async def wait(self) -> None:
        await self.hold.wait()

    async def fail(self) -> None:
        raise LookupError

    def on_pong(self) -> None:
        self.pongs += 1

    def on_breach(self, code: int, reason: str) -> None:  # noqa: ARG002 - the close frame has them
        self.breaches += 1

    def on_close(self, code: int | None, reason: str | None) -> None:
        self.closed.append((code, reason))


class Handler(SocketHandler):
    def initialize(self, made: list[Echo], tick: Tick, budget: Budget) -> None:
        self._made = made
        self._tick = tick
        self._budget = budget

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "second" if "second" in subprotocols else None

    def connection_on(self, sock: socket.socket) -> Connection:
        return Connection(sock, self._tick, self._budget, limit=0, max_message=LARGEST)

    def accepted(self, connection: Connection) -> Echo:
        if self.get_query_argument("fault", ""):
            raise LookupError
        owner = Echo(connection)
        self._made.append(owner)
        return owner


class Client:
    """A client by hand: frames as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, opcode: int, data: bytes = b"", *, final: bool = True) -> None:
        await self.write(masked(opcode, data, final=final))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await self.writer.drain()

    async def receive(self) -> tuple[int, bytes] | None:
        """Return the next frame's opcode and data; None at the end."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            head = await self.reader.read(1)
            if not head:
                return None
            assert head[0] & 0xF0 == 0x80
            length = (await self.reader.readexactly(1))[0]
            if length > 125:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8))
            return head[0] & 0xF, await self.reader.readexactly(length)

    async def closed(self, *, stays: bool = False) -> tuple[int, str] | None:
        """Return the code and reason of the close frame that comes next, the last of all.

        The client goes then, as a browser does; one that stays is left by the server.
        """
        got = await self.receive()
        assert got is not None
        opcode, data = got
        assert opcode == CLOSE, got
        if not stays:
            self.writer.write_eof()
        assert await self.receive() is None
        return (int.from_bytes(data[:2]), data[2:].decode()) if data else None


def masked(opcode: int, data: bytes, *, final: bool = True, announced: int | None = None) -> bytes:
    """Return a client's frame; it may announce more than there is."""
    length = len(data) if announced is None else announced
    mask = os.urandom(4)
    if length < 126:
        head = bytes((final << 7 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((final << 7 | opcode, 0xFE)) + length.to_bytes(2)
    else:
        head = bytes((final << 7 | opcode, 0xFF)) + length.to_bytes(8)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


def handshake(
    *,
    key: bytes = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    version: bytes = b"13",
    query: bytes = b"",
    extra: bytes = b"",
) -> bytes:
    return (
        b"GET /ws%b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: %b\r\n%b%b\r\n" % (query, version, key, extra)
    )


async def turn() -> None:
    """Let the loop turn once."""
    await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    *, receive_buffer: int = 0, path: str = "", budget: Budget | None = None, early: bytes = b""
) -> AsyncIterator[tuple[Client, Echo]]:
    made: list[Echo] = []
    listener = bind_unix_socket(path) if path else bind_unused_port()[0]
    budget = budget or Budget(limit=0, largest=LARGEST)
    arguments: dict[str, Any] = {"made": made, "tick": Tick(), "budget": budget}
    server = Listener(Application([("/ws", Handler, arguments)]))
    server.add_sockets([listener])
    sock = socket.socket(listener.family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(listener.getsockname())
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**22)
    client = Client(reader, writer)
    await client.write(handshake(extra=b"Sec-WebSocket-Extensions: permessage-deflate\r\n") + early)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    # Nothing is compressed: one frame serves every device.
    assert b"extensions" not in answer.lower()
    try:
        await eventually(lambda: made)
        yield client, made[0]
    finally:
        writer.close()
        server.stop()
        await server.over(0)
    # However it ended.
    await eventually(lambda: budget.used == 0)


@pytest.mark.gen_test
async def test_texts_go_both_ways() -> None:
    async with connected() as (client, owner):
        await client.send(TEXT, b"echo it")
        assert await client.receive() == (TEXT, b"echo it")
        await client.send(BINARY, b"\xff\x00")
        await eventually(lambda: owner.got == ["echo it", b"\xff\x00"])


@pytest.mark.gen_test
async def test_the_text_ping_is_answered_with_the_text_pong() -> None:
    async with connected() as (client, _):
        await client.send(TEXT, b"ping")
        assert await client.receive() == (TEXT, b"pong")


@pytest.mark.gen_test
async def test_a_ping_is_answered_with_a_pong_of_the_same_data() -> None:
    async with connected() as (client, _):
        for data in (b"", b"\x00\xff", b"x" * 125):
            await client.send(PING, data)
            assert await client.receive() == (PONG, data)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
async def test_a_close_code_that_may_not_be_sent_is_answered_with_1002(code: int) -> None:
    async with connected() as (client, owner):
        await client.send(CLOSE, code.to_bytes(2) + b"why")
        assert await client.closed() == (1002, "")
        await eventually(lambda: owner.closed)


@pytest.mark.gen_test
async def test_half_a_close_code_is_answered_with_1002() -> None:
    async with connected() as (client, _):
        await client.send(CLOSE, b"\x03")
        assert await client.closed(stays=True) == (1002, "")


@pytest.mark.gen_test
@pytest.mark.parametrize("reason", [b"\xff", b"ok \xed\xa0\x80", b"\xe2\x82"])
async def test_a_reason_that_is_not_utf_8_is_answered_with_1007(reason: bytes) -> None:
    async with connected() as (client, owner):
        await client.send(CLOSE, (1000).to_bytes(2) + reason)
        assert await client.closed() == (1007, "")
        await eventually(lambda: owner.closed)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
async def test_a_close_code_that_may_be_sent_is_echoed(code: int) -> None:
    async with connected() as (client, owner):
        await client.send(CLOSE, code.to_bytes(2) + "schön".encode())
        assert await client.closed() == (code, "")
        await eventually(lambda: owner.closed == [(code, "schön")])


@pytest.mark.gen_test
async def test_a_close_without_a_code_is_answered_without_one() -> None:
    async with connected() as (client, owner):
        await client.send(CLOSE)
        assert await client.closed() is None
        await eventually(lambda: owner.closed == [(None, None)])


@pytest.mark.gen_test
async def test_the_server_closes_behind_what_waits_and_says_why() -> None:
    async with connected() as (client, owner):
        await client.send(TEXT, b"leave")
        assert await client.receive() == (TEXT, b"before")
        assert await client.receive() == (CLOSE, (4001).to_bytes(2) + b"Token expired")
        # No frame follows a close frame, whatever is asked.
        await client.send(PING, b"x")
        await client.send(TEXT, b"ping")
        await client.send(TEXT, b"echo")
        await client.send(CLOSE, (4001).to_bytes(2))
        assert await client.receive() is None
        await eventually(lambda: owner.closed)
        assert owner.got == ["leave"]


@pytest.mark.gen_test
async def test_an_aborted_connection_ends_without_a_word() -> None:
    async with connected() as (client, owner):
        await client.send(TEXT, b"abort")
        assert await client.receive() is None
        await eventually(lambda: owner.closed == [(None, None)])
        assert owner.connection.ended


@pytest.mark.gen_test
async def test_a_client_that_goes_without_a_word_is_noticed() -> None:
    async with connected() as (client, owner):
        client.writer.close()
        await eventually(lambda: owner.closed == [(None, None)])


@pytest.mark.gen_test
async def test_the_largest_message_is_taken() -> None:
    async with connected() as (client, _):
        largest = b"echo".ljust(LARGEST, b"x")
        await client.send(TEXT, largest)
        assert await client.receive() == (TEXT, largest)


@pytest.mark.gen_test
async def test_a_message_that_is_too_big_ends_with_a_close_frame_that_arrives_all_the_same() -> (
    None
):
    async with connected() as (client, owner):
        # The client sends all of it before it reads, as many do.
        size = 8 * 2**20
        await client.write(masked(TEXT, b"", announced=size))
        for _ in range(size // 2**16):
            await client.write(bytes(2**16))
        assert await client.receive() == (CLOSE, (1009).to_bytes(2) + b"message too big")
        client.writer.write_eof()
        assert await client.receive() is None
        await eventually(lambda: owner.closed)
        assert owner.got == []


@pytest.mark.gen_test
async def test_a_message_in_fragments_that_are_too_big_together_ends_the_same() -> None:
    async with connected() as (client, owner):
        await client.send(TEXT, bytes(LARGEST), final=False)
        await client.send(CONTINUATION, b"x", final=False)
        for _ in range(100):
            await client.send(CONTINUATION, bytes(LARGEST), final=False)
        assert await client.receive() == (CLOSE, (1009).to_bytes(2) + b"message too big")
        await eventually(lambda: owner.closed)
        assert owner.got == []


@pytest.mark.gen_test
async def test_one_who_never_stops_sending_too_much_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "LINGER", 0.2)
    async with connected() as (client, owner):
        await client.write(masked(TEXT, b"", announced=2**40))

        async def send_on() -> None:
            while True:
                await client.write(bytes(2**16))
                await turn()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), PATIENCE.total_seconds())
        assert owner.connection.ended
        await eventually(lambda: owner.closed)


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", ["large pings", "small pings", "texts"])
async def test_one_who_asks_without_reading_is_owed_a_bounded_number_of_answers(kind: str) -> None:
    flood = {
        "large pings": masked(PING, bytes(125)) * 300,
        "small pings": masked(PING, b"") * 4000,
        "texts": masked(TEXT, b"ping") * 3000,
    }[kind]
    async with connected(receive_buffer=4096) as (client, owner):
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - it is not to read
        outbox = owner.connection.outbox
        owner.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        most = 0
        for _ in range(10):
            await client.write(flood)
            await turn()
            most = max(most, outbox.size)
        # The last of it has been read when another message has.
        await client.send(TEXT, b"the end")
        await eventually(lambda: owner.got and owner.got[-1] == "the end")
        most = max(most, outbox.size)
        assert ANSWERS_LIMIT // 4 < most <= ANSWERS_LIMIT + 127
        # Nobody else's bytes are held back, and who reads again is answered again.
        outbox.push(frame(TEXT, b"an event"))
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        while await client.receive() != (TEXT, b"an event"):
            pass
        await eventually(lambda: outbox.size == 0)
        await client.send(PING, b"again")
        assert await client.receive() == (PONG, b"again")


@pytest.mark.gen_test
@pytest.mark.parametrize("by", ["tcp", "unix"])
async def test_the_server_knows_how_long_nothing_has_come(tmp_path: Path, by: str) -> None:
    path = str(tmp_path / "rt.sock") if by == "unix" else ""
    async with connected(path=path) as (client, owner):
        connection = owner.connection
        await eventually(lambda: connection.received_ago() > 0.2)

        async def heard() -> bool:
            await client.send(TEXT, b"echo")
            await client.receive()
            return connection.received_ago() < 0.2

        await eventually(heard)
        client.writer.close()
        await eventually(lambda: connection.ended)
        # By the kernel no more, but by its own count.
        await eventually(lambda: connection.received_ago() > 0.1)


@pytest.mark.gen_test
async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    async with connected() as (client, owner):
        connection = owner.connection
        client.writer.close()
        await eventually(lambda: connection.ended)
        connection.answer(TEXT, b"pong")
        connection.close(1001, "x")
        connection.abort()
        assert connection.outbox.size == 0


@pytest.mark.gen_test
async def test_where_memory_is_short_hardly_any_answers_wait_for_one_who_does_not_read() -> None:
    budget = Budget(limit=100 * LARGEST, largest=LARGEST)
    async with connected(receive_buffer=4096, budget=budget) as (client, owner):
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - it is not to read
        outbox = owner.connection.outbox
        owner.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        # More than its kernel takes.
        outbox.push(frame(TEXT, bytes(500_000)))
        short = budget.free + outbox.size
        budget.take(short)
        waiting = outbox.size
        await client.write(masked(PING, bytes(125)) * 300)
        await client.send(TEXT, b"the end")
        await eventually(lambda: owner.got and owner.got[-1] == "the end")
        assert outbox.size <= waiting + ANSWERS_SURE
        budget.give(short)


def test_answers_are_bounded_by_64_kib() -> None:
    assert ANSWERS_LIMIT == 65536


# The handshake


async def answered(request: bytes) -> bytes:
    """Return the whole answer to a request, as far as its head goes."""
    made: list[Echo] = []
    arguments: dict[str, Any] = {
        "made": made,
        "tick": Tick(),
        "budget": Budget(limit=0, largest=LARGEST),
    }
    server = Listener(Application([("/ws", Handler, arguments)]))
    listener, port = bind_unused_port()
    server.add_sockets([listener])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE.total_seconds()):
            try:
                return await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                return error.partial
    finally:
        writer.close()
        server.stop()
        await server.over(0)
        await eventually(lambda: all(owner.closed for owner in made))


@pytest.mark.gen_test
async def test_the_answer_proves_that_the_key_was_read() -> None:
    # The example of RFC 6455, section 1.3.
    head = await answered(handshake(extra=b"Sec-WebSocket-Protocol: first, second\r\n"))
    assert head == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: second\r\n\r\n"
    )


@pytest.mark.gen_test
async def test_a_handshake_without_a_key_is_refused() -> None:
    assert (await answered(handshake(key=b""))).startswith(b"HTTP/1.1 400 ")


@pytest.mark.gen_test
async def test_another_version_is_refused_with_the_right_one() -> None:
    head = await answered(handshake(version=b"8"))
    assert head.startswith(b"HTTP/1.1 426 ")
    assert b"sec-websocket-version: 13\r\n" in head.lower()


@pytest.mark.gen_test
async def test_a_fault_on_the_way_in_ends_the_connection() -> None:
    with silenced("tornado.application"):
        assert await answered(handshake(query=b"?fault=1")) == b""


@pytest.mark.gen_test
async def test_what_comes_together_with_the_handshake_is_not_lost() -> None:
    early = masked(TEXT, b"echo early") + masked(TEXT, b"echo and more")[:7]
    async with connected(early=early) as (client, owner):
        assert await client.receive() == (TEXT, b"echo early")
        assert owner.got == ["echo early"]


@pytest.mark.gen_test
async def test_nothing_of_the_handshake_is_left_behind_it() -> None:
    async with connected() as (client, _):
        await client.send(TEXT, b"echo")
        await client.receive()

        def left() -> list[object]:
            gc.collect()
            kinds = (Handler, HTTPServerRequest, RequestConnection, RequestReader)
            return [each for each in gc.get_objects() if isinstance(each, kinds)]

        await eventually(lambda: not left())


# The rules


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (b"\x81\x00", 1002),
        (b"\x80\x80\x00\x00\x00\x00", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\x09\x80\x00\x00\x00\x00", 1002),
        (b"\x89\xfe\x00\x7e" + bytes(130), 1002),
        (b"\x81\x82\x00\x00\x00\x00\xff\xff", 1007),
    ],
    ids=["reserved", "unmasked", "continuation", "opcode", "fragment", "long ping", "utf-8"],
)
async def test_a_breach_of_the_rules_is_told_by_a_close_frame(bad: bytes, code: int) -> None:
    async with connected() as (client, owner):
        await client.write(bad + b"whatever follows it")
        got = await client.receive()
        assert got is not None
        opcode, data = got
        assert (opcode, int.from_bytes(data[:2])) == (CLOSE, code)
        client.writer.write_eof()
        assert await client.receive() is None
        await eventually(lambda: owner.closed == [(None, None)])
        assert owner.got == []
        assert owner.breaches == 1


@pytest.mark.gen_test
async def test_a_message_in_fragments_with_a_ping_among_them_comes_whole() -> None:
    async with connected() as (client, owner):
        await client.send(TEXT, b"echo ", final=False)
        await client.send(PING, b"now")
        await client.send(CONTINUATION, b"this")
        assert await client.receive() == (PONG, b"now")
        assert await client.receive() == (TEXT, b"echo this")
        assert owner.got == ["echo this"]


@pytest.mark.gen_test
async def test_pongs_are_told_to_the_owner() -> None:
    async with connected() as (client, owner):
        await client.send(PONG, b"x")
        await eventually(lambda: owner.pongs == 1)


@pytest.mark.gen_test
async def test_a_client_that_does_not_answer_a_close_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "CLOSING", 0.1)
    async with connected() as (client, owner):
        owner.connection.close(1001, "going")
        assert await client.receive() == (CLOSE, (1001).to_bytes(2) + b"going")
        assert await client.receive() is None
        await eventually(lambda: owner.closed == [(None, None)])


# Owners that have something to wait for


@pytest.mark.gen_test
async def test_nothing_more_is_read_while_the_owner_waits_and_all_of_it_afterwards() -> None:
    async with connected() as (client, owner):
        await client.write(masked(TEXT, b"wait") + masked(TEXT, b"echo one"))
        await eventually(lambda: owner.got)
        await client.send(TEXT, b"echo two")
        # Far more turns than a message takes that is read.
        for _ in range(100):
            await turn()
        assert owner.got == ["wait"]
        owner.hold.set()
        assert await client.receive() == (TEXT, b"echo one")
        assert await client.receive() == (TEXT, b"echo two")


@pytest.mark.gen_test
async def test_a_connection_that_ends_while_its_owner_waits_gives_up_the_waiting() -> None:
    async with connected() as (client, owner):
        before = asyncio.all_tasks()
        await client.send(TEXT, b"wait")
        await eventually(lambda: owner.got)
        assert asyncio.all_tasks() > before
        owner.connection.abort()
        await eventually(lambda: owner.closed)
        await eventually(lambda: asyncio.all_tasks() <= before)


@pytest.mark.gen_test
async def test_a_message_that_could_not_be_handled_does_no_harm_to_the_next() -> None:
    async with connected() as (client, owner):
        with silenced("archibald_rt.websocket"):
            await client.send(TEXT, b"fail")
            await client.send(TEXT, b"echo on")
            assert await client.receive() == (TEXT, b"echo on")
        assert owner.got == ["fail", "echo on"]
