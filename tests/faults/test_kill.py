"""The process is killed, again and again, while emitters and devices are at work."""

from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.backends import BackEnd
from faults.load import load
from faults.report import Report, times
from faults.service import Service

KILLS = times(6)


@pytest.mark.fault("kill -9")
@pytest.mark.gen_test(timeout=240 + 20 * KILLS)
async def test_what_was_answered_survives_kills_and_reaches_every_device_once_and_in_order(
    tmp_path: Path, report: Report
) -> None:
    behind = known = 0
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service, users=10, devices_each=3, emitters=8) as work:
            for _ in range(KILLS):
                await work.more(work.chance.randrange(50, 300))
                async with BackEnd(service.internal_url) as back_end:
                    connections = (await back_end.get("/internal/connections"))["connections"]
                    behind += sum(each["state"] == "behind" for each in connections)
                await service.kill()
                before = [emitter.keyed for emitter in work.emitters]
                await service.start()
                async with BackEnd(service.internal_url) as back_end:
                    for emission, first in filter(None, before):
                        (answer,) = await back_end.emit(emission)
                        assert (answer["id"], answer["duplicate"]) == (first, True)
                        known += 1
            await work.finish()
        await service.stop()
    assert behind > 0, "no device ever fell behind"
    report.note(
        "kill -9",
        how="SIGKILL at random moments, a new process at once on the same file",
        tried=f"{KILLS} kills",
        checked=(
            "all that was answered is in the log; each device got its stream once and in order; "
            f"batches whole; {known} keys used again after a kill name the first event"
        ),
        lost=lost(audit(service.log, work)),
        figures=work.summary(),
    )
