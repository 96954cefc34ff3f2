"""The recipes of docs/recipes.md are what is run here, with the real libraries and servers."""

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from faults.proxy import Proxy, proxied
from processes import environment
from support import EMIT_TOKEN, PATIENCE, Device, Harness, eventually, harness
from system import EXPRESS

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
UNSET = "ARCHIBALD_RT_INTERNAL_PORT ARCHIBALD_RT_INTERNAL_EMIT_TOKENS"
"""What tests usually set, and the machine that a recipe is for does not."""

JOB = ("JOB_STARTED", "JOB_COMPLETED", "JOB_FAILED")


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def put(folder: Path, url: str, **yours: str) -> None:
    """Write the recipes' files into a folder, and the reader's own code that they use."""
    for block in blocks("python") + blocks("js"):
        (name,) = re.findall(r"\A(?:#|//) (\w+\.\w+)$", block, re.MULTILINE)
        text = block.replace("http://127.0.0.1:8081", url)
        assert (text != block) == (name != "orders.mjs")
        (folder / name).write_text(text)
    for name, text in yours.items():
        (folder / name.replace("_", ".")).write_text(text)


@asynccontextmanager
async def running(folder: Path, *words: str, **extra: str) -> AsyncIterator[Process]:
    """Run a program in a folder for the length of a block, which ends it if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=folder,
        env=environment(folder) | {"EMIT_TOKEN": EMIT_TOKEN, **extra},
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            # With the processes that it started.
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def printed(process: Process, pattern: str) -> str:
    """Read what a program prints until it matches; returns the first group."""
    assert process.stdout is not None
    text = ""
    while (found := re.search(pattern, text)) is None:
        reading = asyncio.wait_for(process.stdout.readline(), PATIENCE.total_seconds())
        line = (await reading).decode()
        assert line, text
        text += line
    return found[1]


async def stopped(process: Process) -> str:
    """Ask a program to end, wait until it has, and return what it printed since."""
    process.terminate()
    ending = asyncio.wait_for(process.communicate(), PATIENCE.total_seconds())
    return (await ending)[0].decode()


async def fetch(url: str, body: str = "{}") -> Any:
    response = await AsyncHTTPClient().fetch(
        url, method="POST", body=body, headers={"Content-Type": "application/json"}
    )
    return json.loads(response.body)


async def told(device: Device, *ends: str) -> list[dict[str, Any]]:
    """Return what a device is told until it was told each of these."""
    seen: list[dict[str, Any]] = []
    while not set(ends) <= {each["type"] for each in seen}:
        seen.append(await device.next())
    return seen


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[Harness, Proxy, Device]]:
    async with harness(folder) as server, proxied(server.server.internal_url) as proxy:
        async with await server.connect("ada") as device:
            await device.until("rt.live")
            yield server, proxy, device


CELERY_YOURS = """
from pathlib import Path

class WarehouseDownError(Exception):
    pass

def reserve_stock(order):
    tries = Path(f"tries-{order}")
    tries.open("a").write("x")
    if order == 13 or len(tries.read_text()) < 3:
        raise WarehouseDownError("of no concern to users")

def write_order(order):
    return order * 100
"""

CELERY_APP = """
from tasks import app, submit_order

app.conf.broker_connection_retry_on_startup = True
app.conf.worker_max_tasks_per_child = 2
submit_order.default_retry_delay = 0
"""

CELERY_CALL = """
from worker import submit_order

for order in (7, 13):
    print(submit_order.delay("ada", order).id)
"""


@pytest.mark.needs("redis-server")
@pytest.mark.gen_test
async def test_the_task_of_celery_is_told_once_however_often_it_is_tried(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    redis = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    async with (
        listening(tmp_path) as (server, _proxy, device),
        running(tmp_path, *redis) as serving,
    ):
        await printed(serving, "([Rr]eady to accept connections)")
        put(tmp_path, server.server.internal_url, yours_py=CELERY_YOURS, worker_py=CELERY_APP)
        broker = {"BROKER_URL": f"redis+socket://{socket}"}
        words = ["-m", "celery", "-A", "worker", "worker", "--pool", "prefork", "-c", "2"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        async with (
            running(tmp_path, sys.executable, "-c", CELERY_CALL, **broker) as call,
            running(tmp_path, sys.executable, *words, *quiet, **broker) as worker,
        ):
            ids = (await asyncio.wait_for(call.communicate(), PATIENCE.total_seconds()))[0].split()
            good, bad = (each.decode() for each in ids)
            seen = await told(device, "JOB_COMPLETED", "JOB_FAILED")
            assert worker.returncode is None
        of: dict[str, list[dict[str, Any]]] = {good: [], bad: []}
        for event in seen:
            of[event["payload"]["jobId"]].append(event)
        for job, end in ((good, "JOB_COMPLETED"), (bad, "JOB_FAILED")):
            assert [e["type"] for e in of[job] if e["type"] in JOB] == ["JOB_STARTED", end]
            assert of[job][0]["type"] == "JOB_STARTED"
            assert of[job][-1]["type"] == end
            messages = [event["payload"]["message"] for event in of[job]]
            assert "the warehouse doesn't answer, trying again soon" in messages
            assert not any("no concern" in str(event) for event in of[job])
        assert (tmp_path / "tries-7").read_text() == "xxx"
        assert of[good][-1]["payload"]["result"] == {"orderId": 700}
        assert of[bad][-1]["payload"]["message"] == "submit-order failed"


FASTAPI_YOURS = """
def current_user():
    return "ada"

async def write_chapter(chapter):
    pass
