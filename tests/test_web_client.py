"""The JavaScript client in a real browser, against a real server."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.async_api import Browser as Chromium
from tornado.httpclient import HTTPClientError
from tornado.ioloop import IOLoop

from browsing import Browser, launched, window
from faults.proxy import proxied
from pages import ClientPage, client_page
from processes import ServerProcess, serving
from relays import relayed
from support import SECRET, Harness, eventually, fresh_loop, harness, settings_for, token

pytestmark = pytest.mark.needs("chromium")

TRANSPORTS = ("websocket", "sse")
HOUR = 3_600_000
"""A wait, in milliseconds, that no test sees the end of."""


@pytest.fixture(scope="module")
def io_loop() -> Iterator[IOLoop]:
    """The loop of all tests here, since the browser belongs to it."""
    with fresh_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def process(io_loop: IOLoop) -> Iterator[Chromium]:
    """One browser for all: starting it takes longer than most of them."""
    running = launched()
    yield io_loop.run_sync(running.__aenter__)
    io_loop.run_sync(lambda: running.__aexit__(None, None, None))


@pytest.fixture
def chromium(io_loop: IOLoop, process: Chromium) -> Iterator[Browser]:
    """A window of its own for each."""
    opened = window(process)
    yield io_loop.run_sync(opened.__aenter__)
    io_loop.run_sync(lambda: opened.__aexit__(None, None, None))


class Tokens:
    """An issuer that gives a user the same token until it has expired, as caches do."""

    def __init__(self, user: str, lifetime: float) -> None:
        self.issued = 0
        self._user = user
        self._lifetime = lifetime
        self._token, self._expires = "", 0.0

    def fresh(self) -> str:
        """Return the user's token."""
        if time.time() >= self._expires:
            self.issued += 1
            self._expires = time.time() + self._lifetime
            self._token = token(self._user, exp=self._expires)
        return self._token


class Numbers:
    """Emits numbered events to a user as long as it runs, each until it is accepted."""

    def __init__(self, server: ServerProcess, folder: Path, user: str) -> None:
        self.server = server
        self.last = 0
        self._settings = settings_for(folder)
        self._user = user
        self._stopping = False

    async def run(self) -> None:
        """Emit until stopped."""
        while not self._stopping:
            n = self.last + 1
            body = {"userId": self._user, "type": "N", "payload": {"n": n}, "key": f"n{n}"}
            # A server that is killed with the request in its hands answers nothing.
            with contextlib.suppress(OSError, HTTPClientError):
                emitter = Harness(self.server, self._settings)
                answer = await emitter.post("/internal/emit", json.dumps(body).encode())
                if answer.code == 200:
                    self.last = n
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        """Emit nothing after the next one."""
        self._stopping = True


async def emit(server: Harness, user: str, *numbers: int) -> None:
    """Emit numbered events to a user."""
    events = [{"userId": user, "type": "N", "payload": {"n": n}} for n in numbers]
    await server.emit(events)


@contextlib.asynccontextmanager
async def following(
    chromium: Browser, page_url: str, user: str, **options: Any
) -> AsyncIterator[ClientPage]:
    """Open a page whose client follows a user, and wait until it is live."""
    async with client_page(chromium, page_url, lambda: token(user)) as page:
        await page.follow(**options)
        await page.until("told.some(([name]) => name === 'rt.live')")
        yield page


# The whole of it


