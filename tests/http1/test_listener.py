"""Taking connections and parting from them: ``http1.listener``."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs
from tornado.web import Application, RequestHandler

from archibald_rt.http1 import listener
from archibald_rt.http1.listener import Listener
from archibald_rt.listen import Endpoint
from support import PATIENCE, descriptors, eventually


def none_left() -> int:
    """Return the lowest number that no descriptor has."""
    free = os.dup(0)
    os.close(free)
    return free


class Answering(RequestHandler):
    def get(self) -> None:
        self.finish("here")


async def asked(client: socket.socket, sockets: Sequence[socket.socket]) -> None:
    """Connect and ask; the answer may be a while."""
    client.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, sockets[0].getsockname())
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


async def answer(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = b""
    while part := await asyncio.wait_for(loop.sock_recv(client, 4096), PATIENCE.total_seconds()):
        parts += part
    return parts


@pytest.mark.gen_test
async def test_a_listener_answers_until_it_is_stopped() -> None:
    sockets = Endpoint("127.0.0.1", 0).bind()
    at = sockets[0].getsockname()
    server = Listener(Application([("/", Answering)]))
    server.add_sockets(sockets)
    for _ in range(3):
        with socket.socket() as client:
            await asked(client, sockets)
            assert (await answer(client)).endswith(b"here")
    server.stop()
    await server.over(0)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(at)


@pytest.mark.gen_test
async def test_a_listener_without_descriptors_pauses_and_goes_on_when_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE", 0.1)
    loop = asyncio.get_running_loop()
    server = Listener(Application([("/", Answering)]))
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    with socket.socket() as client, capture_logs() as entries:
        with descriptors(none_left()):
            begun = loop.time()
            await asked(client, sockets)
            await eventually(lambda: len(entries) >= 3)
            assert len(entries) <= 1 + (loop.time() - begun) / 0.1
        assert {entry["event"] for entry in entries} == {"can't accept, pausing"}
        assert (await answer(client)).endswith(b"here")
    server.stop()
    await server.over(0)


@pytest.mark.gen_test
async def test_a_listener_may_be_stopped_while_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE", 0.1)
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context))
    server = Listener(Application([("/", Answering)]))
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    with socket.socket() as client, capture_logs() as entries:
        with descriptors(none_left()):
            await asked(client, sockets)
            await eventually(lambda: entries)
            server.stop()
        # What would come at the end of the pause comes before this.
        over = loop.create_future()
        loop.call_later(0.3, over.set_result, None)
        await over
    assert faults == []


REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class Waiting(RequestHandler):
    def initialize(self, begun: asyncio.Event, gate: asyncio.Event) -> None:
        self._begun = begun
        self._gate = gate

    async def get(self) -> None:
        self._begun.set()
        await self._gate.wait()
        self.finish("at last")


@pytest.mark.gen_test
async def test_a_listener_that_is_stopped_ends_each_connection_with_its_next_answer() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    waiting_for = {"begun": begun, "gate": gate}
    server = Listener(Application([("/", Answering), ("/wait", Waiting, waiting_for)]))
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    at = sockets[0].getsockname()
    unread = await asyncio.open_connection(*at)
    used = await asyncio.open_connection(*at)
    used[1].write(REQUEST % b"/")
    assert b"close" not in await used[0].readuntil(b"here")
    waiting = await asyncio.open_connection(*at)
    waiting[1].write(REQUEST % b"/wait")
    await begun.wait()
    # They are accepted in their order, so by now all of them are.
    server.stop()
    over = asyncio.create_task(server.over(PATIENCE.total_seconds()))
    for reader, writer in (unread, used):
        writer.write(REQUEST % b"/")
        last = await reader.read()
        assert last.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in last
        assert not over.done()
    gate.set()
    last = await waiting[0].read()
    assert b"Connection: close" in last
    assert last.endswith(b"at last")
    began = asyncio.get_running_loop().time()
    await over
    assert asyncio.get_running_loop().time() - began < PATIENCE.total_seconds() / 2
    for _, writer in (unread, used, waiting):
        writer.close()


@pytest.mark.gen_test
async def test_a_listener_waits_for_connections_that_ask_nothing_only_as_long_as_is_said() -> None:
    server = Listener(Application([("/", Answering)]))
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    at = sockets[0].getsockname()
    idle = await asyncio.open_connection(*at)
    used = await asyncio.open_connection(*at)
    used[1].write(REQUEST % b"/")
    await used[0].readuntil(b"here")
    loop = asyncio.get_running_loop()
    began = loop.time()
    server.stop()
    await server.over(0.2)
    assert loop.time() - began > 0.19
    for reader, writer in (idle, used):
        assert await reader.read() == b""
        writer.close()
    await server.over(PATIENCE.total_seconds())


class Queueing(RequestHandler):
    """Waits for a turn that only the end of another's connection makes free."""

    def initialize(self, turn: asyncio.Semaphore, asked: list[str], begun: list[str]) -> None:
        self._turn = turn
        self._asked = asked
        self._begun = begun

    async def get(self) -> None:
        self._asked.append(self.request.path)
        self._work = asyncio.create_task(self._wait())
        with contextlib.suppress(asyncio.CancelledError):
            await self._work

    async def _wait(self) -> None:
        async with self._turn:
            self._begun.append(self.request.path)
            await asyncio.Event().wait()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._work.cancel()


