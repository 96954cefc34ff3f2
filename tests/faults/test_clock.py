"""The clock jumps, back and forth, by hours and by a year."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from faults.audit import audit, lost, stored_in
from faults.clock import Clock
from faults.load import load
from faults.report import Report, times
from faults.service import Service
from support import eventually

JUMPS = {
    "+2h": timedelta(hours=2),
    "-3h": timedelta(hours=-3),
    "+365d": timedelta(days=365),
    "-365d": timedelta(days=-365),
    "+0": timedelta(),
}
ROUNDS = times(1)


async def noticed(service: Service, offset: timedelta) -> None:
    """Wait until the server's clock is so far from the true time."""

    async def is_there() -> bool:
        said = parsedate_to_datetime((await service.ready()).headers["date"])
        return abs(said - datetime.now(UTC) - offset) < timedelta(minutes=1)

    await eventually(is_there)


@pytest.mark.fault("the clock jumps")
@pytest.mark.needs("faketime")
@pytest.mark.gen_test(timeout=240 * ROUNDS)
async def test_no_jump_of_the_clock_loses_or_reorders_anything_or_turns_stamps_back(
    tmp_path: Path, report: Report
) -> None:
    clock = Clock(tmp_path)
    async with Service(tmp_path) as service:
        service.environment = clock.environment
        await service.start()
        async with load(service) as work:
            for offset, difference in list(JUMPS.items()) * ROUNDS:
                await work.more(50)
                clock.set(offset)
                await noticed(service, difference)
                await work.more(50)
                # A restart goes on where the stamps were.
                await service.kill()
                await service.start()
            await work.finish()
        await service.stop()
    stamps = [row.timestamp for row in stored_in(service.log).rows]
    report.note(
        "the clock jumps",
        how="libfaketime, in the server's process: " + ", ".join(JUMPS),
        tried=f"{len(JUMPS) * ROUNDS} jumps, each followed by a kill -9",
        checked="as after kill -9; the server's stamps never go back, over restarts neither",
        lost=lost(audit(service.log, work)),
        figures=f"{work.summary()}; stamps from {stamps[0]} to {stamps[-1]}",
    )
