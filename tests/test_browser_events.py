"""The browser's own ``EventSource`` at ``/events``: it receives, comes back, and loses nothing."""

import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page
from tornado.httpclient import AsyncHTTPClient
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from archibald_rt import sse
from archibald_rt.http1.listener import Listener
from browsing import Browser, browser
from processes import serving
from support import EMIT_TOKEN, PATIENCE, Harness, eventually, harness, token

pytestmark = pytest.mark.needs("chromium")

LISTEN = """url => {
    window.seen = [];
    window.source = new EventSource(url);
    const types = ["rt.welcome", "rt.gap", "rt.live", "rt.reconnect", "rt.close"];
    for (const type of ["message", ...types])
        source.addEventListener(type, event =>
            seen.push([event.type, event.lastEventId, JSON.parse(event.data)]));
}"""
CLOSED = 2


class Listening:
    """A page that listens, as a test sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def seen(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return each event's type, the last event id with it, and its data."""
        return [tuple(each) for each in await self.page.evaluate("seen")]

    async def kinds(self) -> list[str]:
        return [message["type"] for _, _, message in await self.seen()]

    async def payloads(self) -> list[Any]:
        return [data["payload"] for kind, _, data in await self.seen() if kind == "message"]

    async def state(self) -> int:
        state: int = await self.page.evaluate("source.readyState")
        return state

    async def lived(self, times: int) -> None:
        """Wait until it has been live so many times."""

        async def so_often() -> bool:
            return (await self.kinds()).count("rt.live") == times

        await eventually(so_often)

    async def has(self, payloads: list[Any]) -> None:
        """Wait until it has so many events; they have to be these."""

        async def so_many() -> bool:
            return len(await self.payloads()) >= len(payloads)

        await eventually(so_many)
        assert await self.payloads() == payloads

    async def closed(self) -> None:
        """Wait until it has given up for good."""

        async def given_up() -> bool:
            return await self.state() == CLOSED

        await eventually(given_up)


async def listening(chromium: Browser, page_url: str, server_url: str, text: str) -> Listening:
    """Have a page listen to a server with this token."""
    page = await chromium.page(page_url)
    await page.evaluate(LISTEN, f"{server_url}/events?token={text}")
    return Listening(page)


class PageHandler(RequestHandler):
    def get(self) -> None:
        self.finish("<!doctype html><title>a page</title>")


@asynccontextmanager
async def pages() -> AsyncIterator[int]:
    """Serve a page for the length of a block, on a port that is returned."""
    listener, port = bind_unused_port()
    server = Listener(Application([("/", PageHandler)]))
    server.add_sockets([listener])
    try:
        yield port
    finally:
        server.stop()
        await server.over(0)


def cut(server: Harness) -> None:
    """Cut all connections, as a network does."""
    for device in server.server._reception.devices:  # type: ignore[attr-defined]  # noqa: SLF001 - of a server in this process
        device.drop()


async def emit(server: Harness, *payloads: object) -> None:
    items = [{"userId": "u", "type": "A", "payload": payload} for payload in payloads]
    await server.emit(items)


@pytest.mark.gen_test
async def test_an_event_source_gets_every_event_once_and_in_order_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RETRY", 50)
    async with harness(tmp_path, {"auth.leeway": "1s"}) as server, browser() as chromium:
        await emit(server, "before it came")
        own = server.server.public_url
        page = await listening(chromium, f"{own}/healthz", own, token("u"))
        await page.lived(1)
        # Cut before its first event: the welcome said where it stands.
        cut(server)
        await emit(server, 0)
        await page.lived(2)
        await page.has([0])
        # The last one has no id, and leaves the one before.
        await server.emit({"userId": "u", "type": "JOB_PROGRESS", "payload": 1})
        await page.has([0, 1])
        cut(server)
        await emit(server, *range(2, 500))
        await page.lived(3)
        for number in range(500, 1000, 100):
            await emit(server, *range(number, number + 100))
            cut(server)
        await page.has(list(range(1000)))
        last_id = ""
        for _, kept, message in await page.seen():
            if message["type"] in {"rt.welcome", "rt.live"}:
                last_id = message["payload"]["cursor"]
            assert kept == (last_id := message.get("id", last_id))
        # The console says so, the page itself sees no status.
        assert all("401" not in each for each in chromium.complaints)
        expiring = token("v", exp=int(time.time()) + 1)
        other = await listening(chromium, f"{own}/healthz", own, expiring)
        await other.closed()
        *_, (kind, _, message) = await other.seen()
        assert kind == "rt.close"
        assert message["payload"] == {"code": 4001, "reason": "Token expired"}
        assert any("401" in each for each in chromium.complaints)


@pytest.mark.gen_test
async def test_pages_of_allowed_origins_listen_and_come_back_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "RETRY", 50)
    async with pages() as port, browser() as chromium:
        allowed, foreign = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        async with harness(tmp_path, {"server.allowed_origins": allowed}) as server:
            url = server.server.public_url
            page = await listening(chromium, f"{allowed}/", url, token("u"))
            stranger = await listening(chromium, f"{foreign}/", url, token("u"))
            await stranger.closed()
            await page.lived(1)
            cut(server)
            await emit(server, 0, 1)
            await page.lived(2)
            await page.has([0, 1])
            # A stream that is read by `fetch` sends what no browser lets a page send unasked.
            status = await page.page.evaluate(
                """async ([url, text]) => {
                    const headers = {"Authorization": `Bearer ${text}`, "Last-Event-ID": "x:1"};
                    const answer = await fetch(url, {headers});
                    const reader = answer.body.getReader();
                    const {value} = await reader.read();
                    await reader.cancel();
                    const refused = await fetch(url, {headers: {"Authorization": "Bearer x"}});
                    return [answer.status, refused.status, (await refused.json()).detail];
                }""",
                [f"{url}/events", token("u")],
            )
            assert status == [200, 401, "Authentication failed"]
            assert await stranger.seen() == []


@pytest.mark.gen_test
async def test_an_event_source_comes_back_to_a_server_that_was_killed_and_to_one_that_drained(
    tmp_path: Path,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as internal,
    ):
        url, inner = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (public, internal))
        extra = {"LISTEN_FDNAMES": "public:internal"}

        async def emit(payload: int) -> None:
            await AsyncHTTPClient().fetch(
                f"{inner}/internal/emit",
                method="POST",
                body=f'{{"userId":"u","type":"A","payload":{payload}}}',
                headers={
                    "Authorization": f"Bearer {EMIT_TOKEN}",
                    "Content-Type": "application/json",
                },
                request_timeout=PATIENCE.total_seconds(),
            )

        async with browser() as chromium:
            with serving(tmp_path, extra, sockets=[public, internal]) as server:
                page = await listening(chromium, f"{url}/healthz", url, token("u"))
                await page.lived(1)
                await emit(0)
                await page.has([0])
                server.signal(signal.SIGKILL)
                server.wait()
            with serving(tmp_path, extra, sockets=[public, internal]) as server:
                await emit(1)
                await page.lived(2)
                await emit(2)
                await page.has([0, 1, 2])
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
            with serving(tmp_path, extra, sockets=[public, internal]) as server:
                await emit(3)
                await page.lived(3)
                await page.has([0, 1, 2, 3])
            kinds = await page.kinds()
            assert kinds.count("rt.reconnect") == kinds.count("rt.close") == 1
            assert "rt.gap" not in kinds
