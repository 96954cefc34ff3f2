"""What a newcomer opens and pastes: the demonstration page, and the lines of ``serve --dev``."""

import json
import re
import signal
import textwrap
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from browsing import PHONE, browser
from processes import PATIENCE, command, started
from support import eventually, harness, token

ROOT = Path(__file__).parent.parent
expect.set_options(timeout=PATIENCE * 1000)
DEMO = ROOT / "examples" / "demo.html"


def job(step: str, progress: int, **payload: object) -> dict[str, object]:
    about = {"jobId": "7", "operation": "submit-order", "progress": progress, **payload}
    return {"userId": "demo", "type": f"JOB_{step}", "payload": about}


async def overflows(page: Page) -> bool:
    return bool(await page.evaluate("document.body.scrollWidth > innerWidth"))


@pytest.mark.needs("chromium")
@pytest.mark.gen_test
async def test_the_demonstration_shows_jobs_as_they_go_on(tmp_path: Path) -> None:
    async with (
        harness(tmp_path, {"server.allowed_origins": "*"}) as server,
        browser(viewport=PHONE, color_scheme="dark") as chromium,
    ):
        url = server.server.public_url
        await server.emit(job("STARTED", 0))
        # As a file that somebody opened, with a form to be filled in.
        page = await chromium.page(DEMO.as_uri())
        await page.get_by_label("Server").fill(url)
        await page.get_by_label("User token").fill(token("demo"))
        await page.get_by_role("button", name="Connect").click()
        await expect(page.get_by_role("status")).to_have_text("connected")
        await expect(page.locator("article")).to_contain_text("submit-order")
        await server.emit(job("PROGRESS", 40, message="<b>half</b>"))
        await expect(page.locator("article span")).to_have_text("40 %")
        await expect(page.locator("article small")).to_have_text("<b>half</b>")
        await server.emit(job("COMPLETED", 100, message="x" * 300))
        await expect(page.locator("article span")).to_have_text("done")
        assert not await overflows(page)

        # By an address that says all.
        page = await chromium.page(f"{DEMO.as_uri()}#url={quote(url)}&token={token('demo')}")
        await expect(page.locator("article span")).to_have_text("done")
        assert "token" not in page.url
        assert chromium.complaints == []
        # By Server-Sent Events the browser asks first whether a page of this origin may.
        streaming = f"""
            (async () => {{
                const {{ connect }} = await import("{url}/client.js");
                window.rt = connect("{url}", {{ token: "{token("demo")}", transport: "sse" }});
            }})()
        """
        await page.evaluate(streaming)
        await page.wait_for_function("rt.state === 'connected'")
        await page.get_by_label("User token").fill("wrong")
        await page.get_by_role("button", name="Connect").click()
        status = page.get_by_role("status")
        await expect(status).to_have_text("disconnected: Authentication failed")


@pytest.mark.needs("chromium")
@pytest.mark.gen_test
async def test_what_serve_dev_prints_listens_when_it_is_pasted(tmp_path: Path) -> None:
    extra = {"ARCHIBALD_RT_AUTH_JWT_SECRET": "", "ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": ""}
    with started(tmp_path, "serve", "--dev", extra=extra) as server:
        assert server.stdout is not None
        printed = ""
        while "curl" not in printed:
            printed += server.stdout.readline()
        pasted = re.search(r"^  import.*?^  }\);$", printed, re.MULTILINE | re.DOTALL)
        assert pasted is not None
        said: list[str] = []
        async with browser() as chromium:
            page = await chromium.context.new_page()
            page.on("console", lambda message: said.append(message.text))
            await page.evaluate(f"() => {{ {textwrap.dedent(pasted[0])} }}")
            await page.wait_for_function("globalThis.rt?.state === 'connected'")
            internal = re.search(r"curl (\S+)/internal/emit", printed + server.stdout.readline())
            emit_token = re.search(r"emit token +(\S+)", printed)
            assert internal is not None
            assert emit_token is not None
            emitting = {
                "ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": emit_token[1],
                "ARCHIBALD_RT_INTERNAL_PORT": internal[1].rpartition(":")[2],
            }
            ended = command(tmp_path, "emit", "demo", "HELLO", '{"n": 1}', extra=emitting)
            assert json.loads(ended.stdout)["delivered"] == 1
            await eventually(lambda: "HELLO {n: 1}" in said)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
