"""Through nginx, as docs/deploy/nginx.conf sets it up, devices get all that they get without it."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse

from browsing import browser
from eventstreams import ask
from processes import ServerProcess, serving
from proxy import Nginx, nginx_before, outside
from support import PATIENCE, SUBPROTOCOL, Device, Harness, eventually, handshake, token

pytestmark = pytest.mark.needs("nginx")

UPSTREAMS = ["address", "path"]


@contextmanager
def behind_nginx(
    folder: Path, upstream: str, **extra: str
) -> Iterator[tuple[ServerProcess, Nginx, Harness]]:
    """Run a server and nginx before it, by an address or by a path."""
    path = folder / "public.sock"
    if upstream == "path":
        extra["ARCHIBALD_RT_SERVER_UNIX_SOCKET"] = str(path)
    with serving(folder, extra) as server, nginx_before(folder / "nginx", server.public_url) as it:
        yield server, it, outside(it, server.internal_url, folder)


async def get(harness: Harness, path: str, **headers: str) -> HTTPResponse:
    return await AsyncHTTPClient().fetch(
        harness.server.public_url + path,
        headers=headers,
        raise_error=False,
        ssl_options=harness.tls,
        request_timeout=PATIENCE.total_seconds(),
    )


async def raw(nginx: Nginx, *, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to nginx from another of this machine's addresses."""
    return await asyncio.open_connection(
        "127.0.0.1", nginx.port, ssl=nginx.tls, local_addr=(source, 0)
    )


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.gen_test
async def test_devices_get_through_it_what_they_get_without(tmp_path: Path, upstream: str) -> None:
    with behind_nginx(tmp_path, upstream) as (_server, nginx, harness):
        bearer = [SUBPROTOCOL, f"bearer.{token('u')}"]
        own = {"Origin": nginx.public_url}
        async with (
            await harness.connect("u", v2=False) as old,
            await harness.open({}, headers=own, subprotocols=bearer) as new,
        ):
            assert new.socket.selected_subprotocol == SUBPROTOCOL
            await new.until("rt.live")
            await harness.emit({"userId": "u", "type": "DONE", "payload": "x" * 60_000})
            for device in (old, new):
                assert (await device.next())["payload"] == "x" * 60_000
            await new.send("ping")
            assert await new.text() == "pong"

            kicked = await harness.post("/internal/users/u/disconnect", b"{}")
            assert kicked.code == 200
            assert (await new.closed())[0] == 4002
            assert (await old.closed())[0] == 4002

        with pytest.raises(HTTPClientError) as refused:
            await harness.open({"token": token("u")}, headers={"Origin": "https://example.com"})
        assert refused.value.code == 403
        async with await harness.open({"token": "wrong"}) as nobody:
            assert await nobody.closed() == (1008, "Authentication failed")


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.gen_test
async def test_an_event_stream_is_not_held_back_and_resumes(tmp_path: Path, upstream: str) -> None:
    with behind_nginx(tmp_path, upstream) as (_server, _nginx, harness):
        # By HTTP/1.0 the body comes in one piece and not in chunks, as the reader has it.
        query = {"token": token("u")}
        async with await ask(harness, query, version="1.0") as device:
            assert device.status == 200
            await device.until("rt.live")
            for number in range(3):
                await harness.emit({"userId": "u", "type": "A", "payload": number})
                # It is here before the next is sent, so nothing waits for a full buffer.
                assert (await device.next())["payload"] == number
            cursor = device.events.last_id
            device.drop()
        await harness.emit({"userId": "u", "type": "B"})
        again = {"Last-Event-ID": cursor}
        async with await ask(harness, query, headers=again, version="1.0") as device:
            assert (await device.until("B"))["prev"] == cursor
            kicked = await harness.post("/internal/users/u/disconnect", b"{}")
            assert kicked.code == 200
            assert await device.closed() == (4002, "Disconnected")
        async with await ask(harness, {"token": "wrong"}, version="1.0") as nobody:
            assert nobody.status == 401


