"""Requests and answers on a socket: ``http1.connection``."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    ResponseStartLine,
)
from tornado.web import Application, RequestHandler, stream_request_body

from archibald_rt.http1 import channel, connection, listener
from archibald_rt.http1.listener import Listener
from archibald_rt.http1.terms import Limits
from archibald_rt.listen import Endpoint
from support import PATIENCE, eventually, silenced

ESTABLISHED = 1
LARGE = 8 * 1024 * 1024


class Handler(RequestHandler):
    """Answers with what it was asked, as its path says."""

    def initialize(self, seen: list[str], gate: asyncio.Event) -> None:
        self._seen = seen
        self._gate = gate

    async def get(self) -> None:
        self._seen.append(self.request.uri or "")
        match self.request.path:
            case "/wait":
                await self._gate.wait()
                self.finish("waited")
            case "/large":
                self.finish(bytes(LARGE))
            case "/pieces":
                for piece in ("one ", "", "two ", "three"):
                    self.write(piece)
                    await self.flush()
            case "/pieces/large":
                for _ in range(LARGE // 2**18):
                    self.write(bytes(2**18))
                    await self.flush()
            case "/large/pause":
                self.set_header("Content-Length", LARGE + 4)
                self.write(bytes(LARGE))
                await self.flush()
                await self._gate.wait()
                self.finish("more")
            case "/header":
                self.add_header("A", "b")
                self._headers["C"] = "d\r\nE: f"
                self.finish()
            case _:
                self.finish(f"at {self.request.uri}")

    head = get

    def post(self) -> None:
        self.finish(f"{len(self.request.body)} bytes")

    def on_connection_close(self) -> None:
        self._seen.append("gone")


@stream_request_body
class Streaming(RequestHandler):
    """Takes a body in pieces, or refuses it at its head."""

    def initialize(self, seen: list[str], gate: asyncio.Event) -> None:
        self._seen = seen
        self._gate = gate
        self._size = 0

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        if self.request.path.startswith("/refuse"):
            self.set_status(401)
            self.finish(bytes(LARGE) if self.request.path.endswith("large") else "refused")

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._size += len(chunk)
        self._seen.append("piece")
        if self.request.path == "/fault":
            raise RuntimeError("on purpose")
        return self._until_open() if self.request.path == "/slowly" else None

    async def _until_open(self) -> None:
        await self._gate.wait()

    def post(self) -> None:
        self.finish(f"{self._size} bytes in pieces")

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._seen.append("gone")


class Prompt(HTTPMessageDelegate):
    """Answers within the turn in which it is asked, as a handshake is."""

    def __init__(self, request: HTTPServerRequest, seen: list[str]) -> None:
        self._request = request
        self._seen = seen

    def finish(self) -> None:
        self._seen.append("prompt")
        answering: Any = self._request.connection
        line = ResponseStartLine("HTTP/1.1", 200, "OK")
        answering.write_headers(line, HTTPHeaders({"Content-Length": "0"}))
        answering.finish()


class Routes(Application):
    """All handlers, and one path that is answered at once."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.path == "/sync":
            return Prompt(request, self.settings["seen"])
        return super().find_handler(request, **kwargs)


class Served:
    """A listener, what its handlers saw, and clients of it."""

    def __init__(
        self,
        at: tuple[str, int],
        seen: list[str],
        gate: asyncio.Event,
        connections: Callable[[], int],
    ) -> None:
        self.at = at
        self.connections = connections
        self.seen = seen
        self.gate = gate
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, *, receive_buffer: int = 0) -> "Client":
        sock = socket.socket()
        sock.settimeout(0)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, self.at)
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
        self._writers.append(writer)
        return Client(reader, writer)

    async def goes_on(self) -> None:
        """Have the server do other things for a while."""
        other = await self.connect()
        for _ in range(200):
            other.ask(b"/other", method=b"HEAD")
            await other.answer(bodiless=True)
        while "/other" in self.seen:
            self.seen.remove("/other")

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask(self, path: bytes, extra: bytes = b"", *, method: bytes = b"GET") -> None:
        self.send(b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (method, path, extra))

    async def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: its status, its headers in lower case, its body."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readline(), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
            elif not bodiless and "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            return int(head[0].split()[1]), headers, body

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return await self.reader.read()


@asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[Served]:
    seen: list[str] = []
    gate = asyncio.Event()
    given: dict[str, Any] = {"seen": seen, "gate": gate}
    routes = [
        (f"/{path}", Streaming, given)
        for path in ("stream", "refuse", "refuse/large", "fault", "slowly")
    ]
    server = Listener(Routes([*routes, ("/.*", Handler, given)], seen=seen), limits)
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    served = Served(sockets[0].getsockname(), seen, gate, lambda: server.connections)
    try:
        yield served
    finally:
        served.close()
        server.stop()
        await server.over(0)


def tcp_state(client: Client) -> int:
    """Return the state of a client's connection (struct tcp_info of linux/tcp.h)."""
    sock = client.writer.get_extra_info("socket")
    return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the listener look for those who take too long every few milliseconds."""
    monkeypatch.setattr(listener, "LOOK_EVERY", 0.01)


@pytest.mark.gen_test
async def test_a_connection_answers_one_request_after_the_other() -> None:
    async with serving() as served:
        client = await served.connect()
        for number in range(3):
            client.ask(b"/%d" % number)
            status, headers, body = await client.answer()
            assert (status, body) == (200, f"at /{number}".encode())
            assert "connection" not in headers
            assert headers["date"].endswith("gmt")


@pytest.mark.gen_test
async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/wait")
        for number in range(200):
            client.ask(b"/%d" % number)
        await eventually(lambda: served.seen)
        assert served.seen == ["/wait"]
        served.gate.set()
        assert (await client.answer())[2] == b"waited"
        for number in range(200):
            assert (await client.answer())[2] == f"at /{number}".encode()


@pytest.mark.gen_test
async def test_a_client_that_sends_ahead_is_held_back() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/wait")
        client.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n" * 300_000)
        drained = asyncio.create_task(client.writer.drain())
        await served.goes_on()
        assert not drained.done()
        served.gate.set()
        assert (await client.answer())[2] == b"waited"
        assert (await client.answer())[2] == b"at /next"
        drained.cancel()


@pytest.mark.gen_test
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_is_read_whole_or_in_pieces(framing: str) -> None:
    async with serving() as served:
        for path, told in ((b"/whole", b"300000 bytes"), (b"/stream", b"300000 bytes in pieces")):
            client = await served.connect()
            if framing == "length":
                client.ask(path, b"Content-Length: 300000\r\n", method=b"POST")
                client.send(bytes(300_000))
            else:
                client.ask(path, b"Transfer-Encoding: chunked\r\n", method=b"POST")
                client.send((b"186a0\r\n" + bytes(100_000) + b"\r\n") * 3 + b"0\r\n\r\n")
            assert (await client.answer())[2] == told
            client.ask(b"/again")
            assert (await client.answer())[2] == b"at /again"


@pytest.mark.gen_test
async def test_a_handler_that_takes_its_time_holds_the_body_back() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/slowly", b"Content-Length: %d\r\n" % LARGE, method=b"POST")
        client.send(bytes(LARGE))
        await served.goes_on()
        assert served.seen == ["piece"]
        served.gate.set()
        assert (await client.answer())[2] == b"%d bytes in pieces" % LARGE


@pytest.mark.gen_test
async def test_the_sender_of_a_body_that_is_refused_gets_the_answer() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/refuse", b"Content-Length: %d\r\n" % LARGE, method=b"POST")
        client.send(bytes(LARGE))
        # As one does that reads nothing before it has sent all.
        await client.writer.drain()
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (401, "close", b"refused")
        assert await client.rest() == b""
        assert served.seen == []


@pytest.mark.gen_test
async def test_not_more_of_a_refused_body_is_dropped_than_is_bearable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "DROP_LIMIT", 2**20)
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/refuse", b"Content-Length: %d\r\n" % (2 * LARGE), method=b"POST")
        client.send(bytes(2 * LARGE))
        with pytest.raises(ConnectionError):
            await client.writer.drain()


@pytest.mark.gen_test
async def test_a_request_that_was_refused_whole_ends_no_connection() -> None:
    async with serving() as served:
        client = await served.connect()
        client.send(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert (await client.answer())[0] == 401
        client.ask(b"/again")
        assert (await client.answer())[2] == b"at /again"


@pytest.mark.gen_test
async def test_who_waits_for_leave_to_send_a_body_gets_it() -> None:
    async with serving() as served:
        client = await served.connect()
        extra = b"Content-Length: 3\r\nExpect: 100-continue\r\n"
        client.ask(b"/stream", extra, method=b"POST")
        assert (await client.answer(bodiless=True))[0] == 100
        client.send(b"abc")
        assert (await client.answer())[2] == b"3 bytes in pieces"


@pytest.mark.gen_test
async def test_an_answer_of_unknown_length_comes_in_chunks() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/pieces")
        assert (await client.answer())[2] == b"one two three"
        client.ask(b"/again")
        assert (await client.answer())[2] == b"at /again"


@pytest.mark.gen_test
async def test_an_old_client_gets_an_answer_of_unknown_length_up_to_the_end() -> None:
    async with serving() as served:
        client = await served.connect()
        client.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        _, headers, _ = await client.answer()
        assert headers["connection"] == "close"
        assert await client.rest() == b"one two three"


@pytest.mark.gen_test
async def test_an_old_client_may_ask_again_if_it_says_so() -> None:
    async with serving() as served:
        client = await served.connect()
        client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.answer())[1]["connection"] == "keep-alive"
        client.send(b"GET /b HTTP/1.0\r\n\r\n")
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.gen_test
async def test_the_answer_to_head_has_no_body() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/a", method=b"HEAD")
        assert (await client.answer(bodiless=True))[1]["content-length"] == "5"
        client.ask(b"/again")
        assert (await client.answer())[2] == b"at /again"


@pytest.mark.gen_test
async def test_a_client_that_asks_for_the_end_gets_it_after_its_answer() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/a", b"Connection: close\r\n")
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.gen_test
@pytest.mark.parametrize("path", [b"/large", b"/pieces/large"])
async def test_a_slow_reader_gets_a_large_answer_whole(path: bytes) -> None:
    async with serving() as served:
        client = await served.connect(receive_buffer=4096)
        client.ask(path)
        _, _, body = await client.answer()
        assert len(body) == LARGE
        client.ask(b"/again")
        assert (await client.answer())[2] == b"at /again"


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_a_client_that_reads_nothing_of_its_answer_is_parted_from() -> None:
    async with serving(Limits(idle=0.2)) as served:
        client = await served.connect(receive_buffer=4096)
        client.ask(b"/large")
        await eventually(lambda: served.seen)
        await eventually(lambda: tcp_state(client) != ESTABLISHED)


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_a_client_that_only_asks_gets_no_more_answers_than_it_reads() -> None:
    async with serving(Limits(idle=0.5)) as served:
        client = await served.connect(receive_buffer=4096)
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        # More to be asked is no sign that anything was read.
        await eventually(lambda: tcp_state(client) != ESTABLISHED)
        assert len(served.seen) == 1


@pytest.mark.gen_test
async def test_a_client_that_resets_while_answers_wait_leaves_nothing() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving() as served:
        client = await served.connect(receive_buffer=4096)
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await eventually(lambda: served.seen)
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await eventually(lambda: served.connections() == 0)
    assert faults == []


@pytest.mark.gen_test
async def test_many_requests_at_once_leave_others_their_turn() -> None:
    async with serving() as served:
        greedy, other = await served.connect(), await served.connect()
        loop, turns = asyncio.get_running_loop(), list[int]()

        def turn() -> None:
            turns.append(len(served.seen))
            if len(served.seen) < 500:
                loop.call_soon(turn)

        greedy.send(b"POST /refuse HTTP/1.1\r\nHost: x\r\n\r\n")
        greedy.send(b"GET /sync HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        other.ask(b"/other")
        turn()
        assert (await other.answer())[2] == b"at /other"
        await eventually(lambda: len(served.seen) == 501)
        turn()
        assert max(later - sooner for sooner, later in pairwise(turns)) <= connection.AT_ONCE + 1


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_a_body_is_timed_also_when_its_answer_had_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "DROP_TIME", 0.2)
    async with serving(Limits(idle=5.0)) as served:
        client = await served.connect(receive_buffer=4096)
        client.ask(b"/refuse/large", b"Content-Length: 10\r\n", method=b"POST")
        assert len((await client.answer())[2]) == LARGE
        assert await client.rest() == b""


@pytest.mark.gen_test
async def test_leave_to_send_is_given_only_when_the_handler_has_looked_at_the_head() -> None:
    async with serving() as served:
        client = await served.connect()
        extra = b"Content-Length: 3\r\nExpect: 100-continue\r\n"
        client.ask(b"/refuse", extra, method=b"POST")
        assert (await client.answer())[0] == 401


@pytest.mark.gen_test
async def test_a_handler_hears_that_its_client_has_gone() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/wait")
        await eventually(lambda: served.seen)
        client.writer.close()
        await eventually(lambda: served.seen == ["/wait", "gone"])
        served.gate.set()


@pytest.mark.gen_test
async def test_a_handler_hears_that_the_rest_of_its_body_will_not_come() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/stream", b"Content-Length: 10\r\n", method=b"POST")
        client.send(b"abc")
        await eventually(lambda: served.seen == ["piece"])
        client.writer.close()
        await eventually(lambda: served.seen == ["piece", "gone"])


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + bytes(2000), 413),
        (b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 200_000, 431),
    ],
)
async def test_what_is_no_request_is_answered_with_a_problem_document(
    data: bytes, status: int
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving(Limits(max_body=1000)) as served:
        client = await served.connect()
        # More of it may be under way than is read.
        client.send(data + b"whatever follows" * 1000)
        told, headers, body = await client.answer()
        assert (told, headers["connection"]) == (status, "close")
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["detail"]
        assert await client.rest() == b""
        assert faults == []


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_who_is_refused_in_the_middle_of_a_head_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "LINGER", 0.1)
    async with serving(Limits(head=5.0)) as served:
        client = await served.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 200_000)
        assert (await client.answer())[0] == 431
        # Not closed by the client, so it is the time to linger that is over.
        assert await client.rest() == b""
        await eventually(lambda: tcp_state(client) != ESTABLISHED)


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_a_handler_that_pauses_in_its_answer_is_not_cut_off() -> None:
    async with serving(Limits(idle=0.2)) as served:
        client = await served.connect(receive_buffer=4096)
        client.ask(b"/large/pause")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await client.reader.readuntil(b"\r\n\r\n")
            await client.reader.readexactly(LARGE)
            # Another one may not be idle for as long.
            idle = await served.connect()
            idle.ask(b"/a")
            await idle.answer()
            assert await idle.rest() == b""
            served.gate.set()
            assert await client.reader.readexactly(4) == b"more"


@pytest.mark.gen_test
async def test_a_header_can_not_break_its_line() -> None:
    async with serving() as served:
        client = await served.connect()
        with silenced("tornado.application"), silenced("tornado.access"):
            client.ask(b"/header")
            assert await client.rest() == b""


@pytest.mark.gen_test
async def test_a_fault_while_a_body_is_read_ends_the_connection() -> None:
    async with serving() as served:
        client = await served.connect()
        with silenced("archibald_rt.http"):
            client.ask(b"/fault", b"Content-Length: 3\r\n", method=b"POST")
            client.send(b"abc")
            assert await client.rest() == b""


@pytest.mark.gen_test
async def test_who_asks_for_another_protocol_that_is_not_spoken_is_answered_all_the_same() -> None:
    async with serving() as served:
        client = await served.connect()
        client.ask(b"/a", b"Connection: upgrade\r\nUpgrade: h2c\r\n")
        client.ask(b"/b")
        assert (await client.answer())[2] == b"at /a"
        assert (await client.answer())[2] == b"at /b"


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost"])
async def test_a_client_that_takes_too_long_over_a_head_is_parted_from(begun: bytes) -> None:
    async with serving(Limits(head=0.2)) as served:
        client = await served.connect()
        client.send(begun)
        told = await client.rest()
        assert told.startswith(b"HTTP/1.1 408 ") if begun else told == b""


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_one_byte_at_a_time_wins_no_time() -> None:
    async with serving(Limits(head=0.3)) as served:
        client = await served.connect()
        rest = asyncio.create_task(client.rest())
        while not rest.done():
            client.send(b"A")
            await asyncio.wait([rest], timeout=0.02)
        assert (await rest).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_a_client_that_takes_too_long_over_a_body_is_parted_from() -> None:
    async with serving(Limits(body=0.2)) as served:
        client = await served.connect()
        client.ask(b"/stream", b"Content-Length: 10\r\n", method=b"POST")
        assert await client.rest() == b""
        assert served.seen == ["gone"]


@pytest.mark.gen_test
@pytest.mark.usefixtures("often")
async def test_idle_clients_are_parted_from_but_not_those_who_wait_for_an_answer() -> None:
    async with serving(Limits(head=5.0, idle=0.2)) as served:
        idle = await served.connect()
        idle.ask(b"/a")
        late = await served.connect()
        late.ask(b"/wait")
        assert (await idle.answer())[2] == b"at /a"
        assert await idle.rest() == b""
        served.gate.set()
        assert (await late.answer())[2] == b"waited"
