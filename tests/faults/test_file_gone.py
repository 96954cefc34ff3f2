"""The file is taken from under a running server."""

from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import load
from faults.report import Report
from faults.service import Service


@pytest.mark.fault("the file is moved away while serving")
@pytest.mark.gen_test
async def test_a_server_whose_file_was_moved_ends_before_it_answers_anything_more(
    tmp_path: Path, report: Report
) -> None:
    moved = tmp_path / "moved.db"
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service) as work:
            await work.more(200)
            service.log.rename(moved)
            reason = await service.breakdown()
            # Put back it holds all that was answered, with what was on its way.
            moved.rename(service.log)
            await service.start()
            await work.more(50)
            await work.finish()
        await service.stop()
    assert work.statuses[504] > 0
    report.note(
        "the file is moved away while serving",
        how="renamed under load, and put back after the end",
        tried="1 time",
        checked="504 for the next commit, the critical line, exit code 1; put back it has all",
        lost=lost(audit(service.log, work)),
        figures=f"{work.summary()}; “{reason.replace(str(tmp_path), '…')}”",
    )
