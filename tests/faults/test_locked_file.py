"""Another program holds the file: the server waits shortly, refuses, and comes back."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import load
from faults.report import Report, times
from faults.service import Service

LOCKS = times(2)


@pytest.mark.fault("another program locks the file")
@pytest.mark.gen_test(timeout=240 + 30 * LOCKS)
async def test_a_locked_file_refuses_what_is_durable_and_holds_nothing_else_up(
    tmp_path: Path, report: Report
) -> None:
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service) as work:
            for _ in range(LOCKS):
                await work.more(50)
                with closing(sqlite3.connect(service.log, isolation_level=None)) as other:
                    other.execute("BEGIN EXCLUSIVE")
                    await work.refused(10)
                    answer = await service.ready()
                    assert answer.status == 503
                    assert "SQLITE_BUSY" in answer.body["detail"]
                    await work.more_transient(3)
                    await work.hold()
                    other.execute("ROLLBACK")
                await service.until_ready()
                work.go.set()
            await work.finish()
        await service.stop()
        with closing(sqlite3.connect(service.log, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            line = await service.refusal()
    longest = max(emitter.longest for emitter in work.emitters)
    # Each commit waits a quarter of a second for the lock, and a request for two commits at most:
    # far less than an emitter has patience for, also on a machine that halts.
    assert longest < 10
    report.note(
        "another program locks the file",
        how="BEGIN EXCLUSIVE in another process, and again at the start",
        tried=f"{LOCKS} times and 1 start",
        checked=(
            "503 soon, /readyz 503 with the reason; transient events go on; ready again without a "
            "request; at the start exit code 1 and one line"
        ),
        lost=lost(audit(service.log, work)),
        figures=f"{work.summary()}; longest wait {longest:.1f} s; “{line}”",
    )