"""


@pytest.mark.gen_test
async def test_the_application_of_fastapi_tells_its_background_tasks(tmp_path: Path) -> None:
    async with listening(tmp_path) as (server, _proxy, device):
        put(tmp_path, server.server.internal_url, yours_py=FASTAPI_YOURS)
        words = ["-m", "uvicorn", "reports:app", "--port", "0"]
        async with running(tmp_path, sys.executable, *words) as process:
            url = await printed(process, r"running on (http://[\d.:]+)")
            job = (await fetch(f"{url}/reports"))["jobId"]
            seen = await told(device, "JOB_COMPLETED")
            assert seen[0]["type"] == "JOB_STARTED"
            assert {event["type"] for event in seen[1:-1]} == {"JOB_PROGRESS"}
            assert seen[-1]["payload"]["result"] == {"file": f"{job}.pdf"}
            assert "Application shutdown complete" in await stopped(process)


FLASK_YOURS = """
def current_user():
    return "ada"
"""

GUNICORN = """
def post_worker_init(worker):
    print(f"worker {worker.pid} hears signals", flush=True)
"""


@pytest.mark.gen_test
async def test_the_view_of_flask_emits_in_workers_that_were_forked_after_it_was_loaded(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path) as (server, _proxy, device):
        put(tmp_path, server.server.internal_url, yours_py=FLASK_YOURS)
        (tmp_path / "gunicorn.conf.py").write_text(GUNICORN)
        words = ["-m", "gunicorn", "shop:app", "--preload", "--workers", "2", "--threads", "2"]
        async with running(
            tmp_path, sys.executable, *words, "--bind", "127.0.0.1:0", "--no-control-socket"
        ) as process:
            url = await printed(process, r"Listening at: (http://[\d.:]+)")
            # A worker that is told to end before that never hears it, and gunicorn waits for it.
            for _ in range(2):
                await printed(process, r"(hears signals)")
            answers = await asyncio.gather(
                *(fetch(f"{url}/orders/{order}/ship") for order in range(8))
            )
            seen = await device.take(8)
            assert {each["event"] for each in answers} == {each["id"] for each in seen}
            assert sorted(each["payload"]["orderId"] for each in seen) == list(range(8))
            await stopped(process)
            assert process.returncode == 0


EXPRESS_YOURS = """
export const currentUser = () => "ada";
export async function writeOrder(order) {
  if (order.bad) throw new Error("of no concern to users");
}
"""


@pytest.mark.needs("node", "npm", "express")
@pytest.mark.gen_test
async def test_the_handler_of_express_tells_in_order_and_again_where_nothing_doubles(
    tmp_path: Path,
) -> None:
    (tmp_path / "node_modules").symlink_to(EXPRESS / "node_modules")
    async with listening(tmp_path) as (_server, proxy, device):
        put(tmp_path, proxy.url, yours_mjs=EXPRESS_YOURS)
        async with running(tmp_path, "node", "orders.mjs", PORT="0") as process:
            port = await printed(process, r"listening on (\d+)")
            url = f"http://127.0.0.1:{port}"
            jobs = {}
            for body in ('{"bad": false}', '{"bad": true}'):
                jobs[(await fetch(f"{url}/orders", body))["jobId"]] = body
            seen = await told(device, "JOB_COMPLETED", "JOB_FAILED")
            for job, body in jobs.items():
                types = [e["type"] for e in seen if e["payload"]["jobId"] == job]
                end = "JOB_FAILED" if "true" in body else "JOB_COMPLETED"
                assert types == ["JOB_STARTED", "JOB_PROGRESS", end]
            assert "no concern" not in str(seen)

            # What the server stored and could not answer is sent until it can.
            proxy.reset_after(down=lambda: 0)
            resets = proxy.resets
            await fetch(f"{url}/orders")
            assert (await device.next())["type"] == "JOB_STARTED"
            await eventually(lambda: proxy.resets > resets + 2)
            proxy.reset_after()
            seen = await told(device, "JOB_COMPLETED")
            assert [each["type"] for each in seen] == ["JOB_PROGRESS", "JOB_COMPLETED"]


@pytest.mark.needs("curl")
@pytest.mark.gen_test
async def test_the_lines_for_the_shell_emit_once_a_day_however_often_they_run(
    tmp_path: Path,
) -> None:
    async with listening(tmp_path) as (server, proxy, device):
        port = server.server.internal_url.rpartition(":")[2]
        # As docs/deploy.md sets a machine up: a configuration without secrets, which are beside it.
        (tmp_path / "config.ini").write_text(f"[internal]\nport = {port}\n")
        (tmp_path / "emit_tokens").write_text(f"{EMIT_TOKEN}\n")
        (tmp_path / "authorization").write_text(f"Authorization: Bearer {EMIT_TOKEN}\n")
        command = tmp_path / "archibald-rt"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m archibald_rt "$@"\n')
        command.chmod(0o755)
        answers = []
        for block in blocks("sh"):
            text = block.replace("/etc/archibald-rt", str(tmp_path))
            text = text.replace("/opt/archibald-rt/bin", str(tmp_path))
            text = text.replace("http://127.0.0.1:8081", proxy.url)
            for _ in range(2):
                words = ["bash", "-euc", f"unset {UNSET}\n{text}"]
                async with running(tmp_path, *words) as process:
                    ending = asyncio.wait_for(process.communicate(), PATIENCE.total_seconds())
                    output = (await ending)[0]
                    assert process.returncode == 0, output
                    answers.append(json.loads(output))
        assert len(answers) == 4
        assert answers[0]["durable"]
        assert not answers[0]["duplicate"]
        assert {each["id"] for each in answers} == {answers[0]["id"]}
        event = await device.next()
        assert (event["type"], event["payload"]) == ("BACKUP_DONE", {"host": "db1"})
