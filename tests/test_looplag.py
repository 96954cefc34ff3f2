"""How late the loop is: ``looplag``."""

import asyncio
import time

import pytest

from archibald_rt.looplag import LoopLag
from support import eventually


@pytest.mark.gen_test
async def test_a_step_that_holds_the_loop_shows() -> None:
    lag = LoopLag()
    looking = asyncio.ensure_future(lag.run(0.01))

    def looks() -> int:
        return lag.lag.cumulative()[-1][1]

    await eventually(lambda: looks() > 0)
    before = lag.lag.total
    time.sleep(0.3)  # noqa: ASYNC251 - what holds the loop
    held = looks()
    await eventually(lambda: looks() > held)
    assert lag.lag.total - before > 0.2
    looking.cancel()
    await asyncio.wait([looking])
