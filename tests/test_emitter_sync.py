"""The emitter without asyncio: threads, forks, exits."""

import asyncio
import gc
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from archibald_rt.emitter import (
    EmissionRefusedError,
    Emitted,
    EmitterClosedError,
    NotEmittedError,
    SyncEmitter,
)
from archibald_rt.errors import ArchibaldError, AuthError
from faults.proxy import Proxy, proxied
from processes import serving
from support import EMIT_TOKEN, PATIENCE, Device, Harness, eventually, harness

_T = TypeVar("_T")


@asynccontextmanager
async def network(folder: Path) -> AsyncIterator[tuple[Proxy, Device]]:
    """Give a way to a server that can be disturbed, and a device of the user ``u``."""
    async with harness(folder) as server, proxied(server.server.internal_url) as proxy:
        async with await server.connect("u") as device:
            await device.until("rt.live")
            yield proxy, device


async def in_threads(*calls: Callable[[], _T]) -> list[_T]:
    """Call each in a thread of its own, at once."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(await asyncio.gather(*(loop.run_in_executor(pool, each) for each in calls)))


async def payloads(device: Device, count: int) -> list[Any]:
    return [(await device.next())["payload"] for _ in range(count)]


def emitter_of(server: Harness, **options: Any) -> SyncEmitter:
    return SyncEmitter(server.server.internal_url, EMIT_TOKEN, **options)


def pending(emitter: SyncEmitter) -> int:
    """Return how many emissions are under way or wait for the next request."""
    inner = emitter._running().emitter  # noqa: SLF001 - seen nowhere else
    return len(inner._batch) + len(inner._line._waiting)  # noqa: SLF001 - seen nowhere else


@pytest.mark.gen_test
async def test_a_call_returns_with_what_became_of_the_emission(tmp_path: Path) -> None:
    def work() -> list[Emitted]:
        with emitter_of(server) as emitter:
            return [
                emitter.emit("u", "A", {"n": 1}, timestamp=stamp, key="k"),
                emitter.emit("u", "A", b'{"n":1}', key="k"),
                emitter.emit("u", "A", 2, durable=False, conflate="c"),
                emitter.broadcast("NEWS", 3, key="k", durable=True),
            ]

    stamp = "2026-01-01T00:00:00Z"
    async with harness(tmp_path) as server, await server.connect("u") as device:
        await device.until("rt.live")
        answers = await asyncio.to_thread(work)
        seen = await device.take(3)
    first = Emitted(seen[0]["id"], stamp, durable=True, duplicate=False, delivered=1)
    again = Emitted(seen[0]["id"], stamp, durable=True, duplicate=True, delivered=0)
    assert answers[:2] == [first, again]
    assert [each.id for each in answers[2:]] == [None, seen[2]["id"]]
    assert [each["payload"] for each in seen] == [{"n": 1}, 2, 3]


@pytest.mark.gen_test
async def test_errors_are_those_of_the_emitter(tmp_path: Path) -> None:
    def work() -> None:
        with emitter_of(server) as emitter:
            with pytest.raises(EmissionRefusedError, match="400 type"):
                emitter.emit("u", "rt.no")
            with pytest.raises(TypeError):
                emitter.emit("u", "A", object())
            emitter.emit("u", "A", 1, key="k")
            with pytest.raises(EmissionRefusedError) as conflict:
                emitter.emit("u", "A", 2, key="k")
            assert (conflict.value.status, conflict.value.field) == (409, "key")
        with SyncEmitter(server.server.internal_url, "wrong") as emitter:
            with pytest.raises(AuthError):
                emitter.emit("u", "A")

    async with harness(tmp_path) as server:
        await asyncio.to_thread(work)
    with SyncEmitter(server.server.internal_url, EMIT_TOKEN, retry_for=0.1) as emitter:
        with pytest.raises(NotEmittedError):
            emitter.emit("u", "A")
    with pytest.raises(ValueError, match="URL"):
        SyncEmitter("ftp://x", EMIT_TOKEN)
    with pytest.raises(AuthError):
        SyncEmitter("http://x", "")


@pytest.mark.gen_test
async def test_threads_that_emit_at_once_share_a_request(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, device):
        with SyncEmitter(proxy.url, EMIT_TOKEN) as emitter:
            connection = emitter._running().emitter._connection  # noqa: SLF001 - requests are seen nowhere else
            post, requests = connection.post, []

            async def counted(path: str, body: bytes) -> Any:
                requests.append(body.count(b'"type":'))
                return await post(path, body)

            connection.post = counted  # type: ignore[method-assign]  # as above
            proxy.stall()
            calls = [lambda n=n: emitter.emit("u", "A", n) for n in range(21)]
            emitting = asyncio.create_task(in_threads(*calls))
            await eventually(lambda: pending(emitter) == 21)
            proxy.resume()
            answers = await emitting
            assert len(requests) <= 2
            assert sum(requests) == 21
            seen = await payloads(device, 21)
            assert sorted(seen) == list(range(21))
            # Each was given its own answer.
            ids = {each["payload"]: each["id"] for each in device.seen[-21:]}
            assert [each.id for each in answers] == [ids[n] for n in range(21)]


@pytest.mark.gen_test
async def test_an_answer_that_was_lost_is_had_by_another_try_and_nothing_doubles(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as (proxy, device):
        with SyncEmitter(proxy.url, EMIT_TOKEN) as emitter:
            proxy.reset_after(down=lambda: 0)
            emitting = asyncio.create_task(in_threads(lambda: emitter.emit("u", "A", 1)))
            assert await payloads(device, 1) == [1]
            await eventually(lambda: proxy.resets > 1)
            proxy.reset_after()
            (answer,) = await emitting
            assert answer.duplicate
            (last,) = await in_threads(lambda: emitter.emit("u", "END", 2))
            assert await payloads(device, 1) == [2]
            assert last.id != answer.id


@pytest.mark.gen_test
async def test_closing_has_all_that_is_pending_answered_and_then_nothing_is_taken(
    tmp_path: Path,
) -> None:
    async with network(tmp_path) as (proxy, device):
        emitter = SyncEmitter(proxy.url, EMIT_TOKEN)
        proxy.stall()
        calls = [lambda n=n: emitter.emit("u", "A", n) for n in range(5)]
        emitting = asyncio.create_task(in_threads(*calls))
        await eventually(lambda: pending(emitter) == 5)
        thread = emitter._running()  # noqa: SLF001 - when it takes nothing more is seen nowhere else
        closing = asyncio.create_task(asyncio.to_thread(emitter.close))
        await eventually(lambda: thread._stopped)  # noqa: SLF001 - as above
        with pytest.raises(EmitterClosedError):
            emitter.emit("u", "A")
        assert not closing.done()
        proxy.resume()
        await closing
        assert all(each.durable for each in await emitting)
        assert sorted(await payloads(device, 5)) == list(range(5))
        emitter.close()
        with pytest.raises(RuntimeError, match="closed"):
            emitter.__enter__()
        SyncEmitter(proxy.url, EMIT_TOKEN).close()


@pytest.mark.gen_test
async def test_closing_waits_for_the_end_of_a_job_in_another_thread(tmp_path: Path) -> None:
    def work() -> str:
        with emitter.job("u", "submit-order", on_error=heard.append):
            pass
        return "done"

    heard: list[ArchibaldError] = []
    async with network(tmp_path) as (proxy, device):
        emitter = SyncEmitter(proxy.url, EMIT_TOKEN)
        proxy.stall()
        working = asyncio.create_task(in_threads(work))
        await eventually(lambda: pending(emitter) == 2)
        thread = emitter._running()  # noqa: SLF001 - when it takes nothing more is seen nowhere else
        closing = asyncio.create_task(asyncio.to_thread(emitter.close))
        await eventually(lambda: thread._stopped)  # noqa: SLF001 - as above
        proxy.resume()
        await closing
        assert await working == ["done"]
        assert heard == []
        assert [each["type"] for each in await device.take(2)] == ["JOB_STARTED", "JOB_COMPLETED"]


@pytest.mark.gen_test
async def test_one_that_is_forgotten_ends_its_thread(tmp_path: Path) -> None:
    async with network(tmp_path) as (proxy, _device):
        emitter = SyncEmitter(proxy.url, EMIT_TOKEN)
        await asyncio.to_thread(emitter.emit, "u", "A")
        thread = emitter._running()._thread  # noqa: SLF001 - whether it lives is seen nowhere else
        assert thread.is_alive()
        # Not at once: what a thread has just called may be held a moment longer.
        del emitter
        await eventually(lambda: gc.collect() is None or not thread.is_alive())


def test_it_blocks_the_loop_in_whose_thread_it_is_called(tmp_path: Path) -> None:
    async def work() -> Emitted:
        with SyncEmitter(server.internal_url, EMIT_TOKEN) as emitter:
            with emitter.job("u", "submit-order"):
                return emitter.emit("u", "A")

    with serving(tmp_path) as server:
        assert asyncio.run(work()).durable


def test_in_its_own_thread_it_says_so_instead_of_waiting_for_ever() -> None:
    with SyncEmitter("http://127.0.0.1:9", EMIT_TOKEN) as emitter:
        said: Future[Emitted] = Future()

        def emit() -> None:
            try:
                said.set_result(emitter.emit("u", "A"))
            except RuntimeError as error:
                said.set_exception(error)

        emitter._running().soon(emit)  # noqa: SLF001 - how to come into its thread
        with pytest.raises(RuntimeError, match="wait for itself"):
            said.result(PATIENCE.total_seconds())


# What concerns a whole process


BEGIN = """
import os, signal, sys, threading, time
from archibald_rt.emitter import (
    EmitterClosedError, NotEmittedError, OutcomeUnknownError, SyncEmitter,
)

