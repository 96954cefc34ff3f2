"""Pruning at intervals, as devices and emitters see it: ``upkeep``."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from archibald_rt.errors import DrainingError, LogBrokenError, LogUnavailableError
from archibald_rt.eventlog import Retention, Turn
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.revocations import Revocations
from archibald_rt.upkeep import HURRY, PAUSE, Upkeep
from support import Harness, eventually, harness

OFTEN = {"log.prune_every": "50ms"}


def retained(at: Harness) -> int:
    """Return how many events the log's file holds."""
    with closing(sqlite3.connect(at.settings.log.path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    return count


def numbers(count: int, user: str = "ann") -> list[dict[str, object]]:
    return [{"userId": user, "type": "N", "payload": number} for number in range(count)]


async def taken(step: Step) -> int:
    return await step()


def upkeep_of(
    log: object, turn: Turn, *, every: float, broken: Callable[[BaseException], None] = print
) -> Upkeep:
    return Upkeep(
        log,  # type: ignore[arg-type]  # or what stands in for one
        turn,
        revocations=Revocations(),
        retention=Retention(max_events_per_user=1),
        every=every,
        forget=lambda: None,
        broken=broken,
    )


@pytest.mark.gen_test
async def test_a_device_that_comes_back_is_told_what_was_pruned_and_gets_what_is_left(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {**OFTEN, "log.max_events_per_user": "3"}) as at:
        async with await at.connect("ann") as device:
            start = (await device.next())["payload"]["cursor"]
        results = (await at.emit(numbers(10)))["results"]
        await eventually(lambda: retained(at) == 3)
        async with await at.connect("ann", lastEventId=start) as device:
            welcome, gap, *events, live = await device.take(6)
            assert welcome["payload"]["cursor"] == start
            assert gap["payload"] == {
                "requested": start,
                "missingThrough": results[6]["id"],
                "reason": "expired",
            }
            assert [event["payload"] for event in events] == [7, 8, 9]
            assert events[0]["prev"] == start
            assert live["payload"]["replayed"] == 3


@pytest.mark.gen_test
async def test_a_live_device_hears_nothing_of_pruning(tmp_path: Path) -> None:
    async with harness(tmp_path, {**OFTEN, "log.max_age": "1ms"}) as at:
        async with await at.connect("ann") as device:
            await device.until("rt.live")
            for number in range(3):
                await at.emit({"userId": "ann", "type": "N", "payload": number})
                await eventually(lambda: retained(at) == 0)
            assert [event["payload"] for event in await device.take(3)] == [0, 1, 2]
            last = device.seen[-1]["id"]
        async with await at.connect("ann", lastEventId=last) as device:
            assert [message["type"] for message in await device.take(2)] == [
                "rt.welcome",
                "rt.live",
            ]


@pytest.mark.gen_test
async def test_the_log_is_pruned_as_soon_as_the_server_starts(tmp_path: Path) -> None:
    async with harness(tmp_path, {"log.prune_every": "1h"}) as at:
        await at.emit(numbers(10))
        assert retained(at) == 10
    async with harness(tmp_path, {"log.prune_every": "1h", "log.max_events_per_user": "4"}) as at:
        await eventually(lambda: retained(at) == 4)


@pytest.mark.gen_test
async def test_an_interval_of_zero_turns_pruning_off(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "events.db") as log:
        upkeep = upkeep_of(log, taken, every=0)
        await asyncio.wait_for(upkeep.run(), 20)
        assert upkeep.last_run is None


@pytest.mark.gen_test
async def test_the_figures_say_what_was_pruned_and_how_large_the_log_is(tmp_path: Path) -> None:
    async with harness(tmp_path, {**OFTEN, "log.max_events_per_user": "3"}) as at:
        await at.emit(numbers(10))

        async def pruned() -> bool:
            return bool((await at.stats())["log"]["pruned"] == 7)

        await eventually(pruned)
        figures = (await at.stats())["log"]
        assert figures["bytes"] > 4096
        assert figures["erased"] == 0


@pytest.mark.gen_test
async def test_a_run_that_failed_for_a_passing_reason_is_followed_by_another(
    tmp_path: Path,
) -> None:
    failures: list[Exception] = [LogUnavailableError("the disk is full")]

    async def turn(step: Step) -> int:
        if failures:
            raise failures.pop()
        return await step()

    async with harness(tmp_path, {"log.prune_every": "0s"}) as at:
        await at.emit(numbers(3))
    async with open_sqlite(tmp_path / "events.db") as log:
        upkeep = upkeep_of(log, turn, every=0.01)
        with structlog.testing.capture_logs() as lines:
            task = asyncio.ensure_future(upkeep.run())
            await eventually(lambda: upkeep.last_run is not None)
            task.cancel()
        assert [line["event"] for line in lines] == [
            "pruning failed, trying again later",
            "pruned",
        ]
        assert lines[0]["reason"] == "the disk is full"
        assert upkeep.pruned == 2


@pytest.mark.parametrize("error", [DrainingError("going away"), LogBrokenError("damaged")])
@pytest.mark.gen_test
async def test_it_ends_with_the_server_and_has_it_ended_by_a_broken_log(
    tmp_path: Path, error: Exception
) -> None:
    async def turn(_step: Step) -> int:
        raise error

    async with harness(tmp_path, {"log.prune_every": "0s"}) as at:
        await at.emit(numbers(2))
    told: list[BaseException] = []
    async with open_sqlite(tmp_path / "events.db") as log:
        upkeep = upkeep_of(log, turn, every=0.01, broken=told.append)
        await asyncio.wait_for(upkeep.run(), 20)
    assert told == ([error] if isinstance(error, LogBrokenError) else [])


class SlowSteps:
    """A log that takes its time to delete, while events may come."""

    def __init__(self, *, grows: bool) -> None:
        self.head = 0
        self._grows = grows
        self.began: list[float] = []
        self.ended: list[float] = []

    async def forget_revoked(self, _expired_before: int, _turn: Turn) -> None:
        pass

    async def prune(
        self, _retention: Retention, turn: Turn, _deleted: Callable[[int], None]
    ) -> None:
        for _ in range(3):
            self.head += self._grows
            await turn(self.step)

    async def step(self) -> int:
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        await asyncio.sleep(0.02)
        self.ended.append(loop.time())
        return 0


@pytest.mark.parametrize(
    ("every", "grows", "factor"),
    [(60, False, PAUSE), (60, True, PAUSE), (0.001, False, PAUSE), (0.001, True, HURRY)],
)
@pytest.mark.gen_test
async def test_after_a_step_the_log_is_left_to_others_for_longer_than_it_took(
    every: float,
    grows: bool,  # noqa: FBT001 - a column of the table
    factor: float,
) -> None:
    log = SlowSteps(grows=grows)
    upkeep = upkeep_of(log, taken, every=every)
    task = asyncio.ensure_future(upkeep.run())
    await eventually(lambda: len(log.ended) >= 3)
    task.cancel()
    pauses = [
        (began - ended) / (ended - before)
        for before, ended, began in zip(log.began, log.ended, log.began[1:], strict=False)
    ]
    assert all(pause > factor * 0.9 for pause in pauses[:2])
    # In a hurry it is much shorter.
    assert (min(pauses[:2]) < PAUSE / 2) == (factor == HURRY)
