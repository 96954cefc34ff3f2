"""Log lines that a flood doesn't multiply: ``tally``."""

import asyncio
import logging
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from archibald_rt.tally import Tally
from support import eventually


def tally(every: float) -> Tally:
    return Tally(structlog.stdlib.get_logger("test"), "too many", every=every)


def counts(logs: list[Any]) -> list[int]:
    return [entry["count"] for entry in logs]


@pytest.mark.gen_test
async def test_the_first_is_said_at_once_and_of_a_flood_only_the_number() -> None:
    with capture_logs() as logs:
        it = tally(3600)
        for number in range(1000):
            it.note(user=number)
        assert [(entry["event"], entry["count"], entry["user"]) for entry in logs] == [
            ("too many", 1, 0)
        ]
        it.close()
        it.close()
    assert counts(logs) == [1, 999]
    assert logs[1]["user"] == 999
    assert logs[1]["log_level"] == "warning"


@pytest.mark.gen_test
async def test_the_first_few_may_have_a_line_each() -> None:
    with capture_logs() as logs:
        it = Tally(
            structlog.stdlib.get_logger("test"), "x", every=0.2, at_once=3, level=logging.INFO
        )
        for number in range(10):
            it.note(user=number)
        assert [(entry["count"], entry["user"]) for entry in logs] == [(1, 0), (1, 1), (1, 2)]
        assert {entry["log_level"] for entry in logs} == {"info"}
        await eventually(lambda: len(logs) == 4)
        assert logs[3]["count"] == 7
        # The line that said so is one of the next few.
        for _ in range(10):
            it.note()
        assert counts(logs[4:]) == [1, 1]
        it.close()


@pytest.mark.gen_test
async def test_what_was_not_said_is_said_after_the_pause_without_another_one() -> None:
    with capture_logs() as logs:
        it = tally(0.1)
        for _ in range(5):
            it.note()
        await eventually(lambda: len(logs) == 2)
        assert counts(logs) == [1, 4]
        it.close()


@pytest.mark.gen_test
async def test_after_a_quiet_pause_the_next_is_said_at_once_again() -> None:
    with capture_logs() as logs:
        it = tally(0.05)
        it.note()
        # Two pauses: in the first nothing is left to say, and then it waits for nothing.
        await asyncio.get_running_loop().create_task(_two_pauses())
        it.note()
        assert counts(logs) == [1, 1]
        it.close()


async def _two_pauses() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, over.set)
    await over.wait()


def test_closing_what_noted_nothing_says_nothing() -> None:
    with capture_logs() as logs:
        tally(1).close()
    assert logs == []
