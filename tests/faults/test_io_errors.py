"""Calls of the system fail: writes for want of room, writes and syncs by a failing disk."""

import errno
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.failing import FSYNC, WRITE, FailingCalls
from faults.load import load
from faults.report import Report, times
from faults.service import Service

BREAKDOWNS = times(3)
SHORTAGES = times(2)


@pytest.mark.needs("fiu-run", "fiu-ctrl")
@pytest.mark.gen_test(timeout=240 + 30 * BREAKDOWNS)
@pytest.mark.parametrize(
    ("fault", "call", "reason"),
    [
        pytest.param(
            "fsync fails (EIO)",
            FSYNC,
            "SQLITE_IOERR_FSYNC",
            marks=pytest.mark.fault("fsync fails (EIO)"),
        ),
        pytest.param(
            "a write fails (EIO)",
            WRITE,
            "SQLITE_IOERR_WRITE",
            marks=pytest.mark.fault("a write fails (EIO)"),
        ),
    ],
    ids=["fsync", "write"],
)
async def test_a_server_whose_disk_fails_ends_and_its_restart_reads_the_truth(
    tmp_path: Path, report: Report, fault: str, call: str, reason: str
) -> None:
    failing = FailingCalls(tmp_path)
    async with Service(tmp_path) as service:
        service.prefix = failing.prefix
        await service.start()
        async with load(service) as work:
            for _ in range(BREAKDOWNS):
                await work.more(work.chance.randrange(50, 250))
                await failing.begin(service.pid, call, errno.EIO)
                assert reason in await service.breakdown()
                await service.start()
            await work.finish()
        await service.stop()
    assert work.statuses[504] >= BREAKDOWNS
    report.note(
        fault,
        how=f"libfiu: from a random moment on {call.rpartition('/')[2]} returns EIO",
        tried=f"{BREAKDOWNS} times",
        checked=(
            "504 for what was being committed, 503 for what waited behind it, the critical line, "
            "exit code 1; after the restart each key is stored once, all else as after kill -9"
        ),
        lost=lost(audit(service.log, work)),
        figures=work.summary(),
    )


@pytest.mark.fault("a write finds no room (ENOSPC)")
@pytest.mark.needs("fiu-run", "fiu-ctrl")
@pytest.mark.gen_test(timeout=240 + 30 * SHORTAGES)
async def test_writes_that_find_no_room_are_refusals_and_nothing_else(
    tmp_path: Path, report: Report
) -> None:
    failing = FailingCalls(tmp_path)
    async with Service(tmp_path) as service:
        service.prefix = failing.prefix
        await service.start()
        async with load(service) as work:
            for share in (1, 0.1) * SHORTAGES:
                await work.more(50)
                await failing.begin(service.pid, WRITE, errno.ENOSPC, share=share)
                await work.refused(30)
                if share < 1:
                    # Commits that go well and such that don't, in turn.
                    await work.more(30)
                await work.more_transient(10)
                await failing.end(service.pid, WRITE)
                await service.until_ready()
            await work.finish()
        await service.stop()
    report.note(
        "a write finds no room (ENOSPC)",
        how="libfiu: every pwrite, then a random tenth of them, returns ENOSPC for a while",
        tried=f"{2 * SHORTAGES} times",
        checked=(
            "503; nothing refused stored or delivered; transient events go on; "
            "back without a restart"
        ),
        lost=lost(audit(service.log, work)),
        figures=work.summary(),
    )
