#!/usr/bin/env python3
"""Take the pictures of the README: the console and the demo page, of a server of its own.

A few dozen devices connect, jobs run, one device reads nothing; then a browser opens both pages.
Nothing in the pictures is drawn: run it again after a change of a page, and look at them.
"""

import asyncio
import os
import random
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
from playwright.async_api import Page, ViewportSize, async_playwright

from archibald_rt.client import Client
from archibald_rt.emitter import Emitter
from demo import Addresses, Application, server

ROOT = Path(__file__).parent.parent
USERS = ["ada", "ben", "eva", "finn", "ida", "jon", "lea", "mia", "noa", "ole", "pia", "tom"]
OPERATIONS = ["submit-order", "sync-customers", "import-prices", "print-labels", "close-month"]
WORDS = ["reading the draft", "checking stock", "waiting for the ERP", "writing lines", "signing"]

DESK, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=880)


@asynccontextmanager
async def connected(at: Addresses, application: Application, user: str) -> AsyncIterator[None]:
    """Connect a device that reads for the length of a block."""

    async def read() -> None:
        async with Client(at.public, application.token(user)) as client:
            async for _ in client:
                pass

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@contextmanager
def deaf(at: Addresses, application: Application, user: str) -> Iterator[None]:
    """Connect a device that never reads for the length of a block."""
    parts = urlsplit(at.public)
    request = (
        f"GET /ws/realtime?{urlencode({'token': application.token(user)})} HTTP/1.1\r\n"
        f"Host: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.socket() as sock:
        # Little is on its way, so that what it is owed shows.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((parts.hostname, parts.port))
        sock.sendall(request.encode())
        yield


async def job(emitter: Emitter, chance: random.Random, user: str, *, ends: str) -> None:
    """Play a job that is COMPLETED or FAILED in the end, or goes on (an empty text)."""
    number, operation = chance.randrange(1000, 9999), chance.choice(OPERATIONS)

    async def tell(kind: str, progress: int, message: str) -> None:
        payload = {
            "jobId": str(number),
            "operation": operation,
            "progress": progress,
            "message": message,
        }
        await emitter.emit(user, f"JOB_{kind}", payload)
        await asyncio.sleep(chance.uniform(0.1, 0.5))

    await tell("STARTED", 0, f"{operation} started")
    last = 5 if ends == "COMPLETED" else chance.randrange(1, 5)
    for step in range(1, last + 1):
        await tell("PROGRESS", 20 * step, chance.choice(WORDS))
    if ends == "FAILED":
        await tell("FAILED", 20 * last, "the ERP refused line 3")
    elif ends:
        await tell("COMPLETED", 100, f"{operation} completed")


async def traffic(emitter: Emitter, chance: random.Random) -> None:
    """Play jobs of all users until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            ends = chance.choice(["COMPLETED"] * 7 + ["FAILED"])
            tasks.create_task(job(emitter, chance, chance.choice(USERS), ends=ends))
            await asyncio.sleep(chance.uniform(0.1, 0.6))


@contextmanager
def files_of(folder: Path) -> Iterator[str]:
    """Serve a folder's files for the length of a block; gives the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as files:
        thread = Thread(target=files.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{files.server_port}"
        finally:
            files.shutdown()
            thread.join()


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Open a page of Chromium, light and of a desk's size."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield await chromium.new_page(viewport=DESK, color_scheme="light")
        finally:
            await chromium.close()


async def console(page: Page, at: Addresses, application: Application, to: Path) -> None:
    """Take the console, light and dark, when its charts have something to show."""
    await page.goto(f"{at.internal}/console")
    await page.get_by_test_id("token").fill(application.emit_token)
    await page.get_by_test_id("connect").click()
    await page.get_by_test_id("app").wait_for()
    await asyncio.sleep(60)
    await page.screenshot(path=to / "console-light.png")
    await page.emulate_media(color_scheme="dark")
    await page.screenshot(path=to / "console-dark.png")


async def demo(page: Page, at: Addresses, application: Application, to: Path, files: str) -> None:
    """Take the demo page with jobs that run, that are done, and one that failed."""
    chance = random.Random(3)  # noqa: S311 - no secret
    async with Emitter(at.internal, application.emit_token) as emitter:
        for ends in ("COMPLETED", "FAILED"):
            await job(emitter, chance, "demo", ends=ends)
        fragment = urlencode({"url": at.public, "token": application.token("demo")})
        await page.emulate_media(color_scheme="light")
        await page.set_viewport_size(PHONE)
        await page.goto(f"{files}/demo.html#{fragment}")
        await page.get_by_text("connected", exact=True).wait_for()
        await asyncio.gather(*(job(emitter, chance, "demo", ends="") for _ in range(3)))
        await page.screenshot(path=to / "demo.png")


async def take(to: Path) -> None:
    """Take all pictures into a folder."""
    application = Application(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    chance = random.Random(2)  # noqa: S311 - no secret
    with (
        TemporaryDirectory(prefix="archibald-rt-pictures-") as folder,
        files_of(ROOT / "examples") as files,
    ):
        settings = {
            "SERVER_ALLOWED_ORIGINS": files,
            "DELIVERY_MAX_OUTBOX": "64KiB",
            "DELIVERY_STALL_TIMEOUT": "10m",
        }
        async with (
            server(Path(folder), application, settings) as (at, _),
            AsyncExitStack() as all_of,
        ):
            for user in USERS:
                for _ in range(chance.randrange(1, 4)):
                    await all_of.enter_async_context(connected(at, application, user))
            all_of.enter_context(deaf(at, application, "max"))
            emitter = await all_of.enter_async_context(Emitter(at.internal, application.emit_token))
            report = {"rows": ["0" * 60] * 500}
            await asyncio.gather(*(emitter.emit("max", "REPORT_READY", report) for _ in range(150)))
            page = await all_of.enter_async_context(browser())
            playing = asyncio.create_task(traffic(emitter, chance))
            try:
                await console(page, at, application, to)
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
            await demo(page, at, application, to, files)


@click.command(help=__doc__)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "docs" / "pictures",
    help="The folder they go to.",
)
def main(to: Path) -> None:
    """Take the pictures."""
    to.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(to))
    click.echo(f"look at them: {to}", file=sys.stderr)


if __name__ == "__main__":
    main()
