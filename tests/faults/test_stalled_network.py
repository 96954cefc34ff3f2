"""A network that holds everything up for a while, in both directions or only to the devices."""

import asyncio
import random
from pathlib import Path

import pytest

from archibald_rt.errors import CloseCode
from faults.connections import ABNORMAL
from faults.crowd import Crowd, crowd
from faults.proxy import Proxy, proxied
from faults.report import Report, times
from faults.served import Process, served
from support import eventually

STALL_TIMEOUT = 3.0
DEVICES = 8
OWED = 300 * 1024
"""How many bytes come for each device while the network stalls: more than the kernel takes."""


@pytest.mark.fault("network stalls")
@pytest.mark.gen_test(timeout=600)
async def test_devices_behind_a_network_that_stalls_get_everything_in_order(
    tmp_path: Path, report: Report
) -> None:
    chance = random.Random(1)  # noqa: S311 - delays that can be repeated, no secret
    rounds = max(2, times(2))
    kept = 0
    async with (
        served(tmp_path, {"delivery.stall_timeout": f"{STALL_TIMEOUT:g}s"}) as (service, process),
        proxied(service.public_url) as proxy,
        crowd(service, lambda: proxy.url, users=DEVICES) as those,
    ):
        proxy.delay = lambda: chance.choice([0.0, 0.0, 0.0, 0.01])
        await those.emit()
        await eventually(those.up_to_date)
        for number in range(rounds):
            both_ways = number % 2 == 0
            kept += await _stall_shortly(those, proxy, both_ways=both_ways)
            await _stall_for_long(those, proxy, process, both_ways=both_ways)
    assert set(those.codes) == {CloseCode.STALLED, ABNORMAL}
    report.note(
        "network stalls",
        how="a proxy reads and forwards nothing (both ways, or only to the devices) "
        "for a quarter of `stall_timeout`, then for longer",
        tried=f"{rounds} short and {rounds} long stalls of {DEVICES} devices",
        checked="the short ones end nobody; after the long ones all come back by cursor; "
        "every event once, in order, `prev` unbroken",
        lost=those.account.lost(service.log, those.places),
        figures=f"{those.account.count} events; ended with 4004: {those.codes[CloseCode.STALLED]}, "
        f"1006: {those.codes[ABNORMAL]}",
    )
    assert kept, "no stall was short"


async def _stall_shortly(those: Crowd, proxy: Proxy, *, both_ways: bool) -> bool:
    """Stall for less than the bound, which ends nobody; says whether it was less."""
    before, began = those.ends, asyncio.get_running_loop().time()
    proxy.stall(up=both_ways)
    await those.emit(OWED)
    await asyncio.sleep(STALL_TIMEOUT / 4)
    proxy.resume()
    await eventually(those.up_to_date)
    # A machine that was held up itself has made it a long stall.
    short = asyncio.get_running_loop().time() - began < STALL_TIMEOUT
    assert those.ends == before or not short
    return short


async def _stall_for_long(those: Crowd, proxy: Proxy, process: Process, *, both_ways: bool) -> None:
    """Stall until the server has ended all, and in both directions until it gives up telling."""
    before, descriptors = those.ends, process.descriptors()
    proxy.stall(up=both_ways)
    await those.emit(OWED)
    await eventually(those.nobody)
    if both_ways:
        await eventually(lambda: process.descriptors() == descriptors - DEVICES)
    proxy.resume()
    await eventually(lambda: those.ends == before + DEVICES)
    await those.emit()
    await eventually(those.up_to_date)
