"""A second server is started on the log of a running one, by each name it can be given."""

import os
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import load
from faults.report import Report
from faults.service import Service


@pytest.mark.fault("a second server on the same file")
@pytest.mark.gen_test
async def test_a_second_server_is_refused_and_the_first_goes_on(
    tmp_path: Path, report: Report
) -> None:
    (tmp_path / "elsewhere").mkdir()
    names = {
        "the same path": tmp_path / "events.db",
        "another path to it": tmp_path / "elsewhere" / ".." / "events.db",
        "a symbolic link": tmp_path / "elsewhere" / "symbolic.db",
        "a link to its folder": tmp_path / "linked" / "events.db",
        "a hard link": tmp_path / "elsewhere" / "hard.db",
    }
    lines = set()
    async with Service(tmp_path) as service, Service(tmp_path / "elsewhere") as second:
        await service.start()
        names["a symbolic link"].symlink_to(service.log)
        (tmp_path / "linked").symlink_to(tmp_path)
        os.link(service.log, names["a hard link"])
        async with load(service) as work:
            for second.log in names.values():
                await work.more(50)
                lines.add(await second.refusal())
            await work.more(50)
            await work.finish()
        await service.stop()
        # With the first one gone any name will do.
        second.log = names["a symbolic link"]
        await second.start()
        await second.stop()
    assert service.starts == 1
    (line,) = lines
    report.note(
        "a second server on the same file",
        how="started while the first one serves",
        tried=f"{len(names)} names: {', '.join(names)}",
        checked="exit code 1 and one line; the first one goes on undisturbed",
        lost=lost(audit(service.log, work)),
        figures=f"{work.summary()}; “{line}”",
    )
