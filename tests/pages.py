"""Pages of a real browser that use the JavaScript client, as a test sees them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Page

from browsing import Browser
from support import eventually

# Keeps what happened over a reload: numbers as they were handled beside the client's cursor.
_FOLLOW = """
window.told = [];
window.follow = async (options = {}, url = "/") => {
  const { connect } = await import(new URL("/client.js", location.href));
  const seen = JSON.parse(window.kept?.seen ?? "[]");
  const token = typeof options.token === "string" ? options.token : () => window.freshToken();
  const rt = connect(url, { backoffMin: 20, backoffMax: 200, ...options, token });
  for (const name of ["rt.state", "rt.gap", "rt.live", "rt.unauthorized"]) {
    rt.on(name, (what) => told.push([name, what]));
  }
  rt.on("rt.error", ({ error, during }) => {
    told.push(["rt.error", { during, said: String(error) }]);
  });
  rt.on("N", ({ payload }) => {
    seen.push(payload.n);
    if (window.kept) kept.seen = JSON.stringify(seen);
  });
  Object.assign(window, { rt, seen });
};
try { window.kept = sessionStorage; } catch { window.kept = undefined; }
"""


class ClientPage:
    """A page of the server's own origin, in which the client can be used."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def follow(self, url: str = "/", **options: object) -> None:
        """Connect with these options; handles events of type ``N`` by their payload's ``n``."""
        await self.page.evaluate("([options, url]) => follow(options, url)", [options, url])

    async def run(self, script: str) -> Any:
        """Run an expression in the page, and return what it gives."""
        return await self.page.evaluate(script)

    async def seen(self) -> list[int]:
        """Return the numbers that were handled, in order, over all reloads."""
        return list(await self.run("window.seen ?? []"))

    async def state(self) -> str:
        """Return the client's state."""
        return str(await self.run("rt.state"))

    async def told(self, name: str) -> list[dict[str, Any]]:
        """Return what the client told of itself under a name since the page was loaded."""
        return [what for kind, what in await self.run("told") if kind == name]

    async def until(self, condition: str) -> None:
        """Wait until an expression holds in the page."""

        async def holds() -> bool:
            return bool(await self.run(condition))

        try:
            await eventually(holds)
        except AssertionError as error:
            told = json.dumps(await self.run("window.told"))
            raise AssertionError(f"{condition} did not come about: {told}") from error

    async def until_seen(self, *numbers: int) -> None:
        """Wait until just these were handled, in this order."""
        await self.until(
            f"JSON.stringify(seen) === {json.dumps(json.dumps(numbers)).replace(' ', '')}"
        )


@asynccontextmanager
async def client_page(
    chromium: Browser, url: str, fresh_token: Callable[[], str | Awaitable[str]]
) -> AsyncIterator[ClientPage]:
    """Open a page of a server's own; ``freshToken()`` in it gives what `fresh_token` gives."""
    page = await chromium.context.new_page()
    await page.expose_function("freshToken", fresh_token)
    await page.add_init_script(_FOLLOW)
    await page.goto(f"{url}/healthz")
    try:
        yield ClientPage(page)
    finally:
        await page.close()