url, token = sys.argv[1:]
emitter = SyncEmitter(url, token)

def pending():
    inner = emitter._running().emitter
    return len(inner._batch) + len(inner._line._waiting)

def once(condition):
    while not condition():
        time.sleep(0.01)

def interrupt_once(condition):
    def interrupt():
        once(condition)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()

def aside(call, *arguments, daemon=True, **options):
    thread = threading.Thread(target=call, args=arguments, kwargs=options, daemon=daemon)
    thread.start()
    return thread
"""
"""What the scripts below begin with."""


class Script:
    """A program that emits."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Return the next line it prints."""
        assert self._process.stdout is not None
        reading = self._process.stdout.readline()
        return (await asyncio.wait_for(reading, PATIENCE.total_seconds())).decode().strip()

    async def end(self) -> None:
        """End its input, and wait until it has ended, well and without a word."""
        ending = self._process.communicate(b"")
        printed = await asyncio.wait_for(ending, PATIENCE.total_seconds())
        assert (self._process.returncode, printed) == (0, (b"", b""))


@asynccontextmanager
async def script(text: str, url: str) -> AsyncIterator[Script]:
    """Run a script; it is killed if it still runs at the end of the block."""
    # That a process with threads forks is what Python warns of since 3.12.
    words = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
    process = await asyncio.create_subprocess_exec(
        *words, BEGIN + text, url, EMIT_TOKEN, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.gen_test
async def test_processes_forked_before_and_after_the_first_emission_emit_for_themselves(
    tmp_path: Path,
) -> None:
    text = """
def emit_all(name):
    for n in range(20):
        assert not emitter.emit("u", name, n).duplicate

def fork(name):
    if (child := os.fork()) == 0:
        emit_all(name)
        # Left by way of everything that is done at the exit of an interpreter.
        sys.exit()
    return child

children = [fork("BEFORE-1"), fork("BEFORE-2")]
emit_all("PARENT")
busy = aside(lambda: [emitter.emit("u", "BUSY", n) for n in range(200)])
children += [fork(f"AFTER-{n}") for n in range(4)]
for child in children:
    assert os.waitpid(child, 0)[1] == 0
busy.join()
emit_all("LAST")
"""
    names = ["BEFORE-1", "BEFORE-2", "PARENT", "AFTER-0", "AFTER-1", "AFTER-2", "AFTER-3", "LAST"]
    expected = {key: list(range(20)) for key in names} | {"BUSY": list(range(200))}
    async with network(tmp_path) as (proxy, device):
        async with script(text, proxy.url) as program:
            seen: dict[str, list[int]] = {name: [] for name in expected}
            for _ in range(360):
                event = await device.next()
                seen[event["type"]].append(event["payload"])
            await program.end()
        assert seen == expected


@pytest.mark.gen_test
async def test_a_process_that_has_the_number_of_one_before_it_emits_for_itself(
    tmp_path: Path,
) -> None:
    text = """
emitter.emit("u", "A", 1)
if (child := os.fork()) == 0:
    # As if the parent had had the number that the system gave this one.
    emitter._processes[os.getpid()] = emitter._processes[os.getppid()]
    emitter.emit("u", "A", 2)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""
    async with network(tmp_path) as (proxy, device), script(text, proxy.url) as program:
        await program.end()
        assert await payloads(device, 2) == [1, 2]


@pytest.mark.gen_test
async def test_a_process_without_descriptors_is_told_so_and_emits_when_it_has_some(
    tmp_path: Path,
) -> None:
    text = """
import resource
# asyncio forgets the half of a loop that it could make, and stumbles over it.
sys.unraisablehook = lambda _: None
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
try:
    emitter.emit("u", "A", 1)
except NotEmittedError as error:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    print(error, flush=True)
emitter.emit("u", "A", 2)
"""
    async with network(tmp_path) as (proxy, device), script(text, proxy.url) as program:
        assert await program.line() == "not emitted: Too many open files"
        await program.end()
        assert await payloads(device, 1) == [2]


@pytest.mark.gen_test
async def test_a_job_is_of_the_process_that_began_it(tmp_path: Path) -> None:
    text = """
with emitter.job("u", "submit-order") as job:
    job.progress(10)
    if (child := os.fork()) == 0:
        job.progress(20)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""
    async with network(tmp_path) as (proxy, device), script(text, proxy.url) as program:
        await program.end()
        types = [(await device.next())["type"] for _ in range(3)]
        assert types == ["JOB_STARTED", "JOB_PROGRESS", "JOB_COMPLETED"]
        assert device.seen[-2]["payload"]["progress"] == 10


@pytest.mark.gen_test
async def test_what_is_pending_when_the_interpreter_exits_is_answered_first(
    tmp_path: Path,
) -> None:
    text = """
for n in range(3):
    aside(emitter.emit, "u", "A", n)
    once(lambda: pending() == n + 1)
print("exits", flush=True)
"""
    async with network(tmp_path) as (proxy, device):
        proxy.stall()
        async with script(text, proxy.url) as program:
            assert await program.line() == "exits"
            proxy.resume()
            await program.end()
        assert await payloads(device, 3) == [0, 1, 2]


@pytest.mark.gen_test
async def test_threads_that_outlive_the_main_one_emit_over_a_new_connection(
    tmp_path: Path,
) -> None:
    text = """
def outlive():
    threading.main_thread().join()
    print("alone", flush=True)
    sys.stdin.readline()
    emitter.emit("u", "A", 2)

emitter.emit("u", "A", 1)
aside(outlive, daemon=False)
"""
    async with network(tmp_path) as (proxy, device):
        url = proxy.url.replace("127.0.0.1", "localhost")
        async with script(text, url) as program:
            assert await program.line() == "alone"
            for task in list(proxy._links.values()):  # noqa: SLF001 - it has no way to end all
                task.cancel()
            await program.end()
        assert await payloads(device, 2) == [1, 2]


@pytest.mark.gen_test
async def test_a_caller_that_is_interrupted_takes_back_what_was_not_sent(tmp_path: Path) -> None:
    text = """
first = aside(emitter.emit, "u", "A", "first")
once(lambda: pending() == 1)
interrupt_once(lambda: pending() == 2)
try:
    emitter.emit("u", "A", "taken back")
except KeyboardInterrupt:
    print("interrupted", flush=True)
first.join()
interrupt_once(lambda: pending() == 1)
try:
    emitter.emit("u", "A", "sent")
except KeyboardInterrupt:
    print("interrupted", flush=True)
emitter.emit("u", "A", "last")
"""
    async with network(tmp_path) as (proxy, device):
        proxy.stall()
        async with script(text, proxy.url) as program:
            assert await program.line() == "interrupted"
            proxy.resume()
            assert await payloads(device, 1) == ["first"]
            proxy.stall(up=False)
            assert await payloads(device, 1) == ["sent"]
            assert await program.line() == "interrupted"
            proxy.resume()
            assert await payloads(device, 1) == ["last"]
            await program.end()


@pytest.mark.gen_test
async def test_closing_that_is_interrupted_leaves_no_thread_waiting(tmp_path: Path) -> None:
    text = """
def emit(n):
    try:
        emitter.emit("u", "A", n)
    except (EmitterClosedError, OutcomeUnknownError) as error:
        errors.append((n, type(error).__name__))

def work():
    def hear(error):
        errors.append((3, type(error).__name__))
    with emitter.job("u", "submit-order", on_error=hear):
        pass

errors = []
threads = []
for n in range(3):
    threads.append(aside(emit, n))
    once(lambda: pending() == n + 1)
threads.append(aside(work))
once(lambda: pending() == 5)
thread = emitter._running()
interrupt_once(lambda: thread._stopped)
try:
    emitter.close()
except KeyboardInterrupt:
    for each in threads:
        each.join()
    print(sorted(errors), flush=True)
emitter.close()
"""
    async with network(tmp_path) as (proxy, _device):
        proxy.stall()
        async with script(text, proxy.url) as program:
            never = [(number, "EmitterClosedError") for number in (1, 2, 3, 3)]
            assert await program.line() == str([(0, "OutcomeUnknownError"), *never])
            await program.end()
