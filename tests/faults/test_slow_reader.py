"""A healthy device on a line of 4 KB a second."""

import asyncio
import time
from pathlib import Path

import pytest

from faults.backends import Account, BackEnd
from faults.crowd import crowd
from faults.devices import Follower
from faults.proxy import BUFFER, CHUNK, proxied
from faults.report import EFFORT, Report
from faults.served import served
from support import eventually

RATE = 4000
PIECE = 400
"""How many bytes of these come at a time."""

THOROUGH = EFFORT > 1
SECONDS = 180 if THOROUGH else 20
STALL_TIMEOUT = 30 if THOROUGH else 4
"""The default, or a shorter one."""

RECEIVE_BUFFER = None if THOROUGH else BUFFER
"""How large the line's receive buffer is, None as the system has it.

What was acknowledged and waits there shows no progress until most of it is read: with the usual
128 KiB and 4 KB/s that takes 31 s.
"""

AHEAD = 400
"""How many events of 1 KB it is kept behind: far more than the kernel takes."""

USER = "slow"


@pytest.mark.fault("a line of 4 KB/s")
@pytest.mark.gen_test(timeout=SECONDS + 240)
async def test_a_device_on_a_slow_line_stays_connected_and_gets_everything(
    tmp_path: Path, report: Report
) -> None:
    account = Account()
    least = 2**62
    async with (
        served(tmp_path, {"delivery.stall_timeout": f"{STALL_TIMEOUT}s"}) as (service, _),
        proxied(service.public_url, buffer=RECEIVE_BUFFER) as line,
        BackEnd(service.internal_url) as back_end,
        crowd(service, lambda: service.public_url, users=20) as others,
        asyncio.TaskGroup() as group,
    ):

        async def emit(count: int) -> None:
            emissions = [{"userId": USER, "type": "E", "payload": "x" * 900} for _ in range(count)]
            account.note([USER] * count, await back_end.emit(emissions))

        device = Follower(lambda: line.url, USER)
        following = group.create_task(device.follow())
        await eventually(lambda: device.place.live)
        line.chunk, line.delay = PIECE, lambda: PIECE / RATE
        began = time.monotonic()
        while time.monotonic() < began + SECONDS:
            if (few := AHEAD + len(device.place.seqs) - account.count) > 0:
                await emit(few)
            for _ in range(10):
                await others.emit(20_000)
                await asyncio.sleep(0.1)
            (connection,) = [
                each
                for each in (await back_end.get("/internal/connections"))["connections"]
                if each["userId"] == USER
            ]
            least = min(least, connection["outboxBytes"])
        slow = len(device.place.seqs)
        line.chunk, line.delay = CHUNK, lambda: 0.0
        await eventually(lambda: device.place.seqs[-1] == account.answered[USER][-1])
        await eventually(others.up_to_date)
        following.cancel()
    assert device.codes.total() == 0, "it was ended"
    assert device.place.welcomes == 1
    assert least > 0, "nothing was owed for a while"
    assert slow * 1000 < 2 * RATE * SECONDS, "the line was not slow"
    report.note(
        "a line of 4 KB/s",
        how=f"a proxy reads {PIECE} bytes every {PIECE * 1000 // RATE} ms into a receive buffer "
        f"{'as the system has it' if RECEIVE_BUFFER is None else 'of a few KiB'}; "
        f"`stall_timeout` {STALL_TIMEOUT} s",
        tried=f"one device for {SECONDS} s, owed something all the time, beside 20 others under "
        "load",
        checked="it is never ended; everything once, in order, `prev` unbroken",
        lost=account.lost(service.log, [device.place])
        + others.account.lost(service.log, others.places),
        figures=f"{slow} events of 1 KB meanwhile; {others.account.count} events to the others",
    )
