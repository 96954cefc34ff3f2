"""A server that starts again, and everybody comes back at the same moment."""

import asyncio
import time
from pathlib import Path

import pytest

from faults.backends import Account, BackEnd
from faults.devices import Follower
from faults.gauge import Gauge, gauge, shown
from faults.report import Report, times
from faults.served import served
from support import eventually

DEVICES = 2000
USERS = 500
MISSED = 5
"""How many events of each user come before its devices are back."""

PATIENCE = 60.0
"""How many seconds it may take until all are back."""


@pytest.mark.fault("everybody reconnects at once")
@pytest.mark.gen_test(timeout=300)
async def test_two_thousand_devices_that_come_back_at_once_get_just_what_each_missed(
    tmp_path: Path, report: Report
) -> None:
    rounds = times(1)
    users = [f"user-{number}" for number in range(USERS)]
    account = Account()
    took, latencies, watched = list[float](), list[float](), list[Gauge]()
    async with served(tmp_path) as (service, _), asyncio.TaskGroup() as group:
        devices = [
            Follower(lambda: service.public_url, user) for user in users * (DEVICES // USERS)
        ]

        def back(times: int) -> bool:
            """Whether all have turned live so many times."""
            return all(len(device.place.replays) == times for device in devices)

        tasks = [group.create_task(device.follow()) for device in devices]
        await eventually(lambda: back(1), within=PATIENCE)
        for number in range(rounds):
            for device in devices:
                device.free.clear()
            await service.kill()
            await eventually(lambda: all(device.connection is None for device in devices))
            await service.start()
            async with (
                BackEnd(service.internal_url) as back_end,
                gauge(service, f"another-{number}") as another,
            ):
                for n in range(MISSED):
                    missed = [{"userId": user, "type": "E", "payload": n} for user in users]
                    account.note(users, await back_end.emit(missed))
                began = time.monotonic()
                for device in devices:
                    device.free.set()
                async with asyncio.timeout(PATIENCE):
                    latencies += await another.during(lambda times=number + 2: not back(times))  # type: ignore[misc]  # its default binds this figure
                took.append(time.monotonic() - began)
            watched.append(another)
        for task in tasks:
            task.cancel()
    places = [device.place for device in devices]
    for place in places:
        assert place.replays == [0] + [MISSED] * rounds
    report.note(
        "everybody reconnects at once",
        how="`kill -9`, a restart, then all devices connect in the same moment, each by its cursor",
        tried=f"{rounds} restarts, {DEVICES} devices of {USERS} users",
        checked=f"each is replayed just the {MISSED} events it missed, once, in order; what is "
        "emitted meanwhile is answered and delivered",
        lost=account.lost(service.log, places)
        + sum(each.account.lost(service.log, [each.place]) for each in watched),
        figures=f"all were back after {max(took):.1f} s at most (devices and server on one "
        f"machine); {len(latencies)} events of another user meanwhile took {shown(latencies)}",
    )
