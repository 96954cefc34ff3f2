"""The client against a scripted server: each connection plays the next script of a list."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from archibald_rt.client import (
    Client,
    ClientClosedError,
    ClientError,
    Gap,
    Item,
    Live,
    ReceivedEvent,
)
from archibald_rt.errors import AuthError

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

NOW = "2024-05-01T12:00:00.000Z"


class Peer(WebSocketHandler):
    """The server's end of one connection, as a script sees it."""

    def initialize(self, server: "ScriptedServer") -> None:
        self.server = server
        self.received: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    async def prepare(self) -> None:
        self.server.requests.append(self.request)
        self.server.asked.set()
        await self.server.gate.wait()
        status = self.server.statuses.pop(0) if self.server.statuses else None
        if status is not None:
            self.set_status(status)
            await self.finish()

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return self.server.subprotocol if self.server.subprotocol in subprotocols else None

    def open(self, *_args: str, **_kwargs: str) -> None:
        script = self.server.scripts.pop(0) if self.server.scripts else stay
        self.server.play(script(self))

    def on_message(self, message: str | bytes) -> None:
        self.received.put_nowait(message)

    def on_close(self) -> None:
        self.received.put_nowait(None)

    @property
    def resumes_by(self) -> str | None:
        return self.get_query_argument("lastEventId", None)

    async def say(self, kind: str, payload: Any = None, **more: Any) -> None:
        message = {**more, "type": kind, "payload": payload, "timestamp": NOW}
        await self.write_message(json.dumps(message))

    async def welcome(self, cursor: str = "e:0", *, heartbeat: float = 0) -> None:
        payload = {
            "cursor": cursor,
            "connection": "c1",
            "heartbeatMs": int(heartbeat * 1000),
            "replay": self.resumes_by is not None,
        }
        await self.say("rt.welcome", payload)

    async def live(self, cursor: str, replayed: int = 0) -> None:
        await self.say("rt.live", {"cursor": cursor, "replayed": replayed})

    async def durable(self, seq: int, prev: int, epoch: str = "e", payload: Any = None) -> None:
        await self.say("ORDER", payload, id=f"{epoch}:{seq}", prev=f"{epoch}:{prev}")

    def drop(self) -> None:
        """Cut the connection without a close frame."""
        connection = self.ws_connection
        assert connection is not None
        assert connection.stream is not None
        connection.stream.close()

    async def until_gone(self) -> None:
        while await self.received.get() is not None:
            pass


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Gives the n-th connection to the n-th script, further ones to `stay`."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.scripts = list(scripts)
        self.statuses: list[int | None] = []
        self.requests: list[HTTPServerRequest] = []
        self.subprotocol = "archibald.v2"
        self.url = ""
        self.asked = asyncio.Event()
        """A request has come."""
        self.gate = asyncio.Event()
        """Requests are answered."""
        self.gate.set()
        self._playing: list[asyncio.Future[None]] = []

    def play(self, script: Awaitable[None]) -> None:
        self._playing.append(asyncio.ensure_future(script))

    async def played(self) -> None:
        """Wait for the end of every script that has begun."""
        await asyncio.gather(*self._playing)

    async def stop(self) -> None:
        for playing in self._playing:
            playing.cancel()
        results = await asyncio.gather(*self._playing, return_exceptions=True)
        # A script's own failed assertion is the test's.
        for result in results:
            if isinstance(result, AssertionError):
                raise result