@pytest.mark.gen_test
async def test_every_event_comes_once_and_in_order_whatever_happens(
    tmp_path: Path, chromium: Browser
) -> None:
    limits = {
        "ARCHIBALD_RT_DELIVERY_CONNECTS_PER_USER_PER_MINUTE": "0",
        "ARCHIBALD_RT_AUTH_LEEWAY": "0s",
    }
    tokens = Tokens("u", 2)
    quick: dict[str, Any] = {
        "from": "earliest",
        "pingAfter": 300,
        "pongWithin": 1000,
        "connectTimeout": 3000,
    }
    async with contextlib.AsyncExitStack() as running:
        first = running.enter_context(serving(tmp_path, limits))
        proxy = await running.enter_async_context(proxied(first.public_url, buffer=None))
        numbers = Numbers(first, tmp_path, "u")
        emitting = asyncio.create_task(numbers.run())
        pages = {
            how: await running.enter_async_context(client_page(chromium, proxy.url, tokens.fresh))
            for how in TRANSPORTS
        }

        async def follow() -> None:
            for how, page in pages.items():
                await page.follow(**quick, transport=how)

        async def progress() -> None:
            goal = numbers.last + 10
            for page in pages.values():
                await page.until(f"seen.length >= {goal}")

        async def lose() -> None:
            for page in pages.values():
                await page.until("rt.state === 'reconnecting'")

        await follow()
        await progress()

        # The server is killed; for a while there is none.
        first.signal(signal.SIGKILL)
        first.wait()
        await lose()
        second = running.enter_context(serving(tmp_path, limits))
        numbers.server = second
        proxy.target = ("127.0.0.1", int(second.public_url.rpartition(":")[2]))
        await progress()

        # The network is dead, without a word; then the device knows that it has none.
        proxy.partition(swallow=True)
        await lose()
        await chromium.context.set_offline(offline=True)
        proxy.heal()
        goal = numbers.last + 10
        await eventually(lambda: numbers.last >= goal)
        await chromium.context.set_offline(offline=False)
        await progress()

        # The pages are loaded anew, in the midst of it.
        for page in pages.values():
            await page.page.reload()
        await follow()
        await progress()

        # Tokens expire while nobody hurries to replace them.
        issued = tokens.issued
        await eventually(lambda: tokens.issued > issued)
        await progress()

        numbers.stop()
        await emitting
        for page in pages.values():
            await page.until(f"seen.length >= {numbers.last}")
            assert await page.seen() == list(range(1, numbers.last + 1))
            # Every event came to the end of its way.
            assert await page.told("rt.error") == []


# Tokens