STREAMS = """
([token, count]) => {
    window.got = [];
    for (let n = 0; n < count; n++) {
        const stream = new EventSource(`/events?token=${token}`);
        stream.onmessage = (event) => window.got.push(JSON.parse(event.data).type);
    }
}
"""


@pytest.mark.needs("chromium")
@pytest.mark.gen_test
async def test_a_browser_has_more_event_streams_than_http_1_lets_it_have(tmp_path: Path) -> None:
    with behind_nginx(tmp_path, "address") as (_server, nginx, harness):
        async with browser(ignore_https_errors=True) as chromium:
            # Any page of this origin will do.
            page = await chromium.page(nginx.public_url)
            await page.evaluate(STREAMS, [token("u"), 8])

            async def all_listen() -> bool:
                return bool((await harness.stats())["connections"]["total"] == 8)

            await eventually(all_listen)
            await harness.emit({"userId": "u", "type": "DONE"})
            await page.wait_for_function("window.got.length === 8")
            assert (await get(harness, "/healthz")).code == 200


@pytest.mark.gen_test
async def test_what_devices_have_no_business_with_ends_at_nginx(tmp_path: Path) -> None:
    with behind_nginx(tmp_path, "address") as (_server, nginx, harness):
        assert (await get(harness, "/healthz")).code == 200
        admin = {"Authorization": f"Bearer {token('a', role='admin')}"}
        assert (await get(harness, "/api/websocket/health", **admin)).code == 200
        for path in ("/", "/internal/stats", "/internal/emit", "/console", "/metrics", "/readyz"):
            answer = await get(harness, path)
            assert answer.code == 404, path
            # And not the server's, which would be JSON.
            assert b"nginx" in answer.body, path
        plain = f"http://127.0.0.1:{nginx.plain_port}/ws/realtime?token=x"
        moved = await AsyncHTTPClient().fetch(plain, follow_redirects=False, raise_error=False)
        assert moved.code == 301
        assert moved.headers["Location"] == "https://127.0.0.1/ws/realtime"

        # So that a browser may have more than six event streams.
        both = ssl.create_default_context(cafile=tmp_path / "nginx" / "tls" / "cert.pem")
        both.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", nginx.port, ssl=both)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.gen_test
async def test_the_largest_token_fits_and_none_is_logged(tmp_path: Path) -> None:
    with behind_nginx(tmp_path, "address") as (server, nginx, harness):
        large = token("u", padding="x" * 6050)
        # With the rest of its line more than nginx takes by default.
        assert 8170 < len(large) <= 8192
        for query, headers in (
            ({"token": large}, {}),
            ({}, {"Authorization": f"Bearer {large}"}),
        ):
            async with await harness.open(query, headers=headers) as device:
                await device.until("rt.live")
        # Nginx speaks of failures in its error log, with the request.
        server.signal(signal.SIGTERM)
        server.wait()
        for path in ("/ws/realtime", "/events"):
            assert (await get(harness, f"{path}?token={large}")).code == 502
        await eventually(lambda: nginx.logged().count(" 502 ") == 2)
        assert "GET /ws/realtime HTTP/1.1" in nginx.logged()
        assert large[:20] not in nginx.logged()


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.gen_test
async def test_the_clients_address_is_what_is_logged_and_limited(
    tmp_path: Path, upstream: str
) -> None:
    trusting = {
        "ARCHIBALD_RT_SERVER_TRUSTED_PROXIES": "127.0.0.1",
        "ARCHIBALD_RT_SERVER_CONNECTS_PER_ADDRESS_PER_MINUTE": "1",
    }
    with behind_nginx(tmp_path, upstream, **trusting) as (server, nginx, _harness):

        async def answered(source: str, text: str) -> bytes:
            """Return what follows the 101, if it is a close frame: its code and reason."""
            reader, writer = await raw(nginx, source=source)
            # What a client says of itself is not believed.
            request = handshake(text).replace(b"\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n", 1)
            writer.write(request)
            async with asyncio.timeout(PATIENCE.total_seconds()):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                # A text that is answered shows that no close frame came before it.
                writer.write(b"\x81\x84\0\0\0\0ping")
                opcode, length = await reader.readexactly(2)
                body = await reader.readexactly(length)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            return body if opcode == 0x88 else b""

        assert (await answered("127.0.0.2", "wrong"))[:2] == (1008).to_bytes(2, "big")
        assert server.line("device refused")["address"] == "127.0.0.2"

        assert await answered("127.0.0.3", token("u")) == b""
        # One more within a minute is one too many; a slow machine may need some more.
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while (refused := await answered("127.0.0.3", token("u"))) == b"":
                pass
        assert refused[:2] == (1013).to_bytes(2, "big")
        assert await answered("127.0.0.4", token("u")) == b""


