"""Jobs that tell their user how they go, with asyncio and without."""

import asyncio
import logging
import os
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from archibald_rt.emitter import (
    AsyncJob,
    EmissionRefusedError,
    Emitted,
    Emitter,
    EmitterClosedError,
    Job,
    NotEmittedError,
    SyncEmitter,
)
from archibald_rt.emitter.reports import Reports
from archibald_rt.errors import ArchibaldError
from faults.proxy import proxied
from support import EMIT_TOKEN, PATIENCE, Device, eventually, harness

NEVER = 3600.0
"""An interval of progress that no test lives to see the end of."""

Work: TypeAlias = Callable[[Job], object]


class Player:
    """Plays jobs at a server, with one of the two emitters."""

    def __init__(self, kind: str, url: str, device: Device) -> None:
        self.kind = kind
        self.url = url
        self.device = device

    async def play(
        self, work: Work, *, url: str | None = None, retry_for: float = 30.0, **options: Any
    ) -> None:
        """Do some work as a job of the user ``u``."""
        where, options = url or self.url, {"job_id": "7", **options}
        if self.kind == "async":
            async with Emitter(where, EMIT_TOKEN, retry_for=retry_for) as emitter:
                async with emitter.job("u", "submit-order", **options) as job:
                    work(job)
        else:
            await asyncio.to_thread(self._play, work, where, retry_for, options)

    def _play(self, work: Work, url: str, retry_for: float, options: dict[str, Any]) -> None:
        with SyncEmitter(url, EMIT_TOKEN, retry_for=retry_for) as emitter:
            with emitter.job("u", "submit-order", **options) as job:
                work(job)

    async def told(self) -> list[tuple[Any, ...]]:
        """Return what the user was told: type without its prefix, progress, message."""
        await self._mark()
        seen = []
        while (event := await self.device.next())["type"] != "MARK":
            payload = event["payload"]
            assert payload["jobId"] == "7"
            assert payload["operation"] == "submit-order"
            assert ("id" in event) == (not event["type"].endswith("_PROGRESS"))
            kind = event["type"].removeprefix("JOB_")
            seen.append((kind, payload["progress"], payload["message"]))
        return seen

    async def _mark(self) -> None:
        async with Emitter(self.url, EMIT_TOKEN) as emitter:
            await emitter.emit("u", "MARK")


@asynccontextmanager
async def playing(kind: str, folder: Path) -> AsyncIterator[Player]:
    async with harness(folder) as server, await server.connect("u") as device:
        await device.until("rt.live")
        yield Player(kind, server.server.internal_url, device)


both = pytest.mark.parametrize("kind", ["async", "sync"])

STARTED = ("STARTED", 0, "submit-order started")


@both
@pytest.mark.gen_test
async def test_a_job_is_told_from_its_start_to_its_end(kind: str, tmp_path: Path) -> None:
    def work(job: Job) -> None:
        assert job.id == "7"
        job.progress(39.6, "checking stock")

    async with playing(kind, tmp_path) as player:
        await player.play(work)
        assert await player.told() == [
            STARTED,
            ("PROGRESS", 40, "checking stock"),
            ("COMPLETED", 100, "submit-order completed"),
        ]
        assert all("result" not in each["payload"] for each in player.device.seen[-4:-1])


@pytest.mark.gen_test
async def test_the_script_that_plays_a_job_tells_it_in_the_same_way(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "run_job.py"
    words = ["u", "--job-id", "7", "--steps", "1", "--seconds", "0"]
    async with playing("async", tmp_path) as player:
        given = {"ARCHIBALD_RT_URL": player.url, "ARCHIBALD_RT_EMIT_TOKEN": EMIT_TOKEN}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), *words), env=os.environ | given, stdout=PIPE, stderr=PIPE
        )
        await asyncio.wait_for(process.communicate(), PATIENCE.total_seconds())
        played = await player.told()
        await player.play(lambda job: job.progress(100, "step 1 of 1"), prefix="JOB_AS_WELL")
        told = [(kind.removeprefix("AS_WELL_"), *rest) for kind, *rest in await player.told()]
        assert told == played
        assert len(told) == 3