@pytest.mark.gen_test
async def test_a_token_is_replaced_in_place_before_it_expires(
    tmp_path: Path, chromium: Browser
) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(token("u", exp=time.time() + HOUR / 1000))
        return given[-1]

    # Nothing else falls due in the hours that pass here.
    patient: dict[str, Any] = {"pingAfter": 500 * HOUR, "connectTimeout": 500 * HOUR}
    async with harness(tmp_path) as server:
        async with client_page(chromium, server.server.public_url, fresh) as page:
            # Its clock is an hour behind: the server's counts.
            await page.page.clock.install(time=time.time() - HOUR / 1000)

            async def renewed(count: int) -> bool:
                """Let the page's time pass, a little less than a token's life."""
                if await page.state() == "connected":
                    await page.page.clock.fast_forward(HOUR * 9 // 10)
                return len(given) >= count

            await page.follow(**patient)
            await page.until("rt.state === 'connected'")
            await page.page.clock.fast_forward(HOUR * 7 // 10)
            assert len(given) == 1
            await page.page.clock.fast_forward(HOUR * 2 // 10)
            await eventually(lambda: len(given) == 2)
            await eventually(lambda: renewed(3))
            await emit(server, "u", 1)
            await page.until_seen(1)
            assert await page.told("rt.state") == [{"state": "connected"}]
            assert await page.told("rt.unauthorized") == []
            # A stream can't be told of it, so another one begins with it.
            await page.run("rt.close(); told.length = 0")
            already = len(given)
            await page.follow(**patient, transport="sse")
            await eventually(lambda: renewed(already + 3))
            await page.until("told.filter(([, what]) => what.reason === 'a new token').length > 1")
            await emit(server, "u", 2)
            await page.until_seen(1, 2)
            assert await page.told("rt.unauthorized") == []


@pytest.mark.gen_test
async def test_an_expired_token_is_followed_by_a_new_one(tmp_path: Path, chromium: Browser) -> None:
    tokens = Tokens("u", 1)
    async with harness(tmp_path, {"auth.leeway": "0s"}) as server:
        async with client_page(chromium, server.server.public_url, tokens.fresh) as page:
            await page.follow()
            await page.until("told.some(([, what]) => what.code === 4001)")
            await emit(server, "u", 1)
            await page.until_seen(1)
            expired = {"code": 4001, "reason": "Token expired"}
            assert expired in await page.told("rt.unauthorized")


@pytest.mark.gen_test
async def test_who_is_kicked_or_crowded_out_returns_as_it_should(
    tmp_path: Path, chromium: Browser
) -> None:
    one_device = {"delivery.devices_per_user": "1"}
    async with harness(tmp_path, one_device) as server:
        url = server.server.public_url

        async def kick(user: str) -> None:
            answer = await server.post(f"/internal/users/{user}/disconnect", b"{}")
            assert json.loads(answer.body) == {"disconnected": 1}

        for how in TRANSPORTS:
            async with following(chromium, url, f"kicked {how}", transport=how) as page:
                await kick(f"kicked%20{how}")
                await page.until("told.some(([, what]) => what.reconnected)")
                kicked = {"code": 4002, "reason": "Disconnected"}
                assert await page.told("rt.unauthorized") == [kicked]
                assert [state["state"] for state in await page.told("rt.state")] == [
                    *("connected", "reconnecting", "connected")
                ]

            async with following(
                chromium, url, "", token=token(f"fixed {how}"), transport=how
            ) as page:
                # A token that can't be another one is of no use any more.
                await kick(f"fixed%20{how}")
                await page.until("rt.state === 'disconnected'")
                assert (await page.told("rt.state"))[-1] == {"state": "disconnected", **kicked}
                await page.run("rt.reconnect()")
                await page.until("rt.state === 'connected'")

            async with following(chromium, url, how, transport=how) as page:
                async with following(chromium, url, how, transport=how) as newer:
                    await page.until("rt.state === 'disconnected'")
                    crowded = {"state": "disconnected", "code": 4003, "reason": "Too many devices"}
                    assert (await page.told("rt.state"))[-1] == crowded
                    # Not even when somebody looks at it.
                    await page.run("dispatchEvent(new Event('online'))")
                    assert await page.state() == "disconnected"
                    assert await newer.state() == "connected"
                    await page.run("rt.reconnect()")
                    await newer.until("rt.state === 'disconnected'")


@pytest.mark.gen_test
async def test_a_refused_token_is_followed_by_another_without_haste(
    tmp_path: Path, chromium: Browser
) -> None:
    async with harness(tmp_path) as server:
        url = server.server.public_url
        # Another user has another place: nothing of theirs is replayed by this one's cursor.
        user = "first"
        async with client_page(chromium, url, lambda: token(user)) as page:
            await page.follow()
            await page.until("rt.state === 'connected'")
            await emit(server, "first", 1)
            await page.until_seen(1)
            user = "second"
            await emit(server, "second", 7)
            await server.post("/internal/users/first/disconnect", b"{}")
            await page.until("told.some(([, what]) => what.reconnected)")
            await emit(server, "second", 8)
            await page.until_seen(1, 8)

        given: list[str] = []
        good = False

        def forged() -> str:
            given.append(
                token("u") if good else token("u", secret="another secret of 32 bytes or more")
            )
            return given[-1]

        async with client_page(chromium, url, forged) as page:
            for how in TRANSPORTS:
                good = False
                await page.follow(token="no.token.atall", transport=how)
                await page.until("rt.state === 'disconnected'")
                refused = {"code": 1008, "reason": "Authentication failed"}
                assert await page.told("rt.state") == [{"state": "disconnected", **refused}]

                await page.run("told.length = 0")
                given.clear()
                await page.follow(backoffMin=HOUR, backoffMax=HOUR, transport=how)
                await page.until("told.some(([, what]) => what.retryInMs > 0)")
                # One more try at once, and no third before the wait is over.
                assert await page.told("rt.unauthorized") == [refused, refused]
                assert len(given) == 2
                good = True
                await page.run("rt.reconnect()")
                await page.until("rt.state === 'connected'")
                await page.run("rt.close(); told.length = 0")


# Gaps


@pytest.mark.gen_test
async def test_what_can_not_be_had_any_more_is_told(tmp_path: Path, chromium: Browser) -> None:
    async with harness(tmp_path) as server:
        url = server.server.public_url
        async with following(chromium, url, "u") as page:
            await emit(server, "u", 1)
            await page.until_seen(1)
            key, cursor = f"archibald_rt {url} u", await page.run("rt.cursor")
            assert await page.run(f"sessionStorage[{key!r}]") == cursor
            await page.run("rt.close()")
            await emit(server, "u", 2, 3)
            await server.delete("/internal/users/u/events")
            await page.run("told.length = 0")
            await page.follow()
            await page.until("told.some(([name]) => name === 'rt.live')")
            # It is told once, at a connect and over a reload.
            await server.post("/internal/users/u/disconnect", b"{}")
            await page.until("told.some(([, what]) => what.reconnected)")
            (gap,) = await page.told("rt.gap")
            await page.page.reload()
            await page.follow()
            await page.until("told.some(([name]) => name === 'rt.live')")
            assert await page.told("rt.gap") == []
            await emit(server, "u", 4)
            await page.until_seen(1, 4)
            assert (gap["requested"], gap["reason"]) == (cursor, "expired")

        # What is retained comes again, under a cursor of this log.
        epoch = cursor.partition(":")[0]
        for stored, reason in (("other:9", "epoch"), (f"{epoch}:999", "ahead")):
            await emit(server, reason, 7, 8)
            async with client_page(chromium, url, lambda user=reason: token(user)) as page:  # type: ignore[misc]  # its default binds this user
                key = f"archibald_rt {url} {reason}"
                await page.run(f"sessionStorage[{key!r}] = {stored!r}")
                await page.follow()
                await page.until_seen(7, 8)
                (gap,) = await page.told("rt.gap")
                assert gap == {"requested": stored, "missingThrough": None, "reason": reason}
                assert await page.run(f"sessionStorage[{key!r}]") == await page.run("rt.cursor")
                assert (await page.run("rt.cursor")).startswith(epoch)


# What the network does


@pytest.mark.gen_test
async def test_what_is_lost_doubled_or_garbled_on_the_way_is_noticed(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        async with following(chromium, relay.url, "u") as page:

            def mangled(text: str) -> list[str]:
                """Lose the second event once, and double the fourth."""
                if '"n": 2}' in text and len(relay.asked) == 1:
                    return []
                return [text, text] if '"n": 4}' in text else [text]

            relay.mangle = mangled
            await emit(server, "u", 1)
            await page.until_seen(1)
            first = await page.run("rt.cursor")
            await emit(server, "u", 2, 3, 4, 5)
            await page.until_seen(1, 2, 3, 4, 5)
            (breach,) = await page.told("rt.error")
            assert breach["during"] == "protocol"
            assert "comes after" in breach["said"]
            assert relay.asked == ["", f"lastEventId={first.replace(':', '%3A')}"]

            # One that sends what nobody can read is left, and none of it is handled.
            relay.mangle = lambda text: ["no JSON"] if '"n": 6}' in text else [text]
            await emit(server, "u", 6)
            await eventually(lambda: len(relay.asked) >= 3)
            relay.mangle = lambda text: ["[]"] if len(relay.asked) < 5 else [text]
            relay.end(1011)
            await eventually(lambda: len(relay.asked) >= 5)
            await page.until_seen(1, 2, 3, 4, 5, 6)


@pytest.mark.gen_test
async def test_a_connection_that_fell_silent_is_left(tmp_path: Path, chromium: Browser) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        silence: dict[str, Any] = {"pingAfter": 50, "pongWithin": 500, "connectTimeout": 1000}
        async with following(chromium, relay.url, "u", **silence) as page:
            relay.mangle = lambda _text: []
            await page.until("told.some(([, what]) => what.reason === 'the server fell silent')")
            # So is one that never begins.
            await page.until("told.some(([, what]) => what.reason === 'connecting took too long')")
            relay.mangle = lambda text: [text]
            await emit(server, "u", 1)
            await page.until_seen(1)


@pytest.mark.gen_test
async def test_waits_end_when_the_page_is_seen_or_online_or_told_to(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        waits = {"backoffMin": HOUR, "backoffMax": HOUR}
        async with following(chromium, relay.url, "u", **waits) as page:
            for end in (
                "dispatchEvent(new Event('online'))",
                "document.dispatchEvent(new Event('visibilitychange'))",
                "rt.reconnect()",
            ):
                relay.end(1011, "a fault")
                await page.until("rt.state === 'reconnecting'")
                change = (await page.told("rt.state"))[-1]
                assert (change["code"], change["reason"]) == (1011, "a fault")
                assert change["retryInMs"] > 0
                await page.run(end)
                await page.until("rt.state === 'connected'")


@pytest.mark.gen_test
async def test_where_websockets_get_nowhere_it_takes_server_sent_events(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        relay.blocked = True
        async with following(chromium, relay.url, "u") as page:
            # Twice in vain, then both, one right after the other.
            assert await page.run("rt.transport") == "sse"
            assert (len(relay.asked), relay.streams) == (3, 1)
            await emit(server, "u", 1)
            await page.until_seen(1)
            assert await page.run("rt.send({ type: 'x' })") is False

            # It stays with what works.
            relay.cut()
            await page.until("told.some(([, what]) => what.reconnected)")
            assert await page.run("rt.transport") == "sse"
            assert (len(relay.asked), relay.streams) == (3, 2)
            await emit(server, "u", 2)
            await page.until_seen(1, 2)
            await page.run("rt.close(); told.length = 0")

            # Some time later a connect tries again, and takes a WebSocket where it can.
            await page.follow(websocketAgainAfter=0)
            await page.until("rt.state === 'connected'")
            assert await page.run("rt.transport") == "sse"
            relay.blocked = False
            relay.cut()
            await page.until("told.some(([, what]) => what.reconnected)")
            assert await page.run("rt.transport") == "websocket"
            await emit(server, "u", 3)
            await page.until_seen(1, 2, 3)
            await page.run("rt.close(); told.length = 0")

            # Who asks for one transport gets no other.
            relay.blocked = True
            streams = relay.streams
            await page.follow(transport="websocket", backoffMax=20)
            tries = "told.filter(([name]) => name === 'rt.state').length"
            await page.until(f"{tries} > 3")
            assert relay.streams == streams


@pytest.mark.gen_test
async def test_a_draining_server_says_when_to_return(tmp_path: Path, chromium: Browser) -> None:
    async with contextlib.AsyncExitStack() as running:
        async with harness(tmp_path) as first:
            proxy = await running.enter_async_context(proxied(first.server.public_url, buffer=None))
            page = await running.enter_async_context(
                client_page(chromium, proxy.url, lambda: token("u"))
            )
            await page.follow(backoffMin=HOUR, backoffMax=HOUR)
            await page.until("rt.state === 'connected'")
        await page.until("rt.state === 'reconnecting'")
        # It may have tried again by now: the wait is a random one.
        _, change, *_ = await page.told("rt.state")
        assert (change["code"], change["reason"]) == (1001, "Server going away")
        assert change["retryInMs"] <= 5000
        second = await running.enter_async_context(harness(tmp_path))
        proxy.target = ("127.0.0.1", int(second.server.public_url.rpartition(":")[2]))
        await page.run("rt.reconnect()")
        await emit(second, "u", 1)
        await page.until_seen(1)
        await page.run("rt.close()")


# Handlers


@pytest.mark.gen_test
async def test_an_event_is_handled_when_its_handlers_are_done(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        async with following(chromium, relay.url, "u", maxQueued=3000) as page:
            key = f"archibald_rt {relay.url} u"
            before = await page.run("rt.cursor")
            await page.run("rt.on('N', () => { throw new Error('a handler') }); 0")
            await page.run("rt.on('*', async () => { throw new Error('another') }); 0")
            await emit(server, "u", 1)
            await page.until_seen(1)
            await page.until("told.filter(([name]) => name === 'rt.error').length === 2")
            for said in await page.told("rt.error"):
                assert said["during"] == "handler"
            assert await page.run("rt.cursor") != before

            # One whose handler is at work holds back those after it, and the cursor.
            await page.run("window.held = new Promise((done) => { window.release = done }); 0")
            await page.run("rt.on('N', () => held); 0")
            await emit(server, "u", 2, 3)
            await page.until("seen.length === 2")
            handled = await page.run("rt.cursor")
            assert handled == await page.run(f"sessionStorage[{key!r}]")
            assert await page.seen() == [1, 2]

            # A page that is loaded anew in the midst of it gets it again, and misses nothing.
            await page.page.reload()
            await page.follow(maxQueued=3000)
            await page.until_seen(1, 2, 2, 3)

            # More than it may keep it leaves in the log, until it has caught up.
            await page.run("window.held = new Promise((done) => { window.release = done }); 0")
            await page.run("rt.on('N', () => held); 0")
            connects = len(relay.asked)
            payload = "x" * 1000
            many = [
                {"userId": "u", "type": "N", "payload": {"n": n, "x": payload}}
                for n in range(4, 14)
            ]
            await server.emit(many)
            await page.until("rt.state === 'reconnecting'")
            assert (await page.told("rt.state"))[-1]["reason"] == "handlers are behind"
            assert len(relay.asked) == connects
            await page.run("release()")
            await page.until_seen(1, 2, 2, *range(3, 14))
            assert len(relay.asked) > connects

            # Closed while a handler is at work: it is waited for, and nothing follows.
            await page.run("window.held = new Promise((done) => { window.release = done }); 0")
            await page.run("rt.on('N', () => held); 0")
            await emit(server, "u", 14, 15)
            await page.until("seen.at(-1) === 14")
            await page.run("window.over = false; rt.close().then(() => { over = true }); 0")
            assert await page.state() == "disconnected"
            assert await page.run("over") is False
            await page.run("release()")
            await page.until("over")
            assert (await page.seen())[-1] == 14
            last = await server.emit({"userId": "other", "type": "N"})
            epoch, _, seq = last["id"].partition(":")
            assert await page.run(f"sessionStorage[{key!r}]") == f"{epoch}:{int(seq) - 2}"


@pytest.mark.gen_test
async def test_what_handlers_do_to_the_client_takes_effect_at_once(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        waits = {"backoffMin": HOUR, "backoffMax": HOUR}
        async with following(chromium, relay.url, "u", **waits) as page:
            # Of a handler of the change itself; where it has ended for good, and where it waits.
            await page.run("rt.on('rt.state', (s) => { if (s.code) rt.reconnect() }); 0")
            for times, code in enumerate((4003, 1011), 2):
                relay.end(code)
                await page.until(f"told.filter(([name]) => name === 'rt.live').length === {times}")

            # Who was undone by another is not called any more.
            await page.run(
                "rt.on('N', () => window.undo()); window.late = 0;"
                "window.undo = rt.on('N', () => { late += 1 }); 0"
            )
            await emit(server, "u", 1)
            await page.until_seen(1)
            assert await page.run("late") == 0

        # Closed in the midst of a welcome, it stays so.
        async with client_page(chromium, relay.url, lambda: token("v")) as page:
            full = "{ get: () => null, set() { throw new Error('full') } }"
            await page.run(
                f"follow({{ store: {full} }}).then(() => rt.on('rt.error', () => void rt.close()))"
            )
            await page.until("rt.state === 'disconnected'")
            assert await page.told("rt.state") == [
                {"state": "disconnected", "code": 1000, "reason": "closed"}
            ]


@pytest.mark.gen_test
async def test_what_was_handled_is_not_kept_while_more_waits(
    tmp_path: Path, chromium: Browser
) -> None:
    async with harness(tmp_path) as server:
        async with following(chromium, server.server.public_url, "u") as page:
            await page.run(
                """
                window.given = []; window.turns = [];
                rt.on('N', (event) => new Promise((done) => {
                  given.push(new WeakRef(event)); turns.push(done);
                })); 0
                """
            )
            await emit(server, "u", *range(10))
            for handled in range(1, 9):
                await page.until(f"given.length === {handled}")
                await page.run("turns.shift()()")
            await page.until("given.length === 9")

            async def let_go() -> bool:
                await page.page.request_gc()
                return int(await page.run("given.filter((each) => each.deref()).length")) <= 2

            await eventually(let_go)


# Counts how often a timer of 100 ms goes off, which is the watch over a connection.
COUNT_LOOKS = """
    window.looks = 0;
    const wait = window.setTimeout.bind(window);
    window.setTimeout = (act, ms) => wait(() => { looks += ms === 100; act(); }, ms);
"""


@pytest.mark.gen_test
async def test_a_stream_that_has_to_wait_for_handlers_is_not_taken_for_a_silent_one(
    tmp_path: Path, chromium: Browser
) -> None:
    options: dict[str, Any] = {
        "transport": "sse",
        "maxQueued": 1000,
        "pingAfter": 100,
        "pongWithin": 100,
    }
    async with harness(tmp_path) as server:
        async with client_page(chromium, server.server.public_url, lambda: token("u")) as page:
            await page.run(COUNT_LOOKS)
            # Its comments come every 15 s, so it would be left soon were it not for the events.
            await page.follow(**options)
            await page.run("window.held = new Promise((done) => { window.release = done }); 0")
            await page.run("rt.on('N', () => held); 0")
            events = [
                {"userId": "u", "type": "N", "payload": {"n": n, "x": "x" * 999}} for n in (1, 2, 3)
            ]
            await page.until("rt.state === 'connected'")
            await server.emit(events)
            await page.until("seen.length === 1")
            await page.run("told.length = 0; looks = 0")
            await page.until("looks >= 6")
            assert await page.told("rt.state") == []
            await page.run("release()")
            await page.until_seen(1, 2, 3)


@pytest.mark.gen_test
async def test_it_does_without_storage_and_uses_one_of_yours(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        refusing = "Object.defineProperty(window, 'sessionStorage', { get() { throw Error(); } })"
        await chromium.context.add_init_script(refusing)
        async with following(chromium, relay.url, "u") as page:
            assert await page.run("window.kept") is None
            await emit(server, "u", 1)
            await page.until_seen(1)
            relay.end(1011)
            await page.until("told.some(([, what]) => what.state === 'reconnecting')")
            await emit(server, "u", 2)
            await page.until_seen(1, 2)
            await page.run("rt.close()")

            # An asynchronous one; it fails at first, and may be slow.
            await page.run(
                """
                window.stored = []; window.failures = 2;
                window.own = {
                  async get() {
                    if (failures-- > 0) throw new Error("no store");
                    return stored.at(-1);
                  },
                  async set(key, cursor) { stored.push(cursor); },
                };
                """
            )
            follow = "follow({ store: own, from: 'earliest', backoffMin: 20, backoffMax: 50 })"
            await page.run("told.length = 0")
            await page.run(follow)
            await page.until_seen(1, 2)
            assert [each["during"] for each in await page.told("rt.error")] == ["store"] * 2
            await page.run("rt.close()")
            assert await page.run("stored.at(-1) === rt.cursor")
            await page.run(follow)
            await emit(server, "u", 3)
            await page.until_seen(3)
            await page.run("rt.close()")


@pytest.mark.gen_test
async def test_places_that_are_none_and_those_of_others_lose_nothing(
    tmp_path: Path, chromium: Browser
) -> None:
    async with (
        harness(tmp_path) as server,
        relayed(server.server.public_url) as relay,
    ):
        user = "u"
        async with client_page(chromium, relay.url, lambda: token(user)) as page:
            # An empty text is no place to come back to: that is where the first connect began.
            starts = ("{ from: '', store: null }", "{ store: { get: () => '', set() {} } }")
            for n, begun in enumerate(starts, 1):
                await page.run(f"follow({begun})")
                await page.until("rt.state === 'connected'")
                relay.mangle = lambda _text: []
                await emit(server, "u", n)
                relay.end(1011)
                relay.mangle = lambda text: [text]
                await page.until_seen(*range(1, n + 1))
                await page.run("rt.close(); told.length = 0")

            # What is no text at all is told as the store's fault, and nothing is missed by it.
            await page.run(
                "follow({ from: 'earliest', store: { get: () => window.odd, set() {} } });"
                "window.odd = { cursor: 'x:1' }; 0"
            )
            await page.until("told.some(([, what]) => what.during === 'store')")
            await page.run("window.odd = undefined; 0")
            await page.until_seen(1, 2, 1, 2)
            await page.run("rt.close(); told.length = 0")

            # A slow store has got a user's last cursor before it is another user's turn.
            await page.run(
                """
                window.places = {}; window.sets = [];
                window.slow = {
                  get: (key) => places[key.at(-1)],
                  set: (key, cursor) => new Promise((done) => {
                    sets.push(() => { places[key.at(-1)] = cursor; done(); });
                  }),
                };
                follow({ store: slow });
                """
            )
            await page.until("rt.state === 'connected'")
            await emit(server, "u", 3)
            await page.until_seen(1, 2, 1, 2, 3)
            cursor = await page.run("rt.cursor")
            user = "v"
            await server.post("/internal/users/u/disconnect", b"{}")
            await page.until("told.some(([, what]) => what.state === 'reconnecting')")
            await page.until("sets.shift()?.(), rt.state === 'connected'")
            assert await page.run("places.u") == cursor
            await page.run("rt.close()")


@pytest.mark.gen_test
async def test_it_sends_messages_and_tells_what_is_none(tmp_path: Path, chromium: Browser) -> None:
    heard: list[tuple[str, bytes | str]] = []
    # As many issuers write it, without the escapes of Python's.
    claims = json.dumps({"userId": "ü€ser"}, ensure_ascii=False).encode()
    in_utf8 = jwt.PyJWS().encode(claims, SECRET, algorithm="HS256")
    async with (
        harness(tmp_path, on_message=lambda m: heard.append((m.user, m.message))) as server,
    ):
        async with following(chromium, server.server.public_url, "", token=in_utf8) as page:
            message = {"type": "cancel", "payload": {"jobId": "7"}}
            assert await page.run(f"rt.send({json.dumps(message)})") is True
            await eventually(lambda: heard)
            ((user, text),) = heard
            assert (user, json.loads(text)) == ("ü€ser", message)
            # The user's id is read from the token as the server reads it.
            assert await page.run(
                "Object.keys(sessionStorage).some((key) => key.endsWith(' ü€ser'))"
            )
            await page.run("rt.close()")
            assert await page.run("rt.send({ type: 'late' })") is False
            for wrong in (
                *("rt.send({})", "rt.send('text')", "rt.send({ type: 'rt.auth' })"),
                *(
                    "rt.on('rt.stat', () => {})",
                    "follow({}, 'ftp://x')",
                    "follow({ token: '' }, '//')",
                ),
                *("follow({ transport: 'pigeon' })", "follow({}, '/?token=x')"),
                *("follow({ backoffMin: '1s' })", "follow({ backoffMax: 0 })"),
                *("follow({ pingAfter: Infinity })", "follow({ pongWithin: null })"),
                *("follow({ connectTimeout: NaN })", "follow({ maxQueued: -1 })"),
                *("follow({ store: {} })", "follow({ from: 7 })"),
            ):
                caught = f"(async () => {wrong})().then(() => 'none', (error) => error.name)"
                assert await page.run(caught) == "TypeError", wrong
