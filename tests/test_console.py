"""The console in a real browser: what an operator does with it, and what strangers try by it."""

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Locator, Page, Request, expect

from browsing import PHONE, Browser, browser
from natsservers import nats_server
from processes import serving
from servers import several, tap_of
from support import (
    EMIT_TOKEN,
    PATIENCE,
    READ_TOKEN,
    Harness,
    eventually,
    harness,
    token,
)
from watching import overtax, unread

pytestmark = pytest.mark.needs("chromium")

expect.set_options(timeout=PATIENCE.total_seconds() * 1000)
WIDE = {"width": 1440, "height": 900}
REFUSED = re.compile("Failed to load resource: .* status of (400|401|404)")

EVERYWHERE = """[
    document.documentElement.outerHTML, location.href, document.cookie, document.title,
    JSON.stringify(localStorage), window.name,
    ...[...document.querySelectorAll("input, textarea")].map(each => each.value)
].join()"""


def grave(chromium: Browser) -> list[str]:
    """Return what pages complained of, but for the refusals that a test asks for."""
    return [each for each in chromium.complaints if not REFUSED.match(each)]


@asynccontextmanager
async def console(
    at: Harness, bearer: str = EMIT_TOKEN, viewport: dict[str, int] = WIDE
) -> AsyncIterator[tuple[Browser, Page]]:
    """Open the console with a token for the length of a block; nothing may go wrong in it."""
    async with browser(viewport=viewport) as chromium:
        page = await chromium.page(at.server.internal_url + "/console")
        await enter(page, bearer)
        await expect(page.get_by_test_id("status")).to_have_text("Live")
        yield chromium, page
        assert grave(chromium) == []


async def enter(page: Page, bearer: str) -> None:
    await page.get_by_test_id("token").fill(bearer)
    await page.get_by_test_id("connect").click()


def events(page: Page, text: str = "") -> Locator:
    return page.get_by_test_id("event").filter(has_text=text)


