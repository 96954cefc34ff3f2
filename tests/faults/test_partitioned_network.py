"""A network that falls silent both ways, without a word to either side."""

import asyncio
from pathlib import Path

import pytest

from faults.crowd import Crowd, crowd
from faults.proxy import Proxy, proxied
from faults.report import Report, times
from faults.served import MIB, served
from support import eventually

HEARTBEAT = 0.5
STALL_TIMEOUT = 2.0
DEVICES = 8
LOAD = MIB
"""How many bytes come for each device while the network is cut."""


@pytest.mark.fault("network partitions")
@pytest.mark.gen_test(timeout=600)
async def test_devices_behind_a_partition_are_noticed_and_miss_nothing(
    tmp_path: Path, report: Report
) -> None:
    rounds = max(2, times(2))
    settings = {
        "delivery.heartbeat": f"{HEARTBEAT * 1000:.0f}ms",
        "delivery.stall_timeout": f"{STALL_TIMEOUT:g}s",
    }
    noticed: dict[bool, list[float]] = {True: [], False: []}
    grown = 0
    async with (
        served(tmp_path, settings) as (service, process),
        proxied(service.public_url) as proxy,
        crowd(service, lambda: proxy.url, users=DEVICES, silence=4 * HEARTBEAT) as those,
    ):
        await those.emit(LOAD)
        await eventually(those.up_to_date)
        for number in range(rounds):
            swallows = number % 2 == 0
            resident, descriptors = process.forget_peak(), process.descriptors()
            noticed[swallows].append(await _cut(those, proxy, swallows=swallows))
            # What nobody takes is in the log and nowhere else.
            await those.emit(LOAD)
            assert (await those.stats())["outboxBytes"] == 0
            await eventually(lambda high=descriptors: process.descriptors() <= high - DEVICES)  # type: ignore[misc]  # its default binds this figure
            grown = max(grown, process.peak() - resident)
            # Whoever tries meanwhile is taken by the network, and hears nothing.
            tries = proxy.accepted
            await eventually(lambda tries=tries: proxy.accepted > tries)  # type: ignore[misc]  # as above
            proxy.heal()
            await those.emit()
            await eventually(those.up_to_date)
    assert set(those.codes) == {1006}
    # Each may have an outbox and a page of its own, and each request a body.
    assert grown < DEVICES * 2 * MIB + 16 * MIB
    report.note(
        "network partitions",
        how="a proxy swallows all that either side sends, or takes nothing more; "
        "new connections are accepted and mute",
        tried=f"{rounds} partitions of {DEVICES} devices, {LOAD // MIB} MiB emitted to each "
        "in each of them",
        checked="the server notices by its heartbeat, or by its `stall_timeout` where it owes "
        "something, and frees what it held; devices come back by cursor; "
        "every event once, in order, `prev` unbroken",
        lost=those.account.lost(service.log, those.places),
        figures=f"noticed after {max(noticed[True]):.1f} s (heartbeat {HEARTBEAT} s) and "
        f"{max(noticed[False]):.1f} s (`stall_timeout` {STALL_TIMEOUT:g} s) at most; "
        f"memory grew by {grown / MIB:.0f} MiB at most",
    )


async def _cut(those: Crowd, proxy: Proxy, *, swallows: bool) -> float:
    """Cut the network under load; returns after how many seconds the server has noticed."""
    began = asyncio.get_running_loop().time()
    proxy.partition(swallow=swallows)
    if swallows:
        await those.emit()
    else:
        # More than the network takes, so that something is owed.
        await those.emit(LOAD)
    await eventually(those.nobody)
    return asyncio.get_running_loop().time() - began
