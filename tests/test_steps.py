"""The line of deletions: ``steps``."""

import asyncio

import pytest

from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.steps import Steps


async def two() -> int:
    return 2


async def unavailable() -> int:
    raise LogUnavailableError("the disk is full")


async def broken() -> int:
    raise LogBrokenError("a page is damaged")


@pytest.mark.gen_test
async def test_steps_are_taken_one_at_a_time_in_order() -> None:
    steps = Steps()
    assert not steps
    first, second = steps.add(two), steps.add(two)
    await steps.take()
    assert first.result() == 2
    assert not second.done()
    assert steps
    await steps.take()
    assert second.result() == 2
    assert not steps


@pytest.mark.gen_test
async def test_a_step_that_nobody_waits_for_any_more_is_not_run() -> None:
    ran = []

    async def step() -> int:
        ran.append(1)
        return 0

    steps = Steps()
    steps.add(step).cancel()
    await steps.take()
    assert not ran


@pytest.mark.gen_test
async def test_a_failure_that_passes_is_told_to_whoever_asked_and_to_nobody_else() -> None:
    steps = Steps()
    done = steps.add(unavailable)
    await steps.take()
    with pytest.raises(LogUnavailableError, match="the disk is full"):
        await done


@pytest.mark.gen_test
async def test_a_log_that_broke_is_told_to_both() -> None:
    steps = Steps()
    done = steps.add(broken)
    with pytest.raises(LogBrokenError):
        await steps.take()
    with pytest.raises(LogBrokenError):
        await done


@pytest.mark.gen_test
async def test_a_step_that_was_cancelled_while_it_ran_does_no_harm() -> None:
    gate = asyncio.Event()

    async def step() -> int:
        await gate.wait()
        return 1

    steps = Steps()
    done = steps.add(step)
    taking = asyncio.ensure_future(steps.take())
    await asyncio.sleep(0)
    done.cancel()
    gate.set()
    await taking
    assert not steps


@pytest.mark.gen_test
async def test_steps_that_are_given_up_are_not_run() -> None:
    steps = Steps()
    done = steps.add(two)
    steps.give_up()
    assert not steps
    with pytest.raises(LogUnavailableError, match="going away"):
        await done