@pytest.mark.gen_test
async def test_a_request_is_called_the_same_here_as_in_the_servers_own_lines(
    tmp_path: Path,
) -> None:
    with behind_nginx(tmp_path, "address") as (_server, nginx, harness):
        answer = await get(harness, "/api/websocket/health", **{"X-Request-Id": "mine"})
        given = answer.headers["X-Request-Id"]
        # Not what a client makes up, which two of them may.
        assert re.fullmatch("[0-9a-f]{32}", given)
        assert json.loads(answer.body)["requestId"] == given
        await eventually(lambda: f" {given}\n" in nginx.logged())


class Asking:
    """Asks for a page without a pause, in a thread of its own, for the length of a block."""

    def __init__(self, harness: Harness) -> None:
        self.answers: list[object] = []
        self._harness = harness
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()))

    async def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append((await get(self._harness, "/healthz")).code)
            except (OSError, HTTPClientError) as error:
                self.answers.append(error)

    async def further(self, count: int) -> None:
        """Wait until there are so many more answers."""
        wanted = len(self.answers) + count
        await eventually(lambda: len(self.answers) >= wanted)

    async def stop(self) -> None:
        """Have the last answer. Doing it again does nothing."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()


async def resumed(harness: Harness, cursor: str) -> Device:
    """Return a device that went on from a cursor, as clients do: 1001 means to come again."""
    while True:
        device = await harness.open({"token": token("u"), "lastEventId": cursor})
        if (await device.text()) is not None:
            return device
        assert (await device.closed())[0] == 1001
        await device.close()


@pytest.mark.gen_test
async def test_a_restart_behind_it_refuses_nobody_and_devices_go_on(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=100) as public,
        socket.create_server(("127.0.0.1", 0), backlog=100) as internal,
        nginx_before(tmp_path / "nginx", f"127.0.0.1:{public.getsockname()[1]}") as nginx,
    ):
        held = [public, internal]
        short = {"ARCHIBALD_RT_SERVER_DRAIN": "1s"}
        harness = outside(nginx, f"http://127.0.0.1:{internal.getsockname()[1]}", tmp_path)
        with serving(tmp_path, short, sockets=held) as server:
            async with Asking(harness) as asking:
                device = await harness.connect("u")
                await device.until("rt.live")
                first = (await harness.emit({"userId": "u", "type": "A"}))["id"]
                assert (await device.next())["id"] == first
                await asking.further(10)
                server.signal(signal.SIGTERM)
                await device.until("rt.reconnect")
                assert (await device.closed())[0] == 1001
                await device.close()
                # It comes back while the one server ends and the next has not begun.
                again = asyncio.create_task(resumed(harness, first))
                assert await asyncio.to_thread(server.wait) == 0
                with serving(tmp_path, short, sockets=held):
                    async with await again as device:
                        second = (await harness.emit({"userId": "u", "type": "B"}))["id"]
                        event = await device.until("B")
                        assert (event["prev"], event["id"]) == (first, second)
                    await asking.further(10)
                    await asking.stop()
        assert set(asking.answers) == {200}
