"""Slow devices whose events are pruned before they are read."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from faults.backends import stored_in
from faults.devices import Follower, seq_of
from faults.gauge import gauge
from faults.report import EFFORT, Report
from faults.served import served
from support import eventually

USER = "busy"
SLOW = 20
KEPT = 100
"""How many events of the user retention leaves."""

EVENTS = 500
"""Far more than waits for a device that doesn't read."""

PAYLOAD = "x" * 4000
STALL_TIMEOUT = 30.0 if EFFORT > 1 else 2.0
"""The default, or where there is less time a shorter one."""

BUFFER = 4096


@pytest.mark.fault("slow devices are pruned past")
@pytest.mark.gen_test(timeout=300)
async def test_devices_that_are_pruned_past_are_told_once_and_get_what_is_left(
    tmp_path: Path, report: Report
) -> None:
    wrong, missing = Counter[str](), Counter[bool]()
    for ended in (False, True):
        folder = tmp_path / f"ended-{ended}"
        folder.mkdir()
        lost, wrong_there = await _pruned_past(folder, ended=ended)
        missing[ended] = lost
        wrong += wrong_there
    report.note(
        "slow devices are pruned past",
        how=f"{SLOW} devices stop reading, {EVENTS} events of 4 KB come, retention leaves {KEPT} "
        "of them, then they read on",
        tried=f"once while they stay connected, once after they were ended for it "
        f"(`stall_timeout` {STALL_TIMEOUT:g} s)",
        checked="each is told by `rt.gap`, once, where it stands and how far, before any later "
        "event, and not again; what it was not told of it gets, once, in order",
        lost=wrong.total(),
        figures=f"told of {missing[False]} events, and of {missing[True]} by those that were ended",
    )


async def _pruned_past(folder: Path, *, ended: bool) -> tuple[int, Counter[str]]:
    """Have devices pruned past; returns how much they were told is missing, and what is wrong."""
    settings = {
        "log.max_events_per_user": str(KEPT),
        "log.prune_every": "500ms",
        "delivery.stall_timeout": f"{STALL_TIMEOUT:g}s" if ended else "10m",
    }
    async with (
        served(folder, settings) as (service, _),
        gauge(service, USER) as reader,
        asyncio.TaskGroup() as group,
    ):
        devices = [
            Follower(lambda: service.public_url, USER, cursor=None, buffer=BUFFER)
            for _ in range(SLOW)
        ]
        tasks = [group.create_task(device.follow()) for device in devices]
        places = [device.place for device in devices]
        await eventually(lambda: all(place.live for place in places))
        stopped = [device.connection for device in devices if device.connection is not None]
        for connection in stopped:
            connection.pause()
        for _ in range(EVENTS):
            await reader.emit(PAYLOAD)
        if ended:
            await eventually(reader.alone, within=3 * STALL_TIMEOUT)
        # What is left then is what is left: nothing is emitted any more.
        await eventually(lambda: len(stored_in(service.log)[USER]) == KEPT)
        for connection in stopped:
            connection.resume()
        answered = reader.account.answered[USER]
        await eventually(lambda: all(place.seqs[-1:] == answered[-1:] for place in places))
        assert all(device.codes.total() == ended for device in devices)
        # Who has everything is told nothing, however much is gone.
        for device in devices:
            assert device.connection is not None
            device.connection.drop()
        await eventually(
            lambda: all(place.welcomes == ended + 2 and place.live for place in places)
        )
        for task in tasks:
            task.cancel()
    wrong = Counter[str]()
    told = 0
    wrong["not retained"] = stored_in(service.log)[USER] != answered[-KEPT:]
    wrong["the reader's"] = reader.place.seqs != answered or bool(reader.place.gaps)
    for place in places:
        gone = set[int]()
        for requested, through, reason in place.gaps:
            last = seq_of(through or requested)
            gone.update(range(seq_of(requested) + 1, last + 1))
            wrong["told otherwise"] += reason != "expired" or last != answered[-KEPT - 1]
        untold = [seq for seq in answered if seq not in gone]
        told += len(answered) - len(untold)
        wrong["out of place"] += len(place.faults)
        wrong["gaps"] += abs(len(place.gaps) - 1)
        wrong["missing untold"] += len(set(untold).difference(place.seqs))
        wrong["got otherwise"] += place.seqs != untold
    return told, +wrong
