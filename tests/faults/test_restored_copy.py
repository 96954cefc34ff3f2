"""An earlier copy of the file is put in its place: devices are told, and get what there is."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faults.audit import Stored, stored_in
from faults.load import Load, Witness, load, told
from faults.report import Report
from faults.service import Service


def renew(log: Path) -> None:
    """Give a log another epoch, as docs/operations.md says."""
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.execute("UPDATE meta SET value = lower(hex(randomblob(6))) WHERE name = 'epoch'")


def untold(stored: Stored, witness: Witness, cursor: str | None, reason: str) -> int:
    """Count what a device that came by a later cursor was not told of, or did not get."""
    said = witness.gaps == [(cursor, None, reason)]
    got = [identity for identity, *_ in witness.told if identity is not None]
    owed = [f"{stored.epoch}:{row.seq}" for row in stored.stream(witness.user)]
    return (not said) + len(set(owed) ^ set(got)) + (got != owed)


async def restored(service: Service, folder: Path, *, new_epoch: bool) -> tuple[Load, int]:
    """Run a service on a copy from earlier; return how much devices were not told of it."""
    reason = "epoch" if new_epoch else "ahead"
    copy = folder / "backup.db"
    await service.start()
    async with load(service) as work:
        await work.more(200)
        await work.hold()
        await service.stop()
        shutil.copyfile(service.log, copy)
        await service.start()
        work.go.set()
        await work.more(200)
        await work.finish()
    await service.stop()
    shutil.copyfile(copy, service.log)
    if new_epoch:
        renew(service.log)
    stored = stored_in(service.log)
    await service.start()
    lost = 0
    for watcher in work.watchers:
        device = await told(service, watcher)
        lost += untold(stored, device, watcher.place.cursor, reason)
    await service.stop()
    service.log.unlink()
    return work, lost


@pytest.mark.fault("an earlier copy of the file is restored")
@pytest.mark.gen_test
async def test_devices_with_later_cursors_are_told_of_a_restored_copy_and_get_all_of_it(
    tmp_path: Path, report: Report
) -> None:
    async with Service(tmp_path) as service:
        renewed, lost = await restored(service, tmp_path, new_epoch=True)
        _, more = await restored(service, tmp_path, new_epoch=False)
    report.note(
        "an earlier copy of the file is restored",
        how="the file copied after a clean stop, and put back when some hundred events were lost",
        tried="with a new epoch and without one",
        checked=(
            "each device is told, by `epoch` or `ahead` (as long as nothing new was emitted), and "
            "gets all that the copy holds"
        ),
        lost=lost + more,
        figures=f"{2 * len(renewed.watchers)} devices",
    )
