"""Restarts at which there is nothing yet: the cursor of a welcome is all that a device has."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import Watcher, load
from faults.report import Report
from faults.service import Service
from support import eventually


def are_back(watchers: Sequence[Watcher], times: int) -> bool:
    """Whether all devices are live, for so many times by now."""
    return all(watcher.place.live and watcher.place.welcomes == times for watcher in watchers)


@pytest.mark.fault("restarts before the first event")
@pytest.mark.gen_test
async def test_devices_that_know_only_their_welcome_miss_nothing_after_restarts(
    tmp_path: Path, report: Report
) -> None:
    restarts = 0
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service, held=True, unrest=False) as work:
            for end in (service.stop, service.kill, service.stop, service.kill):
                await end()
                await service.start()
                restarts += 1
                await eventually(partial(are_back, work.watchers, restarts + 1))
            cursors = {watcher.place.cursor for watcher in work.watchers}
            # Killed once more while the first events are emitted.
            work.go.set()
            await service.kill()
            await service.start()
            await work.more(100)
            await work.finish()
        await service.stop()
    (cursor,) = cursors
    assert cursor is not None
    assert cursor.endswith(":0")
    report.note(
        "restarts before the first event",
        how="stopped and killed with devices connected and an empty log, then once more",
        tried=f"{restarts + 1} restarts",
        checked="devices resume by their welcome's cursor, get every event, are told no loss",
        lost=lost(audit(service.log, work)),
        figures=work.summary(),
    )
