"""A real Chromium for tests of what runs in a browser: Debian's, driven by Playwright."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import Browser as Chromium
from playwright.async_api import BrowserContext, ConsoleMessage, Page, async_playwright

from support import PATIENCE
from system import program

PHONE = {"width": 390, "height": 844}
"""The size of a phone's page, in CSS pixels."""

_QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
"""Chromium asks for no host of its own accord: tests stay on loopback."""


@dataclass
class Browser:
    """One browser's window, and what went wrong in its pages."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)
    """Errors in the pages' consoles, uncaught exceptions and breaches of a content policy."""

    async def page(self, url: str) -> Page:
        """Open a page."""
        page = await self.context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(url)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)


@asynccontextmanager
async def launched() -> AsyncIterator[Chromium]:
    """Run a Chromium for the length of a block; `window` opens its windows.

    Tests that use it are marked ``needs("chromium")``.
    """
    sandboxed = os.geteuid() != 0
    with tempfile.TemporaryDirectory() as home:
        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(
                executable_path=program("chromium"),
                chromium_sandbox=sandboxed,
                args=_QUIET,
                env={**os.environ, "HOME": home},
            )
            try:
                yield chromium
            finally:
                await chromium.close()


@asynccontextmanager
async def window(chromium: Chromium, **options: object) -> AsyncIterator[Browser]:
    """Open a window that shares nothing with any other, for the length of a block.

    Options are those of Playwright's ``new_context``: ``viewport``, ``color_scheme`` and such.
    """
    context = await chromium.new_context(**options)  # type: ignore[arg-type]  # as Playwright names them
    context.set_default_timeout(PATIENCE.total_seconds() * 1000)
    try:
        yield Browser(context)
    finally:
        await context.close()


@asynccontextmanager
async def browser(**options: object) -> AsyncIterator[Browser]:
    """Run a Chromium with one `window` for the length of a block."""
    async with launched() as chromium, window(chromium, **options) as opened:
        yield opened