@pytest.mark.gen_test
async def test_the_token_is_asked_for_and_kept_in_the_tab_and_nowhere_else(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at, browser(viewport=WIDE) as chromium:
        page = await chromium.page(at.server.internal_url + "/console")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await expect(page.get_by_test_id("token")).to_be_focused()
        for wrong, words in (
            *(("", "Paste a token first"), ("two é", "no token")),
            (token("ada", role="admin"), "not accepted"),
        ):
            await enter(page, wrong)
            await expect(page.get_by_test_id("gate-error")).to_contain_text(words)
            assert await page.evaluate("sessionStorage.length") == 0
        await expect(page.get_by_test_id("app")).to_be_hidden()

        await enter(page, READ_TOKEN)
        await expect(page.get_by_test_id("status")).to_have_text("Live")
        async with await at.connect("ada"):
            await expect(page.get_by_test_id("device")).to_contain_text("ada")
            assert READ_TOKEN not in await page.evaluate(EVERYWHERE)
            assert READ_TOKEN not in " ".join(asked)
            assert READ_TOKEN in await page.evaluate("JSON.stringify(sessionStorage)")
            other = await chromium.page(at.server.internal_url + "/console")
            await expect(other.get_by_test_id("token")).to_be_focused()
            await other.close()

            await page.reload()
            await expect(page.get_by_test_id("device")).to_contain_text("ada")
            # It is good for looking.
            await page.get_by_test_id("open-emit").click()
            await expect(page.get_by_test_id("emit-denied")).to_be_visible()
            await expect(page.get_by_test_id("emit-send")).to_be_disabled()
            await page.keyboard.press("Escape")
            await page.get_by_test_id("device").get_by_role("button").click()
            await expect(page.get_by_test_id("user-kick")).to_be_disabled()
            await page.keyboard.press("Escape")

            # It was taken out: the page asks for another one, and shows nothing any more.
            at.server._access._read_tokens.use(["n" * 40])  # type: ignore[attr-defined]  # noqa: SLF001 - what a reload does
            at.server._tap.look_again()  # type: ignore[attr-defined]  # noqa: SLF001 - as above
            await expect(page.get_by_test_id("gate-error")).to_contain_text("not accepted any more")
            assert await page.evaluate("sessionStorage.length") == 0
            assert "ada" not in await page.inner_text("body")
            assert await page.get_by_test_id("device").count() == 0
            await enter(page, "n" * 40)
            await expect(page.get_by_test_id("device")).to_contain_text("ada")
            await page.get_by_test_id("forget").click()
            await expect(page.get_by_test_id("token")).to_be_focused()
            assert await page.evaluate("sessionStorage.length") == 0
        assert grave(chromium) == []


@pytest.mark.gen_test
async def test_events_and_jobs_are_made_and_seen_as_they_happen(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at, await at.connect("ada") as ada, console(at) as (_, page):
        await ada.until("rt.live")
        # One event, whose long number is what was typed.
        await page.get_by_test_id("open-emit").click()
        await page.get_by_test_id("emit-user").fill("ada")
        await page.get_by_test_id("emit-type").fill("INVOICE")
        await page.get_by_test_id("emit-payload").fill("{not json")
        await page.get_by_test_id("emit-send").click()
        await expect(page.get_by_test_id("emit-result")).to_contain_text("no JSON")
        await page.get_by_test_id("emit-payload").fill('{"n": 12345678901234567890.10}')
        await page.get_by_test_id("emit-send").click()
        await expect(page.get_by_test_id("emit-result")).to_contain_text("to 1 live device")
        text = await ada.text()
        assert text is not None
        assert '"payload":{"n": 12345678901234567890.10}' in text
        # What the server refuses is said.
        await page.get_by_test_id("emit-type").fill("rt.x")
        await page.get_by_test_id("emit-send").click()
        await expect(page.get_by_test_id("emit-result")).to_contain_text("type")
        # Whole jobs.
        await page.get_by_test_id("emit-job").click()
        await page.get_by_test_id("job-seconds").fill("0")
        await page.get_by_test_id("job-steps").fill("2")
        await page.get_by_test_id("job-user").fill("ada")
        for end in ("COMPLETED", "FAILED"):
            await page.get_by_test_id("job-id").fill(f"job-{end}")
            await page.get_by_test_id("job-end").select_option(f"JOB_{end}")
            await page.get_by_test_id("job-start").click()
            job = await ada.take(4)
            assert [each["type"] for each in job] == [
                *("JOB_STARTED", "JOB_PROGRESS", "JOB_PROGRESS", f"JOB_{end}"),
            ]
            assert {each["payload"]["jobId"] for each in job} == {f"job-{end}"}
            await expect(page.get_by_test_id("emit-result")).to_contain_text(end.lower())
        await page.keyboard.press("Escape")

        # They were seen as they happened, and are seen in full.
        await expect(events(page, "JOB_PROGRESS")).to_have_count(4)
        invoice = events(page, "INVOICE")
        await invoice.locator("summary").click()
        await expect(invoice.locator("pre")).to_contain_text("12345678901234567890.10")

        # Held back while paused, and then shown.
        await page.get_by_test_id("event-pause").click()
        await at.emit({"userId": "bob", "type": "WHILE_PAUSED"})
        await expect(page.get_by_test_id("event-count")).to_have_text("paused, 1 waiting")
        await expect(events(page, "WHILE_PAUSED")).to_have_count(0)
        await page.get_by_test_id("event-pause").click()
        await expect(events(page, "WHILE_PAUSED")).to_have_count(1)


@pytest.mark.gen_test
async def test_a_job_ends_when_it_is_stopped_and_asks_for_nothing_without_a_token(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at, await at.connect("ada") as ada, console(at) as (_, page):
        await ada.until("rt.live")
        await page.clock.install()
        await page.get_by_test_id("open-emit").click()
        await page.get_by_test_id("emit-job").click()
        await page.get_by_test_id("job-user").fill("ada")
        await page.get_by_test_id("job-seconds").fill("600")
        await page.get_by_test_id("job-steps").fill("0")
        # One that is stopped has failed at once, however long a step takes.
        await page.get_by_test_id("job-start").click()
        assert (await ada.next())["type"] == "JOB_STARTED"
        await page.get_by_test_id("job-stop").click()
        assert (await ada.next())["type"] == "JOB_FAILED"
        # One that is under way disturbs nobody who types in another token.
        await page.get_by_test_id("job-start").click()
        assert (await ada.next())["type"] == "JOB_STARTED"
        await page.keyboard.press("Escape")
        await page.get_by_test_id("forget").click()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.get_by_test_id("token").fill("being typed")
        await page.clock.fast_forward(700_000)
        await page.evaluate("fetch('console/icon.svg').then(each => each.text())")
        assert [urlsplit(each).path for each in asked] == ["/console/icon.svg"]
        await expect(page.get_by_test_id("token")).to_have_value("being typed")


@pytest.mark.gen_test
async def test_events_are_filtered_a_log_is_read_and_a_user_kicked(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, await at.connect("ada") as ada, console(at) as (_, page):
        # Filters, by user and by type.
        await page.get_by_test_id("event-user").fill("bob")
        await page.get_by_test_id("event-type").fill("B_*")
        await expect(page.get_by_test_id("event")).to_have_count(0)
        await eventually(lambda: filtered(at, "bob"))
        await at.emit([{"userId": u, "type": t} for u in ("ada", "bob") for t in ("A_1", "B_1")])
        await expect(page.get_by_test_id("event")).to_have_count(1)
        await expect(page.get_by_test_id("event")).to_contain_text("B_1")

        # The log, page by page.
        await at.emit([{"userId": "ada", "type": f"N{n}", "durable": True} for n in range(1, 121)])
        await page.get_by_test_id("device").get_by_role("button", name="ada").click()
        await expect(page.get_by_test_id("user-title")).to_have_text("ada")
        rows = page.get_by_test_id("log-event")
        seen = []
        for number, size in ((1, 50), (2, 50), (3, 22)):
            await expect(page.get_by_test_id("log-page")).to_have_text(
                f"Page {number}, {size} events"
            )
            seen += await rows.locator(".what").all_inner_texts()
            if number < 3:
                await page.get_by_test_id("log-next").click()
        assert seen[-120:] == [f"N{n}" for n in range(1, 121)]
        assert seen[:2] == ["A_1", "B_1"]
        await expect(page.get_by_test_id("log-next")).to_be_disabled()
        await page.get_by_test_id("log-back").click()
        await expect(page.get_by_test_id("log-page")).to_have_text("Page 2, 50 events")

        # Not without being asked twice.
        await page.get_by_test_id("user-kick").click()
        await expect(page.get_by_test_id("confirm")).to_contain_text("One device is connected")
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id("confirm")).to_be_hidden()
        assert len(at.server._reception.devices) == 1  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        await page.get_by_test_id("user-kick").click()
        await page.get_by_test_id("confirm-revoke").check()
        await page.get_by_test_id("confirm-yes").click()
        await expect(page.get_by_test_id("user-result")).to_contain_text("One device was")
        assert (await ada.closed())[0] == 4002
        async with await at.connect("ada") as again:
            # Its token says nothing of when it was issued.
            assert (await again.closed())[0] == 1008


@pytest.mark.gen_test
async def test_devices_and_what_becomes_of_them_are_shown_of_several_servers_with_where(
    tmp_path: Path,
) -> None:
    with nats_server(tmp_path / "nats") as nats:
        async with several(tmp_path, nats.url, "rt-a", "rt-b") as (first, second):
            async with console(first) as (_, page):
                await expect(page.locator("#facts")).to_contain_text("2 servers")
                await eventually(lambda: tap_of(second).watchers)
                await first.connect("ada")
                device = await second.connect("bob")
                rows = page.get_by_test_id("device")
                await expect(rows.filter(has_text="ada")).to_contain_text("rt-a")
                await expect(rows.filter(has_text="bob")).to_contain_text("rt-b")
                await expect(events(page, "at rt-b")).to_contain_text("bob")
                await rows.get_by_role("button", name="bob").click()
                await expect(page.get_by_test_id("user-devices")).to_contain_text("rt-b")
                await page.get_by_test_id("user-kick").click()
                await page.get_by_test_id("confirm-yes").click()
                await expect(page.get_by_test_id("user-result")).to_contain_text("One device was")
                assert (await device.closed())[0] == 4002


def filtered(at: Harness, user: str) -> bool:
    """Whether somebody watches this user only, and nobody all."""
    watchers = list(at.server._tap.watchers)  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    return [each.wants("x") or not each.by_type for each in watchers] == [False] and watchers[
        0
    ].wants(user)


CUT_OFF = """[...document.querySelectorAll("#device-rows .num, #device-rows .state")]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent)"""


@pytest.mark.gen_test
async def test_a_clock_that_is_wrong_and_a_login_of_a_proxy_do_no_harm(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, browser(viewport=WIDE) as chromium:
        url = at.server.internal_url
        await chromium.context.add_cookies([{"name": "login", "value": "yes", "url": url}])
        await chromium.context.clock.install(time=time.time() - 3600)
        page = await chromium.page(url + "/console")
        calls: list[Request] = []

        def note(request: Request) -> None:
            if "/internal/" in request.url:
                calls.append(request)

        page.on("request", note)
        await enter(page, EMIT_TOKEN)
        # A token of now is refused, however slow the operator's clock is.
        bearer = token("ada", iat=int(time.time()))
        async with await at.open({"token": bearer}) as ada:
            await page.get_by_test_id("device").get_by_role("button", name="ada").click()
            await page.get_by_test_id("user-kick").click()
            await page.get_by_test_id("confirm-revoke").check()
            await page.get_by_test_id("confirm-yes").click()
            await expect(page.get_by_test_id("user-result")).to_contain_text("One device was")
            assert (await ada.closed())[0] == 4002
        async with await at.open({"token": bearer}) as again:
            assert (await again.closed())[0] == 1008
        await page.keyboard.press("Escape")
        # Nobody has been connected for an hour, however fast it is.
        await page.clock.set_system_time(time.time() + 3600)
        async with await at.connect("bob"):
            await expect(page.get_by_test_id("device").locator("td").last).to_have_text(
                re.compile("^[0-9]+(m [0-9]+)?s$")
            )
        # Every call has what a login before it gave to this browser.
        assert {(await each.all_headers()).get("cookie") for each in calls} == {"login=yes"}
        assert grave(chromium) == []


@pytest.mark.gen_test
async def test_a_page_of_another_origin_can_do_nothing_with_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, browser() as chromium:
        page = await chromium.page(at.server.public_url + "/healthz")
        for options in (
            {"headers": {"Authorization": f"Bearer {EMIT_TOKEN}"}},
            {"method": "POST", "headers": {"Authorization": f"Bearer {EMIT_TOKEN}"}, "body": "{}"},
            {"mode": "no-cors", "path": "/console"},
            {"mode": "no-cors", "path": "/console/app.js"},
        ):
            path = at.server.internal_url + str(options.get("path", "/internal/emit"))
            said = await page.evaluate(
                "([path, options]) => fetch(path, options).then(r => r.type, e => e.name)",
                [path, options],
            )
            assert said == "TypeError", options
        # What goes without asking has no token.
        event = json.dumps({"userId": "ada", "type": "T", "durable": True})
        await page.evaluate(
            "([path, body]) => fetch(path, {method: 'POST', mode: 'no-cors', body})",
            [at.server.internal_url + "/internal/emit", event],
        )
        assert json.loads((await at.get("/internal/stats")).body)["log"]["head"] == 0


@pytest.mark.gen_test
async def test_a_device_that_does_not_read_stands_out_among_many(tmp_path: Path) -> None:
    async with (
        harness(tmp_path, {"delivery.max_outbox": "128KiB"}) as at,
        contextlib.AsyncExitStack() as stack,
    ):
        for number in range(30):
            await stack.enter_async_context(await at.connect(f"user{number}"))
        await stack.enter_async_context(unread(at, "the-slow-one"))
        async with console(at) as (_, page):
            await expect(page.get_by_test_id("device")).to_have_count(31)
            await overtax(at, "the-slow-one")
            first = page.get_by_test_id("device").first
            await expect(first).to_contain_text("the-slow-one")
            await expect(first).to_contain_text("behind")
            await expect(first).to_contain_text("KiB")
            await expect(page.get_by_test_id("chart-connections")).to_contain_text("1 behind")
            # By a figure that can be read, whatever the page's width.
            for width in (390, 800, 1330, 1440):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate(CUT_OFF) == []
            # One of the others is found by a part of its name.
            await page.keyboard.press("/")
            await page.keyboard.type("ER17")
            await expect(page.get_by_test_id("device")).to_have_count(1)
            await expect(first).to_contain_text("user17")
            await page.keyboard.type("x")
            await expect(page.get_by_test_id("devices")).to_contain_text("Nobody like that")
            await page.keyboard.press("Escape")
            await expect(page.get_by_test_id("device")).to_have_count(31)
            await page.get_by_test_id("device-sort").select_option("newest")
            await expect(first).to_contain_text("the-slow-one")
            await page.get_by_test_id("device-sort").select_option("oldest")
            await expect(first).to_contain_text("user0")


MARKUP = '"><img src=x onerror=window.hacked=1><script>window.hacked=1</script>'
HOSTILE = [
    MARKUP,
    "../../stats",
    "..",
    "a/b?c=d#e%2f&f",
    "%2e%2e%2fstats",
    "__proto__",
    "javascript:window.hacked=1",
    "\u202egnp.exe \u200f é\U0001f600",
    "'\\\";${window.hacked=1}{{7*7}}",
    "w" * 256,
]


@pytest.mark.gen_test
async def test_what_strangers_write_is_shown_and_never_run(tmp_path: Path) -> None:
    async with (
        harness(tmp_path) as at,
        contextlib.AsyncExitStack() as stack,
        console(at) as (chromium, page),
    ):
        for user in HOSTILE:
            await stack.enter_async_context(await at.connect(user))
            payload = {user: user, "__proto__": {"polluted": user}, "html": f"</pre>{MARKUP}"}
            await at.emit({"userId": user, "type": user[:128], "payload": payload})
        await expect(page.get_by_test_id("device")).to_have_count(len(HOSTILE))
        await expect(page.locator(".event.durable")).to_have_count(len(HOSTILE))
        for row in await page.locator(".event.durable summary").all():
            await row.click()
        for user in HOSTILE:
            exactly = re.compile(f"^{re.escape(user)}$")
            name = page.locator("#device-rows button").filter(has_text=exactly)
            await expect(name).to_have_count(1)
            assert await name.evaluate("e => e.textContent") == user
            await name.click()
            assert await page.get_by_test_id("user-title").evaluate("e => e.textContent") == user
            if user == "..":
                await expect(page.get_by_test_id("user-result")).to_contain_text("No browser can")
                await page.keyboard.press("Escape")
                continue
            row = page.get_by_test_id("log-event")
            await expect(row).to_have_count(1)
            await row.locator("summary").click()
            shown = await row.locator("pre").evaluate("e => e.textContent")
            assert json.loads(shown)["html"] == f"</pre>{MARKUP}"
            if user in HOSTILE[:4]:
                await page.get_by_test_id("user-kick").click()
                asked = page.get_by_test_id("confirm")
                await expect(asked).to_contain_text("One device is connected")
                await page.get_by_test_id("confirm-yes").click()
                await expect(page.get_by_test_id("user-result")).to_contain_text("One device was")
            await page.keyboard.press("Escape")
            await expect(page.get_by_test_id("user")).to_be_hidden()
        assert await page.evaluate("window.hacked") is None
        assert await page.evaluate("({}).polluted") is None
        assert await page.locator("#app img, #user img, #app script").count() == 1
        assert grave(chromium) == []
        # Nor would a mistake of ours make markup of a text.
        refused = "document.body.innerHTML = '<img src=x onerror=window.hacked=1>'"
        assert "TrustedHTML" in await page.evaluate(
            f"(() => {{ try {{ {refused} }} catch (error) {{ return error.message }} }})()"
        )
        assert ["TrustedHTML" in each for each in chromium.complaints] == [True]
        chromium.complaints.clear()


@pytest.mark.gen_test
async def test_it_fits_a_phone_and_is_worked_by_keys_alone(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, contextlib.AsyncExitStack() as stack:
        for user in ("ada", "w" * 256, "user with spaces " * 12):
            await stack.enter_async_context(await at.connect(user))
        async with browser(viewport=PHONE, reduced_motion="reduce") as chromium:
            page = await chromium.page(at.server.internal_url + "/console")
            await fits(page)
            await page.keyboard.type(EMIT_TOKEN)
            await page.keyboard.press("Enter")
            await expect(page.get_by_test_id("device")).to_have_count(3)
            await at.emit({"userId": "w" * 256, "type": "T" * 128, "payload": "x" * 5000})
            await page.locator(".event.durable summary").focus()
            await page.keyboard.press("Enter")
            await expect(page.locator(".event.durable pre")).to_be_visible()
            await fits(page)

            # To the devices, to one of them, and back where one was.
            await page.keyboard.press("/")
            await expect(page.get_by_test_id("device-search")).to_be_focused()
            await page.keyboard.type("ada")
            await expect(page.get_by_test_id("device")).to_have_count(1)
            await tab_to(page, "ada")
            await page.keyboard.press("Enter")
            await expect(page.get_by_test_id("user")).to_be_visible()
            await fits(page)
            await tab_to(page, "Disconnect…")
            await page.keyboard.press("Enter")
            await expect(page.get_by_test_id("confirm")).to_be_visible()
            await fits(page)
            assert await focused(page) == "Cancel"
            await page.keyboard.press("Escape")
            assert await focused(page) == "Disconnect…"
            await page.keyboard.press("Escape")
            assert await focused(page) == "ada"

            # An event, from the first key to the last.
            await tab_to(page, "Emit…", back=True)
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == (
                "2px"
            )
            await page.keyboard.press("Enter")
            await expect(page.get_by_test_id("emit-user")).to_be_focused()
            await fits(page)
            await page.keyboard.type("ada")
            await page.keyboard.press("Enter")
            await expect(page.get_by_test_id("emit-result")).to_contain_text("Stored")
            await page.keyboard.press("Escape")
            assert await focused(page) == "Emit…"
            await expect(events(page, "HELLO")).to_have_count(1)
            for size in ({"width": 320, "height": 600}, {"width": 800, "height": 600}, WIDE):
                await page.set_viewport_size(size)  # type: ignore[arg-type]  # as Playwright names it
                await fits(page)
            assert grave(chromium) == []


async def fits(page: Page) -> None:
    """Fail where something reaches beyond the page's width."""
    wide = """[document.documentElement, ...document.querySelectorAll('dialog[open]')]
        .filter(e => e.scrollWidth > e.clientWidth || e.getBoundingClientRect().right > innerWidth)
        .map(e => e.id || e.tagName)"""
    assert await page.evaluate(wide) == []


async def focused(page: Page) -> str:
    text: str = await page.evaluate("document.activeElement.textContent")
    return text


async def tab_to(page: Page, text: str, *, back: bool = False) -> None:
    """Press Tab until what is focused has a text; fails if it doesn't come."""
    for _ in range(40):
        await page.keyboard.press("Shift+Tab" if back else "Tab")
        if await focused(page) == text:
            return
    raise AssertionError(text)


@pytest.mark.gen_test
async def test_it_says_that_the_server_is_gone_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with browser(viewport=WIDE) as chromium:
        with serving(tmp_path, {"ARCHIBALD_RT_SERVER_DRAIN": "200ms"}) as server:
            url = server.internal_url
            await chromium.context.clock.install()
            page = await chromium.page(url + "/console")
            await expect(page.get_by_test_id("devices")).to_be_hidden()
            await enter(page, EMIT_TOKEN)
            await expect(page.get_by_test_id("status")).to_have_text("Live")
            await emit_by(page, "BEFORE")
            await expect(events(page, "BEFORE")).to_have_count(1)
            # One that hangs is as good as gone.
            server.signal(signal.SIGSTOP)
            for _ in range(2):
                # The next look, and the time that it may take.
                await page.clock.fast_forward(11_000)
            await expect(page.get_by_test_id("status")).to_have_text("Server gone")
            server.signal(signal.SIGCONT)
            await expect(page.get_by_test_id("status")).to_have_text("Live")
            server.signal(signal.SIGTERM)
            await asyncio.get_running_loop().run_in_executor(None, server.wait)
        await expect(page.get_by_test_id("status")).to_have_text("Server gone")
        await expect(page.get_by_test_id("notice")).to_contain_text("doesn’t answer")
        # What was shown stays, with a mark where something may be missing.
        await expect(events(page, "BEFORE")).to_have_count(1)
        await expect(page.locator(".mark")).to_have_count(1)
        port = {"ARCHIBALD_RT_INTERNAL_PORT": str(urlsplit(url).port)}
        with serving(tmp_path, port):
            await expect(page.get_by_test_id("status")).to_have_text("Live")
            await expect(page.get_by_test_id("notice")).to_be_hidden()
            await emit_by(page, "AFTER")
            await expect(events(page, "AFTER")).to_have_count(1)
            assert [each for each in grave(chromium) if "Failed to load" not in each] == []


async def emit_by(page: Page, event_type: str) -> None:
    """Emit to ada by the console's own form."""
    await page.get_by_test_id("open-emit").click()
    await page.get_by_test_id("emit-user").fill("ada")
    await page.get_by_test_id("emit-type").fill(event_type)
    await page.get_by_test_id("emit-send").click()
    await expect(page.get_by_test_id("emit-result")).to_contain_text("Stored")
    await page.keyboard.press("Escape")