@asynccontextmanager
async def serving(
    *scripts: Script, ssl_options: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(scripts)
    http = HTTPServer(
        Application([("/ws/realtime", Peer, {"server": scripted})]), ssl_options=ssl_options
    )
    listener, port = bind_unused_port()
    http.add_socket(listener)
    scripted.url = f"http://127.0.0.1:{port}"
    try:
        yield scripted
    finally:
        http.stop()
        await http.close_all_connections()
        await scripted.stop()


async def stay(peer: Peer) -> None:
    """A server with nothing to say: welcome where the client stands, then live."""
    at = peer.resumes_by if peer.resumes_by not in (None, "earliest") else "e:0"
    await peer.welcome(at or "e:0")
    await peer.live(at or "e:0")
    await peer.until_gone()


def closes(code: int, reason: str = "") -> Script:
    async def script(peer: Peer) -> None:
        peer.close(code, reason)
        await peer.until_gone()

    return script


def closes_after_live(code: int) -> Script:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.live("e:0")
        peer.close(code)
        await peer.until_gone()

    return script


class Pauses:
    """A sleep that takes no time and notes how long it was asked to take."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0)


def a_client(server: ScriptedServer, token: Any = "secret", **options: Any) -> Client:
    options.setdefault("sleep", Pauses())
    options.setdefault("random", lambda: 1.0)
    return Client(server.url, token, **options)


async def take(client: Client, count: int) -> list[Item]:
    return [await anext(client) for _ in range(count)]


def ids(items: Sequence[Item]) -> list[str | None]:
    return [item.id for item in items if isinstance(item, ReceivedEvent)]


# What it asks for


@pytest.mark.gen_test
async def test_the_token_travels_in_the_header_and_never_in_the_url() -> None:
    async with serving() as server, a_client(server, token="s3cret") as client:
        await anext(client)
    assert server.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert server.requests[0].uri == "/ws/realtime"
    assert server.requests[0].headers["Sec-WebSocket-Protocol"] == "archibald.v2"


@pytest.mark.gen_test
async def test_a_cursor_is_handed_back_percent_encoded() -> None:
    async with serving() as server, a_client(server, cursor="e+&:7") as client:
        await anext(client)
    assert server.requests[0].uri == "/ws/realtime?lastEventId=e%2B%26%3A7"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("http://h:1", "ws://h:1/ws/realtime"),
        ("https://h/", "wss://h/ws/realtime"),
        ("ws://h/ws/realtime", "ws://h/ws/realtime"),
        ("wss://h/ws/realtime/", "wss://h/ws/realtime"),
        ("https://h/apps/rt", "wss://h/apps/rt/ws/realtime"),
        ("http://[::1]:80", "ws://[::1]:80/ws/realtime"),
    ],
)
@pytest.mark.gen_test
async def test_the_address_may_be_http_or_ws_with_or_without_the_path(
    address: str, path: str
) -> None:
    assert Client(address, "t")._url == path  # noqa: SLF001 - these hosts can't be connected to


@pytest.mark.parametrize("address", ["h:80", "ftp://h", "http://", "http://h?token=t", "ws://u@h"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="the URL of a server"):
        Client(address, "t")


@pytest.mark.parametrize("token", ["", "a\r\nHost: x", "ключ"])
@pytest.mark.gen_test
async def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(token: str) -> None:
    async with serving() as server, a_client(server, token) as client:
        with pytest.raises(AuthError) as refused:
            await anext(client)
    assert not token or token not in str(refused.value)
    assert server.requests == []


# What it yields


@pytest.mark.gen_test
async def test_events_come_out_with_their_payload_and_their_text() -> None:
    text = (
        '{"id":"e:1","prev":"e:0","type":"ORDER","payload":{"n":123456789012345678901234567890,'
        f'"f":1.50}},"timestamp":"{NOW}"}}'
    )

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.live("e:0")
        await peer.write_message(text)
        await peer.say("JOB_PROGRESS", {"progress": 40})
        await peer.until_gone()

    async with serving(script) as server, a_client(server) as client:
        live, durable, transient = await take(client, 3)
    assert live == Live("e:0", 0)
    assert isinstance(durable, ReceivedEvent)
    assert (durable.type, durable.timestamp, durable.id) == ("ORDER", NOW, "e:1")
    assert durable.payload == {"n": 123456789012345678901234567890, "f": 1.5}
    assert durable.raw == text
    assert isinstance(transient, ReceivedEvent)
    assert (transient.type, transient.id, transient.payload) == (
        "JOB_PROGRESS",
        None,
        {"progress": 40},
    )
    with pytest.raises(FrozenInstanceError):
        durable.type = "OTHER"  # type: ignore[misc]  # that it fails is what is tested


@pytest.mark.gen_test
async def test_a_payload_that_python_cannot_convert_ends_nothing() -> None:
    digits = "1" * 5000

    async def script(peer: Peer) -> None:
        await peer.welcome()
        head = '{"id":"e:1","prev":"e:0","type":"T","timestamp":"x","payload":'
        await peer.write_message(head + digits + "}")
        await peer.durable(2, 1)
        await peer.until_gone()

    async with serving(script) as server, a_client(server) as client:
        items = await take(client, 2)
    assert ids(items) == ["e:1", "e:2"]
    assert isinstance(items[0], ReceivedEvent)
    assert digits in items[0].raw
    with pytest.raises(ValueError, match="digits"):
        _ = items[0].payload


@pytest.mark.gen_test
async def test_control_messages_of_a_later_server_are_passed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.say("rt.auth", {"expires": None})
        await peer.say("rt.something-new", {"a": 1})
        await peer.write_message(b"binary", binary=True)
        await peer.durable(1, 0)
        await peer.until_gone()

    async with serving(script) as server, a_client(server) as client:
        assert ids(await take(client, 1)) == ["e:1"]


# Resuming


@pytest.mark.gen_test
async def test_the_cursor_is_that_of_the_last_event_handed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome("e:5")
        await peer.durable(6, 5)
        await peer.say("JOB_PROGRESS")
        await peer.durable(8, 6)
        await peer.until_gone()

    async with serving(script) as server, a_client(server, cursor="e:5") as client:
        seen = [client.cursor]
        for _ in range(3):
            await anext(client)
            seen.append(client.cursor)
    assert seen == ["e:5", "e:6", "e:6", "e:8"]


@pytest.mark.gen_test
async def test_a_drop_before_the_first_event_resumes_from_the_welcome() -> None:
    async def drops(peer: Peer) -> None:
        await peer.welcome("e:41")
        await peer.live("e:41")
        peer.drop()

    async with serving(drops) as server, a_client(server) as client:
        await take(client, 2)
        assert client.cursor == "e:41"
    assert [request.arguments for request in server.requests] == [{}, {"lastEventId": [b"e:41"]}]


@pytest.mark.gen_test
async def test_after_a_drop_it_resumes_and_no_event_is_lost_or_doubled() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome("e:2")
        await peer.durable(3, 2)
        await peer.durable(5, 3)
        peer.drop()

    async def second(peer: Peer) -> None:
        assert peer.resumes_by == "e:5"
        await peer.welcome("e:5")
        await peer.durable(6, 5)
        await peer.live("e:6", 1)
        await peer.until_gone()

    async with serving(first, second) as server, a_client(server, cursor="earliest") as client:
        items = await take(client, 4)
    assert ids(items) == ["e:3", "e:5", "e:6"]
    assert items[-1] == Live("e:6", 1)
    assert server.requests[0].arguments == {"lastEventId": [b"earliest"]}


@pytest.mark.gen_test
async def test_a_repeated_event_is_dropped() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome("e:2")
        await peer.durable(3, 2)
        await peer.durable(3, 2)
        await peer.durable(2, 1)
        await peer.durable(4, 2)
        await peer.until_gone()

    async with serving(script) as server, a_client(server, cursor="e:2") as client:
        assert ids(await take(client, 2)) == ["e:3", "e:4"]
    assert len(server.requests) == 1


@pytest.mark.gen_test
async def test_an_event_whose_predecessor_never_came_makes_it_resume() -> None:
    async def loses_one(peer: Peer) -> None:
        await peer.welcome("e:2")
        await peer.durable(3, 2)
        await peer.durable(5, 4)
        await peer.until_gone()

    async def good(peer: Peer) -> None:
        assert peer.resumes_by == "e:3"
        await peer.welcome("e:3")
        await peer.durable(4, 3)
        await peer.durable(5, 4)
        await peer.until_gone()

    async with serving(loses_one, good) as server, a_client(server, cursor="e:2") as client:
        assert ids(await take(client, 3)) == ["e:3", "e:4", "e:5"]


@pytest.mark.parametrize(
    "mistake",
    [
        '{"id":"e:9","prev":"e:8","type":"T","payload":1,"timestamp":"x"}',
        '{"id":"e:9","type":"T","payload":1,"timestamp":"x"}',
        "no json",
        '{"type":"rt.gap","payload":null,"timestamp":"x"}',
    ],
)
@pytest.mark.gen_test
async def test_a_server_that_repeats_its_mistake_is_met_ever_more_slowly(mistake: str) -> None:
    async def wrong(peer: Peer) -> None:
        await peer.welcome("e:2")
        await peer.live("e:2")
        await peer.write_message(mistake)
        await peer.until_gone()

    async def right(peer: Peer) -> None:
        await peer.welcome("e:2")
        await peer.durable(3, 2)
        await peer.live("e:3")
        peer.drop()

    pauses = Pauses()
    async with (
        serving(wrong, wrong, wrong, wrong, right) as server,
        a_client(server, sleep=pauses) as client,
    ):
        await take(client, 7)
    # Going live resets the backoff only the first time, and again after a good event.
    assert pauses.asked == [1, 2, 4, 8, 1]


@pytest.mark.gen_test
async def test_a_connection_that_begins_without_a_welcome_is_given_up() -> None:
    async def rude(peer: Peer) -> None:
        await peer.durable(1, 0)
        await peer.until_gone()

    async with serving(rude) as server, a_client(server) as client:
        assert await anext(client) == Live("e:0", 0)
    assert len(server.requests) == 2


# Gaps


def says_gap(welcome: str, requested: str, through: str | None, reason: str) -> Script:
    async def script(peer: Peer) -> None:
        await peer.welcome(welcome)
        payload = {"requested": requested, "missingThrough": through, "reason": reason}
        await peer.say("rt.gap", payload)
        epoch, _, seq = welcome.partition(":")
        await peer.durable(int(seq) + 1, int(seq), epoch)
        await peer.until_gone()

    return script


@pytest.mark.gen_test
async def test_an_expired_gap_is_said_and_the_cursor_stays() -> None:
    async with (
        serving(says_gap("e:2", "e:2", "e:9", "expired")) as server,
        a_client(server, cursor="e:2") as client,
    ):
        assert await anext(client) == Gap("e:2", "e:9", "expired")
        assert client.cursor == "e:2"
        assert ids(await take(client, 1)) == ["e:3"]


@pytest.mark.gen_test
async def test_the_same_expired_gap_is_not_said_at_every_reconnect() -> None:
    async def gap_then_drop(peer: Peer) -> None:
        await peer.welcome("e:2")
        payload = {"requested": "e:2", "missingThrough": "e:9", "reason": "expired"}
        await peer.say("rt.gap", payload)
        await peer.live("e:2")
        peer.drop()

    async with (
        serving(gap_then_drop, gap_then_drop, gap_then_drop) as server,
        a_client(server, cursor="e:2") as client,
    ):
        items = await take(client, 4)
    assert items == [Gap("e:2", "e:9", "expired")] + [Live("e:2", 0)] * 3


@pytest.mark.parametrize(
    ("welcome", "reason"), [("e:3", "ahead"), ("other:3", "epoch")], ids=["ahead", "epoch"]
)
@pytest.mark.gen_test
async def test_after_another_log_or_a_lost_one_lower_ids_are_accepted(
    welcome: str, reason: str
) -> None:
    epoch = welcome.partition(":")[0]
    async with (
        serving(says_gap(welcome, "e:90", None, reason)) as server,
        a_client(server, cursor="e:90") as client,
    ):
        assert await anext(client) == Gap("e:90", None, reason)
        assert client.cursor == welcome
        assert ids(await take(client, 1)) == [f"{epoch}:4"]
        assert client.cursor == f"{epoch}:4"


@pytest.mark.gen_test
async def test_a_drop_between_welcome_and_gap_still_says_the_gap() -> None:
    async def drops(peer: Peer) -> None:
        await peer.welcome("other:3")
        peer.drop()

    async with (
        serving(drops, says_gap("other:3", "e:90", None, "epoch")) as server,
        a_client(server, cursor="e:90") as client,
    ):
        assert await anext(client) == Gap("e:90", None, "epoch")
    assert server.requests[1].arguments == {"lastEventId": [b"e:90"]}


# Coming back


@pytest.mark.parametrize("code", [1001, 1013, 4004, 1000, 1011])
@pytest.mark.gen_test
async def test_after_a_passing_close_it_comes_back(code: int) -> None:
    async with serving(closes_after_live(code)) as server, a_client(server) as client:
        assert await take(client, 2) == [Live("e:0", 0)] * 2


@pytest.mark.gen_test
async def test_the_backoff_doubles_up_to_its_limit_and_is_reset_by_going_live() -> None:
    pauses = Pauses()
    scripts = [closes(1013)] * 7 + [closes_after_live(1001), closes(1013)]
    async with serving(*scripts) as server, a_client(server, sleep=pauses) as client:
        await take(client, 2)
    assert pauses.asked == [1, 2, 4, 8, 16, 30, 30, 1, 2]


@pytest.mark.gen_test
async def test_the_backoff_has_full_jitter() -> None:
    pauses = Pauses()
    draws = iter([0.0, 0.5, 0.25])
    async with (
        serving(*[closes(1013)] * 3) as server,
        a_client(
            server, sleep=pauses, random=lambda: next(draws), backoff_first=2, backoff_max=5
        ) as client,
    ):
        await anext(client)
    assert pauses.asked == [0, 2, 1.25]


@pytest.mark.gen_test
async def test_a_draining_server_says_when_to_return() -> None:
    async def drains(peer: Peer) -> None:
        await peer.welcome()
        await peer.live("e:0")
        await peer.say("rt.reconnect", {"afterMs": 2340})
        await peer.durable(1, 0)
        peer.close(1001)
        await peer.until_gone()

    pauses = Pauses()
    async with (
        serving(drains, closes(1013)) as server,
        a_client(server, sleep=pauses, random=lambda: 0.5) as client,
    ):
        items = await take(client, 3)
    assert ids(items) == ["e:1"]
    assert pauses.asked == [2.34, 0.5]


@pytest.mark.gen_test
async def test_a_server_that_does_not_listen_is_tried_until_it_does() -> None:
    listener, port = bind_unused_port()
    listener.close()
    tried = asyncio.Event()
    listens = asyncio.Event()

    async def pause(_seconds: float) -> None:
        tried.set()
        await listens.wait()

    scripted = ScriptedServer([])
    http = HTTPServer(Application([("/ws/realtime", Peer, {"server": scripted})]))
    async with Client(f"ws://127.0.0.1:{port}", "t", sleep=pause) as client:
        await tried.wait()
        http.listen(port, "127.0.0.1")
        listens.set()
        assert await anext(client) == Live("e:0", 0)
    http.stop()
    await http.close_all_connections()
    await scripted.stop()


@pytest.mark.parametrize("status", [500, 502, 503, 429])
@pytest.mark.gen_test
async def test_a_server_error_at_the_upgrade_is_waited_out(status: int) -> None:
    async with serving() as server:
        server.statuses = [status, status]
        pauses = Pauses()
        async with a_client(server, sleep=pauses) as client:
            assert await anext(client) == Live("e:0", 0)
    assert pauses.asked == [1, 2]


@pytest.mark.parametrize("status", [400, 403, 404, 301, 200])
@pytest.mark.gen_test
async def test_a_refused_upgrade_is_raised_in_one_line(status: int) -> None:
    async with serving() as server:
        server.statuses = [status]
        async with a_client(server) as client:
            with pytest.raises(ClientError) as refused:
                await anext(client)
    assert "\n" not in str(refused.value)
    assert status == 200 or str(status) in str(refused.value)
    assert len(server.requests) == 1


@pytest.mark.gen_test
async def test_a_server_that_does_not_speak_v2_is_not_used() -> None:
    async with serving() as server:
        server.subprotocol = "something else"
        async with a_client(server) as client:
            with pytest.raises(ClientError, match=r"doesn't speak archibald\.v2"):
                await anext(client)


@pytest.mark.parametrize("code", [1009, 4003, 4005])
@pytest.mark.gen_test
async def test_after_some_close_codes_it_does_not_come_back(code: int) -> None:
    async with serving(closes(code, "too many")) as server, a_client(server) as client:
        with pytest.raises(ClientClosedError) as closed:
            await anext(client)
        with pytest.raises(ClientClosedError):
            await anext(client)
    assert (closed.value.code, closed.value.reason) == (code, "too many")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reason", "told", "message"),
    [("", "", "4003"), ("too many\nhere", "too many here", "4003 too many here")],
)
@pytest.mark.gen_test
async def test_a_reason_is_told_as_it_was_given_but_in_one_line(
    reason: str, told: str, message: str
) -> None:
    async with serving(closes(4003, reason)) as server, a_client(server) as client:
        with pytest.raises(ClientClosedError) as closed:
            await anext(client)
    assert closed.value.reason == told
    assert str(closed.value) == f"the server closed the connection: {message}"


@pytest.mark.gen_test
async def test_what_arrived_before_a_final_close_is_handed_over_first() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.durable(1, 0)
        peer.close(4003)
        await peer.until_gone()

    async with serving(script) as server, a_client(server) as client:
        assert ids(await take(client, 1)) == ["e:1"]
        with pytest.raises(ClientClosedError):
            await anext(client)


# Tokens


@pytest.mark.parametrize("code", [1008, 4001, 4002])
@pytest.mark.gen_test
async def test_a_fixed_token_that_is_refused_is_raised(code: int) -> None:
    async with serving(closes(code, "no")) as server, a_client(server) as client:
        with pytest.raises(AuthError, match=f"{code} no"):
            await anext(client)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [1008, 4001, 4002])
@pytest.mark.gen_test
async def test_a_callable_is_asked_for_a_fresh_token(code: int) -> None:
    tokens = iter(["first", "second"])
    async with (
        serving(closes(code)) as server,
        a_client(server, token=lambda: next(tokens)) as client,
    ):
        assert await anext(client) == Live("e:0", 0)
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.gen_test
async def test_a_callable_may_be_async() -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return "later"

    async with serving() as server, a_client(server, token=token) as client:
        await anext(client)
    assert server.requests[0].headers["Authorization"] == "Bearer later"


@pytest.mark.gen_test
async def test_a_second_token_refused_in_a_row_is_raised() -> None:
    async with (
        serving(closes(1008), closes(1008)) as server,
        a_client(server, token=lambda: "t") as client,
    ):
        with pytest.raises(AuthError):
            await anext(client)
    assert len(server.requests) == 2


@pytest.mark.gen_test
async def test_tokens_that_expire_one_after_another_are_replaced_each_time() -> None:
    async with (
        serving(*[closes_after_live(4001)] * 3) as server,
        a_client(server, token=lambda: "t") as client,
    ):
        assert len(await take(client, 4)) == 4


@pytest.mark.gen_test
async def test_what_the_callable_raises_reaches_the_caller() -> None:
    def token() -> str:
        raise LookupError("no token today")

    async with serving() as server, a_client(server, token=token) as client:
        with pytest.raises(LookupError, match="no token today"):
            await anext(client)


# Silence


@pytest.mark.gen_test
async def test_a_silent_server_is_asked_and_then_left() -> None:
    asked = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.welcome(heartbeat=0.02)
        await peer.live("e:0")
        assert await peer.received.get() == "ping"
        asked.set()
        await peer.until_gone()

    async with serving(silent) as server, a_client(server) as client:
        await take(client, 2)
    assert asked.is_set()
    assert len(server.requests) == 2


@pytest.mark.gen_test
async def test_a_server_that_answers_the_ping_is_kept() -> None:
    async def quiet(peer: Peer) -> None:
        await peer.welcome(heartbeat=0.02)
        for _ in range(3):
            assert await peer.received.get() == "ping"
            await peer.write_message("pong")
        await peer.durable(1, 0)
        await peer.until_gone()

    async with serving(quiet) as server, a_client(server) as client:
        assert ids(await take(client, 1)) == ["e:1"]
    assert len(server.requests) == 1


@pytest.mark.gen_test
async def test_a_server_that_never_says_welcome_is_left() -> None:
    async def mute(peer: Peer) -> None:
        await peer.until_gone()

    async with serving(mute) as server, a_client(server, connect_timeout=0.1) as client:
        assert await anext(client) == Live("e:0", 0)
    assert len(server.requests) == 2


@pytest.mark.gen_test
async def test_a_listener_that_never_answers_the_upgrade_is_left() -> None:
    tried = asyncio.Event()

    async def pause(_seconds: float) -> None:
        tried.set()
        await asyncio.Event().wait()

    listener, port = bind_unused_port()
    async with Client(f"http://127.0.0.1:{port}", "t", connect_timeout=0.05, sleep=pause) as client:
        waiting = asyncio.ensure_future(anext(client))
        await tried.wait()
        assert not waiting.done()
        waiting.cancel()
    listener.close()


# TLS


def a_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.mark.gen_test
async def test_tls_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    cert_file, key_file = a_certificate(tmp_path)
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(cert_file, key_file)
    trusts = ssl.create_default_context(cafile=str(cert_file))
    async with serving(ssl_options=serves) as server:
        server.url = server.url.replace("http:", "https:")
        async with a_client(server) as client:
            with pytest.raises(ClientError, match="can't be trusted"):
                await anext(client)
        async with a_client(server, ssl_context=trusts) as client:
            assert await anext(client) == Live("e:0", 0)


# Slow callers, cancellation, the end


@pytest.mark.gen_test
async def test_a_caller_that_does_not_read_holds_the_server_back() -> None:
    total = 400
    written: list[int] = []
    stuck = asyncio.Event()

    async def floods(peer: Peer) -> None:
        await peer.welcome()
        connection = peer.ws_connection
        assert connection is not None
        assert connection.stream is not None
        connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        for seq in range(1, total + 1):
            sent = asyncio.ensure_future(peer.durable(seq, seq - 1, payload="x" * 65536))
            # A write that isn't done while the client does nothing else is held back.
            done, _ = await asyncio.wait({sent}, timeout=0.5)
            if not done:
                stuck.set()
            await sent
            written.append(seq)
        await peer.until_gone()

    async with serving(floods) as server, a_client(server) as client:
        await stuck.wait()
        assert len(written) < total
        items = await take(client, total)
    assert ids(items) == [f"e:{seq}" for seq in range(1, total + 1)]


@pytest.mark.gen_test
async def test_cancelled_waits_lose_no_event() -> None:
    total = 50

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for seq in range(1, total + 1):
            await peer.durable(seq, seq - 1)
            await asyncio.sleep(0)
        await peer.until_gone()

    items: list[Item] = []
    async with serving(script) as server, a_client(server) as client:
        while len(items) < total:
            waiting = asyncio.ensure_future(anext(client))
            await asyncio.sleep(0)
            waiting.cancel()
            try:
                items.append(await waiting)
            except asyncio.CancelledError:
                continue
    assert ids(items) == [f"e:{seq}" for seq in range(1, total + 1)]


@pytest.mark.gen_test
async def test_closing_twice_is_fine_and_ends_the_iteration() -> None:
    async with serving() as server:
        client = a_client(server)
        async with client:
            await anext(client)
            waiting = asyncio.ensure_future(anext(client))
            await asyncio.sleep(0)
            await client.close()
            await client.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(client)
        assert [item async for item in client] == []


@pytest.mark.gen_test
async def test_closing_tells_the_server_and_leaves_nothing_running() -> None:
    codes: list[int | None] = []

    async def script(peer: Peer) -> None:
        await stay(peer)
        codes.append(peer.close_code)

    async with serving(script) as server:
        before = asyncio.all_tasks()
        async with a_client(server) as client:
            await anext(client)
        # The server's own end needs a few turns; less than a close that waits for nothing.
        left = asyncio.all_tasks() - before
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 3)
    assert codes == [1000]


@pytest.mark.gen_test
async def test_closing_does_not_wait_long_for_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deaf(peer: Peer) -> None:
        monkeypatch.setattr(peer.ws_connection, "_handle_message", lambda *_: for_ever())
        await peer.welcome()
        await peer.live("e:0")

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async with serving(deaf) as server:
        client = a_client(server)
        async with client:
            await take(client, 1)
            # Tornado itself would wait for five seconds.
            async with asyncio.timeout(3):
                await client.close()


@pytest.mark.gen_test
async def test_a_connect_that_succeeds_after_the_close_is_shut() -> None:
    opened = asyncio.Event()

    async def script(peer: Peer) -> None:
        opened.set()
        await peer.until_gone()
        opened.clear()

    async with serving(script) as server:
        server.gate.clear()
        async with a_client(server):
            await server.asked.wait()
        server.gate.set()
        await opened.wait()
        await server.played()
    assert not opened.is_set()


@pytest.mark.gen_test
async def test_closing_in_the_middle_of_a_connect_or_a_pause_is_fine() -> None:
    listener, port = bind_unused_port()
    async with Client(f"http://127.0.0.1:{port}", "t", connect_timeout=0.1):
        await asyncio.sleep(0)
    listener.close()
    pausing = asyncio.Event()

    async def pause(_seconds: float) -> None:
        pausing.set()
        await asyncio.Event().wait()

    async with Client(f"http://127.0.0.1:{port}", "t", sleep=pause):
        await pausing.wait()


@pytest.mark.gen_test
async def test_a_client_outside_its_with_or_entered_twice_is_a_mistake_of_the_caller() -> None:
    async with serving() as server:
        client = a_client(server)
        with pytest.raises(RuntimeError, match="async with"):
            await anext(client)
        async with client:
            with pytest.raises(RuntimeError, match="once"):
                await client.__aenter__()