@both
@pytest.mark.gen_test
async def test_a_result_and_a_message_go_with_the_end(kind: str, tmp_path: Path) -> None:
    def work(job: Job) -> None:
        result = {"order": 1}
        job.complete(result, "ordered")
        result["order"] = 2

    async with playing(kind, tmp_path) as player:
        await player.play(work, prefix="JOB_ORDER")
        assert await player.told() == [
            ("ORDER_STARTED", 0, "submit-order started"),
            ("ORDER_COMPLETED", 100, "ordered"),
        ]
        assert player.device.seen[-2]["payload"]["result"] == {"order": 1}


@both
@pytest.mark.parametrize("ending", ["result", "message", "failure"])
@pytest.mark.gen_test
async def test_an_end_that_the_server_refuses_is_told_without_what_it_was_refused_for(
    kind: str, ending: str, tmp_path: Path
) -> None:
    large = "x" * 100_000

    def work(job: Job) -> None:
        if ending == "result":
            job.complete({"lines": large}, "ordered")
        elif ending == "message":
            job.complete(message=large)
        else:
            job.fail(large)

    heard: list[ArchibaldError] = []
    async with playing(kind, tmp_path) as player:
        await player.play(work, on_error=heard.append)
        outcome = "failed" if ending == "failure" else "completed"
        progress = 0 if ending == "failure" else 100
        assert (await player.told())[1:] == [(outcome.upper(), progress, f"submit-order {outcome}")]
        assert "result" not in player.device.seen[-2]["payload"]
    (refused,) = heard
    assert isinstance(refused, EmissionRefusedError)
    assert refused.status == 413
    assert refused.__notes__ == [f"JOB_{outcome.upper()} of the job 7"]


@both
@pytest.mark.gen_test
async def test_a_job_that_raises_has_failed_and_its_exception_stays_inside(
    kind: str, tmp_path: Path
) -> None:
    def work(job: Job) -> None:
        job.progress(60, "writing")
        job.complete({"order": 1})
        raise LookupError("password of the warehouse: 1234")

    async with playing(kind, tmp_path) as player:
        with pytest.raises(LookupError, match="1234"):
            await player.play(work)
        assert (await player.told())[-1] == ("FAILED", 60, "submit-order failed")
        assert not any("1234" in str(each) or "result" in str(each) for each in player.device.seen)


@both
@pytest.mark.parametrize("raises", [None, LookupError])
@pytest.mark.gen_test
async def test_a_reason_meant_for_the_user_is_told_whether_or_not_it_raises(
    raises: type[Exception] | None, kind: str, tmp_path: Path
) -> None:
    def work(job: Job) -> None:
        job.fail("the warehouse is closed")
        if raises is not None:
            raise raises

    async with playing(kind, tmp_path) as player:
        if raises is None:
            await player.play(work)
        else:
            with pytest.raises(raises):
                await player.play(work)
        assert await player.told() == [STARTED, ("FAILED", 0, "the warehouse is closed")]


@both
@pytest.mark.gen_test
async def test_what_is_said_last_of_the_end_holds(kind: str, tmp_path: Path) -> None:
    def failed_before(job: Job) -> None:
        job.fail("no")
        job.complete(message="yes")

    def postponed_before(job: Job) -> None:
        job.postpone("wait")
        job.complete(message="yes")

    def completed_before(job: Job) -> None:
        job.complete([1])
        job.postpone("wait")
        job.fail("no")

    async with playing(kind, tmp_path) as player:
        for number, work in enumerate((failed_before, postponed_before, completed_before)):
            await player.play(work, prefix=f"JOB_{number}")
        told = [each for each in await player.told() if each[0].endswith("ED")]
        assert told[1::2] == [
            ("0_COMPLETED", 100, "yes"),
            ("1_COMPLETED", 100, "yes"),
            ("2_FAILED", 0, "no"),
        ]


