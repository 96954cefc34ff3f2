"""A day's worth of connects and drops, squeezed into a minute."""

import asyncio
import gc
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from archibald_rt.eventlog import Page
from archibald_rt.eventstream import EventStream
from archibald_rt.handlers.realtime import RealtimeHandler
from archibald_rt.handlers.sse import EventsHandler
from archibald_rt.outbox import Outbox
from archibald_rt.session import Session
from archibald_rt.socketdevice import SocketDevice
from archibald_rt.streamdevice import StreamDevice
from archibald_rt.websocket import Connection
from faults.backends import BackEnd
from faults.churn import Churn
from faults.gauge import gauge, shown
from faults.report import Report, times
from faults.served import MIB, served
from support import eventually, harness

CONNECTS = min(20_000, times(4000))
WARM_UP = 2000
"""How many connects come before the first look at the server's memory."""

BACKLOG = 300
"""How many events there are for a device that begins at the earliest."""

GROWTH = 4 * MIB
"""By how much the memory may differ from one look to the next: an allocator's own ways."""


@pytest.mark.fault("a day of connects and drops")
@pytest.mark.gen_test(timeout=300)
async def test_a_day_of_connects_and_drops_leaves_nothing_behind(
    tmp_path: Path, report: Report
) -> None:
    chance = random.Random(7)  # noqa: S311 - a day that can be repeated, no secret
    async with (
        served(tmp_path) as (service, process),
        BackEnd(service.internal_url) as back_end,
        gauge(service, "steady") as steady,
    ):
        await back_end.emit(
            [{"userId": "behind", "type": "E", "payload": "x" * 500} for _ in range(BACKLOG)]
        )

        churn = Churn(service.public_url, "behind", chance)
        await churn.visits(WARM_UP)
        await steady.emit()
        await eventually(steady.alone)
        memory, descriptors = process.memory(), process.descriptors()
        churn.done.clear()
        began = time.monotonic()
        day = asyncio.create_task(churn.visits(CONNECTS))
        latencies = await steady.during(lambda: not day.done())
        await day
        took = time.monotonic() - began
        await eventually(steady.alone)
        await eventually(lambda: process.descriptors() <= descriptors)
        grown = process.memory() - memory
    assert not churn.wrong
    assert grown < GROWTH
    ways = ", ".join(f"{count} {way}" for way, count in sorted(churn.done.items()))
    report.note(
        "a day of connects and drops",
        how="devices come in every way and leave in every way, 40 at a time",
        tried=f"{churn.done.total()} connects in {took:.0f} s: {ways}",
        checked="the server has no more descriptors than before, and no more memory; within one "
        "process: no task and no object of a connection is left; a device that stays gets "
        "everything meanwhile",
        lost=steady.account.lost(service.log, [steady.place]),
        figures=f"memory grew by {grown / MIB:.1f} MiB from {memory / MIB:.0f} MiB after "
        f"{WARM_UP} connects; {len(latencies)} events to a device that stays took "
        f"{shown(latencies)}",
    )


@pytest.mark.gen_test
async def test_connects_and_drops_leave_no_task_and_no_object_behind(tmp_path: Path) -> None:
    chance = random.Random(8)  # noqa: S311 - as above
    kinds = (
        *(Session, Outbox, Page),
        *(RealtimeHandler, SocketDevice, Connection),
        *(EventsHandler, StreamDevice, EventStream),
    )

    def kept() -> Counter[type]:
        gc.collect()
        return Counter(type(each) for each in gc.get_objects() if isinstance(each, kinds))

    unlimited = {"delivery.devices_per_user": "0", "delivery.connects_per_user_per_minute": "0"}
    async with (
        harness(tmp_path, unlimited) as server,
        BackEnd(server.server.internal_url) as back_end,
    ):
        await back_end.emit(
            [{"userId": "behind", "type": "E", "payload": "x" * 500} for _ in range(BACKLOG)]
        )
        churn = Churn(server.server.public_url, "behind", chance)
        before = len(asyncio.all_tasks())
        await churn.visits(times(300))
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        await eventually(lambda: not kept())
    assert not churn.wrong
