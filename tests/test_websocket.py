"""The socket base: ``websocket``, asked by a client that writes what no library would."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.testing import bind_unused_port
from tornado.web import Application

from archibald_rt import websocket
from archibald_rt.budget import Budget
from archibald_rt.outbox import Tick
from archibald_rt.protocol import TEXT, frame
from archibald_rt.websocket import ANSWERS_LIMIT, ANSWERS_SURE, SocketHandler
from support import PATIENCE, eventually

LARGEST = 1024
CONTINUATION, BINARY, CLOSE, PING, PONG = 0x0, 0x2, 0x8, 0x9, 0xA


class Handler(SocketHandler):
    """Echoes texts, and does what some of them ask for."""

    def initialize(self, made: list["Handler"], tick: Tick, budget: Budget) -> None:
        self._made = made
        self._tick = tick
        self._budget = budget
        self.closed: list[tuple[int | None, str | None]] = []
        self.got: list[str | bytes] = []

    @property
    def max_message_size(self) -> int:
        return LARGEST

    def open(self, *_args: str, **_kwargs: str) -> None:
        self.connection.attach(self._tick, self._budget, limit=0)
        self._made.append(self)

    def on_message(self, message: str | bytes) -> None:
        self.got.append(message)
        if message == "ping":
            self.connection.answer(TEXT, b"pong")
        elif message == "leave":
            self.connection.outbox.push(frame(TEXT, b"before"))
            self.close(4001, "Token expired")
        elif message == "abort":
            self.connection.outbox.push(frame(TEXT, b"never"))
            self.connection.abort()
            self.connection.abort()
        elif isinstance(message, str) and message.startswith("echo"):
            self.connection.outbox.push(frame(TEXT, message.encode()))

    def on_close(self) -> None:
        self.closed.append((self.close_code, self.close_reason))


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

    async def closed(self) -> tuple[int, str] | None:
        """Return the code and reason of the close frame that comes next, the last of all."""
        got = await self.receive()
        assert got is not None
        opcode, data = got
        assert opcode == CLOSE, got
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


async def turn() -> None:
    """Let the loop turn once."""
    await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    *, receive_buffer: int = 0, path: str = "", budget: Budget | None = None
) -> AsyncIterator[tuple[Client, Handler]]:
    made: list[Handler] = []
    listener = bind_unix_socket(path) if path else bind_unused_port()[0]
    budget = budget or Budget(limit=0, largest=LARGEST)
    arguments: dict[str, Any] = {"made": made, "tick": Tick(), "budget": budget}
    server = HTTPServer(Application([("/ws", Handler, arguments)]))
    server.add_socket(listener)
    sock = socket.socket(listener.family)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(listener.getsockname())
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**22)
    client = Client(reader, writer)
    await client.write(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
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
        await server.close_all_connections()
    # However it ended.
    await eventually(lambda: budget.used == 0)


@pytest.mark.gen_test
async def test_texts_go_both_ways() -> None:
    async with connected() as (client, handler):
        await client.send(TEXT, b"echo it")
        assert await client.receive() == (TEXT, b"echo it")
        await client.send(BINARY, b"\xff\x00")
        await eventually(lambda: handler.got == ["echo it", b"\xff\x00"])


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
async def test_what_tornado_writes_itself_goes_through_the_outbox_and_keeps_its_place() -> None:
    async with connected() as (client, handler):
        handler.connection.outbox.push(frame(TEXT, b"first"))
        handler.write_message("second")
        handler.connection.outbox.push(frame(TEXT, b"third"))
        handler.ping(b"fourth")
        assert [await client.receive() for _ in range(4)] == [
            (TEXT, b"first"),
            (TEXT, b"second"),
            (TEXT, b"third"),
            (PING, b"fourth"),
        ]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
async def test_a_close_code_that_may_not_be_sent_is_answered_with_1002(code: int) -> None:
    async with connected() as (client, handler):
        await client.send(CLOSE, code.to_bytes(2) + b"why")
        assert await client.closed() == (1002, "")
        await eventually(lambda: handler.closed)


@pytest.mark.gen_test
async def test_half_a_close_code_is_answered_with_1002() -> None:
    async with connected() as (client, _):
        await client.send(CLOSE, b"\x03")
        assert await client.closed() == (1002, "")


@pytest.mark.gen_test
@pytest.mark.parametrize("reason", [b"\xff", b"ok \xed\xa0\x80", b"\xe2\x82"])
async def test_a_reason_that_is_not_utf_8_is_answered_with_1007(reason: bytes) -> None:
    async with connected() as (client, handler):
        await client.send(CLOSE, (1000).to_bytes(2) + reason)
        assert await client.closed() == (1007, "")
        await eventually(lambda: handler.closed)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
async def test_a_close_code_that_may_be_sent_is_echoed(code: int) -> None:
    async with connected() as (client, handler):
        await client.send(CLOSE, code.to_bytes(2) + "schön".encode())
        assert await client.closed() == (code, "")
        await eventually(lambda: handler.closed == [(code, "schön")])


@pytest.mark.gen_test
async def test_a_close_without_a_code_is_answered_without_one() -> None:
    async with connected() as (client, handler):
        await client.send(CLOSE)
        assert await client.closed() is None
        await eventually(lambda: handler.closed == [(None, None)])


@settings(deadline=None)
@given(st.binary(max_size=125))
def test_every_close_frame_is_kept_or_faulted(data: bytes) -> None:
    assert websocket._close_fault(data) in {None, 1002, 1007}  # noqa: SLF001 - too many for sockets


@pytest.mark.gen_test
async def test_the_server_closes_behind_what_waits_and_says_why() -> None:
    async with connected() as (client, handler):
        await client.send(TEXT, b"leave")
        assert await client.receive() == (TEXT, b"before")
        assert await client.receive() == (CLOSE, (4001).to_bytes(2) + b"Token expired")
        # No frame follows a close frame, whatever is asked.
        await client.send(PING, b"x")
        await client.send(TEXT, b"ping")
        await client.send(TEXT, b"echo")
        await client.send(CLOSE, (4001).to_bytes(2))
        assert await client.receive() is None
        await eventually(lambda: handler.closed)
        assert handler.got == ["leave"]


@pytest.mark.gen_test
async def test_an_aborted_connection_ends_without_a_word() -> None:
    async with connected() as (client, handler):
        await client.send(TEXT, b"abort")
        assert await client.receive() is None
        await eventually(lambda: handler.closed == [(None, None)])
        with pytest.raises(StreamClosedError):
            _ = handler.connection


@pytest.mark.gen_test
async def test_a_client_that_goes_without_a_word_is_noticed() -> None:
    async with connected() as (client, handler):
        client.writer.close()
        await eventually(lambda: handler.closed == [(None, None)])


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
    async with connected() as (client, handler):
        # The client sends all of it before it reads, as many do.
        size = 8 * 2**20
        await client.write(masked(TEXT, b"", announced=size))
        for _ in range(size // 2**16):
            await client.write(bytes(2**16))
        assert await client.receive() == (CLOSE, (1009).to_bytes(2) + b"message too big")
        client.writer.write_eof()
        assert await client.receive() is None
        await eventually(lambda: handler.closed)
        assert handler.got == []


@pytest.mark.gen_test
async def test_a_message_in_fragments_that_are_too_big_together_ends_the_same() -> None:
    async with connected() as (client, handler):
        await client.send(TEXT, bytes(LARGEST), final=False)
        await client.send(CONTINUATION, b"x", final=False)
        for _ in range(100):
            await client.send(CONTINUATION, bytes(LARGEST), final=False)
        assert await client.receive() == (CLOSE, (1009).to_bytes(2) + b"message too big")
        await eventually(lambda: handler.closed)
        assert handler.got == []


@pytest.mark.gen_test
async def test_one_who_never_stops_sending_too_much_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "LINGER", 0.2)
    async with connected() as (client, handler):
        await client.write(masked(TEXT, b"", announced=2**40))
        stream = handler.connection.stream

        async def send_on() -> None:
            while True:
                await client.write(bytes(2**16))
                await turn()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), PATIENCE.total_seconds())
        assert stream.closed()
        await eventually(lambda: handler.closed)


@pytest.mark.gen_test
@pytest.mark.parametrize("kind", ["large pings", "small pings", "texts"])
async def test_one_who_asks_without_reading_is_owed_a_bounded_number_of_answers(kind: str) -> None:
    flood = {
        "large pings": masked(PING, bytes(125)) * 300,
        "small pings": masked(PING, b"") * 4000,
        "texts": masked(TEXT, b"ping") * 3000,
    }[kind]
    async with connected(receive_buffer=4096) as (client, handler):
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - it is not to read
        outbox = handler.connection.outbox
        handler.connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        most = 0
        for _ in range(10):
            await client.write(flood)
            await turn()
            most = max(most, outbox.size)
        # The last of it has been read when another message has.
        await client.send(TEXT, b"the end")
        await eventually(lambda: handler.got and handler.got[-1] == "the end")
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
    async with connected(path=path) as (client, handler):
        connection = handler.connection
        await eventually(lambda: connection.received_ago() > 0.2)

        async def heard() -> bool:
            await client.send(TEXT, b"echo")
            await client.receive()
            return connection.received_ago() < 0.2

        await eventually(heard)
        client.writer.close()
        await eventually(connection.stream.closed)
        # By the kernel no more, but by its own count.
        await eventually(lambda: connection.received_ago() > 0.1)


@pytest.mark.gen_test
async def test_fragments_and_extensions_are_never_written() -> None:
    async with connected() as (_, handler):
        for final, flags in ((False, 0), (True, 0x40)):
            with pytest.raises(ValueError, match="not written"):
                handler.connection._write_frame(final, TEXT, b"x", flags)  # noqa: SLF001 - Tornado calls it


@pytest.mark.gen_test
async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    async with connected() as (client, handler):
        connection = handler.connection
        client.writer.close()
        await eventually(connection.stream.closed)
        with pytest.raises(StreamClosedError):
            connection._write_frame(True, TEXT, b"x")  # noqa: FBT003, SLF001 - Tornado calls it
        with pytest.raises(StreamClosedError):
            connection.attach(Tick(), Budget(limit=0, largest=LARGEST), limit=0)
        connection.answer(TEXT, b"pong")
        connection.close(1001, "x")
        connection.abort()


@pytest.mark.gen_test
async def test_where_memory_is_short_hardly_any_answers_wait_for_one_who_does_not_read() -> None:
    budget = Budget(limit=100 * LARGEST, largest=LARGEST)
    async with connected(receive_buffer=4096, budget=budget) as (client, handler):
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - it is not to read
        outbox = handler.connection.outbox
        handler.connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        # More than its kernel takes.
        outbox.push(frame(TEXT, bytes(500_000)))
        short = budget.free + outbox.size
        budget.take(short)
        waiting = outbox.size
        await client.write(masked(PING, bytes(125)) * 300)
        await client.send(TEXT, b"the end")
        await eventually(lambda: handler.got and handler.got[-1] == "the end")
        assert outbox.size <= waiting + ANSWERS_SURE
        budget.give(short)


def test_answers_are_bounded_by_64_kib() -> None:
    assert ANSWERS_LIMIT == 65536