@pytest.mark.gen_test
async def test_progress_is_transient_and_replaces_what_a_slow_device_has_not_had() -> None:
    sent: list[tuple[str, bool | None, str | None, str | None]] = []

    async def emit(
        user: str,
        type: str,  # noqa: A002 - the name on the wire
        payload: Any,
        *,
        durable: bool | None,
        key: str | None = None,
        conflate: str | None = None,
    ) -> Emitted:
        assert (user, bool(payload)) == ("u", True)
        sent.append((type, durable, key, conflate))
        return Emitted("e:1", "", durable=bool(durable), duplicate=False, delivered=1)

    options = {"job_id": "7", "prefix": "JOB", "interval": 0.2, "on_error": None}
    async with AsyncJob(emit, "u", "submit-order", **options) as job:
        job.progress(1)
    assert sent == [
        ("JOB_STARTED", True, "JOB_STARTED:7", None),
        ("JOB_PROGRESS", False, None, "7"),
        ("JOB_COMPLETED", True, "JOB_COMPLETED:7", None),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.gen_test
async def test_whatever_ends_a_job_is_told(error: type[BaseException], tmp_path: Path) -> None:
    def work() -> None:
        with SyncEmitter(player.url, EMIT_TOKEN) as emitter:
            with pytest.raises(error), emitter.job("u", "submit-order", job_id="7"):
                raise error

    async with playing("sync", tmp_path) as player:
        await asyncio.to_thread(work)
        assert await player.told() == [STARTED, ("FAILED", 0, "submit-order was cancelled")]


@pytest.mark.gen_test
async def test_a_task_that_is_cancelled_tells_it_and_is_cancelled(tmp_path: Path) -> None:
    async with playing("async", tmp_path) as player, Emitter(player.url, EMIT_TOKEN) as emitter:
        inside = asyncio.Event()

        async def work() -> None:
            async with emitter.job("u", "submit-order", job_id="7"):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await player.told() == [STARTED, ("FAILED", 0, "submit-order was cancelled")]


@pytest.mark.gen_test
async def test_a_task_that_is_cancelled_while_it_enters_tells_the_end_of_what_it_began(
    tmp_path: Path,
) -> None:
    async with playing("async", tmp_path) as player, Emitter(player.url, EMIT_TOKEN) as emitter:

        async def work() -> None:
            async with emitter.job("u", "submit-order", job_id="7"):
                raise AssertionError("it was cancelled before")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await player.device.until("JOB_FAILED")
        assert [each["type"] for each in player.device.seen[-2:]] == ["JOB_STARTED", "JOB_FAILED"]


@pytest.mark.gen_test
async def test_a_task_that_is_cancelled_again_goes_and_its_end_is_told_all_the_same(
    tmp_path: Path,
) -> None:
    async with playing("async", tmp_path) as player, proxied(player.url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN) as emitter:
            inside = asyncio.Event()

            async def work() -> None:
                async with emitter.job("u", "submit-order", job_id="7"):
                    inside.set()
                    await asyncio.Event().wait()

            proxy.stall()
            task = asyncio.create_task(work())
            await inside.wait()
            await eventually(lambda: proxy.accepted)
            for _ in range(2):
                task.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)
            assert task.done()
            proxy.resume()
        assert await player.told() == [STARTED, ("FAILED", 0, "submit-order was cancelled")]


@both
@pytest.mark.gen_test
async def test_of_much_progress_the_first_and_the_last_are_told(kind: str, tmp_path: Path) -> None:
    async with playing(kind, tmp_path) as player:

        def work(job: Job) -> None:
            for step in range(2001):
                job.progress(step / 20, f"step {step}")

        # Where the job runs beside the loop a later one may be the first to be told.
        await player.play(work, interval=NEVER)
        told = await player.told()
        assert told[0] == STARTED
        assert told[-2] == ("PROGRESS", 100, "step 2000")
        assert told[-1] == ("COMPLETED", 100, "submit-order completed")
        assert len(told) <= 4


@both
@pytest.mark.gen_test
async def test_progress_that_comes_later_is_told_while_the_job_runs(
    kind: str, tmp_path: Path
) -> None:
    async with playing(kind, tmp_path) as player:
        loop = asyncio.get_running_loop()
        seen: list[int] = []

        async def until_seen() -> None:
            seen.append((await player.device.until("JOB_PROGRESS"))["payload"]["progress"])

        async with Emitter(player.url, EMIT_TOKEN) as emitter:
            if kind == "async":
                async with emitter.job("u", "submit-order", interval=0.01) as job:
                    for percent in (1, 2, 3):
                        job.progress(percent)
                        await until_seen()
                    # In any thread.
                    await asyncio.to_thread(job.progress, 4)
                    await until_seen()
            else:

                def work() -> None:
                    with SyncEmitter(player.url, EMIT_TOKEN) as synchronous:
                        with synchronous.job("u", "submit-order", interval=0.01) as job:
                            for percent in (1, 2, 3, 4):
                                job.progress(percent)
                                asyncio.run_coroutine_threadsafe(until_seen(), loop).result()

                await asyncio.to_thread(work)
        assert seen == [1, 2, 3, 4]


