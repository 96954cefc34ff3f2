"""Devices that come back after very much has happened."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from faults.backends import Account, BackEnd
from faults.connections import connect
from faults.devices import Place
from faults.gauge import gauge, percentile, shown
from faults.history import fill
from faults.report import Report, times
from faults.served import MIB, served
from support import eventually, token

AT_ONCE = times(20)
"""How many devices of the user come back at once."""


@pytest.mark.fault("10,001 events behind")
@pytest.mark.gen_test
async def test_devices_that_are_10001_events_behind_get_all_of_them_and_what_comes_meanwhile(
    tmp_path: Path, report: Report
) -> None:
    account, old = Account(), list[bytes]()
    async with served(tmp_path) as (service, _), BackEnd(service.internal_url) as back_end:

        async def emit(count: int) -> None:
            batch = [
                {"userId": user, "type": "E", "payload": n}
                for n in range(count)
                for user in ("far", "another")
            ]
            account.note(["far", "another"] * count, await back_end.emit(batch))

        await emit(5000)
        await emit(5000)
        await emit(1)
        before = account.count // 2
        assert before == 10_001
        epoch = (await back_end.get("/internal/stats"))["log"]["epoch"]
        places = [Place("far", f"{epoch}:0") for _ in range(AT_ONCE)]
        connections = [
            await connect(
                service.public_url,
                {"token": token("far"), "lastEventId": str(place.cursor)},
                place.take,
            )
            for place in places
        ]
        # A v1 device, which knows no cursors, asks for what is later than an instant.
        query = {"token": token("far"), "lastEventTs": "1970-01-01T00:00:00Z"}
        connections.append(await connect(service.public_url, query, old.append, v2=False))
        while not all(place.live for place in places):
            await emit(1)
        await emit(1)
        total = account.count // 2
        await eventually(lambda: all(len(place.seqs) >= total for place in places))
        await eventually(lambda: len(old) >= total)
        for connection in connections:
            connection.drop()
            await connection.closed
    assert all(place.replays[0] >= before for place in places)
    order = [*range(5000), *range(5000), *[0] * (total - 10_000)]
    assert [json.loads(text)["payload"] for text in old] == order
    report.note(
        "10,001 events behind",
        how="10,001 events are emitted, as many to another user, before the devices connect, "
        "and more while they catch up",
        tried=f"{AT_ONCE} devices by cursor (v2) and one by instant (v1), at once",
        checked=f"all {total} events once, in order, `prev` unbroken, then live",
        lost=account.lost(service.log, places) + total - len(old),
    )


@pytest.mark.fault("one million events behind")
@pytest.mark.gen_test(timeout=300)
async def test_a_device_that_is_a_million_events_behind_is_served_at_once_and_disturbs_nobody(
    tmp_path: Path, report: Report
) -> None:
    count = 1_000_000
    epoch = await asyncio.to_thread(
        fill, tmp_path / "events.db", "far", count, now_ms=time.time_ns() // 1_000_000
    )
    place = Place("far", f"{epoch}:0")
    first: list[float] = []

    def take(text: bytes) -> None:
        place.take(text)
        if place.seqs and not first:
            first.append(time.monotonic() - began)

    async with (
        served(tmp_path) as (service, process),
        BackEnd(service.internal_url) as back_end,
        gauge(service, "near") as near,
    ):
        before = await near.several(300)
        resident = process.forget_peak()
        began = time.monotonic()
        # With little in its buffer at a time: the process that reads it measures the other.
        query = {"token": token("far"), "lastEventId": f"{epoch}:0"}
        connection = await connect(service.public_url, query, take, buffer=32 * 1024)
        async with asyncio.timeout(240):
            during = await near.during(lambda: not place.live)
        took = time.monotonic() - began
        grown = process.peak() - resident
        # What comes now comes live.
        one_more = await back_end.emit({"userId": "far", "type": "E", "durable": True})
        near.account.note(["far"], one_more)
        await eventually(lambda: place.seqs[-1] == near.account.answered["far"][-1])
        connection.drop()
        await connection.closed
    # By far before the rest, on whatever machine.
    assert first[0] < took / 4
    assert grown < 16 * MIB
    assert percentile(during, 0.5) < took / 20
    report.note(
        "one million events behind",
        how="a log with a million events of a user among 111,111 of others",
        tried="one device resumes at its beginning",
        checked="all of them once, in order, `prev` unbroken, then live; other devices are "
        "served meanwhile; the server's memory grows by less than 16 MiB",
        lost=near.account.lost(service.log, [place, near.place]) + (count + 1 - len(place.seqs)),
        figures=f"the first event after {first[0] * 1000:.0f} ms, all after {took:.1f} s; memory "
        f"grew by {grown / MIB:.1f} MiB; another device's events took {shown(before)} before, "
        f"{shown(during)} meanwhile",
    )