@pytest.mark.gen_test
async def test_what_a_listener_gives_up_for_one_client_is_not_begun_for_the_next() -> None:
    asked: list[str] = []
    begun: list[str] = []
    given = {"turn": asyncio.Semaphore(1), "asked": asked, "begun": begun}
    server = Listener(Application([(r"/.*", Queueing, given)]))
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    clients = [await asyncio.open_connection(*sockets[0].getsockname()) for _ in range(5)]
    for number, (_, writer) in enumerate(clients):
        writer.write(REQUEST % f"/{number}".encode())
    await eventually(lambda: len(asked) == len(clients))
    server.stop()
    await server.over(0.05)
    for reader, writer in clients:
        assert await reader.read() == b""
        writer.close()
    assert len(begun) == 1


@pytest.mark.gen_test
async def test_those_who_ask_nothing_make_room_for_others_the_oldest_first() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    waiting_for = {"begun": begun, "gate": gate}
    routes = Application([("/", Answering), ("/wait", Waiting, waiting_for)])
    server = Listener(routes, most=3)
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    at = sockets[0].getsockname()
    waiting = await asyncio.open_connection(*at)
    waiting[1].write(REQUEST % b"/wait")
    await begun.wait()
    silent = [await asyncio.open_connection(*at) for _ in range(2)]
    # The first of the silent ones goes for it, the one that waits for its answer stays.
    asking = await asyncio.open_connection(*at)
    assert await silent[0][0].read() == b""
    for reader, writer in (asking, silent[1]):
        writer.write(REQUEST % b"/")
        assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
    gate.set()
    await waiting[0].readuntil(b"at last")
    for _, writer in (waiting, asking, *silent):
        writer.close()
    server.stop()
    await server.over(0)


@pytest.mark.gen_test
async def test_half_a_request_is_no_reason_to_stay_and_an_answered_one_is() -> None:
    server = Listener(Application([("/", Answering)]), most=3)
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    at = sockets[0].getsockname()
    kept = await asyncio.open_connection(*at)
    half = await asyncio.open_connection(*at)
    half[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    kept[1].write(REQUEST % b"/")
    await kept[0].readuntil(b"here")
    others = [await asyncio.open_connection(*at) for _ in range(2)]
    # It came first, but has asked something since.
    assert await half[0].read() == b""
    kept[1].write(REQUEST % b"/")
    await kept[0].readuntil(b"here")
    for _, writer in (kept, half, *others):
        writer.close()
    server.stop()
    await server.over(0)