@pytest.mark.gen_test
async def test_within_an_interval_no_second_progress_is_told_before_the_end(
    tmp_path: Path,
) -> None:
    async with playing("async", tmp_path) as player, Emitter(player.url, EMIT_TOKEN) as emitter:
        async with emitter.job("u", "submit-order", interval=NEVER) as job:
            job.progress(10)
            await player.device.until("JOB_PROGRESS")
            job.progress(20)
            # What could be told by now would come before the last of these.
            for _ in range(3):
                await emitter.emit("u", "MARK")
        assert [(await player.device.next())["type"] for _ in range(5)] == [
            *["MARK"] * 3,
            "JOB_PROGRESS",
            "JOB_COMPLETED",
        ]


@both
@pytest.mark.gen_test
async def test_progress_said_after_the_end_is_not_told(kind: str, tmp_path: Path) -> None:
    jobs: list[Job] = []

    def work(job: Job) -> None:
        job.progress(10)
        jobs.append(job)

    async with playing(kind, tmp_path) as player:
        async with Emitter(player.url, EMIT_TOKEN) as emitter:
            async with emitter.job("u", "submit-order", job_id="7", interval=0.01) as job:
                job.progress(10)
                await player.device.until("JOB_PROGRESS")
            # The timer for the next one is still to come; this one, set later, ends after it.
            job.progress(20)
            await asyncio.sleep(0.02)
            assert await player.told() == [("COMPLETED", 100, "submit-order completed")]
        await player.play(work, prefix="JOB_2")
        jobs[0].progress(20)
        assert [each[1] for each in await player.told()] == [0, 10, 100]


@pytest.mark.gen_test
async def test_closing_waits_for_no_interval_of_a_job_that_goes_on(tmp_path: Path) -> None:
    async with playing("sync", tmp_path) as player:
        emitter = SyncEmitter(player.url, EMIT_TOKEN)
        inside, closed = threading.Event(), threading.Event()
        heard: list[ArchibaldError] = []

        def work() -> None:
            with emitter.job("u", "submit-order", interval=NEVER, on_error=heard.append) as job:
                job.progress(10)
                inside.set()
                closed.wait(PATIENCE.total_seconds())

        working = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.to_thread(inside.wait, PATIENCE.total_seconds())
        await player.device.until("JOB_PROGRESS")
        await asyncio.wait_for(asyncio.to_thread(emitter.close), PATIENCE.total_seconds())
        closed.set()
        await working
        assert [type(each) for each in heard] == [EmitterClosedError]


@pytest.mark.gen_test
async def test_what_is_emitted_in_the_block_comes_between_start_and_end(tmp_path: Path) -> None:
    async with playing("async", tmp_path) as player, Emitter(player.url, EMIT_TOKEN) as emitter:
        async with emitter.job("u", "submit-order"):
            await emitter.emit("u", "FILE_READY")
        assert [(await player.device.next())["type"] for _ in range(3)] == [
            "JOB_STARTED",
            "FILE_READY",
            "JOB_COMPLETED",
        ]

        def work() -> None:
            with SyncEmitter(player.url, EMIT_TOKEN) as synchronous:
                with synchronous.job("u", "submit-order"):
                    synchronous.emit("u", "FILE_READY")

        await asyncio.to_thread(work)
        assert [(await player.device.next())["type"] for _ in range(3)] == [
            "JOB_STARTED",
            "FILE_READY",
            "JOB_COMPLETED",
        ]


