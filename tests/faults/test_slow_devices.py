"""Devices that don't read, beside one of the same user that does."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from archibald_rt.errors import CloseCode
from faults.connections import ABNORMAL, connect
from faults.devices import Follower, Place
from faults.gauge import gauge, percentile, shown
from faults.report import EFFORT, Report
from faults.served import MIB, served
from support import eventually, token

SLOW = 20
OWED = (360 if EFFORT > 1 else 120) * MIB
"""How much the slow devices are owed, all together."""

PAYLOAD = "x" * 4000
EVENTS = OWED // SLOW // len(PAYLOAD)
HELD_UP = 2.0
"""In seconds; what waits for a device that never reads takes minutes."""

STALL_TIMEOUT = 30.0 if EFFORT > 1 else 2.0
"""The default, or where there is less time a shorter one."""

ENDED_EVENTS = 500
BUFFER = 4096
"""The receive buffer of those that are ended: it soon shows that they don't read."""


@pytest.mark.fault("devices that never read")
@pytest.mark.gen_test(timeout=300)
async def test_devices_that_never_read_cost_little_and_delay_nobody(
    tmp_path: Path, report: Report
) -> None:
    user = "busy"
    settings = {"delivery.stall_timeout": "10m", "delivery.devices_per_user": "32"}
    places = [Place(user, None) for _ in range(SLOW)]
    async with served(tmp_path, settings) as (service, process), gauge(service, user) as reader:
        connections = [
            await connect(service.public_url, {"token": token(user)}, place.take)
            for place in places
        ]
        await eventually(lambda: all(place.live for place in places))
        for connection in connections:
            connection.pause()
        resident = process.forget_peak()
        latencies = [await reader.emit(PAYLOAD) for _ in range(EVENTS)]
        grown = process.peak() - resident
        owed = reader.account.count - max(len(place.seqs) for place in places)
        for connection in connections:
            connection.resume()
        await eventually(lambda: all(len(place.seqs) == EVENTS for place in places), within=120)
        grown_after = process.peak() - resident
        for connection in connections:
            connection.drop()
            await connection.closed
    assert owed > EVENTS // 2
    assert max(grown, grown_after) < 64 * MIB
    # The median, which a machine that has other things to do for a moment does not move.
    assert percentile(latencies, 0.5) < HELD_UP
    report.note(
        "devices that never read",
        how=f"{SLOW} devices of a user stop reading while it is emitted "
        f"{EVENTS} events of 4 KB, then read again (`stall_timeout` 10 min)",
        tried=f"{OWED // MIB} MiB owed in all",
        checked="the server's memory grows by less than 64 MiB; a device of the same user that "
        "reads is not delayed; the slow ones get everything, once, in order, `prev` unbroken",
        lost=reader.account.lost(service.log, [*places, reader.place]),
        figures=f"memory grew by {grown / MIB:.0f} MiB while they didn't read, "
        f"{grown_after / MIB:.0f} MiB in all; the reading device's events took {shown(latencies)}",
    )


@pytest.mark.fault("devices that are ended for not reading")
@pytest.mark.gen_test(timeout=300)
async def test_devices_that_are_ended_for_not_reading_come_back_and_get_everything(
    tmp_path: Path, report: Report
) -> None:
    user = "busy"
    settings = {"delivery.stall_timeout": f"{STALL_TIMEOUT:g}s"}
    async with (
        served(tmp_path, settings) as (service, _),
        gauge(service, user) as reader,
        asyncio.TaskGroup() as group,
    ):
        devices = [
            Follower(lambda: service.public_url, user, cursor=None, buffer=BUFFER)
            for _ in range(SLOW)
        ]
        tasks = [group.create_task(device.follow()) for device in devices]
        await eventually(lambda: all(device.place.live for device in devices))
        stopped = [device.connection for device in devices if device.connection is not None]
        for connection in stopped:
            connection.pause()
        for _ in range(ENDED_EVENTS):
            await reader.emit(PAYLOAD)
        # The device that reads is left.
        await eventually(reader.alone, within=3 * STALL_TIMEOUT)
        for connection in stopped:
            connection.resume()
        await eventually(
            lambda: all(len(device.place.seqs) == ENDED_EVENTS for device in devices), within=60
        )
        for task in tasks:
            task.cancel()
    codes = sum((device.codes for device in devices), start=Counter[int]())
    # Each was ended once, and stayed when it came back.
    assert codes.total() == SLOW
    assert set(codes) <= {CloseCode.STALLED, ABNORMAL}
    report.note(
        "devices that are ended for not reading",
        how=f"{SLOW} devices of a user stop reading for longer than `stall_timeout` "
        f"({STALL_TIMEOUT:g} s) while {ENDED_EVENTS} events of 4 KB are emitted to it",
        tried=f"{SLOW} devices, each ended once",
        checked="they come back by cursor and get everything, once, in order, `prev` unbroken",
        lost=reader.account.lost(
            service.log, [*(device.place for device in devices), reader.place]
        ),
        figures=f"ended with 4004: {codes[CloseCode.STALLED]}, 1006: {codes[ABNORMAL]}",
    )