@both
@pytest.mark.gen_test
async def test_a_server_that_is_away_fails_no_job(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(kind, tmp_path) as player, proxied(player.url) as proxy:
        nobody = proxy.url
    done: list[Job] = []

    def work(job: Job) -> None:
        job.progress(50)
        done.append(job)

    heard: list[ArchibaldError] = []
    await player.play(work, url=nobody, retry_for=0.1, on_error=heard.append)
    assert [type(each) for each in heard] == [NotEmittedError] * 2
    assert [each.__notes__ for each in heard] == [
        ["JOB_STARTED of the job 7"],
        ["JOB_COMPLETED of the job 7"],
    ]
    with caplog.at_level(logging.WARNING, "archibald_rt.emitter"):
        await player.play(work, url=nobody, retry_for=0.1)
    assert len(done) == 2
    told = [each.getMessage() for each in caplog.records if each.name == "archibald_rt.emitter"]
    assert len(told) == 2
    assert told[1].startswith("JOB_COMPLETED of the job 7 was not told: not emitted: ")

    del heard[:]
    async with Emitter(nobody, EMIT_TOKEN, retry_for=0.1) as emitter:
        async with emitter.job("\ud800", "submit-order", on_error=heard.append) as job:
            job.progress(1)
    assert ["surrogates" in str(each) for each in heard] == [True] * 2

    def failing(_job: Job) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await player.play(failing, url=nobody, retry_for=0.1, on_error=heard.append)


@both
@pytest.mark.gen_test
async def test_who_wants_to_hear_of_it_may_raise_it(kind: str, tmp_path: Path) -> None:
    def raising(error: ArchibaldError) -> None:
        raise error

    async with playing(kind, tmp_path) as player:
        with pytest.raises(EmissionRefusedError):
            await player.play(lambda _: None, prefix="rt.", on_error=raising)


@both
@pytest.mark.gen_test
async def test_a_job_that_runs_again_under_its_id_tells_nothing_twice(
    kind: str, tmp_path: Path
) -> None:
    async with playing(kind, tmp_path) as player:
        heard: list[ArchibaldError] = []
        for _ in range(2):
            await player.play(lambda job: job.complete([1]), on_error=heard.append)
        assert heard == []
        # Its first end stands.
        await player.play(lambda job: job.complete([2]), on_error=heard.append)
        assert isinstance(heard[0], EmissionRefusedError)
        assert (heard[0].status, heard[0].field) == (409, "key")
        assert await player.told() == [STARTED, ("COMPLETED", 100, "submit-order completed")]


@both
@pytest.mark.gen_test
async def test_a_job_that_is_postponed_has_no_end_until_it_is_taken_up_again(
    kind: str, tmp_path: Path
) -> None:
    def postponing(job: Job) -> None:
        job.progress(30, "checking stock")
        job.postpone("trying again")
        raise LookupError

    async with playing(kind, tmp_path) as player:
        with pytest.raises(LookupError):
            await player.play(postponing, interval=NEVER)
        await player.play(lambda job: job.progress(60))
        told = await player.told()
        assert told[-3:] == [
            ("PROGRESS", 30, "trying again"),
            ("PROGRESS", 60, ""),
            ("COMPLETED", 100, "submit-order completed"),
        ]
        assert [each for each in told if each[0] != "PROGRESS"] == [STARTED, told[-1]]


@both
@pytest.mark.gen_test
async def test_progress_is_a_whole_number_of_percent(kind: str, tmp_path: Path) -> None:
    cases = {-1: 0, 33.4: 33, 100.01: 100, float("inf"): 100, float("nan"): 0}
    async with playing(kind, tmp_path) as player:
        for number, given in enumerate(cases):
            await player.play(
                lambda job, given=given: job.progress(given),  # type: ignore[misc]  # its default binds this one
                prefix=f"JOB_{number}",
            )
        told = [percent for kind, percent, _ in await player.told() if kind.endswith("PROGRESS")]
        assert told == list(cases.values())


@both
@pytest.mark.gen_test
async def test_what_json_has_not_is_an_error_of_who_says_it(kind: str, tmp_path: Path) -> None:
    async with playing(kind, tmp_path) as player:
        with pytest.raises(TypeError):
            await player.play(lambda job: job.complete(object()))
        assert await player.told() == [STARTED, ("FAILED", 0, "submit-order failed")]


class _Interrupted(Reports):
    """Reports that a signal handler interrupts at a bad moment, to tell progress itself."""

    left = 1

    @property
    def _latest(self) -> bytes | None:
        return self._kept

    @_latest.setter
    def _latest(self, payload: bytes | None) -> None:
        if payload is not None and self.left:
            self.left -= 1
            self.progress(b'"from the handler"')
        self._kept = payload


@pytest.mark.gen_test
async def test_a_signal_handler_may_tell_progress_while_progress_is_told() -> None:
    told = asyncio.Event()

    async def emit(*_given: object, **_options: object) -> Emitted:
        told.set()
        return Emitted(None, "", durable=False, duplicate=False, delivered=0)

    loop = asyncio.get_running_loop()
    reports = _Interrupted(loop, emit, "u", progress_type="P", conflate="7", interval=NEVER)
    # A daemon, so that one that waits for itself fails this test and holds up no other.
    telling = threading.Thread(target=reports.progress, args=[b'"first"'], daemon=True)
    telling.start()
    await asyncio.to_thread(telling.join, PATIENCE.total_seconds())
    assert not telling.is_alive()
    assert reports.left == 0
    async with asyncio.timeout(PATIENCE.total_seconds()):
        await told.wait()


@both
@pytest.mark.gen_test
async def test_a_message_that_is_no_utf_8_hides_no_end_and_no_exception(
    kind: str, tmp_path: Path
) -> None:
    def failing(job: Job) -> None:
        job.progress(10, "caf\udce9.txt")
        job.fail("caf\udce9.txt")
        raise ConnectionResetError

    async with playing(kind, tmp_path) as player:
        with pytest.raises(ConnectionResetError):
            await player.play(failing)
        await player.play(lambda job: job.complete(message="caf\udce9.txt"))
        assert await player.told() == [
            STARTED,
            ("PROGRESS", 10, "caf?.txt"),
            ("FAILED", 10, "caf?.txt"),
            ("COMPLETED", 100, "caf?.txt"),
        ]


@both
@pytest.mark.gen_test
async def test_a_message_that_is_no_text_is_an_error_where_it_is_said(
    kind: str, tmp_path: Path
) -> None:
    def telling(job: Job) -> None:
        for say in (job.fail, job.postpone, lambda each: job.complete(message=each)):
            with pytest.raises(TypeError, match="text, not ValueError"):
                say(ValueError("internal"))  # type: ignore[arg-type]  # as a careless caller does

    async with playing(kind, tmp_path) as player:
        await player.play(telling)
        assert [each[0] for each in await player.told()] == ["STARTED", "COMPLETED"]


@pytest.mark.gen_test
async def test_outside_its_block_a_job_says_nothing(tmp_path: Path) -> None:
    async with playing("async", tmp_path) as player, Emitter(player.url, EMIT_TOKEN) as emitter:
        job = emitter.job("u", "submit-order", job_id="7")
        job.progress(10)
        async with job:
            pass
        job.progress(20)
        with pytest.raises(RuntimeError, match="once"):
            async with job:
                pass
        assert [each[0] for each in await player.told()] == ["STARTED", "COMPLETED"]
        with pytest.raises(RuntimeError, match="async with"):
            Emitter(player.url, EMIT_TOKEN).job("u", "submit-order")
        for wrong in ("", "x" * 120):
            with pytest.raises(ValueError, match="id"):
                emitter.job("u", "submit-order", job_id=wrong)


@pytest.mark.gen_test
async def test_a_job_of_a_closed_emitter_runs_and_is_not_told(tmp_path: Path) -> None:
    async with playing("async", tmp_path) as player:
        heard: list[ArchibaldError] = []
        async with Emitter(player.url, EMIT_TOKEN) as emitter:
            pass
        async with emitter.job("u", "submit-order", on_error=heard.append):
            pass
        synchronous = SyncEmitter(player.url, EMIT_TOKEN)
        synchronous.close()
        with synchronous.job("u", "submit-order", on_error=heard.append) as job:
            job.progress(1)
        assert {type(each) for each in heard} == {EmitterClosedError}
        assert len(heard) == 3
        synchronous = SyncEmitter(player.url, EMIT_TOKEN)

        def closing_inside() -> None:
            with synchronous.job("u", "submit-order", job_id="7", on_error=heard.append) as job:
                synchronous.close()
                job.progress(1)

        await asyncio.to_thread(closing_inside)
        assert len(heard) == 4
        assert [each[0] for each in await player.told()] == ["STARTED"]
